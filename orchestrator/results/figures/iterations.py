"""Measures against the iteration: retrained and pruned models (SAP Figures 2, 3, 11–18)."""

from collections.abc import Sequence

import altair as alt

from orchestrator.results.figures.curves import (
    ACCURACY,
    DENSITY,
    GINI,
    PQ_INDEX,
    Block,
    Measure,
    blocks,
)  # fmt: skip
from orchestrator.results.figures.rows import Row, distinct, iteration_rows
from orchestrator.results.figures.style import Look
from orchestrator.results.opening import Results

RETRAINED = (ACCURACY, DENSITY, PQ_INDEX, GINI)
PRUNED = (
    Measure("pruned_test_accuracy", "Test accuracy, pruned", "%"),
    Measure("accuracy_difference", "Accuracy difference", "%"),
    Measure("pq_index_pruned", "PQ Index, pruned"),
    Measure("pq_index_difference", "PQ Index difference"),
)


def retrained(results: Results) -> alt.TopLevelMixin | None:
    """Accuracy, remaining weights, PQ Index and Gini Index of the retrained models."""
    return _by_iteration(results, RETRAINED)


def pruned(results: Results) -> alt.TopLevelMixin | None:
    """Accuracy and PQ Index of the pruned models, and what pruning took of them."""
    return _by_iteration(results, PRUNED)


def _by_iteration(results: Results, measures: Sequence[Measure]) -> alt.TopLevelMixin | None:
    rows = iteration_rows(results)
    iterative = iterative_rows(rows)
    if not iterative:
        return None
    look = Look("variant", tuple(distinct(iterative, "variant")))
    settings = distinct(iterative, "setting")
    each = [Block(name, alt.datum.setting == name, measures) for name in settings]
    return blocks(rows, look, each)


def iterative_rows(rows: Sequence[Row]) -> list[Row]:
    """The rows of lineages of more than one iteration."""
    return [
        row for row in rows if row["lineage"] in {r["lineage"] for r in rows if r["iteration"] > 1}
    ]
