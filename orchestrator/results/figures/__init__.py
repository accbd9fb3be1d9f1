"""The figures of the papers, each one function of a sweep's results."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import altair as alt

from orchestrator.results.figures import iterations
from orchestrator.results.figures.style import theme
from orchestrator.results.opening import Results

Draw = Callable[[Results], alt.TopLevelMixin | None]


@dataclass(frozen=True)
class Figure:
    """One figure. `draw` gives its chart, or None when the sweep lacks what it `needs`.

    Every row of a chart's data has `label`, `seed` and `lineage`, and the chart itself averages
    over seeds: with rows left out, it is the figure of those that remain. Charts that need the same
    rows have the same data set.
    """

    name: str
    title: str
    caption: str
    source: str
    needs: str
    draw: Draw


def _themed(figure: Figure) -> Figure:
    def draw(results: Results) -> alt.TopLevelMixin | None:
        chart = figure.draw(results)
        return None if chart is None else chart.configure(**theme())

    return replace(figure, draw=draw)


BANDS = "Means over seeds; bands are ± one standard deviation."

_FIGURES = (
    Figure(
        "retrained",
        "Retrained models",
        "Accuracy, remaining weights, PQ Index (p = 0.5, q = 1) and Gini Index of the retrained "
        f"models at each iteration. {BANDS}",
        "SAP Figures 2a, 3a, 11a–18a",
        "a method of more than one iteration",
        iterations.retrained,
    ),
    Figure(
        "pruned",
        "Pruned models",
        "Accuracy and PQ Index (p = 0.5, q = 1) of the models pruned at each iteration, before "
        f"retraining, and what that pruning took of the model that was pruned. {BANDS}",
        "SAP Figures 2b, 3b, 11b–18b",
        "a method of more than one iteration",
        iterations.pruned,
    ),
)

FIGURES: Mapping[str, Figure] = {figure.name: _themed(figure) for figure in _FIGURES}
"""By name, in order of display."""
