// The page: what is selected, and everything drawn from it.

const HERO = "figure-trade-off"; // says which method is best at which density
const MANY = 12; // more choices than this start folded away

const unpackAll = (payload) => ({
  ...unpackPayload(payload),
  colours: coloursOf(payload.figures),
});

let data = unpackAll(JSON.parse($("payload").textContent));
let cards = [];

/** What is left out, by dimension. New values of a sweep that runs are in. */
const hidden = { method: new Set(), setting: new Set(), seed: new Set() };
const DIMENSIONS = [
  { name: "method", title: "Methods", of: (line) => line.curve },
  { name: "setting", title: "Settings", of: (line) => line.setting },
  { name: "seed", title: "Seeds", of: (line) => line.seed },
];

const isSelected = (line) => DIMENSIONS.every(({ name, of }) => !hidden[name].has(of(line)));
const selectedIds = () => new Set(data.lineages.filter(isSelected).map((line) => line.id));

// Header

function drawHeader() {
  const { lineages, iterations, failures, runs } = data;
  const count = (name) => distinct(lineages.map((line) => line[name])).length;
  const done = lineages.filter((line) => line.state === "done").length;
  const keys = groupBy(iterations, (row) => row.key);
  const seconds = sum([...keys.values()].map(([row]) => row.train_seconds + row.prune_seconds));
  const wall = runs.map((run) => run.seconds).filter((each) => each !== null);
  $("state").textContent = stateText(done);
  $("state").dataset.state = data.state;
  $("subject").textContent = [
    ...distinct(lineages.map((line) => line.network)).slice(0, 4),
    `${plural(count("curve"), "method")} × ${plural(count("seed"), "seed")}`,
    runs.length ? `last run ${moment(runs.at(-1).started_at)} UTC` : "never run",
    `page made ${moment(data.made_at)} UTC`,
  ].join(" · ");
  const numbers = [
    ["lineages complete", `${done} of ${lineages.length}`],
    ["iterations committed", format("count", keys.size)],
    ["failed", format("count", failures.length), failures.length ? "state-failed" : ""],
    ["wall time", wall.length ? duration(sum(wall)) : MISSING],
    ["device time", duration(seconds)],
    ["in the store", size(data.bytes)],
  ];
  $("numbers").replaceChildren(
    ...numbers.map(([name, value, style = ""]) =>
      h("div", {}, h("dt", {}, name), h("dd", { class: style }, value)),
    ),
  );
  drawAlerts();
}

function stateText(done) {
  const all = data.lineages.length;
  if (data.state === "finished") return "finished";
  if (data.state === "running") {
    const left = data.run.eta_seconds === null ? "" : `, ${duration(data.run.eta_seconds)} left`;
    return `running: ${data.run.counts.iterations} of ${data.run.counts.to_train} iterations${left}`;
  }
  if (data.state === "died") return "the run has died without saying so; run it again to resume";
  return `incomplete: ${all - done} of ${plural(all, "lineage")} to go`;
}

function drawAlerts() {
  const damaged = data.left_out.map(({ label, seed, iteration, damage }) =>
    h("li", {}, `${label}, seed ${seed}, iteration ${iteration}: ${damage.join("; ")}`),
  );
  fill(
    "alerts",
    data.damage.map((text) => h("p", { class: "wrong" }, `Damaged record, taken as missing: ${text}`)),
    damaged.length
      ? h(
          "details",
          { class: "wrong", open: damaged.length < 4 },
          h("summary", {}, `${plural(damaged.length, "damaged iteration")} left out; run the sweep again to mend`),
          h("ul", {}, damaged),
        )
      : null,
  );
}

// Controls

function drawControls() {
  const groups = DIMENSIONS.map((dimension) => {
    const values = distinct(data.lineages.map(dimension.of));
    return values.length > 1 || dimension.name !== "setting" ? controls(dimension, values) : null;
  });
  fill("controls", groups);
  describeSelection();
}

function controls({ name, title, of }, values) {
  const boxes = values.map((value) => {
    const box = h("input", {
      type: "checkbox",
      checked: !hidden[name].has(value),
      onchange: (event) => select(name, value, box.checked),
    });
    const line = data.lineages.find((each) => of(each) === value);
    return h("label", { class: "chip", "data-value": value }, box, name === "method" ? swatch(line) : null, `${value}`);
  });
  const all = h("button", { type: "button", onclick: () => selectOnly(name, values, values) }, "all");
  const none = h("button", { type: "button", onclick: () => selectOnly(name, values, []) }, "none");
  const find = h("input", {
    type: "search",
    placeholder: "find",
    "aria-label": `Find among ${title.toLowerCase()}`,
    oninput: () =>
      boxes.forEach((label) => (label.hidden = !label.dataset.value.toLowerCase().includes(find.value.toLowerCase()))),
  });
  return h(
    "fieldset",
    { "data-dimension": name },
    h("legend", {}, title),
    h("span", { class: "chips" }, boxes),
    h("span", { class: "all-none" }, all, none, values.length > MANY ? find : null),
  );
}

