"""Intrinsic dimension: how far tickets get in so many directions."""

from __future__ import annotations

import altair as alt
import pyarrow.compute as pc

from orchestrator.results.figures.curves import (
    ACCURACY,
    Chart,
    Measure,
    block,
    blocks,
    by_iteration,
    mean_curves,
    side_by_side,
)
from orchestrator.results.figures.methods import method_look
from orchestrator.results.figures.rows import distinct, measured_rows
from orchestrator.results.figures.style import heading
from orchestrator.results.opening import Results

ITERATIONS = 4
"""As many are drawn, evenly spread from the first to the last."""


def intrinsic_dimension(results: Results) -> alt.TopLevelMixin | None:
    """Test accuracy against the dimension, a curve for each method, for some iterations."""
    is_point = (pc.field("what") == "point") & pc.field("test_accuracy").is_valid()
    points = results.table("intrinsic_dimension").filter(is_point)
    rows = measured_rows(results, points, ["dimension"], "test_accuracy", ITERATIONS)
    if not rows:
        return None
    ticks = tuple(sorted({row["dimension"] for row in rows}))
    dimension = Measure("dimension", "Dimension d", "~s", log=True, ticks=ticks)
    look = method_look(results, "variant", rows)
    charts: list[Chart] = []
    for setting in distinct(rows, "setting"):
        panel = mean_curves(dimension, ACCURACY, look, ("label", "iteration", "dimension"))
        if not charts:
            panel = panel.add_params(look.chosen())
        curves = side_by_side(panel, by_iteration())
        charts.append(block([curves], heading(setting), alt.datum.setting == setting))
    return blocks(rows, charts)
