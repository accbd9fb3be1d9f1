// Data: columns as they come from Python, and what of them is shown.

const SPECIAL = { nan: NaN, inf: Infinity, "-inf": -Infinity };

const unpackColumn = (packed, rows) => {
  if (Array.isArray(packed)) return packed.map((v) => (typeof v === "string" ? SPECIAL[v] : v));
  if ("constant" in packed) return Array(rows).fill(packed.constant);
  return packed.plain ?? packed.codes.map((code) => packed.values[code]);
};

/** The rows of a packed table, as objects. */
const unpack = ({ rows, columns }) => {
  const names = Object.keys(columns);
  const values = names.map((name) => unpackColumn(columns[name], rows));
  return Array.from({ length: rows }, (_, i) =>
    Object.fromEntries(names.map((name, j) => [name, values[j][i]])),
  );
};

/** The payload with its tables as rows. An iteration has what is known of its lineage, a lineage
 *  its `rows`, in order, and the last of them. */
function unpackPayload(payload) {
  const lineages = unpack(payload.lineages).map((line) => ({ ...line, rows: [] }));
  const scopes = distinct(lineages.map((line) => line.scope)).length;
  lineages.forEach((line) => (line.group = scopes > 1 ? `${line.curve}, ${line.scope}` : line.curve));
  const iterations = unpack(payload.iterations).map((row) => {
    const { id, label, curve, group, network, seed } = lineages[row.lineage];
    return { ...row, id, label, curve, group, network, seed };
  });
  iterations.forEach((row) => lineages[row.lineage].rows.push(row));
  lineages.forEach((line) => (line.last = line.rows.at(-1)));
  return { ...payload, lineages, iterations };
}

const distinct = (values) => [...new Set(values)];

const groupBy = (rows, key) => {
  const groups = new Map();
  for (const row of rows) {
    const name = key(row);
    if (groups.has(name)) groups.get(name).push(row);
    else groups.set(name, [row]);
  }
  return groups;
};

const sum = (values) => values.reduce((total, value) => total + value, 0);
const mean = (values) => sum(values) / values.length;

/** The sample standard deviation; null of one value. */
const deviation = (values) => {
  if (values.length < 2) return null;
  const centre = mean(values);
  return Math.sqrt(sum(values.map((v) => (v - centre) ** 2)) / (values.length - 1));
};
