"""Linear mode connectivity: errors along lines between copies, and the barriers on them."""

from __future__ import annotations

from typing import Literal

import altair as alt
import pyarrow.compute as pc

from orchestrator.results.figures.curves import (
    Measure,
    block,
    blocks,
    by_iteration,
    mean_curves,
    side_by_side,
)
from orchestrator.results.figures.methods import method_look
from orchestrator.results.figures.rows import Row, cell_columns, distinct, some_seeds, spread
from orchestrator.results.figures.style import ORDERED, Look, heading
from orchestrator.results.opening import Results

ITERATIONS = 4
"""As many are drawn, evenly spread from the first to the last."""
STEP = 24

ALPHA = Measure("alpha", "α")
ERROR = Measure("test_error", "Test error", "%", fraction=True)
REWIND = Measure("rewind", "Rewound to step k", "d")
BARRIER = Measure("test_error", "Error barrier", "%", fraction=True)


def connectivity(results: Results) -> alt.TopLevelMixin | None:
    """Test error along the lines, a curve for each step k, for some iterations of each method."""
    rows = _rows(results, "point", "alpha")
    if not rows:
        return None
    steps = tuple(sorted({row["rewind"] for row in rows}))
    look = Look("rewind", steps, "k", ordered=True, dense=True)
    charts: list[alt.ConcatChart] = []
    for setting in distinct(rows, "setting"):
        variants = distinct([row for row in rows if row["setting"] == setting], "variant")
        panels = []
        for variant in variants:
            panel = mean_curves(ALPHA, ERROR, look, ("label", "iteration", "alpha"))
            if not (charts or panels):
                panel = panel.add_params(look.chosen())
            curves = side_by_side(panel, by_iteration())
            panels.append(block([curves], variant, alt.datum.variant == variant))
        charts.append(block(panels, heading(setting), alt.datum.setting == setting))
    return blocks(rows, charts)


def instability(results: Results) -> alt.TopLevelMixin | None:
    """The error barrier against the step k, a curve for each method, for some iterations."""
    rows = _rows(results, "barrier", "what")
    if not rows:
        return None
    look = method_look(results, "variant", rows)
    charts: list[alt.ConcatChart] = []
    for setting in distinct(rows, "setting"):
        panel = mean_curves(REWIND, BARRIER, look, ("label", "iteration", "rewind"))
        if not charts:
            panel = panel.add_params(look.chosen())
        curves = side_by_side(panel, by_iteration())
        charts.append(block([curves], heading(setting), alt.datum.setting == setting))
    return blocks(rows, charts)


def layer_barriers(results: Results) -> alt.TopLevelMixin | None:
    """The error barrier of each layer that alone goes to the other copy, a map for each step k."""
    rows = _rows(results, "barrier", "layer", layers=True)
    if not rows:
        return None
    of_network = results.table("layers", ["lineage", "layer"])["layer"].unique().to_pylist()
    order = [layer for layer in of_network if layer in {row["layer"] for row in rows}]
    charts = []
    for setting in distinct(rows, "setting"):
        variants = distinct([row for row in rows if row["setting"] == setting], "variant")
        maps = [block([_maps(order)], each, alt.datum.variant == each) for each in variants]
        charts.append(block(maps, heading(setting), alt.datum.setting == setting))
    return blocks(rows, charts)


def _maps(order: list[str]) -> alt.FacetChart:
    barrier = alt.Color(
        "mean(test_error):Q",
        title=BARRIER.title,
        scale=alt.Scale(scheme=ORDERED),
        legend=alt.Legend(orient="bottom", gradientLength=200, format="%"),
    )
    panel = (
        alt.Chart()
        .mark_rect()
        .encode(
            alt.X("iteration:O", title="Iteration", axis=alt.Axis(labelAngle=0)),
            alt.Y("layer:N", title=None, sort=order),
            barrier,
            tooltip=[
                alt.Tooltip("variant:N"),
                alt.Tooltip("layer:N"),
                alt.Tooltip("iteration:O"),
                alt.Tooltip("rewind:O", title=REWIND.title),
                alt.Tooltip("mean(test_error):Q", title=BARRIER.title, format=".4p"),
                alt.Tooltip("distinct(seed):Q", title="seeds"),
            ],
        )
        .properties(width=alt.Step(STEP), height=alt.Step(STEP))
    )
    header = alt.Header(labelExpr="'k = ' + (datum.label)")
    return side_by_side(panel, alt.Column("rewind:O", title=None, header=header))


def _rows(
    results: Results, what: Literal["point", "barrier"], column: str, *, layers: bool = False
) -> list[Row]:
    """One row for each value of `column` of some iterations of each lineage and each step k: of
    several pairs of copies, the mean. Of the whole network, or of single `layers`."""
    layer = pc.field("layer")
    wanted = (pc.field("measure") == "lmc") & (pc.field("what") == what)
    wanted &= layer.is_valid() if layers else layer.is_null()
    grouped = results.connectivity.filter(wanted).group_by(
        ["lineage", "iteration", "rewind", column], use_threads=False
    )
    found = grouped.aggregate([("test_error", "mean")]).to_pylist()
    lineages = {row["lineage"] for row in found}
    if not lineages:
        return []
    some = some_seeds(results, lineages, len(found) / len(lineages))
    iterations = spread(sorted({row["iteration"] for row in found}), ITERATIONS)
    cells = cell_columns(results)
    return [
        cells[row["lineage"]] | row | {"test_error": row["test_error_mean"]}
        for row in found
        if row["lineage"] in some and row["iteration"] in iterations
    ]
