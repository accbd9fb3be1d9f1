// Beside methods' results: ablations, barriers, effective weights, lineages that ended early.

const CLEARLY = 0.98; // of the kept weights are effective, or fewer: told from all of them

/** Mean ± standard deviation in percent of values, as a cell has them. */
const spreadCell = (name, values) => {
  const spread = deviation(values);
  const told = spread === null ? null : h("small", {}, ` ± ${format("percent", spread)}`);
  return [format(name, values.length ? mean(values) : null), told];
};

const ablationTable = dataTable({
  name: "ablations",
  label: "ablations",
  sort: { name: null },
  searchable: false,
  columns: [
    { name: "method", title: "method", format: "text" },
    { name: "ablation", title: "ablation", format: "text" },
    { name: "iteration", title: "t", format: "count" },
    { name: "density", title: "remaining %", format: "density" },
    { name: "original", title: "original", format: "percent" },
    { name: "ablated", title: "ablated", format: "percent" },
    { name: "difference", title: "difference", format: "points",
      cell: (row) => spreadCell("points", row.differences) },
    { name: "p_value", title: "p", format: "probability" },
    { name: "seeds", title: "seeds", format: "count" },
  ],
});

const effectiveTable = dataTable({
  name: "effective",
  label: "effective weights",
  sort: { name: null },
  searchable: false,
  columns: [
    { name: "label", title: "method", format: "text" },
    { name: "iteration", title: "t", format: "count" },
    { name: "density", title: "remaining %", format: "density" },
    { name: "density_effective", title: "effective %", format: "density" },
    { name: "share", title: "% of the kept", format: "density" },
    { name: "test_accuracy", title: "accuracy %", format: "percent" },
    { name: "seeds", title: "seeds", format: "count" },
  ],
});

const endTable = dataTable({
  name: "ends",
  label: "lineages that ended early",
  sort: { name: null },
  columns: [
    { name: "by", title: "ended by", format: "text" },
    METHOD,
    { name: "seed", title: "seed", format: "count" },
    { name: "iteration", title: "with t", format: "count", alias: "t" },
    { name: "density", title: "remaining %", format: "density", alias: "remaining" },
    { name: "test_accuracy", title: "accuracy %", format: "percent", alias: "accuracy" },
    { name: "why", title: "why", format: "text", long: true },
  ],
});

function drawBeside(lineages, iterations, ids) {
  const ablations = data.ablations.map((cell) => ablationRow(cell, ids));
  show("ablations", ablationTable, ablations.filter(Boolean));
  show("effective", effectiveTable, effectiveRows(iterations));
  fill("barriers", barrierTable(data.barriers.filter((row) => ids.has(row.id))));
  const ends = endRows(lineages);
  $("ends-summary").textContent = endsText(ends, lineages);
  show("ends", endTable, ends.some(({ by }) => by !== FAILURE) ? ends : []);
}

/** The table with its rows, or nothing where there is none. */
function show(id, table, rows) {
  table.update(rows);
  place(id, rows.length ? [table.element] : []);
}

/** Over the selected seeds that have both; null when none has. Of some seeds there is no test. */
function ablationRow({ pairs, p_value, elsewhere, ...cell }, ids) {
  const chosen = pairs.filter(({ original, ablated }) => ids.has(original) && ids.has(ablated));
  const both = chosen.filter(({ values }) => !values.some(isMissing));
  if (!both.length) return null;
  // Accuracies on two test sets have no difference.
  const compared = elsewhere ? [] : both;
  const differences = compared.map(({ values: [without, with_] }) => with_ - without);
  return {
    ...cell,
    density: mean(chosen.map(({ density }) => density)),
    original: mean(both.map(({ values }) => values[0])),
    ablated: mean(both.map(({ values }) => values[1])),
    difference: differences.length ? mean(differences) : null,
    differences,
    p_value: chosen.length === pairs.length ? p_value : null,
    seeds: both.length,
  };
}

/** What methods are judged by, where effective weights are clearly fewer than the kept ones. */
function effectiveRows(iterations) {
  const known = iterations.filter((row) => row.outcome && !isMissing(row.density_effective));
  const cells = [...groupBy(known, (row) => `${row.label}\n${row.iteration}`).values()];
  const rows = cells.map((of) => {
    const [density, density_effective, test_accuracy] = [
      "density", "density_effective", "test_accuracy",
    ].map((name) => mean(of.map((row) => row[name])));
    const { label, iteration } = of[0];
    const share = density_effective / density;
    return {
      label, iteration, density, density_effective, share, test_accuracy, seeds: of.length,
    };
  });
  return rows.filter(({ share }) => share < CLEARLY);
}

/** Rows are methods and what barriers are between, columns iterations; null when there is none. */
function barrierTable(rows) {
  if (!rows.length) return null;
  const iterations = distinct(rows.map((row) => row.iteration)).sort((a, b) => a - b);
  const titles = ["method", "between", ...iterations.map((t) => `t = ${t}`)];
  const headed = (title, i) => h("th", { scope: "col", class: i < 2 ? "text" : "" }, title);
  const body = [...groupBy(rows, (row) => row.label)].map(([label, ofMethod]) => {
    const lines = [...groupBy(ofMethod, (row) => row.between)];
    return lines.map(([between, of], i) => {
      const name = { scope: "rowgroup", class: "text", rowSpan: lines.length };
      const first = i ? null : h("th", name, swatch(of[0]), label);
      const cells = iterations.map((t) => barrierCell(of.filter((row) => row.iteration === t)));
      return h("tr", {}, first, h("th", { scope: "row", class: "text" }, between), cells);
    });
  });
  const head = h("thead", {}, h("tr", {}, titles.map(headed)));
  return h("table", { "data-table": "barriers" }, head, body.map((each) => h("tbody", {}, each)));
}

const barrierCell = (rows) =>
  rows.length
    ? h("td", {}, spreadCell("percent", rows.map((row) => row.test_error)))
    : h("td", { class: "missing" }, MISSING);

const FAILURE = "failure";

/** The lineages that stop rules or ranking ended, and those that failed. */
function endRows(lineages) {
  const failures = new Map(data.failures.map((failure) => [failure.lineage, failure]));
  return lineages
    .map((line) => ({ ...lineageRow(line), ...endOf(line, failures.get(line.id)) }))
    .filter(({ by }) => by);
}

/** By what a lineage ended, with which iteration, and why; null where it did not, or not yet. */
function endOf({ stopped, last, state }, failure) {
  if (stopped) {
    const [rule, ...why] = stopped.split(": ");
    const by = rule === "rank" ? "ranking" : `stop rule ${rule}`;
    return { by, iteration: last?.iteration, why: why.join(": ") };
  }
  if (!failure || state !== "failed") return null;
  const why = failure.traceback.trim().split("\n").at(-1);
  return { by: FAILURE, iteration: failure.iteration, why };
}

function endsText(ends, lineages) {
  const counts = [...groupBy(ends, ({ by }) => by)].map(([by, of]) => `${of.length} by ${by}`);
  return `${ends.length} of ${plural(lineages.length, "lineage")}: ${counts.join(", ")}.`;
}
