// Figures: Vega-Lite charts, drawn when they come into view, over the rows that are selected.

const SVG_ROWS = 20000; // beyond, a canvas: very many elements make a page slow
const READABLE = 0.75; // of a drawing's size
const ERRORS = 1; // Vega's log level

/** The names of the datasets that a specification refers to. */
function datasetsOf(spec, datasets, found = new Set()) {
  if (spec === null || typeof spec !== "object") return found;
  if (typeof spec.data?.name === "string" && spec.data.name in datasets) found.add(spec.data.name);
  Object.values(spec).forEach((each) => datasetsOf(each, datasets, found));
  return found;
}

/** The page's colour of that name, as Vega needs it. */
function ink(name) {
  const probe = h("span");
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const colour = getComputedStyle(probe).color;
  probe.remove();
  return colour;
}

/** The colours and the font of the page, in its theme. */
function chartConfig() {
  const [text, muted, line] = [ink("ink"), ink("muted"), ink("line")];
  const font = getComputedStyle(document.body).fontFamily;
  const fonts = { labelFont: font, titleFont: font };
  return {
    background: "transparent",
    font,
    view: { stroke: "transparent" },
    axis: {
      ...fonts, labelColor: muted, titleColor: text, gridColor: line, domainColor: muted,
      tickColor: muted,
    },
    legend: { ...fonts, labelColor: text, titleColor: muted },
    header: { ...fonts, labelColor: text, titleColor: text },
    title: { font, subtitleFont: font, fontWeight: "normal", color: text, subtitleColor: muted },
    text: { color: text, font },
    rule: { color: muted },
  };
}

/** The scales of the values that a specification tells apart by colour. */
function colourScales(spec) {
  if (spec === null || typeof spec !== "object") return [];
  const own = Array.isArray(spec.color?.scale?.domain) ? [spec.color.scale] : [];
  return [...own, ...Object.values(spec).flatMap(colourScales)];
}

/** What a click on the figure's legend chooses: the column, its values, and where Vega-Lite keeps
 *  what is chosen. Null for a figure without such a legend. */
function selectionOf(spec) {
  const selection = spec.params?.find(({ select }) => select?.fields);
  if (!selection) return null;
  const values = colourScales(spec)[0]?.domain ?? [];
  return { field: selection.select.fields[0], values, store: `${selection.name}_store` };
}

/** The colour of each value that a figure tells apart by colours; the first figure decides. */
function coloursOf(figures) {
  const colours = new Map();
  for (const { domain, range } of figures.flatMap(({ spec }) => colourScales(spec))) {
    range?.forEach((colour, i) => colours.has(domain[i]) || colours.set(domain[i], colour));
  }
  return colours;
}

const overlaid = (base, over) => {
  if (base === null || over === null || typeof base !== "object" || typeof over !== "object") {
    return over;
  }
  const merged = { ...base };
  for (const [key, value] of Object.entries(over)) {
    merged[key] = key in base ? overlaid(base[key], value) : value;
  }
  return merged;
};

/** The figure's card. `rowsOf(name)` gives the selected rows of a dataset, in fresh objects;
 *  `chosen(store)` is told what a click on the legend has chosen. */
function figureCard(figure, datasets, rowsOf, chosen) {
  const names = [...datasetsOf(figure.spec, datasets)];
  const chosenBy = selectionOf(figure.spec);
  let [view, drawing] = [null, Promise.resolve()];
  const chart = h("div", { class: "chart", role: "group", "aria-label": figure.title });
  const save = (kind) =>
    h(
      "button",
      {
        type: "button",
        onclick: () => saveAs(kind),
        "aria-label": `Save ${figure.title} as ${kind}`,
      },
      kind.toUpperCase(),
    );
  const element = h(
    "figure",
    { id: `figure-${figure.name}`, "data-figure": figure.name },
    h("div", { class: "figure-head" }, h("h3", {}, figure.title), save("svg"), save("png")),
    chart,
    h("figcaption", {}, figure.caption, figure.source ? h("cite", {}, figure.source) : null),
  );

  async function embed() {
    const rows = Object.fromEntries(names.map((name) => [name, rowsOf(name)]));
    const many = Object.values(rows).some((each) => each.length > SVG_ROWS);
    const spec = structuredClone(figure.spec);
    chart.style.minHeight = `${chart.offsetHeight}px`; // what is below does not jump
    view?.finalize();
    const config = overlaid(spec.config ?? {}, chartConfig());
    const made = await vegaEmbed(
      chart,
      { ...spec, config, datasets: rows },
      { mode: "vega-lite", actions: false, ast: true, logLevel: ERRORS, defaultStyle: false,
        renderer: many ? "canvas" : "svg", tooltip: { disableDefaultStyle: true } },
    );
    view = made.view;
    if (chosenBy) view.addDataListener(chosenBy.store, (_, tuples) => chosen(card, tuples));
    chart.style.minHeight = "";
    element.dataset.drawn = "";
    fit();
  }

  /** A drawing is made smaller to fit its place, but only as far as it can be read. */
  function fit() {
    const drawing = chart.querySelector("svg");
    if (drawing) drawing.style.minWidth = `${READABLE * drawing.width.baseVal.value}px`;
    if (chart.scrollWidth > chart.clientWidth) element.classList.add("wide");
  }

  async function saveAs(kind) {
    await draw();
    download(`${figure.name}.${kind}`, await view.toImageURL(kind, 2));
  }

  // One thing at a time: a selection may change while a chart is being drawn.
  const queued = (work) => (drawing = drawing.then(work).catch((error) => {
    const reason = `This figure cannot be drawn: ${error.message}`;
    chart.replaceChildren(h("p", { class: "wrong" }, reason));
    console.error(error);
  }));
  const draw = () => queued(() => view ?? embed());

  const card = {
    figure,
    element,
    draw,
    /** Draw it anew, as after a change of theme, if it is drawn. */
    redraw: () => queued(() => view && embed()),
    /** Show the rows that are now selected. */
    refresh: () =>
      queued(() => {
        names.forEach((name) => view?.data(name, rowsOf(name)));
        return view?.runAsync();
      }),
    /** Emphasize what was chosen in another figure, if this one tells the same things apart. */
    emphasize(tuples) {
      if (!view || !chosenBy) return;
      const values = tuples.map((tuple) => tuple.values[0]);
      const now = view.data(chosenBy.store).map((tuple) => tuple.values[0]);
      const told = values.every((value) => chosenBy.values.includes(value));
      if (!told || String(values) === String(now)) return;
      const fields = [{ type: "E", field: chosenBy.field }];
      view.data(chosenBy.store, values.map((value) => ({ unit: "", fields, values: [value] })));
      view.runAsync();
    },
    rows: (name) => view?.data(name),
    names,
  };
  return card;
}

/** Calls `draw` of each card when it is near the part of the page that is seen. */
const drawWhenSeen = (cards) => {
  const drawOf = new Map(cards.map((card) => [card.element, card.draw]));
  const observer = new IntersectionObserver(
    (entries) =>
      entries.filter((entry) => entry.isIntersecting).forEach(({ target }) => {
        observer.unobserve(target);
        drawOf.get(target)();
      }),
    { rootMargin: "200px" },
  );
  cards.forEach((card) => observer.observe(card.element));
};
