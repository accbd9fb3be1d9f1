"""A lineage: one network trained, pruned, rewound and retrained, iteration by iteration.

This is Algorithm 1 of the papers, against a store: every iteration reads its parent's commit and
writes its own. It needs no cluster and runs in a plain Python process.
"""

import resource
import socket
import time
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor, nn

from trainables.artifacts import (
    EPOCHS,
    LAYERS,
    MASK,
    METRICS,
    SPARSITY,
    WEIGHTS,
    decode_masks,
    decode_tensors,
    encode_masks,
    encode_table,
    encode_tensors,
)
from trainables.checkpoint import EpochCheckpoint
from trainables.config import Config, canonical
from trainables.identity import canonical_json, next_key, snapshot_key, trunk_key
from trainables.masks import Masks, apply_masks, dense_masks, kept_counts
from trainables.measure import Sparsity, measure_sparsity
from trainables.models import ModelConfig, build_model, multiply_adds, prunable
from trainables.pruning import METHODS, MethodConfig, Pruning, prune, rewind_step
from trainables.recipe import Recipe
from trainables.store import Damaged, Store, iteration_path, snapshot_path
from trainables.training import (
    DeviceData,
    Evaluation,
    Progress,
    Randomness,
    State,
    evaluate,
    train,
)

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


@dataclass(frozen=True)
class Lineage:
    """One cell of a sweep's grid and the keys of its iterations 0…T.

    `dataset` is the dataset's identity as JSON values; where its files lie is no part of it.
    """

    id: str
    dataset: dict[str, Any]
    model: ModelConfig
    recipe: Recipe
    pruning: Pruning
    method: MethodConfig
    seed: int
    keys: tuple[str, ...]

    def config(self) -> dict[str, Any]:
        """Everything that decides this lineage's numbers, and its number of iterations."""
        return {
            "dataset": self.dataset,
            "model": canonical(self.model),
            "train": canonical(self.recipe),
            "prune": canonical(self.pruning),
            "method": canonical(self.method),
            "seed": self.seed,
        }


def trunk_config(
    dataset: dict[str, Any], model: ModelConfig, recipe: Recipe, seed: int
) -> dict[str, Any]:
    """What key_0 covers."""
    return {
        "dataset": dataset,
        "model": canonical(model),
        "recipe": canonical(recipe),
        "seed": seed,
    }


def step_json(method: Config, pruning: Pruning) -> str:
    """The canonical JSON of one pruning step: what key_t adds to key_{t−1}."""
    pruned = canonical(pruning)
    del pruned["iterations"]
    return canonical_json({"method": canonical(method), "prune": pruned})


def lineage_keys(trunk: str, step: str, iterations: int) -> tuple[str, ...]:
    """key_0…key_T from key_0 and the canonical JSON of the step."""
    keys = [trunk]
    for _ in range(iterations):
        keys.append(next_key(keys[-1], step))
    return tuple(keys)


def make_lineage(
    dataset: dict[str, Any],
    model: ModelConfig,
    recipe: Recipe,
    pruning: Pruning,
    method: MethodConfig,
    seed: int,
) -> Lineage:
    """The lineage of one cell, with its keys and its readable id."""
    trunk = trunk_key(trunk_config(dataset, model, recipe, seed))
    step = step_json(method, pruning)
    keys = lineage_keys(trunk, step, pruning.iterations)
    return Lineage(
        lineage_id(method, pruning, seed, trunk, step),
        dataset, model, recipe, pruning, method, seed, keys,
    )  # fmt: skip


def lineage_id(method: Config, pruning: Pruning, seed: int, trunk: str, step: str) -> str:
    """A readable name that stays the same when the lineage is made longer."""
    return f"{method.name}-{pruning.scope}-s{seed}-{next_key(trunk, step)[:10]}"  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Bench:
    """What a lineage works with: the store, the data on its device, and what is outside identity.

    `snapshots` are the training steps k whose weights w_k the trunk leaves behind for rewinding.
    """

    store: Store
    data: DeviceData
    device: torch.device
    snapshots: frozenset[int] = frozenset()
    keep_weights: str = "all"
    checkpoint_minutes: float | None = None
    attempt: int = 1
    git_sha: str | None = None


@dataclass
class _Iteration:
    """What one iteration has produced so far."""

    masks: Masks
    prune_seconds: float = 0.0
    pruned: Evaluation | None = None
    pruned_sparsity: Sparsity | None = None
    progress: Progress = field(default_factory=Progress)


