"""Sweeps with chosen measures: real records, commits and tables, and nothing trained."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa

from orchestrator.records.failures import FAILURES, Failure
from orchestrator.records.published import record_published
from orchestrator.records.recording import record_sweep
from orchestrator.records.sweep import LineageRecord, write_sweep
from orchestrator.results.opening import Results, open_results
from orchestrator.results.tables import SPARSITY_SCHEMA
from orchestrator.run.datasets import resolve_datasets
from orchestrator.run.planning import sweep_lineages
from orchestrator.sweepfile.published import read_published
from orchestrator.sweepfile.yaml_source import load_sweep
from trainables.data import data_roots
from trainables.lineage.metrics import METRICS_SCHEMA
from trainables.lineage.schemas import EPOCH_SCHEMA, LAYER_SCHEMA
from trainables.store import Store, iteration_path
from trainables.store.artifacts import EPOCHS, LAYERS, METRICS, SPARSITY, encode_table

Measures: TypeAlias = Callable[[LineageRecord, int], dict[str, Any] | None]
"""The metrics of a lineage at an iteration; None where it was not committed."""

SOME_METRICS = {
    "density": 1.0, "density_target": None, "params_prunable": 1000, "params_kept": 1000,
    "train_loss": 0.5, "train_accuracy": 0.9, "test_loss": 0.5, "test_accuracy": 0.9,
    "pq_index": 0.1, "gini": 0.1, "macs_dense": 1000, "macs_kept": 1000, "train_seconds": 1.0,
    "prune_seconds": 0.0, "peak_memory_bytes": 1, "attempt": 1, "device": "cpu", "host": "here",
    "finished_at": datetime(2026, 1, 1, tzinfo=UTC),
}  # fmt: skip


def measured(
    folder: Path, file: Path, measures: Measures, failed: Callable[[str], bool] = lambda id: False
) -> Results:
    """The results of the sweep in `file`, as if a run into `folder`/store had measured so."""
    spec = load_sweep(file)
    store = Store(str(folder / "store"))
    lineages = sweep_lineages(spec, resolve_datasets(spec, data_roots(None, {})))
    record = record_sweep(spec, lineages)
    write_sweep(store, record)
    published = read_published(Path(spec.published)) if spec.published else ()
    record_published(store, record, published)
    ids = [line.id for line in record.lineages if failed(line.id)]
    FAILURES.write(store, record.name, [Failure(each, 1, 2, "Traceback") for each in ids])
    for line in record.lineages:
        for t, key in zip(line.iterations, line.keys, strict=True):
            chosen = measures(line, t)
            if chosen is not None:
                store.commit(iteration_path(key), committed_files(key, t, chosen))
    return open_results(store, record.name)


def sweep_file(folder: Path, **sections: Any) -> Path:
    """A sweep on digits; JSON is YAML too."""
    file = folder / "sweep.yaml"
    file.write_text(json.dumps({"name": "s", "dataset": "digits", "model": "mlp"} | sections))
    return file


def committed_files(key: str, t: int, metrics: dict[str, Any]) -> dict[str, bytes]:
    row = dict.fromkeys(METRICS_SCHEMA.names) | SOME_METRICS | metrics
    row |= {"key": key, "iteration": t}
    tables = {
        METRICS: pa.Table.from_pylist([row], METRICS_SCHEMA),
        LAYERS: LAYER_SCHEMA.empty_table(),
        EPOCHS: EPOCH_SCHEMA.empty_table(),
        SPARSITY: SPARSITY_SCHEMA.empty_table(),
    }
    return {name: encode_table(table) for name, table in tables.items()}
