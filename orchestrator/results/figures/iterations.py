"""Measures against the iteration: SAP Figures 2, 3 (11–18), and its ablations 5, 6 (27–32)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from orchestrator.records.labels import method_label
from orchestrator.results.figures.curves import (
    ACCURACY,
    GINI,
    ITERATION,
    PQ_INDEX,
    Measure,
    block,
    blocks,
    density,
    mean_curves,
)
from orchestrator.results.figures.methods import method_look
from orchestrator.results.figures.rows import (
    Row,
    cell_columns,
    distinct,
    iteration_rows,
    iterative,
)
from orchestrator.results.figures.style import Look, heading
from orchestrator.results.opening import Results

PRUNED = (
    Measure("pruned_test_accuracy", "Test accuracy, pruned", "%", fraction=True),
    Measure("accuracy_difference", "Accuracy difference", "%"),
    Measure("pq_index_pruned", "PQ Index, pruned", fraction=True),
    Measure("pq_index_difference", "PQ Index difference"),
)


def retrained(results: Results) -> alt.TopLevelMixin | None:
    """Accuracy, remaining weights, PQ Index and Gini Index of the retrained models."""
    return _by_setting(results, _retrained)


def pruned(results: Results) -> alt.TopLevelMixin | None:
    """Accuracy and PQ Index of the pruned models, and what pruning took of them."""
    return _by_setting(results, lambda rows: PRUNED)


def ablation_p_q(results: Results) -> alt.TopLevelMixin | None:
    """SAP with different p, and with different q, all else being equal."""
    return _ablation(results, ("p", "q"))


def ablation_eta_gamma(results: Results) -> alt.TopLevelMixin | None:
    """SAP with different η_r, and with different γ, all else being equal."""
    return _ablation(results, ("eta", "gamma"))


def _retrained(rows: list[Row]) -> Sequence[Measure]:
    return (ACCURACY, density(rows), PQ_INDEX, GINI)


def _by_setting(
    results: Results, measured: Callable[[list[Row]], Sequence[Measure]]
) -> alt.TopLevelMixin | None:
    rows = iteration_rows(results)
    shown = [row for row in iterative(rows) if row["on_data"]]
    if not shown:
        return None
    look = method_look(results, "variant", shown)
    settings = distinct(shown, "setting")
    charts = [
        _panels(
            measured([row for row in shown if row["setting"] == setting]),
            look,
            [setting],
            (alt.datum.setting == setting) & alt.datum.on_data,
            setting == settings[0],
        )
        for setting in settings
    ]
    return blocks(rows, charts)


def _panels(
    measures: Sequence[Measure],
    look: Look,
    titles: Sequence[str],
    where: Any,
    listening: bool,
) -> alt.ConcatChart:
    charts = [mean_curves(ITERATION, measure, look) for measure in measures]
    if listening:
        charts[0] = charts[0].add_params(look.chosen())
    return block(charts, heading(*titles), where, columns=2)


@dataclass(frozen=True)
class _Comparison:
    """Lineages of SAP that differ in the `parameter` alone."""

    parameter: str
    values: tuple[float, ...]
    titles: tuple[str, str]
    labels: tuple[str, ...]


def _ablation(results: Results, parameters: Sequence[str]) -> alt.TopLevelMixin | None:
    compared = [each for name in parameters for each in _comparisons(results, name)]
    if not compared:
        return None
    rows = iteration_rows(results)
    charts = [
        _panels(
            _retrained([row for row in rows if row["label"] in each.labels]),
            Look(each.parameter, each.values, each.parameter, ordered=True, key=f"chosen{i}"),
            each.titles,
            alt.FieldOneOfPredicate(field="label", oneOf=list(each.labels)),
            listening=True,
        )
        for i, each in enumerate(compared)
    ]
    return blocks(rows, charts, shared=False)


def _comparisons(results: Results, parameter: str) -> Iterator[_Comparison]:
    cells = cell_columns(results)
    groups: dict[tuple[str, str], dict[str, float]] = {}
    for line in results.record.lineages:
        if parameter in line.config["method"]:
            rest = method_label(line, results.record, {"prune.scope", f"method.{parameter}"})
            group = groups.setdefault((cells[line.id]["setting"], rest), {})
            group[results.labels[line.id]] = line.config["method"][parameter]
    for titles, found in groups.items():
        values = tuple(sorted(set(found.values())))
        if len(values) > 1:
            yield _Comparison(parameter, values, titles, tuple(found))
