"""Pruning scopes side by side: SAP Figure 4 (19–26)."""

from collections.abc import Callable
from dataclasses import replace

import altair as alt

from orchestrator.results.figures.curves import (
    ACCURACY,
    ITERATION,
    PQ_INDEX,
    Chart,
    Measure,
    block,
    blocks,
    density,
    mean_curves,
    side_by_side,
)
from orchestrator.results.figures.methods import method_look
from orchestrator.results.figures.rows import (
    PANELS,
    Row,
    distinct,
    iteration_rows,
    iterative,
    layer_rows,
    spread,
)
from orchestrator.results.figures.style import Look, heading
from orchestrator.results.opening import Results


def scope_trade_off(results: Results) -> alt.TopLevelMixin | None:
    """Accuracy against remaining weights, a panel for each scope."""
    rows = iteration_rows(results)
    shown = [row for row in iterative(rows) if row["outcome"]]
    if len(distinct(shown, "scope")) < 2:
        return None
    look = method_look(results, "curve", shown)
    networks = distinct(shown, "network")
    charts: list[Chart] = []
    for network in networks:
        remaining = density([row for row in shown if row["network"] == network])
        panel = mean_curves(remaining, ACCURACY, look, size=(118, 118))
        if network == networks[0]:
            panel = panel.add_params(look.chosen())
        panels = side_by_side(panel, _scope())
        where = (alt.datum.network == network) & alt.datum.outcome
        charts.append(block([panels], heading(network), where))
    return blocks(rows, charts)


def layer_remaining(results: Results) -> alt.TopLevelMixin | None:
    """Remaining weights of the layers at each iteration, by method and scope."""
    return _by_layer(results, density)


def layer_pq_index(results: Results) -> alt.TopLevelMixin | None:
    """PQ Index of the layers at each iteration, by method and scope."""
    return _by_layer(results, lambda rows: PQ_INDEX)


def _by_layer(
    results: Results, measured: Callable[[list[Row]], Measure]
) -> alt.TopLevelMixin | None:
    rows = layer_rows(results)
    shown = iterative(rows)
    if not shown:
        return None
    charts = [
        _layer_block([row for row in shown if row["network"] == network], measured, f"chosen{i}")
        for i, network in enumerate(distinct(shown, "network"))
    ]
    return blocks(rows, charts, shared=False)


def _layer_block(
    shown: list[Row], measured: Callable[[list[Row]], Measure], key: str
) -> alt.ConcatChart:
    """The rows `shown` of one network: a row of panels for each variant, a panel for each scope."""
    look = Look("layer", tuple(distinct(shown, "layer")), "layer", ordered=True, key=key)
    measure = measured(shown)
    # Nothing of a layer may be kept, which a log axis cannot show.
    values = {row[measure.field] for row in shown} - {None, 0}
    if len(values) > 1:
        measure = replace(measure, domain=(min(values), max(values)))
    charts = []
    for variant in spread(distinct(shown, "variant"), PANELS):
        panel = mean_curves(ITERATION, measure, look, size=(118, 90))
        if not charts:
            panel = panel.add_params(look.chosen())
        panels = side_by_side(panel, _scope())
        charts.append(block([panels], variant, alt.datum.variant == variant))
    network = shown[0]["network"]
    columns = max(1, 3 // len(distinct(shown, "scope")))
    return block(charts, heading(network), alt.datum.network == network, columns)


def _scope() -> alt.Column:
    header = alt.Header(labelExpr="(datum.label) + ' pruning'")
    return alt.Column("scope:N", title=None, header=header)
