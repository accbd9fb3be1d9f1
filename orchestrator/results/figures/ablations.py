"""Ablations beside what they are of: accuracies, with error bars over seeds."""

import altair as alt

from orchestrator.records.sweep import LineageRecord
from orchestrator.results.figures.curves import (
    ACCURACY,
    ITERATION,
    Chart,
    block,
    blocks,
    means,
)
from orchestrator.results.figures.methods import method_look
from orchestrator.results.figures.rows import Row, cell_columns, distinct, variant
from orchestrator.results.figures.style import heading
from orchestrator.results.opening import Results

ORIGINAL = "original"
WIDTH, STEP = 230, 19
"""Of a panel, and the height of each of its lines."""


def ablations(results: Results) -> alt.TopLevelMixin | None:
    """Accuracy of each method as it is, and with each ablation, at the iterations branched off."""
    rows = _rows(results)
    if not rows:
        return None
    look = method_look(results, "curve", rows)
    order = [ORIGINAL, *(what for what in distinct(rows, "what") if what != ORIGINAL)]
    panel = _panel(look.colour().legend(None), order)
    charts: list[Chart] = []
    for setting in distinct(rows, "setting"):
        own = [row for row in rows if row["setting"] == setting]
        header = alt.Header(labelOrient="top", labelAnchor="start", labelPadding=2)
        methods = alt.Row("of:N", title=None, sort=distinct(own, "of"), header=header)
        panels = alt.FacetChart(spec=panel, facet=alt.FacetMapping(row=methods), spacing=6)
        panels = panels.resolve_scale(y="independent")
        charts.append(block([panels], heading(setting), alt.datum.setting == setting))
    return blocks(rows, charts)


def _panel(colour: alt.Color, order: list[str]) -> alt.LayerChart:
    """A line for each ablation, and a rule through them where the original is."""
    base = alt.Chart().encode(alt.Y("what:N", title=None, sort=order))
    accuracy = alt.X("mean:Q", axis=ACCURACY.axis(), scale=ACCURACY.scale())
    tooltip = [
        *(alt.Tooltip(f"{name}:N") for name in ("label", "iteration")),
        ACCURACY.tooltip("mean"),
        ACCURACY.tooltip("deviation", "standard deviation"),
        alt.Tooltip("seeds:Q"),
    ]
    original = alt.Chart().mark_rule(strokeDash=[2, 2], opacity=0.6).encode(accuracy)
    return alt.LayerChart(
        layer=[
            original.transform_filter(alt.datum.what == ORIGINAL),
            base.mark_rule(strokeWidth=2).encode(alt.X("low:Q"), alt.X2("high:Q"), colour),
            base.mark_point(filled=True, size=50, opacity=1).encode(
                accuracy, colour, tooltip=tooltip
            ),
        ],
        transform=means(ITERATION, ACCURACY, ("of", "curve", "label", "what", "iteration")),
        width=WIDTH,
        height=alt.Step(STEP),
    )


def _rows(results: Results) -> list[Row]:
    """One row for each ablation of each seed, and one for what it is of; `curve` and `of` are the
    method of both, `of` with the iteration where ablations branch off several, and `what` is the
    ablation."""
    cells, lines = cell_columns(results), {line.id: line for line in results.record.lineages}
    rows: dict[tuple[str, int], Row] = {}
    branched: dict[str, set[int]] = {}
    for cell in results.ablated_cells():
        for pair in cell.pairs:
            method, curve = (cells[pair.original][name] for name in ("variant", "curve"))
            branched.setdefault(method, set()).add(cell.iteration)
            whats = (ORIGINAL, _what(results, lines[pair.ablated], method))
            of_both = zip((pair.original, pair.ablated), whats, pair.values, strict=True)
            for id, what, value in of_both:
                told = {"curve": curve, "of": method, "what": what, "iteration": cell.iteration}
                rows[id, cell.iteration] = cells[id] | told | {ACCURACY.field: value}
    # As in the sweep, method by method and iteration by iteration, the original first.
    order = [(method, t) for method in branched for t in sorted(branched[method])]
    found = sorted(rows.values(), key=lambda row: order.index((row["of"], row["iteration"])))
    for row in found:
        if len(branched[row["of"]]) > 1:
            row["of"] += f", t = {row['iteration']}"
    return found


def _what(results: Results, line: LineageRecord, method: str) -> str:
    return variant(line, results.record, "ablation.at").removeprefix(method).strip()
