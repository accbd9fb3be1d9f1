// Formats and elements: numbers as people read them, and text that can only be text.

const MISSING = "–";

const formats = {
  text: (v) => String(v),
  count: (v) => v.toLocaleString("en"),
  number: (v) => (Number.isNaN(v) ? "NaN" : Number(v.toPrecision(4)).toString()),
  percent: (v) => (Number.isNaN(v) ? "NaN" : decimals(100 * v)),
  // Differences of percentages, with their sign.
  points: (v) => (v > 0 ? "+" : "") + decimals(100 * v),
  probability: (v) => decimals(v, 3),
  // Densities span decades: 100, 10.7, 1.07, 0.107.
  density: (v) => (v >= 0.1 ? rounded(100 * v, 1).toFixed(1) : shortened(100 * v, 3).toPrecision(3)),
  seconds: (v) => duration(v),
  bytes: (v) => size(v),
  date: (v) => moment(v),
};

/** So many decimal places, or as many digits as `significant` of a smaller number: `decimals` of
 *  orchestrator/results/rendering.py. */
function decimals(v, places = 2, significant = 2) {
  const exact = Number(v.toPrecision(12));
  const size = Math.abs(exact);
  if (size <= 1e-9) return (0).toFixed(places);
  if (size >= 10 ** (significant - 1 - places)) return rounded(exact, places).toFixed(places);
  return Number(shortened(exact, significant).toPrecision(significant)).toString();
}

/** Rounded to so many digits. */
const shortened = (v, digits) =>
  v === 0 ? 0 : rounded(v, digits - 1 - Math.floor(Math.log10(Math.abs(v))));

/** Rounded to so many places; what is half-way goes up. */
const rounded = (v, places) =>
  Math.round(Number((v * 10 ** places).toPrecision(12))) / 10 ** places;

const isMissing = (value) => value === null || value === undefined;

/** `value` in the format of that name; – when there is none. */
const format = (name, value) => (isMissing(value) ? MISSING : formats[name](value));

function duration(seconds) {
  if (seconds < 10) return `${seconds < 1 ? Number(seconds.toPrecision(2)) : seconds.toFixed(1)} s`;
  const [total, pad] = [Math.round(seconds), (n) => String(n).padStart(2, "0")];
  const [days, hours] = [Math.floor(total / 86400), Math.floor(total / 3600) % 24];
  const minutes = Math.floor(total / 60) % 60;
  if (days) return `${days} d ${pad(hours)} h`;
  if (hours) return `${hours} h ${pad(minutes)} min`;
  return minutes ? `${minutes} min ${pad(total % 60)} s` : `${total} s`;
}

function size(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  const power = Math.min(Math.floor(Math.log10(Math.max(bytes, 1)) / 3), units.length - 1);
  return `${(bytes / 1000 ** power).toFixed(power > 1 ? 1 : 0)} ${units[power]}`;
}

/** A moment in UTC, of seconds since 1970 or of an ISO text, as 2026-11-21 06:02. */
function moment(when) {
  const date = new Date(typeof when === "number" ? when * 1000 : when);
  return date.toISOString().slice(0, 16).replace("T", " ");
}

const stateClass = (state) => `state-${state.replace(" ", "-")}`;

const plural = (count, noun) => `${format("count", count)} ${noun}${count === 1 ? "" : "s"}`;

/** An element. `attributes` are `class`, properties, listeners such as `onclick`, aria-…, data-….
 *  Strings among `children` become text, never markup. */
const h = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") element.className = value;
    else if (name.includes("-")) element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.flat().filter((child) => !isMissing(child)));
  return element;
};

const $ = (id) => document.getElementById(id);

/** Show `id` with these children; a section is hidden when there are none in all of it. */
const fill = (id, ...children) => {
  $(id).replaceChildren(...children.flat().filter((child) => !isMissing(child)));
  const section = $(id).closest("[data-optional]");
  const places = section ? [...section.querySelectorAll("div[id]")] : [];
  if (section) section.hidden = places.every((each) => !each.childElementCount);
};

const download = (name, href) => h("a", { href, download: name }).click();
