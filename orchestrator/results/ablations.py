"""Ablations beside what they are of: accuracies, and whether they differ by more than noise."""

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import pyarrow as pa

from orchestrator.records.labels import labels
from orchestrator.records.sweep import LineageRecord, SweepRecord
from orchestrator.results.statistics import compare, require_metric, summarize
from trainables.config import canonical_json

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

Values = dict[int, float | None]
"""By seed."""
Row = tuple[str, int]
"""A lineage, and an iteration of it."""


def ablation_table(
    record: SweepRecord,
    iterations: pa.Table,
    metric: str = "test_accuracy",
    chosen: Collection[Row] | None = None,
) -> pa.Table:
    """One row for each ablation of each cell and iteration, or of those that are `chosen`: the mean
    of `metric` without and with it, and their difference, second minus first, over the seeds that
    have both, with the test of `compare`.

    `iterations` has the columns of that table. A seed that lacks a number for one of the two counts
    for neither, and what was trained on noise has no row. Raises ValueError when `metric` is no
    column of numbers.
    """
    require_metric(iterations, metric)
    measured = {(row["lineage"], row["iteration"]): row for row in _rows(iterations, metric)}
    names = labels(record)
    cells: dict[tuple[str, str, int], list[tuple[int, Mapping[str, Any], Mapping[str, Any]]]] = {}
    for line, original in _pairs(record):
        (t,) = line.iterations
        one, other = measured.get((original.id, t)), measured.get((line.id, t))
        if one is None or other is None or t not in line.on_data:
            continue
        if chosen is None or (line.id, t) in chosen:
            method = names[original.id]
            cell = (method, names[line.id].removeprefix(method).strip(), t)
            cells.setdefault(cell, []).append((line.config["seed"], one, other))
    return pa.Table.from_pylist(
        [dict(zip(("method", "ablation", "iteration"), cell, strict=True)) | _told(found, metric)
         for cell, found in cells.items()],
        ABLATION_SCHEMA,
    )  # fmt: skip


def _rows(iterations: pa.Table, metric: str) -> Iterator[Mapping[str, Any]]:
    columns = dict.fromkeys(["lineage", "iteration", "density", metric])
    yield from iterations.select([*columns]).to_pylist()


def _pairs(record: SweepRecord) -> Iterator[tuple[LineageRecord, LineageRecord]]:
    """Every ablation, with the lineage that it is of."""

    def cell(line: LineageRecord) -> str:
        return canonical_json({n: each for n, each in line.config.items() if n != "ablation"})

    originals = {cell(line): line for line in record.lineages if "ablation" not in line.config}
    for line in record.lineages:
        if "ablation" in line.config and (found := originals.get(cell(line))) is not None:
            yield line, found


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _told(
    found: list[tuple[int, Mapping[str, Any], Mapping[str, Any]]], metric: str
) -> dict[str, Any]:
    original: Values = {seed: row[metric] for seed, row, _ in found}
    ablated: Values = {seed: row[metric] for seed, _, row in found}
    both = [s for s in original if _is_number(original[s]) and _is_number(ablated[s])]
    original, ablated = ({s: of[s] for s in both} for of in (original, ablated))
    compared = compare(ablated, original)
    return {
        "density": summarize(row["density"] for *_, row in found).mean,
        "original": summarize(original.values()).mean,
        "ablated": summarize(ablated.values()).mean,
        "difference": compared.difference,
        "p_value": compared.p_value,
        "test": compared.test,
        "seeds": len(both),
    }
