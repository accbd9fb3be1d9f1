"""Metrics: what is measured of an iteration, one column of the table `iterations` each.

A column is a name, a type and what it holds; the tables, W&B and queries have it from here.
docs/results.md says what it means.
"""

from __future__ import annotations

import resource
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from trainables.lazy_torch import nn, torch
from trainables.own_code import own_code
from trainables.sparsity.masks import kept_counts

if TYPE_CHECKING:
    from trainables.lineage.iteration import Iteration
    from trainables.lineage.made import Made
    from trainables.sparsity.weights import Sparsity
    from trainables.training.progress import EpochRow

Metrics = dict[str, Any]
"""One row: a value for each of COLUMNS."""


@dataclass(frozen=True)
class Measured:
    """An iteration with its trained model, what it has made, and the sparsity of the model."""

    iteration: Iteration
    model: nn.Module
    made: Made
    sparsity: Sparsity

    @cached_property
    def kept(self) -> dict[str, int]:
        """The number of unpruned weights of each layer."""
        return kept_counts(self.made.masks)

    @cached_property
    def prunable(self) -> int:
        """The number of prunable weights."""
        return sum(mask.numel() for mask in self.made.masks.values())

    @cached_property
    def final(self) -> EpochRow:
        """The epoch whose weights were kept; its measures of the training set are running means."""
        keep = self.iteration.lineage.cell.train.keep
        rows = self.made.progress.rows
        if keep == "last":
            return rows[-1]
        by = "test_accuracy" if keep == "best_test" else "validation_accuracy"
        return max(rows, key=lambda row: row[by] or 0.0)

    @cached_property
    def effective(self) -> dict[str, int] | None:
        """The number of effective weights of each layer; None where it is not known."""
        from trainables.sparsity.effective import effective_masks

        masks = effective_masks(self.model, self.made.masks, self.iteration.data.shape)
        return None if masks is None else kept_counts(masks)

    @cached_property
    def dense_multiply_adds(self) -> dict[str, int]:
        """Those with each weight, for one example."""
        from trainables.sparsity.multiply_adds import dense_multiply_adds

        return dense_multiply_adds(self.model, self.iteration.data.shape)

    def multiply_adds(self, kept: dict[str, int] | None) -> int | None:
        from trainables.sparsity.multiply_adds import kept_multiply_adds

        if kept is None:
            return None
        return kept_multiply_adds(self.model, self.dense_multiply_adds, kept)


@dataclass(frozen=True)
class Column:
    """One column: its name, its type, and its value of an iteration."""

    name: str
    type: pa.DataType
    of: Callable[[Measured], Any]


INTEGER, NUMBER, TEXT = pa.int64(), pa.float64(), pa.string()

COLUMNS = (
    Column("key", TEXT, lambda m: m.iteration.key),
    Column("iteration", INTEGER, lambda m: m.iteration.step.iteration),
    Column("density", NUMBER, lambda m: sum(m.kept.values()) / m.prunable),
    Column("density_target", NUMBER, lambda m: m.iteration.step.density),
    Column("params_prunable", INTEGER, lambda m: m.prunable),
    Column("params_kept", INTEGER, lambda m: sum(m.kept.values())),
    Column("params_effective", INTEGER, lambda m: _total(m.effective)),
    Column("density_effective", NUMBER, lambda m: _density(m.effective, m.prunable)),
    Column("collapsed_layers", TEXT, lambda m: _collapsed(m.kept)),
    Column("train_loss", NUMBER, lambda m: m.final["train_loss"]),
    Column("train_accuracy", NUMBER, lambda m: m.final["train_accuracy"]),
    Column("validation_loss", NUMBER, lambda m: m.final["validation_loss"]),
    Column("validation_accuracy", NUMBER, lambda m: m.final["validation_accuracy"]),
    Column("test_loss", NUMBER, lambda m: m.final["test_loss"]),
    Column("test_accuracy", NUMBER, lambda m: m.final["test_accuracy"]),
    Column("pruned_test_loss", NUMBER, lambda m: m.made.pruned and m.made.pruned.loss),
    Column("pruned_test_accuracy", NUMBER, lambda m: m.made.pruned and m.made.pruned.accuracy),
    Column("pq_index", NUMBER, lambda m: m.sparsity.pq_index),
    Column("pq_index_pruned", NUMBER, lambda m: _of_pruned(m, "pq_index")),
    Column("gini", NUMBER, lambda m: m.sparsity.gini),
    Column("gini_pruned", NUMBER, lambda m: _of_pruned(m, "gini")),
    Column("macs_dense", INTEGER, lambda m: sum(m.dense_multiply_adds.values())),
    Column("macs_kept", INTEGER, lambda m: m.multiply_adds(m.kept)),
    Column("macs_effective", INTEGER, lambda m: m.multiply_adds(m.effective)),
    Column("train_seconds", NUMBER, lambda m: m.made.progress.seconds),
    Column("prune_seconds", NUMBER, lambda m: m.made.prune_seconds),
    Column("peak_memory_bytes", INTEGER, lambda m: _peak_memory(m.iteration.bench.device)),
    Column("attempt", INTEGER, lambda m: m.iteration.bench.attempt),
    Column("fused", INTEGER, lambda m: m.made.progress.fused),
    Column("device", TEXT, lambda m: _device_name(m.iteration.bench.device)),
    Column("host", TEXT, lambda m: socket.gethostname()),
    Column("finished_at", pa.timestamp("us", tz="UTC"), lambda m: datetime.now(UTC)),
    Column("git_sha", TEXT, lambda m: m.iteration.bench.git_sha),
    Column("code", TEXT, lambda m: own_code()),
)

METRICS_SCHEMA = pa.schema([(column.name, column.type) for column in COLUMNS])


def metrics_of(measured: Measured) -> Metrics:
    """The row of an iteration."""
    return {column.name: column.of(measured) for column in COLUMNS}


def _density(counts: dict[str, int] | None, of: int) -> float | None:
    return None if counts is None else sum(counts.values()) / of


def _total(counts: dict[str, int] | None) -> int | None:
    return None if counts is None else sum(counts.values())


def _collapsed(kept: dict[str, int]) -> str | None:
    """The layers of which nothing is kept."""
    return ", ".join(name for name, count in kept.items() if count == 0) or None


def _of_pruned(measured: Measured, measure: str) -> float | None:
    """A measure of the model as it was pruned, None where nothing was."""
    sparsity = measured.made.pruned_sparsity
    return None if sparsity is None else getattr(sparsity, measure)


def _peak_memory(device: torch.device) -> int:
    """Bytes: the device allocator's peak in this iteration, or the process's resident peak."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes elsewhere


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
