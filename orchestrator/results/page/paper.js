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
  const cells = shown.flatMap((i) => paper.cells[i]).filter(Boolean);
  const whole = cells.every((each) => Object.keys(each.values).every((seed) => seeds.has(seed)));
  const title = whole ? paper.title : withoutSeeds(paper.title);
  const named = { class: "scroll", tabIndex: 0, role: "region", "aria-label": title };
  const notes = paper.notes.map((note) => h("p", { class: "quiet" }, note));
  return [h("p", { class: "quiet" }, title), h("div", named, table), ...notes];
}

/** A title that counts no seeds, as some are left out. */
const withoutSeeds = (title) => title.replace(/over (\d+ )?seeds$/, "over the seeds that are left");

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

/** Those of `bySeed` whose seeds are selected. */
const selectedValues = (bySeed, seeds) =>
  Object.entries(bySeed).flatMap(([seed, value]) => (seeds.has(seed) ? [value] : []));

function paperCell(cell, seeds) {
  const values = selectedValues(cell.values, seeds);
  const densities = selectedValues(cell.densities, seeds);
  const all = values.length === Object.keys(cell.values).length;
  const lines = [
    densities.length ? `at ${format("density", mean(densities))} %` : null,
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
