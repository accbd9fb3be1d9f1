"""Accuracy against density: iterative methods and those at initialization together."""

import altair as alt

from orchestrator.results.figures.curves import ACCURACY, Chart, block, blocks, density, mean_curves
from orchestrator.results.figures.methods import method_look
from orchestrator.results.figures.rows import distinct, iteration_rows
from orchestrator.results.figures.style import heading
from orchestrator.results.opening import Results


def trade_off(results: Results) -> alt.TopLevelMixin | None:
    """Accuracy against remaining weights, through a method's iterations or densities."""
    rows = iteration_rows(results)
    shown = [row for row in rows if row["outcome"]]
    if all(row[results.density] == 1 for row in shown):
        return None
    look = method_look(results, "curve", rows)
    settings = distinct(shown, "setting")
    charts: list[Chart] = []
    for setting in settings:
        remaining = density([row for row in shown if row["setting"] == setting])
        panel = mean_curves(remaining, ACCURACY, look, size=(380, 240))
        if setting == settings[0]:
            panel = panel.add_params(look.chosen())
        where = (alt.datum.setting == setting) & alt.datum.outcome
        charts.append(block([panel], heading(setting), where))
    return blocks(rows, charts)
