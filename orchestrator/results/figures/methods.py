"""How methods are told apart: each has one colour in all figures of a page."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from orchestrator.results.figures.rows import CELLS, cell_columns, distinct, spread
from orchestrator.results.figures.style import Look
from orchestrator.results.opening import Results


def method_look(
    results: Results,
    field: Literal["curve", "variant"],
    rows: Iterable[Mapping[str, Any]],
    dense: bool = False,
) -> Look:
    """How the values of `field` in `rows` look. A colour is a method's, whichever of them a figure
    has; the densities that one aims at have dashes and shapes of their own. Of more than CELLS
    values, some are drawn."""
    cells = cell_columns(results).values()
    colours = {curve: i for i, curve in enumerate(distinct(cells, "curve"))}
    forms = {value: i for i, value in enumerate(distinct(cells, field))}
    curve_of = {cell[field]: cell["curve"] for cell in cells}
    shown = tuple(spread(distinct(rows, field), CELLS))
    places = tuple((colours[curve_of[value]], forms[value]) for value in shown)
    return Look(field, shown, places=places, dense=dense)
