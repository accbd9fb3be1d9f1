// The table as papers have it: methods by density, over the seeds that are selected.

/** The table with the rows of the selected lineages; null when none of it is left. */
function paperTable(paper, lineages) {
  const rows = new Set(lineages.map((line) => line.row));
  const seeds = new Set(lineages.map((line) => String(line.seed)));
  const shown = paper.rows.map((_, i) => i).filter((i) => rows.has(paper.rows[i]));
  if (!shown.length) return null;
  const cell = (each) => (each ? paperCell(each, seeds) : h("td", { class: "missing" }, MISSING));
  const body = shown.map((i) =>
    h("tr", {}, h("th", { scope: "row", class: "text" }, paper.rows[i]), paper.cells[i].map(cell)),
  );
  const table = h(
    "table",
    { "data-table": "paper" },
    h("thead", {}, paper.levels.map((level, i) => paperHead(paper, level, i))),
    h("tbody", {}, body),
  );
  const named = { class: "scroll", tabIndex: 0, role: "region", "aria-label": paper.title };
  const notes = paper.notes.map((note) => h("p", { class: "quiet" }, note));
  return [h("p", { class: "quiet" }, paper.title), h("div", named, table), ...notes];
}

/** One line of column headings: neighbours of one name, under one name above, are one heading. */
function paperHead({ columns, levels, row_heading }, level, i) {
  const runs = [];
  for (const names of columns) {
    const above = JSON.stringify(names.slice(0, i + 1));
    if (runs.at(-1)?.above === above) runs.at(-1).span += 1;
    else runs.push({ above, name: names[i], span: 1 });
  }
  const first = i === levels.length - 1 ? row_heading : "";
  const cells = runs.map(({ name, span }) => h("th", { scope: "col", colSpan: span }, name));
  return h("tr", {}, h("th", { scope: "col", class: "text" }, first), cells);
}

function publishedText(published) {
  if (!published) return null;
  const spread = published.std === null ? "" : ` ± ${published.std}`;
  return `published ${published.mean}${spread}`;
}

function paperCell(cell, seeds) {
  const measured = Object.entries(cell.values);
  const values = measured.filter(([seed]) => seeds.has(seed)).map(([, value]) => value);
  const all = values.length === measured.length;
  const lines = [
    cell.density !== null && values.length ? `at ${format("density", cell.density)} %` : null,
    all ? cell.note : null,
    publishedText(cell.published),
  ];
  const spread = deviation(values);
  // What is best was decided over all seeds.
  const best = cell.best && all;
  return h(
    "td",
    { class: best ? "best" : values.length ? "" : "missing" },
    h(best ? "strong" : "span", {}, values.length ? format("percent", mean(values)) : MISSING),
    spread === null ? null : h("small", {}, ` ± ${format("percent", spread)}`),
    lines.filter(Boolean).map((line) => h("small", { class: "where" }, line)),
  );
}