def run_lineage(lineage: Lineage, bench: Bench) -> Generator[dict[str, Any]]:
    """Train and commit what the store lacks of `lineage`, yielding each new iteration's metrics.

    A damaged commit that is needed is set aside and trained again. Raises Diverged when training
    does; what was committed before stays.
    """
    while True:
        try:
            missing = missing_iterations(lineage.keys, stored_files(bench.store))
            if not missing:
                return
            t = missing[0]
            metrics = run_iteration(lineage, t, bench)
        except Damaged as damage:
            bench.store.set_aside(damage.path)
            continue
        _retire_weights(lineage, t, bench)
        yield metrics


def missing_iterations(
    keys: Sequence[str], files_of: Callable[[str], Collection[str] | None]
) -> list[int]:
    """The iterations that have to be trained, in order.

    `files_of(key)` are the files of an iteration's commit, None without one. An iteration whose
    weights were not kept is complete in itself, but is trained again when its child is missing.
    """
    missing: list[int] = []
    for t in reversed(range(len(keys))):
        files = files_of(keys[t])
        if files is None or (WEIGHTS not in files and missing[-1:] == [t + 1]):
            missing.append(t)
    return missing[::-1]


def stored_files(store: Store) -> Callable[[str], Collection[str] | None]:
    """`files_of` for `missing_iterations`, looking each iteration up in the store."""

    def files_of(key: str) -> Collection[str] | None:
        path = iteration_path(key)
        return store.manifest(path)["files"] if store.is_committed(path) else None

    return files_of


def run_iteration(lineage: Lineage, t: int, bench: Bench) -> dict[str, Any]:
    """Train, measure and commit iteration `t`, whose parent is committed; returns its metrics."""
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(bench.device)
    model = build_model(lineage.model, bench.data.shape, bench.data.classes, lineage.seed)
    model.to(bench.device)
    if t == 0:
        iteration = _train_trunk(lineage, model, bench)
    else:
        iteration = _prune_and_rewind(lineage, t, model, bench)
        iteration.progress = train(
            model,
            iteration.masks,
            bench.data,
            lineage.recipe,
            Randomness(lineage.seed, t),
            start_step=rewind_step(lineage.method),
            checkpoint=_checkpoint(lineage, t, bench),
        )
    return _commit(lineage, t, model, iteration, bench)


def _train_trunk(lineage: Lineage, model: nn.Module, bench: Bench) -> _Iteration:
    wanted = bench.snapshots | {0}

    def snapshot(step: int) -> None:
        if step in wanted:
            _commit_snapshot(lineage, step, model.state_dict(), bench.store)

    progress = train(
        model,
        None,
        bench.data,
        lineage.recipe,
        Randomness(lineage.seed, 0),
        snapshot=snapshot,
        checkpoint=_checkpoint(lineage, 0, bench),
    )
    return _Iteration(dense_masks(_prunable_tensors(model)), progress=progress)


def _prune_and_rewind(lineage: Lineage, t: int, model: nn.Module, bench: Bench) -> _Iteration:
    """Leave `model` as m_t ⊙ the rewound weights, having measured the pruned model on the way."""
    started = time.perf_counter()
    store, device = bench.store, bench.device
    parent_path = iteration_path(lineage.keys[t - 1])
    parent_state = decode_tensors(store.read(parent_path, WEIGHTS))
    scored_state = parent_state
    if METHODS[lineage.method.name].scored == "dense" and t > 1:
        scored_state = decode_tensors(store.read(iteration_path(lineage.keys[0]), WEIGHTS))
    parent_masks = _to(decode_masks(store.read(parent_path, MASK)), device)

    model.load_state_dict(scored_state)
    weights = _prunable_tensors(model)
    masks = prune(
        lineage.method, lineage.pruning.scope, weights, {n: parent_masks[n] for n in weights}
    )
    apply_masks(model, masks)
    iteration = _Iteration(masks)
    iteration.pruned = evaluate(model, bench.data.test)
    iteration.pruned_sparsity = measure_sparsity(_prunable_tensors(model), masks)

    rewound = _rewound_state(lineage, rewind_step(lineage.method), bench)
    if not lineage.pruning.rewind_batchnorm:
        rewound |= {name: parent_state[name] for name, _ in model.named_buffers()}
    model.load_state_dict(rewound)
    apply_masks(model, masks)
    iteration.prune_seconds = time.perf_counter() - started
    return iteration


