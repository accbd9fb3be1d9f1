"""The PQ Index for all p and q: SAP Figures 7–10."""

import altair as alt

from orchestrator.results.figures.curves import block, blocks, by_iteration, side_by_side
from orchestrator.results.figures.rows import (
    PANELS,
    Row,
    State,
    distinct,
    sparsity_rows,
    spread,
)
from orchestrator.results.figures.style import ORDERED, heading
from orchestrator.results.opening import Results

ITERATIONS = 4
"""As many as in the paper, evenly spread from the first to the last."""
STEP = 9
TICKS = [0.1, 0.5, 1.0, 1.5, 2.0]


def p_q_heat_maps(results: Results) -> alt.TopLevelMixin | None:
    """The global PQ Index of the retrained models, a map for each method and iteration."""
    return _heat_maps(results, "retrained")


def p_q_heat_maps_pruned(results: Results) -> alt.TopLevelMixin | None:
    """The same of the pruned models, before they were retrained."""
    return _heat_maps(results, "pruned")


def _heat_maps(results: Results, state: State) -> alt.TopLevelMixin | None:
    rows = sparsity_rows(results, ITERATIONS, state)
    if not rows:
        return None
    return blocks(rows, [_block(rows, setting) for setting in distinct(rows, "setting")])


def _block(rows: list[Row], setting: str) -> alt.ConcatChart:
    there = [row for row in rows if row["setting"] == setting]
    maps = [
        block([_maps()], variant, alt.datum.variant == variant)
        for variant in spread(distinct(there, "variant"), PANELS)
    ]
    return block(maps, heading(setting), alt.datum.setting == setting)


def _maps() -> alt.FacetChart:
    axis = alt.Axis(values=TICKS, format=".1f", labelAngle=0)
    index = alt.Color(
        "mean(pq_index):Q",
        title="PQ Index",
        scale=alt.Scale(scheme=ORDERED),
        legend=alt.Legend(orient="bottom", gradientLength=200),
    )
    panel = (
        alt.Chart()
        .mark_rect()
        .encode(
            alt.X("q:O", axis=axis),
            alt.Y("p:O", axis=axis),
            index,
            tooltip=[
                alt.Tooltip("variant:N"),
                alt.Tooltip("iteration:O"),
                alt.Tooltip("p:O", format=".1f"),
                alt.Tooltip("q:O", format=".1f"),
                alt.Tooltip("mean(pq_index):Q", title="PQ Index", format=".4g"),
                alt.Tooltip("distinct(seed):Q", title="seeds"),
            ],
        )
        .properties(width=alt.Step(STEP), height=alt.Step(STEP))
    )
    return side_by_side(panel, by_iteration())
