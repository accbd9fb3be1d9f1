"""Effective weights: how many of those that masks keep are on a path from an input to an output."""

import altair as alt

from orchestrator.results.figures.curves import (
    DENSITIES,
    Chart,
    block,
    blocks,
    density,
    mean_curves,
)
from orchestrator.results.figures.methods import method_look
from orchestrator.results.figures.rows import Row, cell_columns, distinct, is_outcome
from orchestrator.results.figures.style import heading
from orchestrator.results.opening import Results

LESS = 0.98
"""Of the kept weights; where nowhere fewer are effective, there is nothing to tell apart."""


def effective(results: Results) -> alt.TopLevelMixin | None:
    """Density of the effective weights against that of the kept ones."""
    rows = _rows(results)
    if all(row["density_effective"] > LESS * row["density"] for row in rows):
        return None
    look = method_look(results, "curve", rows)
    charts: list[Chart] = []
    for setting in distinct(rows, "setting"):
        own = [row for row in rows if row["setting"] == setting]
        kept, of_them = (density(own, field) for field in DENSITIES)
        curves = mean_curves(kept, of_them, look, size=(380, 240))
        if not charts:
            curves = curves.add_params(look.chosen())
        x, y = (alt.Y("density:Q"), alt.X("density:Q"))
        all_of_them = alt.Chart().mark_line(color="#999999", strokeDash=[2, 2]).encode(x, y)
        panel = alt.layer(all_of_them, curves)
        charts.append(block([panel], heading(setting), alt.datum.setting == setting))
    return blocks(rows, charts)


def _rows(results: Results) -> list[Row]:
    """One row for each iteration that a method is judged by, where both densities are known; of
    ablations none."""
    cells, lines = cell_columns(results), {line.id: line for line in results.record.lineages}
    columns = ["lineage", "iteration", *DENSITIES]
    return [
        cells[row["lineage"]] | row
        for row in results.iterations.select(columns).to_pylist()
        if row["density_effective"] is not None
        and "ablation" not in lines[row["lineage"]].config
        and is_outcome(lines[row["lineage"]], row["iteration"])
    ]