def _rewound_state(lineage: Lineage, step: int, bench: Bench) -> State:
    """w_k of the trunk: from its snapshot, or trained again for k steps when there is none."""
    path = snapshot_path(snapshot_key(lineage.keys[0], step))
    if bench.store.is_committed(path):
        return decode_tensors(bench.store.read(path, WEIGHTS))
    model = build_model(lineage.model, bench.data.shape, bench.data.classes, lineage.seed)
    model.to(bench.device)
    if step > 0:
        _train_until(model, step, lineage, bench)
    _commit_snapshot(lineage, step, model.state_dict(), bench.store)
    return model.state_dict()


class _Reached(Exception):
    """Leaves a training run at the step it was wanted for."""


def _train_until(model: nn.Module, step: int, lineage: Lineage, bench: Bench) -> None:
    def stop(at: int) -> None:
        if at == step:
            raise _Reached

    try:
        randomness = Randomness(lineage.seed, 0)
        train(model, None, bench.data, lineage.recipe, randomness, snapshot=stop)
    except _Reached:
        return


def _commit_snapshot(lineage: Lineage, step: int, state: State, store: Store) -> None:
    path = snapshot_path(snapshot_key(lineage.keys[0], step))
    if not store.is_committed(path):
        store.commit(path, {WEIGHTS: encode_tensors(state)})


def _commit(
    lineage: Lineage, t: int, model: nn.Module, iteration: _Iteration, bench: Bench
) -> dict[str, Any]:
    sparsity = measure_sparsity(_prunable_tensors(model), iteration.masks)
    metrics = _metrics(lineage, t, model, iteration, sparsity, bench)
    layers = [vars(layer) for layer in sparsity.layers]
    path = iteration_path(lineage.keys[t])
    if bench.store.is_committed(path):
        # Its weights were not kept and are needed after all.
        bench.store.set_aside(path)
    bench.store.commit(
        path,
        {
            WEIGHTS: encode_tensors(model.state_dict()),
            MASK: encode_masks(iteration.masks),
            METRICS: encode_table(pa.Table.from_pylist([metrics], METRICS_SCHEMA)),
            LAYERS: encode_table(pa.Table.from_pylist(layers, LAYER_SCHEMA)),
            EPOCHS: encode_table(pa.Table.from_pylist(iteration.progress.rows, EPOCH_SCHEMA)),
            SPARSITY: encode_table(_sparsity_table(sparsity, iteration.pruned_sparsity)),
        },
    )
    bench.store.remove(f"checkpoints/{lineage.keys[t]}")
    return metrics


def _metrics(
    lineage: Lineage,
    t: int,
    model: nn.Module,
    iteration: _Iteration,
    sparsity: Sparsity,
    bench: Bench,
) -> dict[str, Any]:
    kept = kept_counts(iteration.masks)
    total = sum(mask.numel() for mask in iteration.masks.values())
    pruned, pruned_sparsity = iteration.pruned, iteration.pruned_sparsity
    return {
        "key": lineage.keys[t],
        "iteration": t,
        "density": sum(kept.values()) / total,
        "density_target": None,
        "params_prunable": total,
        "params_kept": sum(kept.values()),
        **_final_measures(lineage.recipe, iteration.progress),
        "pruned_test_loss": pruned and pruned.loss,
        "pruned_test_accuracy": pruned and pruned.accuracy,
        "pq_index": sparsity.pq_index,
        "pq_index_pruned": pruned_sparsity and pruned_sparsity.pq_index,
        "gini": sparsity.gini,
        "gini_pruned": pruned_sparsity and pruned_sparsity.gini,
        "macs_dense": multiply_adds(model, bench.data.shape, None),
        "macs_kept": multiply_adds(model, bench.data.shape, kept),
        "train_seconds": iteration.progress.seconds,
        "prune_seconds": iteration.prune_seconds,
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


def _retire_weights(lineage: Lineage, t: int, bench: Bench) -> None:
    """Drop the weights that `keep_weights` does not keep, now that iteration `t` is committed.

    The trunk's are shared by other lineages, so it is not for one of them to drop them.
    """
    last = len(lineage.keys) - 1
    if bench.keep_weights != "all" and t >= 2:
        bench.store.drop_file(iteration_path(lineage.keys[t - 1]), WEIGHTS)
    if bench.keep_weights == "none" and t == last and t >= 1:
        bench.store.drop_file(iteration_path(lineage.keys[t]), WEIGHTS)


def _checkpoint(lineage: Lineage, t: int, bench: Bench) -> EpochCheckpoint | None:
    if bench.checkpoint_minutes is None:
        return None
    return EpochCheckpoint(bench.store, lineage.keys[t], bench.checkpoint_minutes)


def _prunable_tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in prunable(model).items()}


def _to(tensors: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def _peak_memory(device: torch.device) -> int:
    """Bytes: the device allocator's peak in this iteration, or the process's resident peak."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
