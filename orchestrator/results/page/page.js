// The page: figures, theme, and everything drawn from the state.

/** Figures that have a place beside a table, in this order; the others are among all figures. */
const PLACES = {
  "trade-off": "glance-figure", // says which method is best at which density
  ablations: "ablation-figures",
  effective: "effective-figures",
  instability: "connectivity-figures",
  barriers: "connectivity-figures",
  connectivity: "connectivity-figures",
  "layer-barriers": "connectivity-figures",
};

/** The selected rows of a dataset; one that compares two lineages has both of them selected. Vega
 *  writes into what it is given, so they are fresh. */
function rowsOf(name) {
  const leftOut = new Set(data.lineages.filter((line) => !isSelected(line)).map(({ id }) => id));
  const ofRow = ({ lineage, with_lineage }) => [lineage, with_lineage];
  return unpack(data.datasets[name]).filter((row) => !ofRow(row).some((id) => leftOut.has(id)));
}

/** Put elements where they are not yet: a figure that is moved loses the reader's place. */
function place(id, elements) {
  const there = [...$(id).children];
  const same = elements.length === there.length && elements.every((each, i) => each === there[i]);
  if (!same || !elements.length) fill(id, elements);
}

/** Cards for all figures; `reusable(figure)` may give one that is there already. */
function drawFigures(reusable = () => null) {
  cards = data.figures.map((figure) => {
    const card = reusable(figure);
    card?.refresh();
    return card ?? figureCard(figure, data.datasets, rowsOf, emphasize);
  });
  const placeOf = (card) => PLACES[card.figure.name] ?? "figures";
  const rank = (card) => Object.keys(PLACES).indexOf(card.figure.name);
  for (const id of new Set(["figures", ...Object.values(PLACES)])) {
    const here = cards.filter((card) => placeOf(card) === id).sort((a, b) => rank(a) - rank(b));
    place(id, here.map((card) => card.element));
  }
  drawWhenSeen(cards);
}

/** What was chosen in one figure's legend is emphasized in the others. */
const emphasize = (from, chosen) =>
  cards.filter((card) => card !== from).forEach((card) => card.emphasize(chosen));

const THEMES = ["auto", "light", "dark"];

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  $("theme").textContent = `Theme: ${theme}`;
  try {
    localStorage.setItem("prunesweep-theme", theme);
  } catch {
    // A page opened from disk may have no storage; the choice then lasts as long as the page.
  }
  cards.forEach((card) => card.redraw());
}

function storedTheme() {
  try {
    return localStorage.getItem("prunesweep-theme") ?? "auto";
  } catch {
    return "auto";
  }
}

function drawPage() {
  drawHeader();
  drawControls();
  drawTables();
  drawNodes();
  runTable.update(data.runs.map(runRow));
  $("iterations-note").textContent = data.iterations_note;
  $("yaml").textContent = data.yaml;
  $("footer").textContent = `prunesweep ${data.version} · ${data.storage}`;
}

/** Print all of it: figures that were not seen yet are drawn first, and all in light colours. */
async function print() {
  const theme = document.documentElement.dataset.theme;
  setTheme("light");
  await Promise.all(cards.map((card) => card.draw()));
  window.print();
  setTheme(theme);
}

/** What needs the library. */
function begin() {
  drawFigures();
  if ("live" in document.documentElement.dataset) follow();
}

function start() {
  setTheme(storedTheme());
  $("lineages").append(lineageTable.element);
  $("iterations").append(iterationTable.element);
  $("cost").append(costTable.element);
  $("runs").append(runTable.element);
  $("nodes").append(nodeTable.element);
  $("lost").append(lostTable.element);
  const choices = DIMENSIONS.flatMap(({ of }) => distinct(data.lineages.map(of)));
  $("filters").open = choices.length <= 2 * MANY && innerWidth > 700;
  drawPage();
  $("print").onclick = print;
  $("theme").onclick = () =>
    setTheme(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length]);
  $("copy").onclick = () => navigator.clipboard?.writeText(data.yaml);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
    cards.forEach((card) => card.redraw()),
  );
  // The charts' library comes after this script, so that the page is readable before it is there.
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin);
  else begin();
}

start();
