// At a glance: which method is best at which density, and whether everything ran.

const LEVELS = [
  0.99, 0.8, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005, 0.0002, 0.0001,
];
const SLACK = 1.005; // a density of 5.0004 % counts as 5 %

/** Of the weights that the page shows densities of: kept, or effective ones. */
const densityOf = (row) => row[data.density];

const DENSE = { title: "dense", below: 2, above: LEVELS[0] * SLACK };
const columnsOfDensity = [
  DENSE,
  ...LEVELS.map((level, i) => ({
    title: `≤ ${Number((100 * level).toPrecision(3))} %`,
    below: level * SLACK,
    above: (LEVELS[i + 1] ?? 0) * SLACK,
  })),
];

/** Of one lineage group's rows of one seed, the densest within a column's densities. */
const densestWithin = (rows, { above, below }) =>
  rows
    .filter((row) => densityOf(row) > above && densityOf(row) <= below)
    .reduce((best, row) => (best && densityOf(best) >= densityOf(row) ? best : row), undefined);

/** Mean accuracy, its deviation and mean density over seeds; null where no seed has any. */
function glanceCell(rows, column) {
  const found = [...groupBy(rows, (row) => row.seed).values()]
    .map((ofSeed) => densestWithin(ofSeed, column))
    .filter(Boolean);
  if (!found.length) return null;
  const accuracies = found.map((row) => row.test_accuracy);
  return {
    accuracy: mean(accuracies),
    deviation: deviation(accuracies),
    density: mean(found.map(densityOf)),
    seeds: found.length,
  };
}

/** Rows are methods, columns densities. Accuracies of different networks do not compete. */
function glanceTable(lineages, iterations, swatch) {
  const place = (each) => `${each.network}\n${each.group}`;
  const rowsOf = groupBy(
    iterations.filter((row) => row.outcome),
    place,
  );
  const methods = [...groupBy(lineages, place)].map(([name, of]) => ({
    of,
    network: of[0].network,
    cells: columnsOfDensity.map((column) => glanceCell(rowsOf.get(name) ?? [], column)),
  }));
  const isUsed = (i) => methods.some(({ cells }) => cells[i]);
  const used = columnsOfDensity.map((_, i) => i).filter(isUsed);
  const networks = groupBy(methods, ({ network }) => network);
  const titles = ["method", "lineages", ...used.map((i) => columnsOfDensity[i].title)];
  const head = titles.map((title, i) => h("th", { scope: "col", class: i ? "" : "text" }, title));
  const part = (network) => {
    const over = { class: "text part", colSpan: titles.length, scope: "rowgroup" };
    return networks.size > 1 ? h("tr", {}, h("th", over, network)) : null;
  };
  const bodies = [...networks].map(([network, members]) => {
    const best = used.map((i) => bestOf(members.map(({ cells }) => cells[i]).filter(Boolean)));
    const row = ({ of, cells }) =>
      h(
        "tr",
        { "data-group": of[0].group },
        h("th", { scope: "row", class: "text" }, swatch(of[0]), of[0].group),
        h("td", {}, ranCell(of)),
        used.map((i, n) => accuracyCell(cells[i], best[n], seedsOf(of))),
      );
    return h("tbody", {}, part(network), members.map(row));
  });
  return h("table", { "data-table": "glance" }, h("thead", {}, h("tr", {}, head)), bodies);
}

const seedsOf = (lineages) => distinct(lineages.map((line) => line.seed)).length;

/** The best accuracy as shown; none among equal ones, such as a trunk that methods share. */
function bestOf(cells) {
  const accuracies = cells.map(({ accuracy }) => accuracy);
  const differ = distinct(accuracies.map((each) => format("percent", each))).length > 1;
  return differ ? format("percent", Math.max(...accuracies)) : null;
}

function accuracyCell(cell, best, seeds) {
  if (!cell) return h("td", { class: "missing" }, MISSING);
  const isBest = format("percent", cell.accuracy) === best;
  const spread = cell.deviation === null ? "" : ` ± ${format("percent", cell.deviation)}`;
  const where = [
    cell.density > DENSE.above ? null : `at ${format("density", cell.density)} %`,
    cell.seeds < seeds ? `${cell.seeds} of ${seeds} seeds` : null,
  ];
  return h(
    "td",
    { class: isBest ? "best" : "" },
    h(isBest ? "strong" : "span", {}, format("percent", cell.accuracy)),
    h("small", {}, spread),
    where.filter(Boolean).map((line) => h("small", { class: "where" }, line)),
  );
}

/** How many of the lineages are complete, and what became of the others. */
function ranCell(lineages) {
  const count = (state) => lineages.filter((line) => line.state === state).length;
  const rest = ["failed", "running", "partial", "not begun"].filter(count);
  const early = lineages.filter((line) => line.stopped).length;
  return [
    `${count("done")}/${lineages.length}`,
    ...rest.map((state) =>
      h("small", { class: `where ${stateClass(state)}` }, `${count(state)} ${state}`),
    ),
    early ? h("small", { class: "where" }, `${early} ended early`) : null,
  ];
}
