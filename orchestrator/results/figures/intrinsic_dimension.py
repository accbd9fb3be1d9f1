"""Intrinsic dimension: how far tickets get in so many directions."""

from __future__ import annotations

import altair as alt
import pyarrow.compute as pc

from orchestrator.results.figures.curves import (
    ACCURACY,
    Measure,
    by_iteration,
    by_setting,
    mean_curves,
)
from orchestrator.results.figures.methods import method_look
from orchestrator.results.figures.rows import measured_rows
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
    panel = mean_curves(dimension, ACCURACY, look, ("label", "iteration", "dimension"))
    return by_setting(rows, look, panel, by_iteration())
