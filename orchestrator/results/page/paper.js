// The table as papers have it: methods by density, over the lineages that are selected.

/** The table with what is selected, by the ids of lineages; null when none of it is left. */
function paperTable(paper, ids) {
  const withLeft = (cell) => cell && { ...cell, left: seedsLeft(cell, ids) };
  const cells = paper.cells.map((row) => row.map(withLeft));
  const isLeft = (cell) => cell?.left.size > 0;
  const rows = paper.rows.map((_, i) => i).filter((i) => cells[i].some(isLeft));
  const columns = paper.columns.map((_, j) => j).filter((j) => cells.some((row) => isLeft(row[j])));
  if (!rows.length) return null;
  const cell = (each) => (isLeft(each) ? paperCell(each) : h("td", { class: "missing" }, MISSING));
  const body = rows.map((i) => {
    const name = h("th", { scope: "row", class: "text" }, paper.rows[i]);
    return h("tr", {}, name, columns.map((j) => cell(cells[i][j])));
  });
  const shown = { ...paper, columns: columns.map((j) => paper.columns[j]) };
  const table = h(
    "table",
    { "data-table": "paper" },
    h("thead", {}, paper.levels.map((level, i) => paperHead(shown, level, i))),
    h("tbody", {}, body),
  );
  const whole = cells.flat().filter(isLeft).every(isWhole);
  const title = whole ? paper.title : withoutSeeds(paper.title);
  const named = { class: "scroll", tabIndex: 0, role: "region", "aria-label": title };
  const notes = paper.notes.map((note) => h("p", { class: "quiet" }, note));
  return [h("p", { class: "quiet" }, title), h("div", named, table), ...notes];
}

/** The seeds of a cell whose lineages are selected. */
const seedsLeft = ({ lineages }, ids) =>
  new Set(Object.keys(lineages).filter((seed) => ids.has(data.lineages[lineages[seed]].id)));

const isWhole = ({ lineages, left }) => left.size === Object.keys(lineages).length;

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

function paperCell(cell) {
  const values = selectedValues(cell.values, cell.left);
  const densities = selectedValues(cell.densities, cell.left);
  const lines = [
    densities.length ? `at ${format("density", mean(densities))} %` : null,
    isWhole(cell) ? cell.note : null,
    publishedText(cell.published),
  ];
  const spread = deviation(values);
  // What is best was decided over all seeds.
  const best = cell.best && values.length === Object.keys(cell.values).length;
  return h(
    "td",
    { class: best ? "best" : values.length ? "" : "missing" },
    h(best ? "strong" : "span", {}, values.length ? format("percent", mean(values)) : MISSING),
    spread === null ? null : h("small", {}, ` ± ${format("percent", spread)}`),
    lines.filter(Boolean).map((line) => h("small", { class: "where" }, line)),
  );
}
