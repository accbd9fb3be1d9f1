// Tables that can be sorted, filtered, paged and saved.

const COMPARISON = /^([a-z_]+)(<=|>=|<|>|=)(.*)$/i;

const compare = {
  "<": (a, b) => a < b,
  "<=": (a, b) => a <= b,
  ">": (a, b) => a > b,
  ">=": (a, b) => a >= b,
  "=": (a, b) => Math.abs(a - b) < 1e-9,
};

/** The number that a column shows: percentages are stored as fractions. */
const shown = (column, row) => {
  const value = row[column.name];
  return column.format === "percent" || column.format === "density" ? 100 * value : value;
};

const filterName = ({ alias, name }) => alias ?? name;

/** Whether a text of the row has the word in it. */
const mentions = (row, texts, word) =>
  texts.some((each) => `${row[each.name] ?? ""}`.toLowerCase().includes(word));

/** A test of rows for one word of a filter, or `{ wrong }`: what cannot be meant by it. */
function wordTest(word, columns, rows) {
  const texts = columns.filter((each) => each.format === "text");
  const [, name, sign, value] = word.match(COMPARISON) ?? [];
  const column = columns.find((each) => [each.alias, each.name].includes(name));
  // Labels have comparisons in them too, such as p=0.5, and density=0.05 where remaining is shown.
  const isShown = column && filterName(column) === name;
  if (!name || (!isShown && rows.some((row) => mentions(row, texts, word)))) {
    return (row) => mentions(row, texts, word);
  }
  if (!column) return { wrong: `no column ${name}; there are ${columns.map(filterName).join(", ")}` };
  if (column.format === "text") {
    if (sign !== "=") return { wrong: `${name} is text: ${name}=… finds it` };
    return (row) => mentions(row, [column], value);
  }
  const bound = Number(value);
  if (value === "" || Number.isNaN(bound)) return { wrong: `${name}${sign} needs a number` };
  return (row) => !isMissing(row[column.name]) && compare[sign](shown(column, row), bound);
}

/** The rows that a filter such as `sap seed=1 accuracy>98` is about, of which all of it has to
 *  hold, and what is wrong with it, null where nothing is. */
function filtered(rows, query, columns) {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  const tests = words.map((word) => wordTest(word, columns, rows));
  const wrong = tests.map((test) => test.wrong).find(Boolean) ?? null;
  return { wrong, rows: wrong ? [] : rows.filter((row) => tests.every((test) => test(row))) };
}

/** Rows in the order of one column, what is missing last. */
function sorted(rows, { name, descending }) {
  const sign = descending ? -1 : 1;
  const absent = (v) => isMissing(v) || Number.isNaN(v);
  return [...rows].sort((one, other) => {
    const [a, b] = [one[name], other[name]];
    if (absent(a) || absent(b)) return absent(a) - absent(b);
    if (typeof a === "string") return sign * a.localeCompare(b, "en", { numeric: true });
    return sign * (a - b);
  });
}

function csv(rows, columns) {
  const quoted = (v) => (typeof v === "string" ? `"${v.replaceAll('"', '""')}"` : (v ?? ""));
  const lines = rows.map((row) => columns.map((column) => quoted(row[column.name])).join(","));
  return [columns.map((column) => quoted(column.name)).join(","), ...lines, ""].join("\n");
}

/** A table of `columns` {name, title, format, alias?, cell?, dull?, long?}: its `element`, and
 *  `update(rows)`.
 *
 *  `alias` is the column's name in filters. A column that has no value in any row is left out, and
 *  a `dull` one when it has the same in all.
 */
function dataTable({ name, label, columns, sort, pageSize = 25, searchable = true }) {
  let [all, query, order, first] = [[], "", sort, 0];
  const head = h("tr");
  const body = h("tbody");
  const count = h("output", { class: "count" });
  const previous = h("button", { type: "button", onclick: () => turn(-pageSize) }, "Previous");
  const next = h("button", { type: "button", onclick: () => turn(pageSize) }, "Next");
  const search = h("input", {
    type: "search",
    placeholder: "Filter: sap seed=0 accuracy>90",
    "aria-label": `Filter ${label}`,
    oninput: filter,
  });
  const save = h("button", { type: "button", onclick: saveRows }, "Save as CSV");
  const pager = h("span", { class: "pager" }, previous, next);
  const scroller = h(
    "div",
    { class: "scroll", tabIndex: 0, role: "region", "aria-label": label },
    h("table", { "data-table": name }, h("thead", {}, head), body),
  );
  const tools = h("div", { class: "tools" }, searchable ? [search, count, pager, save] : pager);

  const held = () =>
    columns.filter(({ name, dull }) => {
      const values = new Set(all.map((row) => row[name] ?? null));
      return !values.has(null) ? !(dull && values.size === 1) : values.size > 1;
    });
  const usable = () => columns.filter(({ format }) => format !== "date");
  const found = () => filtered(all, query, usable());
  const matching = () => sorted(found().rows, order);

  function filter() {
    [query, first] = [search.value, 0];
    draw();
  }

  function turn(by) {
    first += by;
    draw();
  }

  function sortBy(column) {
    const again = order.name === column.name;
    order = { name: column.name, descending: again ? !order.descending : false };
    first = 0;
    draw();
    head.querySelector(`[data-column="${column.name}"]`).focus();
  }

  function saveRows() {
    const blob = new Blob([csv(matching(), held())], { type: "text/csv" });
    download(`${name}.csv`, URL.createObjectURL(blob));
  }

  function heading(column) {
    const active = order.name === column.name;
    const direction = order.descending ? "descending" : "ascending";
    const button = h(
      "button",
      { type: "button", "data-column": column.name, onclick: () => sortBy(column) },
      column.title,
    );
    const attributes = { scope: "col", class: column.format === "text" ? "text" : "" };
    return h("th", active ? { ...attributes, "aria-sort": direction } : attributes, button);
  }

  function cell(column, row) {
    const content = column.cell ? column.cell(row) : format(column.format, row[column.name]);
    const long = column.long ? " long" : "";
    return h("td", { class: (column.format === "text" ? "text" : "") + long }, content);
  }

  function draw() {
    const { wrong, rows: kept } = found();
    const rows = sorted(kept, order);
    const visible = held();
    first = Math.max(0, Math.min(first, Math.floor((rows.length - 1) / pageSize) * pageSize));
    const page = rows.slice(first, first + pageSize);
    head.replaceChildren(...visible.map(heading));
    body.replaceChildren(
      ...page.map((row) => h("tr", {}, visible.map((column) => cell(column, row)))),
    );
    const range = rows.length ? `${first + 1}–${first + page.length} of ` : "";
    count.textContent = wrong ?? `${range}${plural(rows.length, "row")}`;
    count.classList.toggle("wrong", wrong !== null);
    previous.disabled = first === 0;
    next.disabled = first + pageSize >= rows.length;
    pager.hidden = rows.length <= pageSize;
  }

  return {
    element: h("div", { class: "data-table" }, tools, scroller),
    update(rows) {
      all = rows;
      draw();
    },
  };
}
