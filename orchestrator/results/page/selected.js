// Tables of what is selected: lineages, iterations, cost, runs, failures.

const METHOD = { name: "label", title: "method", format: "text", alias: "method" };
const stateCell = ({ state }) => h("span", { class: stateClass(state) }, state);
const committedCell = ({ committed, iterations }) => `${committed} of ${iterations}`;

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
    { name: "committed", title: "iterations", format: "count", cell: committedCell },
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
    { name: "density_effective", title: "effective %", format: "density", alias: "effective" },
    { name: "test_accuracy", title: "accuracy %", format: "percent", alias: "accuracy" },
    { name: "pruned_test_accuracy", title: "pruned acc. %", format: "percent", alias: "pruned" },
    { name: "validation_accuracy", title: "validation acc. %", format: "percent" },
    { name: "train_accuracy", title: "train acc. %", format: "percent" },
    { name: "test_loss", title: "test loss", format: "number" },
    { name: "train_loss", title: "train loss", format: "number" },
    { name: "pq_index", title: "PQ Index", format: "number" },
    { name: "gini", title: "Gini", format: "number" },
    { name: "macs_kept", title: "MACs kept", format: "count" },
    { name: "inputs", title: "trained on", format: "text", alias: "trained_on", dull: true },
    { name: "collapsed_layers", title: "collapsed layers", format: "text", long: true },
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
    { name: "command", title: "command", format: "text", long: true },
    { name: "git", title: "git", format: "text" },
    { name: "hardware", title: "hardware", format: "text", long: true },
    { name: "software", title: "software", format: "text", long: true },
  ],
});

function drawTables() {
  const lineages = data.lineages.filter(isSelected);
  const ids = selectedIds();
  const iterations = data.iterations.filter((row) => ids.has(row.id));
  const methods = lineages.filter((line) => !line.ablation); // ablations have a table of their own
  $("glance").replaceChildren(glanceTable(methods, iterations, swatch));
  drawBeside(lineages, iterations, ids);
  fill("paper", paperTable(data.paper, ids));
  lineageTable.update(lineages.map(lineageRow));
  iterationTable.update(iterations);
  costTable.update(costRows(iterations));
  const failures = data.failures.filter(({ lineage }) => isFailureSelected(lineage, ids));
  fill("failures", failures.map(failureElement));
}

const lineageRow = (line) => ({
  ...line,
  density: line.result?.density,
  test_accuracy: line.result?.test_accuracy,
  attempt: line.last?.attempt,
  seconds: line.last && sum(line.rows.map((row) => row.train_seconds + row.prune_seconds)),
});

function costRows(iterations) {
  const once = (rows) => [...groupBy(rows, (row) => row.key).values()].map(([row]) => row);
  const seconds = (rows, name) => sum(rows.map((row) => row[name]));
  const every = once(iterations);
  const total = seconds(every, "train_seconds") + seconds(every, "prune_seconds");
  return [...groupBy(iterations, (row) => row.curve)].map(([curve, of]) => {
    const rows = once(of);
    const [training, pruning] = [seconds(rows, "train_seconds"), seconds(rows, "prune_seconds")];
    const [count, all] = [rows.length, training + pruning];
    return { curve, count, training, pruning, each: all / count, share: all / total };
  });
}

/** A commit's short name; a `+` at its end stands for changes that were not committed. */
const gitText = (sha) => sha && `${sha.slice(0, 10)}${sha.endsWith("+") ? " with changes" : ""}`;

function runRow({ started_at, seconds, command, git_sha, cpus, memory_bytes, gpus, ...run }) {
  const versions = Object.entries({ python: run.python, ...run.packages })
    .filter(([, version]) => version)
    .map(([name, version]) => `${name} ${version}`);
  return {
    started_at,
    seconds,
    command: command.join(" "),
    git: gitText(git_sha),
    hardware: [`${cpus} CPUs`, size(memory_bytes), ...gpus].join(", "),
    software: [...versions, run.platform].join(", "),
  };
}

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
