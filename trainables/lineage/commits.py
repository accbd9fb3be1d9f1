"""Commits: what an iteration leaves in the store, and the schemas of its tables."""

import resource
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor, nn

from trainables.lineage.iteration import Iteration
from trainables.measures.masks import Masks, kept_counts
from trainables.measures.multiply_adds import multiply_adds
from trainables.measures.weights import Sparsity, kept_magnitude, measure_sparsity
from trainables.models import prunable
from trainables.store import iteration_path
from trainables.store.artifacts import (
    EPOCHS,
    LAYERS,
    MASK,
    METRICS,
    SPARSITY,
    WEIGHTS,
    encode_masks,
    encode_table,
    encode_tensors,
)
from trainables.store.claims import Claim
from trainables.training.recipe import Recipe
from trainables.training.run import Evaluation, Progress

EPOCH_SCHEMA = pa.schema(
    [
        ("epoch", pa.int64()),
        ("step", pa.int64()),
        ("lr", pa.float64()),
        ("train_loss", pa.float64()),
        ("train_accuracy", pa.float64()),
        ("validation_loss", pa.float64()),
        ("validation_accuracy", pa.float64()),
        ("test_loss", pa.float64()),
        ("test_accuracy", pa.float64()),
    ]
)

LAYER_SCHEMA = pa.schema(
    [
        ("layer", pa.string()),
        ("kept", pa.int64()),
        ("total", pa.int64()),
        ("pq_index", pa.float64()),
        ("gini", pa.float64()),
        ("init_magnitude_share", pa.float64()),
        ("uniform_share", pa.float64()),
        ("init_norm_kept", pa.float64()),
    ]
)

METRICS_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("iteration", pa.int64()),
        ("density", pa.float64()),
        ("density_target", pa.float64()),
        ("params_prunable", pa.int64()),
        ("params_kept", pa.int64()),
        ("collapsed_layers", pa.string()),
        ("train_loss", pa.float64()),
        ("train_accuracy", pa.float64()),
        ("validation_loss", pa.float64()),
        ("validation_accuracy", pa.float64()),
        ("test_loss", pa.float64()),
        ("test_accuracy", pa.float64()),
        ("pruned_test_loss", pa.float64()),
        ("pruned_test_accuracy", pa.float64()),
        ("pq_index", pa.float64()),
        ("pq_index_pruned", pa.float64()),
        ("gini", pa.float64()),
        ("gini_pruned", pa.float64()),
        ("macs_dense", pa.int64()),
        ("macs_kept", pa.int64()),
        ("train_seconds", pa.float64()),
        ("prune_seconds", pa.float64()),
        ("peak_memory_bytes", pa.int64()),
        ("attempt", pa.int64()),
        ("device", pa.string()),
        ("host", pa.string()),
        ("finished_at", pa.timestamp("us", tz="UTC")),
        ("git_sha", pa.string()),
    ]
)

Metrics = dict[str, Any]
"""One row of METRICS_SCHEMA."""


@dataclass
class Made:
    """What an iteration has made, besides the trained model."""

    masks: Masks
    prune_seconds: float = 0.0
    pruned: Evaluation | None = None
    pruned_sparsity: Sparsity | None = None
    progress: Progress = field(default_factory=Progress)


def commit_iteration(
    iteration: Iteration,
    model: nn.Module,
    initial: Mapping[str, Tensor],
    made: Made,
    claim: Claim | None = None,
) -> Metrics:
    """Measure the trained `model` and commit it with its masks and tables; its metrics.

    `initial` are its prunable weights at initialization. Raises ClaimLost when `claim` is not held
    any more.
    """
    sparsity = measure_sparsity(prunable_tensors(model), made.masks)
    metrics = _metrics(iteration, model, made, sparsity)
    layers = [
        vars(layer) | vars(kept_magnitude(initial[layer.layer], made.masks[layer.layer]))
        for layer in sparsity.layers
    ]
    files = {
        WEIGHTS: encode_tensors(model.state_dict()),
        MASK: encode_masks(made.masks),
        METRICS: encode_table(pa.Table.from_pylist([metrics], METRICS_SCHEMA)),
        LAYERS: encode_table(pa.Table.from_pylist(layers, LAYER_SCHEMA)),
        EPOCHS: encode_table(pa.Table.from_pylist(made.progress.rows, EPOCH_SCHEMA)),
        SPARSITY: encode_table(_sparsity_table(sparsity, made.pruned_sparsity)),
    }
    store, path = iteration.bench.store, iteration_path(iteration.key)
    if claim is not None:
        claim.require()
    committed = store.commit(path, files)
    if not committed and WEIGHTS not in store.manifest(path)["files"]:
        # They were not kept and are needed after all. A commit that has them is another run's.
        store.replace(path, files)
    store.remove(f"checkpoints/{iteration.key}")
    return metrics


def _metrics(iteration: Iteration, model: nn.Module, made: Made, sparsity: Sparsity) -> Metrics:
    bench, step = iteration.bench, iteration.step
    kept = kept_counts(made.masks)
    total = sum(mask.numel() for mask in made.masks.values())
    pruned, pruned_sparsity = made.pruned, made.pruned_sparsity
    return {
        "key": iteration.key,
        "iteration": step.iteration,
        "density": sum(kept.values()) / total,
        "density_target": step.density,
        "params_prunable": total,
        "params_kept": sum(kept.values()),
        "collapsed_layers": ", ".join(name for name in kept if kept[name] == 0) or None,
        **_final_measures(iteration.lineage.cell.train, made.progress),
        "pruned_test_loss": pruned and pruned.loss,
        "pruned_test_accuracy": pruned and pruned.accuracy,
        "pq_index": sparsity.pq_index,
        "pq_index_pruned": pruned_sparsity and pruned_sparsity.pq_index,
        "gini": sparsity.gini,
        "gini_pruned": pruned_sparsity and pruned_sparsity.gini,
        "macs_dense": multiply_adds(model, bench.data.shape, None),
        "macs_kept": multiply_adds(model, bench.data.shape, kept),
        "train_seconds": made.progress.seconds,
        "prune_seconds": made.prune_seconds,
        "peak_memory_bytes": _peak_memory(bench.device),
        "attempt": bench.attempt,
        "device": _device_name(bench.device),
        "host": socket.gethostname(),
        "finished_at": datetime.now(UTC),
        "git_sha": bench.git_sha,
    }


def _final_measures(recipe: Recipe, progress: Progress) -> dict[str, Any]:
    """Losses and accuracies of the epoch whose weights were kept; those of the training set are
    the running means of that epoch."""
    measure = {"last": None, "best_test": "test_accuracy", "best_validation": "validation_accuracy"}
    by = measure[recipe.keep]
    row = progress.rows[-1] if by is None else max(progress.rows, key=lambda row: row[by])
    return {name: row[name] for name in EPOCH_SCHEMA.names if name.endswith(("loss", "accuracy"))}


def _sparsity_table(retrained: Sparsity, pruned: Sparsity | None) -> pa.Table:
    states = [("retrained", retrained.grid)] + ([("pruned", pruned.grid)] if pruned else [])
    return pa.concat_tables(
        grid.add_column(0, "state", pa.array([state] * len(grid), pa.string()))
        for state, grid in states
    )


def _peak_memory(device: torch.device) -> int:
    """Bytes: the device allocator's peak in this iteration, or the process's resident peak."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes elsewhere


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def prunable_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The prunable weights, out of reach of gradients."""
    return {name: parameter.detach() for name, parameter in prunable(model).items()}
