// Data: columns as they come from Python, and what of them is shown.

/** What Python has compressed: JSON, gzip, base64. */
async function inflate(text) {
  const decoded = atob(text);
  const bytes = new Uint8Array(decoded.length);
  for (let i = 0; i < bytes.length; i += 1) bytes[i] = decoded.charCodeAt(i);
  const json = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(json).json();
}

const FLOATS = { nan: NaN, inf: Infinity, "-inf": -Infinity };

/** A value, which may be a number that JSON lacks. */
const revive = (value) => (value?.float in FLOATS ? FLOATS[value.float] : value);

/** For each row the number of its owner, in order of appearance. */
function ownerCodes(owners) {
  const codes = new Map();
  return owners.map((owner) => codes.get(owner) ?? codes.set(owner, codes.size).get(owner));
}

function unpackColumn(packed, rows, codes) {
  if (Array.isArray(packed)) return packed.map(revive);
  if (packed.plain) return packed.plain;
  if (packed.by_owner) return codes.map((code) => revive(packed.by_owner[code]));
  if (packed.codes) return packed.codes.map((code) => revive(packed.values[code]));
  return Array(rows).fill(revive(packed.constant));
}

/** The rows of a packed table, as objects. */
function unpack({ rows, columns }) {
  const names = Object.keys(columns);
  const codes = columns.lineage ? ownerCodes(unpackColumn(columns.lineage, rows)) : [];
  const values = names.map((name) => unpackColumn(columns[name], rows, codes));
  return Array.from({ length: rows }, (_, i) =>
    Object.fromEntries(names.map((name, j) => [name, values[j][i]])),
  );
}

/** The payload with its tables as rows. An iteration has what is known of its lineage, a lineage
 *  its `rows`, in order, the last of them, and its `result`: the last that is trained on real data. */
function unpackPayload(payload) {
  const lineages = unpack(payload.lineages).map((line) => ({ ...line, rows: [] }));
  const scopes = distinct(lineages.map((line) => line.scope)).length;
  for (const line of lineages) {
    line.group = scopes > 1 ? `${line.curve}, ${line.scope}` : line.curve;
  }
  const iterations = unpack(payload.iterations).map((row) => {
    const { id, label, curve, group, network, seed } = lineages[row.lineage];
    return { ...row, id, label, curve, group, network, seed };
  });
  iterations.forEach((row) => lineages[row.lineage].rows.push(row));
  for (const line of lineages) {
    line.last = line.rows.at(-1);
    line.result = line.rows.findLast((row) => row.inputs === "real");
  }
  const of = new Map(lineages.map((line) => [line.id, line]));
  const barriers = unpack(payload.barriers).map((row) => ({ ...of.get(row.lineage), ...row }));
  return { ...payload, lineages, iterations, barriers };
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
