"""Convergent representations: whether the units of two seeds' tickets do the same."""

from __future__ import annotations

import altair as alt

from orchestrator.results.figures.curves import (
    ITERATION,
    Chart,
    Measure,
    block,
    blocks,
    mean_curves,
)
from orchestrator.results.figures.rows import LAYERS, distinct, measured_rows, spread
from orchestrator.results.figures.style import Look, heading
from orchestrator.results.opening import Results

CORRELATION = Measure("bipartite", "Mean correlation")


def representations(results: Results) -> alt.TopLevelMixin | None:
    """The mean correlation of matched units by iteration, a curve for each layer; of a deep
    network, `LAYERS` of them."""
    found = results.table("representations")
    rows = measured_rows(results, found, ["layer"], CORRELATION.field, how=["examples"])
    shown = spread(distinct(rows, "layer"), LAYERS)
    rows = [row for row in rows if row["layer"] in shown]
    if not rows:
        return None
    look = Look("layer", tuple(shown))
    charts: list[Chart] = []
    for setting in distinct(rows, "setting"):
        panels: list[Chart] = []
        for variant in distinct([row for row in rows if row["setting"] == setting], "variant"):
            panel = mean_curves(ITERATION, CORRELATION, look)
            if not (charts or panels):
                panel = panel.add_params(look.chosen())
            of_method = block([panel], variant, alt.datum.variant == variant)
            panels.append(of_method.resolve_scale(y="shared"))
        of_setting = block(panels, heading(setting), alt.datum.setting == setting, columns=3)
        charts.append(of_setting.resolve_scale(y="shared"))
    return blocks(rows, charts)
