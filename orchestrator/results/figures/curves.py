"""Curves: means over seeds with bands of one standard deviation, computed by the chart itself."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from orchestrator.results.figures.rows import Row, distinct
from orchestrator.results.figures.style import Look, heading, theme

PANEL = (165, 125)
"""Width and height: two panels side by side are readable in one column of print."""


DIGITS = {1: (1, 2, 3, 5, 7), 2: (1, 2, 5)}
"""The ticks of a decade, on a log axis of so many decades; on a longer one there is one tick."""


@dataclass(frozen=True)
class Measure:
    """A column with its axis; `format` is D3's, and without one the axis finds its own.

    A `log` axis has these `ticks`, or finds its own. Of a `fraction`, a band ends at 0 and 1,
    however large the deviation.
    """

    field: str
    title: str
    format: str | None = None
    log: bool = False
    ticks: tuple[float, ...] = ()
    fraction: bool = False
    domain: tuple[float, float] | None = None

    def axis(self) -> alt.Axis:
        number = self.format or alt.Undefined
        # Vega takes one tick more than there is room for: with 1, there would be some at halves.
        whole = 1.5 if self.format == "d" else alt.Undefined
        axis = alt.Axis(title=self.title, labelOverlap=True, format=number, tickMinStep=whole)
        axis["values" if self.ticks else "tickCount"] = self.ticks or 5
        return axis

    def scale(self) -> alt.Scale:
        kind = alt.Scale(type="log", nice=False) if self.log else alt.Scale(zero=False)
        kind.domain = self.domain or alt.Undefined
        return kind

    def tooltip(self, field: str, title: str | None = None) -> alt.Tooltip:
        # Significant digits, and not places: there are densities of a hundredth of a percent.
        shown = self.format or ""
        number = shown if shown == "d" else ".4p" if shown.endswith(("%", "p")) else ".4g"
        return alt.Tooltip(f"{field}:Q", title=title or self.title, format=number)


ITERATION = Measure("iteration", "Iteration", "d")
ACCURACY = Measure("test_accuracy", "Test accuracy", "%", fraction=True)
PQ_INDEX = Measure("pq_index", "PQ Index", fraction=True)
GINI = Measure("gini", "Gini Index", fraction=True)


DENSITIES = {"density": "Remaining weights", "density_effective": "Effective weights"}


def density(rows: Sequence[Row], field: str | None = None) -> Measure:
    """The remaining weights, kept or effective as `rows` have them or `field` says, on a log axis
    with ticks for their densities."""
    field = field or next((name for name in DENSITIES if rows and name in rows[0]), "density")
    means = _mean_densities(rows, field)
    decades = math.ceil(-math.log10(min(means, default=0.1)))
    digits = DIGITS.get(max(1, decades), (1,))
    ticks = [round(digit * 10.0**-power, 12) for power in range(1, 13) for digit in digits]
    return logarithmic(field, DENSITIES[field], "~p", (1.0, *ticks), means)


def logarithmic(
    field: str, title: str, format: str, ticks: Sequence[float], values: Sequence[float]
) -> Measure:
    """A measure on a log axis with those `ticks`; where fewer than two are among the `values` to be
    shown, it finds its own: otherwise it might have none."""
    there = [tick for tick in ticks if min(values, default=0) <= tick <= max(values, default=0)]
    return Measure(field, title, format, log=True, ticks=tuple(ticks) if len(there) > 1 else ())


def _mean_densities(rows: Sequence[Row], field: str) -> list[float]:
    """Those that are shown: over seeds."""
    found: dict[tuple[Any, ...], list[float]] = {}
    for row in rows:
        if row[field]:
            at = tuple(row.get(name) for name in ("label", "iteration", "layer"))
            found.setdefault(at, []).append(row[field])
    return [sum(each) / len(each) for each in found.values()]


def mean_curves(
    x: Measure,
    y: Measure,
    look: Look,
    each: Sequence[str] = ("label", "iteration"),
    size: tuple[int, int] = PANEL,
) -> alt.LayerChart:
    """Mean of `y` over seeds at the mean of `x`, one curve for each value of `look.field`.

    Rows that agree in `look.field` and `each` are averaged; those of which `look` does not know the
    value are left out. The band is the mean ± the sample standard deviation. What is null is left
    out, and on a log axis what is not positive.
    """
    groups = list(dict.fromkeys([look.field, *each]))
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
    points = base.mark_point(filled=True, size=size[1] / 5).encode(
        mean, look.colour(), look.shape(), opacity=opacity, tooltip=tooltip
    )
    if look.dense:
        points = base.mark_point(opacity=0, size=60).encode(mean, tooltip=tooltip)
    return alt.LayerChart(
        layer=[
            base.mark_area(clip=y.domain is not None).encode(
                low, alt.Y2(field="high"), look.colour(), opacity=faint
            ),
            base.mark_line().encode(mean, look.colour(), look.dash(), opacity=opacity),
            points,
        ],
        transform=[{"filter": {"field": look.field, "oneOf": look.values}}, *means(x, y, groups)],
        width=size[0],
        height=size[1],
    )


def means(x: Measure, y: Measure, groups: Sequence[str]) -> list[dict[str, Any]]:
    """The transforms from rows to `x`, `mean`, `deviation`, `seeds`, `low` and `high`."""
    given = " && ".join(f"isValid(datum['{each.field}'])" for each in (x, y))
    positive = [f"datum.{name} > 0" for name, each in (("x", x), ("mean", y)) if each.log]
    return [
        {"filter": given},
        {
            "aggregate": [
                {"op": "mean", "field": x.field, "as": "x"},
                {"op": "mean", "field": y.field, "as": "mean"},
                {"op": "stdev", "field": y.field, "as": "sample"},
                {"op": "count", "as": "seeds"},
            ],
            "groupby": list(groups),
        },
        # Of a single seed there is no deviation.
        {"calculate": "isFinite(datum.sample) ? datum.sample : 0", "as": "deviation"},
        {"calculate": _low(y), "as": "low"},
        {"calculate": _high(y), "as": "high"},
        *({"filter": each} for each in positive),
    ]


def side_by_side(panel: alt.LayerChart | alt.Chart, column: alt.Column) -> alt.FacetChart:
    """A panel for each value of `column`, of data that the chart around it has.

    Rows of panels are made one by one: facets in two directions that are sorted show panels under
    the wrong heading.
    """
    return alt.FacetChart(spec=panel, facet=alt.FacetMapping(column=column))


Chart = alt.LayerChart | alt.ConcatChart | alt.FacetChart | alt.VConcatChart


def by_iteration(named: bool = True) -> alt.Column:
    """A column for each iteration, `named` above it."""
    header = alt.Header(labelExpr="'t = ' + (datum.label)", labels=named)
    return alt.Column("iteration:O", title=None, header=header)


def block(
    charts: Sequence[Chart], title: str | alt.TitleParams, where: Any, columns: int = 1
) -> alt.ConcatChart:
    """`charts` of the rows for which `where` holds, in `columns`, under a title."""
    return alt.concat(*charts, columns=columns, title=title, transform=[alt.FilterTransform(where)])


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


def by_setting(
    rows: list[Row], look: Look, panel: alt.LayerChart, column: alt.Column
) -> alt.VConcatChart:
    """For each setting in `rows`, a panel for each value of `column`; the first listens to the
    legend."""
    charts: list[Chart] = []
    for setting in distinct(rows, "setting"):
        own = panel if charts else panel.add_params(look.chosen())
        curves = side_by_side(own, column)
        charts.append(block([curves], heading(setting), alt.datum.setting == setting))
    return blocks(rows, charts)


def _low(y: Measure) -> str:
    low = "datum.mean - datum.deviation"
    if y.log:
        # There is no place for the lower half of a band that reaches zero.
        return f"{low} > 0 ? {low} : datum.mean"
    return f"max(0, {low})" if y.fraction else low


def _high(y: Measure) -> str:
    high = "datum.mean + datum.deviation"
    return f"min(1, {high})" if y.fraction else high
