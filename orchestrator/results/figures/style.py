"""Style: one theme for all figures, and the looks by which a reader tells methods apart.

Colours are Okabe and Ito's, without the yellow that vanishes on white, and four more; with eleven
colours, six dashes and eight shapes, each going round by itself, methods differ in grey print too
and no two of the first 264 look alike.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F",
    "#8F5BD6", "#8C564B", "#8A8A12", "#B0264F",
)  # fmt: skip
DASHES = ((1, 0), (6, 2), (2, 2), (8, 2, 2, 2), (4, 4), (10, 3))
SHAPES = (
    "circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right",
    "triangle-left",
)  # fmt: skip
ORDERED = "viridis"

FONT = "Liberation Sans, Arial, Helvetica, sans-serif"


def theme(
    foreground: str = "#222222", grid: str = "#E3E3E3", background: str = "transparent"
) -> dict[str, Any]:
    """A Vega-Lite config; for a dark page, give light colours."""
    texts = {"labelColor": foreground, "titleColor": foreground}
    return {
        "background": background,
        "font": FONT,
        "view": {"stroke": None},
        "axis": {
            **texts, "labelFontSize": 13, "titleFontSize": 14, "titleFontWeight": "normal",
            "gridColor": grid, "domainColor": foreground, "tickColor": foreground,
            "labelFlush": False,
        },
        "legend": {
            **texts, "labelFontSize": 13, "titleFontSize": 13, "titleFontWeight": "normal",
            "labelLimit": 0, "symbolSize": 80,
        },
        "header": {**texts, "labelFontSize": 13, "titleFontSize": 14, "labelLimit": 0},
        "title": {"color": foreground, "fontSize": 14, "fontWeight": "normal", "anchor": "start"},
    }  # fmt: skip


def heading(*lines: str) -> alt.TitleParams:
    """The title of a block of panels; the panels' own are not bold."""
    return alt.TitleParams(list(lines), fontWeight="bold")


@dataclass(frozen=True)
class Look:
    """How the values of a column are told apart: each its colour, dash and shape.

    `places` are, for each value, the numbers of its colour and of its dash and shape, where these
    are not to follow the order of the values. `ordered` values get colours in order. `dense` curves
    have too many points to draw, so that the legend shows their dashes. `key` names the selection:
    looks with legends of their own in one figure need different ones.
    """

    field: str
    values: tuple[Any, ...]
    title: str | None = None
    ordered: bool = False
    dense: bool = False
    key: str = "chosen"
    places: tuple[tuple[int, int], ...] = ()

    def colour(self) -> alt.Color:
        if self.ordered:
            # The end of the scheme is a yellow that vanishes on white.
            scheme = alt.SchemeParams(name=ORDERED, extent=[0, 0.85])
            scale = alt.Scale(domain=self.values, scheme=scheme)
        else:
            scale = self._scale(COLOURS, 0)
        return alt.Color(self._field, title=self.title, scale=scale, legend=self._legend())

    def dash(self) -> alt.StrokeDash:
        scale = self._scale(DASHES, 1)
        return alt.StrokeDash(self._field, title=self.title, scale=scale, legend=self._legend())

    def shape(self) -> alt.Shape:
        scale = self._scale(SHAPES, 1)
        return alt.Shape(self._field, title=self.title, scale=scale, legend=self._legend())

    def chosen(self) -> alt.Parameter:
        """A click on the legend chooses; without one, everything is chosen."""
        return alt.selection_point(name=self.key, fields=[self.field], bind="legend")

    @property
    def _field(self) -> str:
        return f"{self.field}:{'O' if self.ordered else 'N'}"

    def _scale(self, choices: Sequence[Any], which: int) -> alt.Scale:
        places = self.places or tuple((i, i) for i in range(len(self.values)))
        around = tuple(choices[place[which] % len(choices)] for place in places)
        return alt.Scale(domain=self.values, range=around)

    def _legend(self) -> alt.Legend:
        longest = max(len(str(value)) for value in self.values)
        fit = max(1, min(6, 540 // (6 * longest + 30)))
        rows = math.ceil(len(self.values) / fit)
        legend = alt.Legend(
            orient="bottom",
            columns=math.ceil(len(self.values) / rows),
            symbolOpacity=1,
            symbolStrokeWidth=0,
            symbolLimit=0,
        )
        if self.dense:
            legend.symbolType, legend.symbolSize, legend.symbolStrokeWidth = "stroke", 400, 2
        return legend
