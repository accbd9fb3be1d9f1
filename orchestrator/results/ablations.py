"""Ablations beside what they are of: accuracies, and whether they differ by more than noise."""

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from orchestrator.records.labels import labels
from orchestrator.records.sweep import LineageRecord, SweepRecord
from orchestrator.results.statistics import Comparison, compare, require_metric, summarize
from trainables.config import canonical_json
from trainables.pruning.config import LENGTH

ABLATION_SCHEMA = pa.schema(
    [
        ("method", pa.string()),
        ("ablation", pa.string()),
        ("iteration", pa.int64()),
        ("density", pa.float64()),
        ("original", pa.float64()),
        ("ablated", pa.float64()),
        ("difference", pa.float64()),
        ("p_value", pa.float64()),
        ("test", pa.string()),
        ("seeds", pa.int64()),
    ]
)

Row = tuple[str, int]
"""A lineage, and an iteration of it."""


@dataclass(frozen=True)
class Pair:
    """An ablation of one seed, beside the iteration that it is of: the ids of both lineages, and a
    metric without and with it, None where it is not finite."""

    seed: int
    original: str
    ablated: str
    density: float | None
    values: tuple[float | None, float | None]


@dataclass(frozen=True)
class Ablated:
    """An ablation of a cell: its method, what is changed, the iteration that it branches off, and a
    pair for each seed. `elsewhere`: the dataset that it goes to, whose test set its values are of.
    """

    method: str
    ablation: str
    iteration: int
    elsewhere: str | None
    pairs: tuple[Pair, ...]

    @property
    def comparison(self) -> Comparison:
        """With the ablation minus without, over the seeds that have both; none of values of two
        test sets."""
        if self.elsewhere is not None:
            return Comparison(None, None, None)
        return compare(self._of_both(1), self._of_both(0))

    def _of_both(self, which: Literal[0, 1]) -> dict[int, float | None]:
        return {each.seed: each.values[which] for each in self.pairs if None not in each.values}

    def row(self) -> dict[str, Any]:
        """The row of `ablation_table`."""
        compared, original = self.comparison, self._of_both(0)
        return {
            "method": self.method,
            "ablation": self.ablation,
            "iteration": self.iteration,
            "density": summarize(each.density for each in self.pairs).mean,
            "original": summarize(original.values()).mean,
            "ablated": summarize(self._of_both(1).values()).mean,
            "difference": compared.difference,
            "p_value": compared.p_value,
            "test": compared.test,
            "seeds": len(original),
        }


def ablation_table(
    record: SweepRecord,
    iterations: pa.Table,
    metric: str = "test_accuracy",
    chosen: Collection[Row] | None = None,
    density: str = "density",
) -> pa.Table:
    """One row for each ablation of each cell and iteration, or of those that are `chosen`: the mean
    of `metric` without and with it, and their difference, second minus first, over the seeds that
    have both, with the test of `compare`. A seed that lacks one of the two counts for neither.
    `density` is the column of `iterations` that it has of the ablation.

    Raises as `ablated_cells` does.
    """
    cells = ablated_cells(record, iterations, metric, chosen, density)
    table = pa.Table.from_pylist([cell.row() for cell in cells], ABLATION_SCHEMA)
    names = [density if name == "density" else name for name in ABLATION_SCHEMA.names]
    return table.rename_columns(names)


def ablated_cells(
    record: SweepRecord,
    iterations: pa.Table,
    metric: str = "test_accuracy",
    chosen: Collection[Row] | None = None,
    density: str = "density",
) -> list[Ablated]:
    """Each ablation of each cell and iteration, or of those that are `chosen`, of which both sides
    were measured; none of what was trained on noise.

    `iterations` has the columns of that table. Raises ValueError when `metric` is no column of
    numbers.
    """
    require_metric(iterations, metric)
    of = originals(record)
    rows = _rows(iterations, metric, density) if of else ()
    measured = {(row["lineage"], row["iteration"]): row for row in rows}
    names = labels(record)
    cells: dict[tuple[str, str, int, str | None], list[Pair]] = {}
    for line in (line for line in record.lineages if line.id in of):
        original, (t,) = of[line.id], line.iterations
        one, other = measured.get((original.id, t)), measured.get((line.id, t))
        if one is None or other is None or t not in line.on_data:
            continue
        if chosen is None or (line.id, t) in chosen:
            method = names[original.id]
            ablation = names[line.id].removeprefix(method).strip()
            if line.elsewhere is not None:
                ablation += f" ({line.elsewhere})"
            cell = (method, ablation, t, line.elsewhere)
            values = (_finite(one[metric]), _finite(other[metric]))
            pair = Pair(line.config["seed"], original.id, line.id, other[density], values)
            cells.setdefault(cell, []).append(pair)
    return [Ablated(*cell, tuple(found)) for cell, found in cells.items()]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _rows(iterations: pa.Table, metric: str, density: str) -> Iterator[Mapping[str, Any]]:
    columns = dict.fromkeys(["lineage", "iteration", density, metric])
    yield from iterations.select([*columns]).to_pylist()


def originals(record: SweepRecord) -> dict[str, LineageRecord]:
    """By the id of every ablation, the lineage that it is of, where the record has that: in several
    sweeps as one, the longest, whatever its length in the sweep of the ablation."""

    def cell(line: LineageRecord) -> str:
        config = {n: each for n, each in line.config.items() if n != "ablation"}
        prune = {n: each for n, each in config["prune"].items() if n not in LENGTH}
        return canonical_json(config | {"prune": prune})

    ablated = [line for line in record.lineages if "ablation" in line.config]
    if not ablated:
        return {}
    whole = {cell(line): line for line in record.lineages if "ablation" not in line.config}
    of_each = {line.id: whole.get(cell(line)) for line in ablated}
    return {id: line for id, line in of_each.items() if line is not None}
