// Controls: methods, settings and seeds to leave out.

const MANY = 12; // more choices than this are folded away at first

function drawControls() {
  const choices = DIMENSIONS.map((dimension) => distinct(data.lineages.map(dimension.of)));
  const shown = JSON.stringify([choices, [...data.colours]]);
  // Boxes that are there already keep the focus.
  if ($("controls").dataset.shown !== shown) {
    $("controls").dataset.shown = shown;
    fill("controls", DIMENSIONS.map((dimension, i) => controls(dimension, choices[i])));
  }
  describeSelection();
}

/** Boxes for the values of a dimension; null for settings when there is but one. */
function controls({ name, title, of }, values) {
  if (name === "setting" && values.length < 2) return null;
  const chip = (value) => {
    const box = h("input", {
      type: "checkbox",
      checked: !hidden[name].has(value),
      onchange: () => select(name, value, box.checked),
    });
    const line = data.lineages.find((each) => of(each) === value);
    const mark = name === "method" ? swatch(line) : null;
    return h("label", { class: "chip", "data-value": value }, box, mark, `${value}`);
  };
  const chips = values.map(chip);
  const choose = (text, chosen) =>
    h("button", { type: "button", onclick: () => selectOnly(name, values, chosen) }, text);
  const isFound = (label, text) => label.dataset.value.toLowerCase().includes(text.toLowerCase());
  const find = h("input", {
    type: "search",
    placeholder: "find",
    "aria-label": `Find among ${title.toLowerCase()}`,
    oninput: () => chips.forEach((label) => (label.hidden = !isFound(label, find.value))),
  });
  return h(
    "fieldset",
    { "data-dimension": name },
    h("legend", {}, title),
    h("span", { class: "chips" }, chips),
    h(
      "span",
      { class: "all-none" },
      choose("all", values),
      choose("none", []),
      values.length > MANY ? find : null,
    ),
  );
}

function select(name, value, chosen) {
  if (chosen) hidden[name].delete(value);
  else hidden[name].add(value);
  selectionChanged();
}

function selectOnly(name, values, chosen) {
  hidden[name] = new Set(values.filter((value) => !chosen.includes(value)));
  document.querySelectorAll(`[data-dimension="${name}"] .chip`).forEach((label) => {
    label.querySelector("input").checked = chosen.map(String).includes(label.dataset.value);
  });
  selectionChanged();
}

function selectionChanged() {
  describeSelection();
  drawTables();
  cards.forEach((card) => card.refresh());
}

function describeSelection() {
  const parts = DIMENSIONS.map(({ name, of, title }) => {
    const values = distinct(data.lineages.map(of));
    if (name === "setting" && values.length < 2) return null;
    const left = values.filter((value) => !hidden[name].has(value)).length;
    const many = left === values.length ? "all" : `${left} of`;
    return `${many} ${values.length} ${title.toLowerCase()}`;
  });
  $("selection").textContent = `Showing ${parts.filter(Boolean).join(", ")}`;
}

/** The method's colour in the figures, if it has one. */
function swatch({ curve }) {
  const colour = data.colours.get(curve);
  if (!colour) return null;
  const mark = h("i", { class: "swatch", "aria-hidden": "true" });
  mark.style.background = colour;
  return mark;
}
