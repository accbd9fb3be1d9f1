// State: the data, and what of it is selected.

const unpackAll = (payload) => ({
  ...unpackPayload(payload),
  colours: coloursOf(payload.figures),
});

let data = unpackAll(await inflate($("payload").textContent));
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
