// Figures: Vega-Lite charts, drawn when they come into view, over the rows that are selected.

const SVG_ROWS = 2000; // beyond, a canvas: thousands of elements make a page slow
const ERRORS = 1; // Vega's log level
const STORE = "chosen_store"; // where Vega-Lite keeps what the selection `chosen` holds

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
    title: { font, subtitleFont: font, color: text, subtitleColor: muted },
    text: { color: text, font },
    rule: { color: muted },
  };
}

/** The colour of each value that a figure tells apart by colours; the first figure decides. */
function coloursOf(figures) {
  const colours = new Map();
  const visit = (spec) => {
    if (spec === null || typeof spec !== "object") return;
    const { domain, range } = spec.color?.scale ?? {};
    if (Array.isArray(domain) && Array.isArray(range)) {
      domain.forEach((value, i) => colours.has(value) || colours.set(value, range[i % range.length]));
    }
    Object.values(spec).forEach(visit);
  };
  figures.forEach((figure) => visit(figure.spec));
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
  const chosenFields = figure.spec.params?.find(({ name }) => name === "chosen")?.select.fields ?? [];
  let [view, drawing] = [null, Promise.resolve()];
  const chart = h("div", { class: "chart", role: "img", "aria-label": figure.title });
  const save = (kind) =>
    h(
      "button",
      { type: "button", onclick: () => saveAs(kind), "aria-label": `Save ${figure.title} as ${kind}` },
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
    if (hasStore()) view.addDataListener(STORE, (_, store) => chosen(card, store));
    chart.style.minHeight = "";
    element.dataset.drawn = "";
  }

  async function saveAs(kind) {
    await draw();
    download(`${figure.name}.${kind}`, await view.toImageURL(kind, 2));
  }

  // One thing at a time: a selection may change while a chart is being drawn.
  const queued = (work) => (drawing = drawing.then(work).catch((error) => {
    chart.replaceChildren(h("p", { class: "wrong" }, `This figure cannot be drawn: ${error.message}`));
    console.error(error);
  }));
  const draw = () => queued(() => view ?? embed());

  const hasStore = () => Boolean(view) && STORE in view.getState({ data: (name) => name === STORE }).data;

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
    emphasize(store) {
      if (!hasStore() || JSON.stringify(view.data(STORE)) === JSON.stringify(store)) return;
      const fields = store.flatMap((each) => each.fields.map(({ field }) => field));
      if (!fields.every((field) => chosenFields.includes(field))) return;
      view.data(STORE, store.map((each) => ({ ...each }))).runAsync();
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
