"""Curves: means over seeds with bands of one standard deviation, computed by the chart itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from orchestrator.results.figures.rows import Row
from orchestrator.results.figures.style import Look

WIDTH, HEIGHT = 190, 130
"""Of one panel: two of them side by side are readable in one column of print."""


@dataclass(frozen=True)
class Measure:
    """A column with its axis; `format` is D3's, and without one the axis finds its own."""

    field: str
    title: str
    format: str | None = None
    log: bool = False

    def axis(self) -> alt.Axis:
        number = self.format or alt.Undefined
        return alt.Axis(title=self.title, tickCount=5, labelOverlap=True, format=number)

    def scale(self) -> alt.Scale:
        return alt.Scale(type="log", nice=False) if self.log else alt.Scale(zero=False)

    def tooltip(self, field: str, title: str | None = None) -> alt.Tooltip:
        number = {None: ".4f", "d": "d"}.get(self.format, ".2%")
        return alt.Tooltip(f"{field}:Q", title=title or self.title, format=number)


ITERATION = Measure("iteration", "Iteration", "d")
DENSITY = Measure("density", "Remaining weights", "~%", log=True)
ACCURACY = Measure("test_accuracy", "Test accuracy", "%")
PQ_INDEX = Measure("pq_index", "PQ Index")
GINI = Measure("gini", "Gini Index")


def mean_curves(
    x: Measure, y: Measure, look: Look, each: Sequence[str] = ("label", "iteration")
) -> alt.LayerChart | alt.FacetChart:
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
    return (
        alt.layer(
            base.mark_area().encode(low, alt.Y2(field="high"), look.colour(), opacity=faint),
            base.mark_line().encode(mean, look.colour(), look.dash(), opacity=opacity),
            base.mark_point(filled=True, size=30).encode(
                mean, look.colour(), look.shape(), opacity=opacity, tooltip=tooltip
            ),
        )
        .transform_filter(f"isValid(datum['{x.field}']) && isValid(datum['{y.field}'])")
        .transform_aggregate(
            x=f"mean({x.field})",
            mean=f"mean({y.field})",
            deviation=f"stdev({y.field})",
            seeds="count()",
            groupby=groups,
        )
        .transform_filter(" && ".join(["true", *_positive(x, "x"), *_positive(y, "mean")]))
        .transform_calculate(low=_low(y), high="datum.mean + datum.deviation")
        .properties(width=WIDTH, height=HEIGHT)
    )


def _positive(measure: Measure, field: str) -> list[str]:
    return [f"datum.{field} > 0"] if measure.log else []


def _low(y: Measure) -> str:
    low = "datum.mean - datum.deviation"
    # A log axis has no place for the lower half of a band that reaches zero.
    return f"{low} > 0 ? {low} : datum.mean" if y.log else low


@dataclass(frozen=True)
class Block:
    """Panels of one look side by side, under one title, of the rows that `where` lets through."""

    title: str
    where: Any
    measures: Sequence[Measure]


def blocks(rows: list[Row], look: Look, each: Sequence[Block]) -> alt.VConcatChart:
    """Blocks above each other, with one legend, of measures against the iteration."""
    charts = [_block(block, look, first=block is each[0]) for block in each]
    return alt.vconcat(*charts, data={"values": rows})


def _block(block: Block, look: Look, first: bool) -> alt.ConcatChart:
    charts = [mean_curves(ITERATION, measure, look) for measure in block.measures]
    if first:
        # One view is enough to listen to the legend that all have in common.
        charts[0].layer[-1] = charts[0].layer[-1].add_params(look.chosen())
    return (
        alt.concat(*charts, columns=2).properties(title=block.title).transform_filter(block.where)
    )
