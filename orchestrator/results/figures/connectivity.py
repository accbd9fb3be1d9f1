"""Linear mode connectivity: errors along lines between copies, and the barriers on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import altair as alt
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.results.figures.curves import (
    ITERATION,
    Chart,
    Measure,
    block,
    blocks,
    by_iteration,
    by_setting,
    density,
    mean_curves,
    side_by_side,
)
from orchestrator.results.figures.methods import method_look
from orchestrator.results.figures.rows import (
    Row,
    cell_columns,
    distinct,
    iterative,
    mean_rows,
    measured_rows,
    several,
    with_way,
)
from orchestrator.results.figures.style import ORDERED, Look, heading
from orchestrator.results.opening import Results

ITERATIONS = 4
"""As many are drawn, evenly spread from the first to the last."""
STEP = 24

ALPHA = Measure("alpha", "α")
ERROR = Measure("test_error", "Test error", "%", fraction=True)
REWIND = Measure("rewind", "Rewound to step k", "d")
HOW = ("batchnorm", "train_examples")
"""In what lines between the same networks may be measured in several ways."""
LINE = (
    "lineage", "iteration", "measure", "rewind", "with_lineage", "one", "other", "layer", "what",
    "alpha", *HOW,
)  # fmt: skip
"""What tells errors apart: between which networks, where on the line, and how it was measured."""
WHOLE_BARRIER = (pc.field("what") == "barrier") & pc.field("layer").is_null()
BARRIER = Measure("test_error", "Error barrier", "%", fraction=True)
CONSECUTIVE = "consecutive iterations"


def connectivity(results: Results) -> alt.TopLevelMixin | None:
    """Test error along the lines, a curve for each step k, for some iterations of each method."""
    rows = _rows(results, "point", "alpha")
    if not rows:
        return None
    steps = tuple(sorted({row["rewind"] for row in rows}))
    look = Look("rewind", steps, "k", ordered=True, dense=True)
    charts: list[alt.ConcatChart] = []
    for setting in distinct(rows, "setting"):
        variants = distinct([row for row in rows if row["setting"] == setting], "variant")
        panels = []
        for variant in variants:
            panel = mean_curves(ALPHA, ERROR, look, ("label", "iteration", "alpha"))
            if not (charts or panels):
                panel = panel.add_params(look.chosen())
            curves = side_by_side(panel, by_iteration())
            of_method = block([curves], variant, alt.datum.variant == variant)
            panels.append(of_method.resolve_scale(y="shared"))
        of_setting = block(panels, heading(setting), alt.datum.setting == setting)
        charts.append(of_setting.resolve_scale(y="shared"))
    return blocks(rows, charts)


def instability(results: Results) -> alt.TopLevelMixin | None:
    """The error barrier against the step k, a curve for each method, for some iterations."""
    rows = _rows(results, "barrier", "what")
    if not rows:
        return None
    look = method_look(results, "variant", rows)
    panel = mean_curves(REWIND, BARRIER, look, ("label", "iteration", "rewind"))
    return by_setting(rows, look, panel, by_iteration())


def method_barriers(results: Results) -> alt.TopLevelMixin | None:
    """The error barrier between the tickets of two methods against their remaining weights, a curve
    for each two methods."""
    found = _lines(results, (pc.field("measure") == "lmc_methods") & WHOLE_BARRIER)
    rows = measured_rows(results, found, ["with_lineage"], "test_error", how=HOW)
    if not rows:
        return None
    curves = {id: cell["curve"] for id, cell in cell_columns(results).items()}
    iterations = results.iterations.select(["lineage", "iteration", results.density]).to_pylist()
    remaining = {(each["lineage"], each["iteration"]): each[results.density] for each in iterations}
    for row in rows:
        other = row["with_lineage"]
        # Of several sweeps as one, a lineage of the same keys may be there in its place.
        row["pair"] = f"{curves.get(other, other)} – {row['curve']}"
        row[results.density] = remaining.get((row["lineage"], row["iteration"]))
    look = Look("pair", tuple(distinct(rows, "pair")))
    charts: list[Chart] = []
    for setting in distinct(rows, "setting"):
        shown = [row for row in rows if row["setting"] == setting]
        panel = mean_curves(density(shown), BARRIER, look, size=(380, 240))
        if not charts:
            panel = panel.add_params(look.chosen())
        charts.append(block([panel], heading(setting), alt.datum.setting == setting))
    return blocks(rows, charts)


def barriers(results: Results) -> alt.TopLevelMixin | None:
    """The error barrier against the iteration, a curve for each method: between copies, for each
    step k, and between an iteration and the one before it."""
    rows = iterative(barrier_rows(results))
    if not rows:
        return None
    look = method_look(results, "variant", rows)
    panel = mean_curves(ITERATION, BARRIER, look, ("label", "iteration", "between"))
    column = alt.Column("between:N", title=None, sort=distinct(rows, "between"))
    return by_setting(rows, look, panel, column)


def layer_barriers(results: Results) -> alt.TopLevelMixin | None:
    """The error barrier of each layer that alone goes to the other copy, a map for each step k."""
    rows = _rows(results, "barrier", "layer", layers=True)
    if not rows:
        return None
    of_network = results.table("layers", ["lineage", "layer"])["layer"].unique().to_pylist()
    order = [layer for layer in of_network if layer in {row["layer"] for row in rows}]
    charts = []
    for setting in distinct(rows, "setting"):
        variants = distinct([row for row in rows if row["setting"] == setting], "variant")
        maps = [block([_maps(order)], each, alt.datum.variant == each) for each in variants]
        charts.append(block(maps, heading(setting), alt.datum.setting == setting))
    return blocks(rows, charts)


def _maps(order: list[str]) -> alt.FacetChart:
    barrier = alt.Color(
        "mean(test_error):Q",
        title=BARRIER.title,
        scale=alt.Scale(scheme=ORDERED),
        legend=alt.Legend(orient="bottom", gradientLength=200, format="%"),
    )
    panel = (
        alt.Chart()
        .mark_rect()
        .encode(
            alt.X("iteration:O", title="Iteration", axis=alt.Axis(labelAngle=0)),
            alt.Y("layer:N", title=None, sort=order),
            barrier,
            tooltip=[
                alt.Tooltip("variant:N"),
                alt.Tooltip("layer:N"),
                alt.Tooltip("iteration:O"),
                alt.Tooltip("rewind:O", title=REWIND.title),
                alt.Tooltip("mean(test_error):Q", title=BARRIER.title, format=".4p"),
                alt.Tooltip("distinct(seed):Q", title="seeds"),
            ],
        )
        .properties(width=alt.Step(STEP), height=alt.Step(STEP))
    )
    header = alt.Header(labelExpr="'k = ' + (datum.label)")
    return side_by_side(panel, alt.Column("rewind:O", title=None, header=header))


def barrier_rows(results: Results) -> list[Row]:
    """One row for each barrier of whole networks in each lineage, at every iteration that was
    measured; of several pairs of copies, the mean. `between` says what lies between: copies trained
    from step k, or an iteration and the one before it; and how, where in several ways."""
    cells = cell_columns(results)
    within = (pc.field("measure") == "lmc") | (pc.field("measure") == "lmc_consecutive")
    found = _lines(results, WHOLE_BARRIER & within)
    ways = several(found, HOW)
    rows = mean_rows(found, ["rewind", "measure", *ways], "test_error")
    rows = [cells[row["lineage"]] | row | {"between": _between(row, ways)} for row in rows]
    # In order of the steps, and what has none last.
    return sorted(rows, key=lambda row: (row["rewind"] is None, row["rewind"] or 0))


def _between(row: Row, ways: Sequence[str]) -> str:
    between = CONSECUTIVE if row["rewind"] is None else f"k = {row['rewind']}"
    return with_way(between, row, ways)


def _rows(
    results: Results, what: Literal["point", "barrier"], column: str, *, layers: bool = False
) -> list[Row]:
    """One row for each value of `column` of some iterations of each lineage and each step k: of
    several pairs of copies, the mean. Of the whole network, or of single `layers`."""
    layer = pc.field("layer")
    wanted = (pc.field("measure") == "lmc") & (pc.field("what") == what)
    wanted &= layer.is_valid() if layers else layer.is_null()
    found = _lines(results, wanted)
    return measured_rows(results, found, ["rewind", column], "test_error", ITERATIONS, HOW)


def _lines(results: Results, wanted: pc.Expression) -> pa.Table:
    """The `wanted` errors along each line, each once: measures with other `points` or `copies` have
    lines in common. A barrier is the highest that was found on its line."""
    found = results.connectivity.filter(wanted)
    once = found.group_by(LINE, use_threads=False).aggregate([("test_error", "max")])
    return once.select([*LINE, "test_error_max"]).rename_columns([*LINE, "test_error"])
