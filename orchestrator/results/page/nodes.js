// Nodes: what a run has to train on, what it lost of that, and what the time of its slots went to.

const USES = [
  ["training", "in training", "good"],
  ["lost", "lost with a worker or a node, and done again", "bad"],
  ["shared", "waiting for an iteration that lineages share", "idle"],
  ["claimed", "waiting for what another run trains", "idle"],
  ["starting", "waiting for a worker or a node", "idle"],
  ["storage", "waiting for the storage", "idle"],
  ["nothing", "with nothing left to do", "idle"],
];

const atWorkCell = ({ lines }) => (lines.length ? lines.join("; ") : "–");

const nodeTable = dataTable({
  name: "nodes",
  label: "nodes",
  sort: { name: "node" },
  columns: [
    { name: "node", title: "node", format: "text" },
    { name: "address", title: "address", format: "text" },
    { name: "slots", title: "slots", format: "count" },
    { name: "gpus", title: "GPUs", format: "count", dull: true },
    { name: "cpus", title: "CPUs", format: "count", dull: true },
    { name: "busy", title: "lineages", format: "count" },
    { name: "at", title: "at work", format: "text", long: true, cell: atWorkCell },
  ],
});

const lostTable = dataTable({
  name: "lost",
  label: "lost nodes",
  sort: { name: "at", descending: true },
  searchable: false,
  pageSize: 10,
  columns: [
    { name: "name", title: "lost node", format: "text" },
    { name: "at", title: "when (UTC)", format: "date" },
    { name: "lineages", title: "lineages that went back", format: "count" },
    { name: "seconds", title: "work done again, at most", format: "seconds" },
  ],
});

const nodesShown = new Map();

/** Draw a table anew where its rows are others: whoever is at one of its buttons stays there. */
function updateNodes(table, rows) {
  const text = JSON.stringify(rows);
  if (nodesShown.get(table) !== text) table.update(rows);
  nodesShown.set(table, text);
}

function drawNodes() {
  const sight = data.run?.sight;
  const alive = sight && data.state === "running";
  const lost = sight?.lost ?? [];
  fill("slots", sight ? slotLines(sight.slots, alive) : null);
  $("h-nodes").closest("section").hidden = !sight;
  $("nodes").hidden = !alive;
  updateNodes(nodeTable, alive ? nodeRows(data.run) : []);
  $("lost").hidden = !lost.length;
  updateNodes(lostTable, lost);
  const more = (sight?.lost_in_all ?? 0) - lost.length;
  $("lost-more").textContent = more > 0 ? `and ${plural(more, "node")} before` : "";
}

/** A row for each node; several runs on one machine have their slots together. */
function nodeRows({ sight, running }) {
  const labels = new Map(data.lineages.map((line) => [line.id, `${line.label}, seed ${line.seed}`]));
  const at = groupBy(Object.entries(running), ([, line]) => line.node);
  const each = sight.nodes.flatMap(({ names, ...alike }) =>
    Object.entries(names).map(([node, address]) => ({ node, address, ...alike })),
  );
  return [...groupBy(each, ({ node }) => node)].map(([node, of]) => {
    const lines = (at.get(node) ?? []).map(([id, { iteration }]) => {
      const after = isMissing(iteration) ? "" : `, iteration ${iteration} committed`;
      return `${labels.get(id) ?? id}${after}`;
    });
    const slots = sum(of.map((one) => one.slots));
    return { ...of[0], slots, lines, busy: lines.length, at: lines.join("; ") };
  });
}

function slotLines({ now, seconds }, alive) {
  const total = sum(Object.values(seconds));
  const slots = sum(Object.values(now));
  const busy = now.training ?? 0;
  const told = alive ? `${busy} of ${plural(slots, "slot")} at work. ` : "";
  if (!total) return told ? [h("p", { class: "quiet" }, told)] : [];
  const shares = USES.filter(([use]) => seconds[use]).map(([use, text, kind]) => {
    const percent = (100 * seconds[use]) / total;
    return { text, kind, percent, shown: percent < 1 ? "<1" : percent.toFixed(0) };
  });
  const parts = shares.map(({ text, kind, percent, shown }) => {
    const part = h("span", { class: kind, title: `${shown} % ${text}` });
    part.style.flexGrow = percent;
    return part;
  });
  const texts = shares.map(({ text, kind, shown }) => h("li", { class: kind }, `${shown} % ${text}`));
  return [
    h("p", { class: "quiet" }, `${told}Of the time of its slots, ${duration(total)}, the run spent`),
    h("div", { class: "shares", "aria-hidden": "true" }, parts),
    h("ul", { class: "legend" }, texts),
  ];
}
