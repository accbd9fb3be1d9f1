"""Answers about a sweep: SQL over its tables, a summary of its cells, or a paper's table."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import pyarrow as pa

from orchestrator.records.labels import varies
from orchestrator.results.ablations import ablation_table
from orchestrator.results.opening import Results
from orchestrator.results.paper_tables import Mark, paper_table
from orchestrator.results.paper_text import paper_rows, paper_text
from orchestrator.results.rendering import TextTable, decimals, text_table
from orchestrator.results.sweep_tables import QueryError, query_errors

Layout = Literal["summary", "paper", "iterations", "ablations"]

EVERY_ITERATION = """
SELECT {cell}, iteration, {measures}
FROM chosen JOIN labels USING (lineage) JOIN inputs USING (lineage, iteration)
GROUP BY ALL ORDER BY min(position), iteration
"""
"""Means and standard deviations over seeds at every iteration."""

LAST_ITERATION = """
SELECT {cell}, iteration AS iterations, {measures}
FROM (
    SELECT *, max(iteration) OVER (PARTITION BY lineage) AS last
    FROM chosen JOIN inputs USING (lineage, iteration) WHERE inputs = 'real'
)
JOIN labels USING (lineage)
WHERE iteration = last GROUP BY ALL ORDER BY min(position), iteration
"""
"""The same at the last iteration of every lineage, of those trained on real data."""

MEASURES = """
avg({density}) AS {density},
avg(test_accuracy) AS test_accuracy,
stddev_samp(test_accuracy) AS test_accuracy_std,
avg(pruned_test_accuracy) AS pruned_test_accuracy,
count(*) AS seeds
"""


def _percent(value: float, significant: int = 2) -> str:
    return decimals(100 * value, 2, significant)


SHOWN = {
    "density_effective": ("effective %", partial(_percent, significant=3)),
    "density": ("remaining %", partial(_percent, significant=3)),
    "test_accuracy": ("accuracy %", _percent),
    "test_accuracy_std": ("± std", _percent),
    "pruned_test_accuracy": ("pruned %", _percent),
    "inputs": ("trained on", str),
}
"""The summary's columns as people read them; programs get plain names, and every digit."""


def _points(value: float) -> str:
    return decimals(100 * value, 2, sign="+")


COMPARED = {
    "density_effective": SHOWN["density_effective"],
    "density": SHOWN["density"],
    "original": ("original %", _percent),
    "ablated": ("ablated %", _percent),
    "difference": ("difference", _points),
    "p_value": ("p", partial(decimals, places=3)),
}
"""The columns of ablations as people read them."""


@dataclass(frozen=True)
class Answer:
    """A table for programs, and the same as people read it."""

    table: pa.Table
    text: TextTable


def answer(
    results: Results,
    *,
    sql: str | None = None,
    where: str | None = None,
    last: bool = False,
    layout: Layout = "summary",
    mark: Mark | None = None,
) -> Answer:
    """What `prunesweep results` shows. Raises QueryError."""
    if sql is not None and (where is not None or last or layout != "summary"):
        raise QueryError("--sql asks for all there is to show; leave out --where, --last, --layout")
    if last and layout == "iterations":
        raise QueryError("--layout iterations has a row for every iteration; leave out --last")
    if last and layout == "ablations":
        raise QueryError("--layout ablations has a row for every ablation; leave out --last")
    if mark is not None and layout in ("summary", "ablations"):
        raise QueryError("--mark is about a paper's table; give --layout paper or iterations too")
    if layout == "ablations":
        found = ablations(results, where=where)
        return Answer(found, text_table(found, COMPARED))
    if layout != "summary":
        table = paper_table(results, layout=layout, where=where, mark=mark or "noise")
        return Answer(paper_rows(table), paper_text(table))
    if sql is not None:
        found = results.sql(sql)
        return Answer(found, text_table(found))
    found = summary(results, where=where, last=last)
    return Answer(found, text_table(found, SHOWN))


def ablations(results: Results, *, where: str | None = None) -> pa.Table:
    """Every ablation beside what it is of, or those whose rows of `iterations` the SQL condition
    `where` chooses. Raises QueryError."""
    if not any("ablation" in line.config for line in results.record.lineages):
        raise QueryError("it has no ablations; a sweep file names them under ablations:")
    if where is None:
        return results.ablations()
    with query_errors():
        rows = results.duckdb().table("iterations").filter(where).project("lineage, iteration")
        chosen, density = {*rows.fetchall()}, results.density
        return ablation_table(results.record, results.iterations, chosen=chosen, density=density)


def summary(results: Results, *, where: str | None = None, last: bool = False) -> pa.Table:
    """Every cell of the sweep, seeds aside, at every iteration, or at the last one on real data of
    those that `where`, a SQL condition over `iterations`, chooses. Raises QueryError."""
    varying = [name for name in ("dataset", "model") if varies(name, results.record)]
    cells = [*varying, "variant AS method"]
    if not last and any(len(line.on_data) < len(line.keys) for line in results.record.lineages):
        cells.append("inputs")
    sql = LAST_ITERATION if last else EVERY_ITERATION
    sql = sql.format(cell=", ".join(cells), measures=MEASURES.format(density=results.density))
    connection = results.duckdb()
    with query_errors():
        chosen = connection.table("iterations")
        chosen = chosen if where is None else chosen.filter(where)
        found = chosen.query("chosen", sql)
        assert found is not None  # only statements other than SELECT give nothing
        return found.to_arrow_table()


def last_iterations(results: Results) -> TextTable:
    """The summary of a sweep at the last iteration of every lineage, for people."""
    return answer(results, last=True).text
