"""Curves: means over seeds with bands of one standard deviation, computed by the chart itself."""

from collections.abc import Sequence
from dataclasses import dataclass

import altair as alt

from orchestrator.results.figures.rows import Row
from orchestrator.results.figures.style import Look, theme

PANEL = (165, 125)
"""Width and height: two panels side by side are readable in one column of print."""


DIGITS = (1, 2, 3, 5, 7)
LOG_TICKS = [round(digit * 10.0**power, 9) for power in range(-6, 1) for digit in DIGITS]
"""Of every decade up to 1: what Vega marks by itself is too much for a small panel."""


@dataclass(frozen=True)
class Measure:
    """A column with its axis; `format` is D3's, and without one the axis finds its own.

    Of a `fraction`, a band ends at 0 and 1, however large the deviation.
    """

    field: str
    title: str
    format: str | None = None
    log: bool = False
    fraction: bool = False

    def axis(self) -> alt.Axis:
        number = self.format or alt.Undefined
        whole = 1 if self.format == "d" else alt.Undefined
        axis = alt.Axis(title=self.title, labelOverlap=True, format=number, tickMinStep=whole)
        axis["values" if self.log else "tickCount"] = LOG_TICKS if self.log else 5
        return axis

    def scale(self) -> alt.Scale:
        return alt.Scale(type="log", nice=False) if self.log else alt.Scale(zero=False)

    def tooltip(self, field: str, title: str | None = None) -> alt.Tooltip:
        number = {None: ".4f", "d": "d"}.get(self.format, ".2%")
        return alt.Tooltip(f"{field}:Q", title=title or self.title, format=number)


ITERATION = Measure("iteration", "Iteration", "d")
DENSITY = Measure("density", "Remaining weights", "~%", log=True)
ACCURACY = Measure("test_accuracy", "Test accuracy", "%", fraction=True)
PQ_INDEX = Measure("pq_index", "PQ Index", fraction=True)
GINI = Measure("gini", "Gini Index", fraction=True)


def mean_curves(
    x: Measure,
    y: Measure,
    look: Look,
    each: Sequence[str] = ("label", "iteration"),
    size: tuple[int, int] = PANEL,
) -> alt.LayerChart:
    """Mean of `y` over seeds at the mean of `x`, one curve for each value of `look.field`.

    Rows that agree in `look.field` and `each` are averaged. The band is the mean ± the sample
    standard deviation. What is null is left out, and on a log axis what is not positive.
    """
    groups: list[str | alt.FieldName] = [*dict.fromkeys([look.field, *each])]
    opacity = alt.condition(look.chosen(), alt.value(1.0), alt.value(0.1))
    faint = alt.condition(look.chosen(), alt.value(0.18), alt.value(0.02))
    base = alt.Chart().encode(alt.X("x:Q", axis=x.axis(), scale=x.scale()))
    mean = alt.Y("mean:Q", axis=y.axis(), scale=y.scale())
    low = alt.Y("low:Q", axis=y.axis(), scale=y.scale())
    tooltip = [
        *(alt.Tooltip(f"{name}:N") for name in groups),
        x.tooltip("x"),
        y.tooltip("mean"),
        y.tooltip("deviation", "standard deviation"),
        alt.Tooltip("seeds:Q"),
    ]
    layers = [
        base.mark_area().encode(low, alt.Y2(field="high"), look.colour(), opacity=faint),
        base.mark_line().encode(mean, look.colour(), look.dash(), opacity=opacity),
        base.mark_point(filled=True, size=size[1] / 5).encode(
            mean, look.colour(), look.shape(), opacity=opacity, tooltip=tooltip
        ),
    ]
    if look.dense:
        layers[-1] = base.mark_point(opacity=0, size=60).encode(mean, tooltip=tooltip)
    chart = (
        alt.layer(*layers)
        .transform_filter(f"isValid(datum['{x.field}']) && isValid(datum['{y.field}'])")
        .transform_aggregate(
            x=f"mean({x.field})",
            mean=f"mean({y.field})",
            deviation=f"stdev({y.field})",
            seeds="count()",
            groupby=groups,
        )
        .transform_filter(" && ".join(["true", *_positive(x, "x"), *_positive(y, "mean")]))
        .transform_calculate(low=_low(y), high=_high(y))
        .properties(width=size[0], height=size[1])
    )
    assert isinstance(chart, alt.LayerChart)
    return chart


Chart = alt.LayerChart | alt.ConcatChart | alt.FacetChart | alt.VConcatChart


def side_by_side(panel: alt.LayerChart | alt.Chart, column: alt.Column) -> alt.FacetChart:
    """A panel for each value of `column`, of data that the chart around it has.

    Rows of panels are made one by one: facets in two directions that are sorted show panels under
    the wrong heading.
    """
    return alt.FacetChart(spec=panel, facet=alt.FacetMapping(column=column))


def by_iteration() -> alt.Column:
    return alt.Column(
        "iteration:O", title=None, header=alt.Header(labelExpr="'t = ' + (datum.label)")
    )


def blocks(rows: list[Row], charts: Sequence[Chart], shared: bool = True) -> alt.VConcatChart:
    """`charts` of `rows` above each other, with one legend when they have their look in common.

    Then only one of their views should listen to the legend.
    """
    kind = "shared" if shared else "independent"
    scales = alt.ScaleResolveMap(color=kind, shape=kind, strokeDash=kind)
    # The rows come last: charts are copied with their data at each step of their making.
    return alt.vconcat(
        *charts,
        data={"values": rows},
        resolve=alt.Resolve(scale=scales),
        config=alt.Config(**theme()),
    )


def _positive(measure: Measure, field: str) -> list[str]:
    return [f"datum.{field} > 0"] if measure.log else []


def _low(y: Measure) -> str:
    low = "datum.mean - datum.deviation"
    if y.log:
        # There is no place for the lower half of a band that reaches zero.
        return f"{low} > 0 ? {low} : datum.mean"
    return f"max(0, {low})" if y.fraction else low


def _high(y: Measure) -> str:
    high = "datum.mean + datum.deviation"
    return f"min(1, {high})" if y.fraction else high