function select(name, value, chosen) {
  if (chosen) hidden[name].delete(value);
  else hidden[name].add(value);
  selectionChanged();
}

function selectOnly(name, values, chosen) {
  values.forEach((value) => (chosen.includes(value) ? hidden[name].delete(value) : hidden[name].add(value)));
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
    const left = values.filter((value) => !hidden[name].has(value)).length;
    if (name === "setting" && values.length < 2) return null;
    return `${left === values.length ? "all" : `${left} of`} ${values.length} ${title.toLowerCase()}`;
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

// Tables

const METHOD = { name: "label", title: "method", format: "text" };
const stateCell = ({ state }) => h("span", { class: `state-${state.replace(" ", "-")}` }, state);

const lineageTable = dataTable({
  name: "lineages",
  label: "lineages",
  sort: { name: null },
  columns: [
    { name: "state", title: "state", format: "text", cell: stateCell },
    METHOD,
    { name: "dataset", title: "dataset", format: "text", dull: true },
    { name: "model", title: "model", format: "text", dull: true },
    { name: "scope", title: "scope", format: "text", dull: true },
    { name: "seed", title: "seed", format: "count" },
    { name: "committed", title: "iterations", format: "count", cell: (line) => `${line.committed} of ${line.iterations}` },
    { name: "density", title: "remaining %", format: "density", alias: "remaining" },
    { name: "test_accuracy", title: "accuracy %", format: "percent", alias: "accuracy" },
    { name: "seconds", title: "time", format: "seconds" },
    { name: "attempt", title: "attempt", format: "count", dull: true },
    { name: "id", title: "id", format: "text" },
  ],
});

const iterationTable = dataTable({
  name: "iterations",
  label: "iterations",
  sort: { name: null },
  columns: [
    METHOD,
    { name: "seed", title: "seed", format: "count" },
    { name: "iteration", title: "t", format: "count", alias: "t" },
    { name: "density", title: "remaining %", format: "density", alias: "remaining" },
    { name: "test_accuracy", title: "accuracy %", format: "percent", alias: "accuracy" },
    { name: "pruned_test_accuracy", title: "pruned acc. %", format: "percent", alias: "pruned" },
    { name: "validation_accuracy", title: "validation acc. %", format: "percent" },
    { name: "train_accuracy", title: "train acc. %", format: "percent" },
    { name: "test_loss", title: "test loss", format: "number" },
    { name: "train_loss", title: "train loss", format: "number" },
    { name: "pq_index", title: "PQ Index", format: "number" },
    { name: "gini", title: "Gini", format: "number" },
    { name: "macs_kept", title: "MACs kept", format: "count" },
    { name: "collapsed_layers", title: "collapsed layers", format: "text" },
    { name: "train_seconds", title: "training", format: "seconds" },
    { name: "prune_seconds", title: "pruning", format: "seconds" },
    { name: "peak_memory_bytes", title: "peak memory", format: "bytes" },
    { name: "attempt", title: "attempt", format: "count", dull: true },
    { name: "device", title: "device", format: "text", dull: true },
    { name: "host", title: "host", format: "text", dull: true },
    { name: "finished_at", title: "finished (UTC)", format: "date" },
  ],
});

const costTable = dataTable({
  name: "cost",
  label: "cost by method",
  sort: { name: null },
  searchable: false,
  columns: [
    { name: "curve", title: "method", format: "text" },
    { name: "count", title: "iterations", format: "count" },
    { name: "training", title: "training", format: "seconds" },
    { name: "pruning", title: "pruning", format: "seconds" },
    { name: "each", title: "mean of an iteration", format: "seconds" },
    { name: "share", title: "% of device time", format: "percent" },
  ],
});

const runTable = dataTable({
  name: "runs",
  label: "runs",
  sort: { name: "started_at", descending: true },
  searchable: false,
  pageSize: 10,
  columns: [
    { name: "started_at", title: "started (UTC)", format: "date" },
    { name: "seconds", title: "took", format: "seconds" },
    { name: "command", title: "command", format: "text" },
    { name: "git", title: "git", format: "text" },
    { name: "hardware", title: "hardware", format: "text" },
    { name: "software", title: "software", format: "text" },
  ],
});

function drawTables() {
  const lineages = data.lineages.filter(isSelected);
  const ids = selectedIds();
  const iterations = data.iterations.filter((row) => ids.has(row.id));
  $("glance").replaceChildren(glanceTable(lineages, iterations, swatch));
  fill("paper", paperTable(data.paper, lineages));
  lineageTable.update(lineages.map(lineageRow));
  iterationTable.update(iterations);
  costTable.update(costRows(iterations));
  fill("failures", data.failures.filter(({ lineage }) => isFailureSelected(lineage, ids)).map(failureElement));
}

const lineageRow = (line) => ({
  ...line,
  density: line.last?.density,
  test_accuracy: line.last?.test_accuracy,
  attempt: line.last?.attempt,
  seconds: line.last && sum(line.rows.map((row) => row.train_seconds + row.prune_seconds)),
});

function costRows(iterations) {
  const once = (rows) => [...groupBy(rows, (row) => row.key).values()].map(([row]) => row);
  const seconds = (rows, name) => sum(rows.map((row) => row[name]));
  const total = seconds(once(iterations), "train_seconds") + seconds(once(iterations), "prune_seconds");
  return [...groupBy(iterations, (row) => row.curve)].map(([curve, of]) => {
    const rows = once(of);
    const [training, pruning] = [seconds(rows, "train_seconds"), seconds(rows, "prune_seconds")];
    const [count, all] = [rows.length, training + pruning];
    return { curve, count, training, pruning, each: all / count, share: all / total };
  });
}

const runRow = (run) => ({
  started_at: run.started_at,
  seconds: run.seconds,
  command: run.command.join(" "),
  git: run.git_sha ? `${run.git_sha.slice(0, 10)}${run.git_sha.endsWith("+") ? " with changes" : ""}` : null,
  hardware: [`${run.cpus} CPUs`, size(run.memory_bytes), ...run.gpus].join(", "),
  software: Object.entries({ python: run.python, ...run.packages })
    .filter(([, version]) => version)
    .map(([name, version]) => `${name} ${version}`)
    .join(", ") + `, ${run.platform}`,
});

const isFailureSelected = (lineage, ids) =>
  ids.has(lineage) || !data.lineages.some((line) => line.id === lineage);

function failureElement({ lineage, label, seed, iteration, attempt, traceback }) {
  const lines = traceback.trim().split("\n");
  return h(
    "details",
    { class: "failure", "data-lineage": lineage },
    h(
      "summary",
      {},
      h("b", {}, label === null ? lineage : `${label}, seed ${seed}`),
      ` at iteration ${iteration}, attempt ${attempt}: `,
      h("code", {}, lines.at(-1)),
    ),
    h("pre", { tabIndex: 0 }, traceback),
  );
}

// Figures

/** The selected rows of a dataset. Vega writes into what it is given, so they are fresh. */
function rowsOf(name) {
  const ids = selectedIds();
  return unpack(data.datasets[name]).filter((row) => !row.lineage || ids.has(row.lineage));
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
  const elements = cards.map((card) => card.element);
  place("glance-figure", elements.filter(({ id }) => id === HERO));
  place("figures", elements.filter(({ id }) => id !== HERO));
  drawWhenSeen(cards);
}

/** What was chosen in one figure's legend is emphasized in the others. */
const emphasize = (from, chosen) =>
  cards.filter((card) => card !== from).forEach((card) => card.emphasize(chosen));

// Theme

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

// All of it

function drawPage() {
  drawHeader();
  drawControls();
  drawTables();
  runTable.update(data.runs.map(runRow));
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

function start() {
  setTheme(storedTheme());
  for (const [id, table] of Object.entries({ lineages: lineageTable, iterations: iterationTable, cost: costTable, runs: runTable })) {
    $(id).append(table.element);
  }
  const choices = DIMENSIONS.flatMap(({ of }) => distinct(data.lineages.map(of)));
  $("filters").open = choices.length <= 2 * MANY && innerWidth > 700;
  drawPage();
  $("print").onclick = print;
  $("theme").onclick = () =>
    setTheme(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length]);
  $("copy").onclick = () => navigator.clipboard.writeText(data.yaml);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
    cards.forEach((card) => card.redraw()),
  );
  // The charts' library comes after this script, so that the page is readable before it is there.
  document.addEventListener("DOMContentLoaded", () => {
    drawFigures();
    if ("live" in document.documentElement.dataset) follow();
  });
}

start();
