"""A lineage: one network trained, pruned, rewound and retrained, iteration by iteration.

This is Algorithm 1 of the papers, against a store: every iteration reads its parent's commit and
writes its own. It needs no cluster and runs in a plain Python process.
"""

import resource
import socket
import time
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
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
from trainables.batches import DeviceData, Inputs, Randomness
from trainables.checkpoint import EpochCheckpoint
from trainables.config import canonical
from trainables.identity import canonical_json, next_key, snapshot_key, trunk_key
from trainables.masks import Masks, apply_masks, dense_masks, kept_counts
from trainables.measure import Sparsity, kept_magnitude, measure_sparsity
from trainables.models import ModelConfig, build_model, multiply_adds, prunable
from trainables.pruning import (
    METHODS,
    MethodConfig,
    Pruning,
    Step,
    lineage_steps,
    prune,
    prune_at_init,
    rewind_step,
)
from trainables.pruning.configs import IterativePruning, PruningAtInit
from trainables.randomness import stream
from trainables.recipe import Recipe
from trainables.store import Damaged, Store, iteration_path, snapshot_path
from trainables.training import Evaluation, Progress, State, evaluate, train

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


@dataclass(frozen=True)
class Lineage:
    """One cell of a sweep's grid: its steps, and the key of each.

    `dataset` is the dataset's identity as JSON values; where its files lie is no part of it.
    `trunk` is key_0 of dense training on real data, whose snapshots the final weights start from.
    """

    id: str
    dataset: dict[str, Any]
    model: ModelConfig
    recipe: Recipe
    pruning: Pruning
    method: MethodConfig
    seed: int
    trunk: str
    steps: tuple[Step, ...]
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


def lineage_keys(trunk: str, steps: Sequence[Step]) -> tuple[str, ...]:
    """The key of each step, from key_0 of dense training on real data."""
    keys: list[str] = []
    for step in steps:
        if step.kind == "train":
            keys.append(trunk if step.inputs == "real" else random_trunk_key(trunk))
        else:
            keys.append(next_key(keys[-1] if keys else trunk, step.identity))
    return tuple(keys)


def random_trunk_key(trunk: str) -> str:
    """key_0 of the same training on random inputs and labels."""
    return next_key(trunk, canonical_json({"inputs": "random"}))


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
    steps = lineage_steps(method, pruning)
    return Lineage(
        lineage_id(method, pruning, seed, trunk),
        dataset, model, recipe, pruning, method, seed, trunk, steps, lineage_keys(trunk, steps),
    )  # fmt: skip


def lineage_id(method: MethodConfig, pruning: Pruning, seed: int, trunk: str) -> str:
    """A readable name that stays the same when the lineage is made longer."""
    pruned = {name: value for name, value in canonical(pruning).items() if name != "iterations"}
    digest = next_key(trunk, canonical_json({"method": canonical(method), "prune": pruned}))
    return f"{method.name}-{pruning.scope}-s{seed}-{digest[:10]}"


@dataclass(frozen=True)
class Bench:
    """What a lineage works with: the store, the data on its device, and what is outside identity.

    `snapshots` are, by trunk key, the training steps k whose weights w_k the trunk leaves behind
    for rewinding. `branch_points` are the keys that other lineages go on from as well, whose
    weights are not for one of them to drop.
    """

    store: Store
    data: DeviceData
    device: torch.device
    snapshots: Mapping[str, frozenset[int]] = field(default_factory=dict)
    branch_points: frozenset[str] = frozenset()
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
            index = missing[0]
            metrics = run_iteration(lineage, index, bench)
            _retire_weights(lineage, index, bench)
        except Damaged as damage:
            bench.store.set_aside(damage.path)
            continue
        yield metrics


def missing_iterations(
    keys: Sequence[str], files_of: Callable[[str], Collection[str] | None]
) -> list[int]:
    """The indexes of the keys that have to be trained, in order.

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


def run_iteration(lineage: Lineage, index: int, bench: Bench) -> dict[str, Any]:
    """Train, measure and commit the step at `index`, whose parent is committed; its metrics."""
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(bench.device)
    step = lineage.steps[index]
    model = _initial_model(lineage, bench)
    initial = {name: weight.clone() for name, weight in _prunable_tensors(model).items()}
    if step.kind == "train":
        iteration = _train_trunk(lineage, step, model, bench)
    else:
        prepare = {"prune": _prune, "prune_at_init": _prune_at_init, "retrain": _take_parent_masks}
        iteration = prepare[step.kind](lineage, index, model, bench)
        iteration.progress = train(
            model,
            iteration.masks,
            bench.data,
            lineage.recipe,
            Randomness(lineage.seed, step.iteration),
            inputs=step.inputs,
            start_step=rewind_step(lineage.method),
            checkpoint=_checkpoint(lineage, index, bench),
        )
    return _commit(lineage, index, model, initial, iteration, bench)


def _initial_model(lineage: Lineage, bench: Bench) -> nn.Module:
    model = build_model(lineage.model, bench.data.shape, bench.data.classes, lineage.seed)
    return model.to(bench.device)


def _train_trunk(lineage: Lineage, step: Step, model: nn.Module, bench: Bench) -> _Iteration:
    trunk = lineage.keys[0]
    wanted = bench.snapshots.get(trunk, frozenset()) | {0}

    def snapshot(at: int) -> None:
        if at in wanted:
            _commit_snapshot(trunk, at, model.state_dict(), bench.store)

    progress = train(
        model,
        None,
        bench.data,
        lineage.recipe,
        Randomness(lineage.seed, 0),
        inputs=step.inputs,
        snapshot=snapshot,
        checkpoint=_checkpoint(lineage, 0, bench),
    )
    return _Iteration(dense_masks(_prunable_tensors(model)), progress=progress)


def _prune(lineage: Lineage, index: int, model: nn.Module, bench: Bench) -> _Iteration:
    """Leave `model` as m_t ⊙ the rewound weights, having measured the pruned model on the way."""
    started = time.perf_counter()
    step = lineage.steps[index]
    parent = decode_tensors(bench.store.read(iteration_path(lineage.keys[index - 1]), WEIGHTS))
    scored = parent
    if METHODS[lineage.method.name].scored == "dense" and index > 1:
        scored = decode_tensors(bench.store.read(iteration_path(lineage.keys[0]), WEIGHTS))
    model.load_state_dict(scored)
    assert isinstance(lineage.method, IterativePruning)
    masks = prune(
        lineage.method,
        lineage.pruning.scope,
        model,
        _parent_masks(lineage, index, bench),
        step.density,
        stream(lineage.seed, "selection", step.iteration),
    )
    iteration = _measured_pruned(model, masks, bench)
    rewound = _rewound_state(lineage, lineage.keys[0], lineage.steps[0].inputs, bench)
    if not lineage.pruning.rewind_batchnorm:
        rewound |= {name: parent[name] for name, _ in model.named_buffers()}
    model.load_state_dict(rewound)
    iteration.prune_seconds = time.perf_counter() - started
    return iteration


def _prune_at_init(lineage: Lineage, index: int, model: nn.Module, bench: Bench) -> _Iteration:
    """Leave `model`, which has its initial weights, as it is and find its masks."""
    started = time.perf_counter()
    _commit_snapshot(lineage.trunk, 0, model.state_dict(), bench.store)
    assert isinstance(lineage.method, PruningAtInit)
    masks = prune_at_init(lineage.method, model, bench.data, lineage.seed)
    iteration = _measured_pruned(model, masks, bench)
    iteration.prune_seconds = time.perf_counter() - started
    return iteration


def _take_parent_masks(lineage: Lineage, index: int, model: nn.Module, bench: Bench) -> _Iteration:
    """Leave `model` with the weights of the trunk on real data, and take the parent's masks."""
    started = time.perf_counter()
    masks = _parent_masks(lineage, index, bench)
    model.load_state_dict(_rewound_state(lineage, lineage.trunk, "real", bench))
    iteration = _measured_pruned(model, masks, bench)
    model.load_state_dict(_rewound_state(lineage, lineage.trunk, "real", bench))
    iteration.prune_seconds = time.perf_counter() - started
    return iteration


def _parent_masks(lineage: Lineage, index: int, bench: Bench) -> Masks:
    parent = bench.store.read(iteration_path(lineage.keys[index - 1]), MASK)
    return {name: mask.to(bench.device) for name, mask in decode_masks(parent).items()}


def _measured_pruned(model: nn.Module, masks: Masks, bench: Bench) -> _Iteration:
    apply_masks(model, masks)
    return _Iteration(
        masks=masks,
        pruned=evaluate(model, bench.data.test),
        pruned_sparsity=measure_sparsity(_prunable_tensors(model), masks),
    )


def _rewound_state(lineage: Lineage, trunk: str, inputs: Inputs, bench: Bench) -> State:
    """w_k of a trunk: from its snapshot, or trained again for k steps when there is none."""
    step = rewind_step(lineage.method)
    path = snapshot_path(snapshot_key(trunk, step))
    if bench.store.is_committed(path):
        return decode_tensors(bench.store.read(path, WEIGHTS))
    model = _initial_model(lineage, bench)
    if step > 0:
        _train_until(model, step, lineage, inputs, bench)
    _commit_snapshot(trunk, step, model.state_dict(), bench.store)
    return model.state_dict()


class _Reached(Exception):
    """Leaves a training run at the step it was wanted for."""


def _train_until(
    model: nn.Module, step: int, lineage: Lineage, inputs: Inputs, bench: Bench
) -> None:
    def stop(at: int) -> None:
        if at == step:
            raise _Reached

    try:
        randomness = Randomness(lineage.seed, 0)
        train(model, None, bench.data, lineage.recipe, randomness, inputs=inputs, snapshot=stop)
    except _Reached:
        return


def _commit_snapshot(trunk: str, step: int, state: State, store: Store) -> None:
    path = snapshot_path(snapshot_key(trunk, step))
    if not store.is_committed(path):
        store.commit(path, {WEIGHTS: encode_tensors(state)})


def _commit(
    lineage: Lineage,
    index: int,
    model: nn.Module,
    initial: dict[str, Tensor],
    iteration: _Iteration,
    bench: Bench,
) -> dict[str, Any]:
    sparsity = measure_sparsity(_prunable_tensors(model), iteration.masks)
    metrics = _metrics(lineage, index, model, iteration, sparsity, bench)
    layers = [
        vars(layer) | vars(kept_magnitude(initial[layer.layer], iteration.masks[layer.layer]))
        for layer in sparsity.layers
    ]
    path = iteration_path(lineage.keys[index])
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
    bench.store.remove(f"checkpoints/{lineage.keys[index]}")
    return metrics


def _metrics(
    lineage: Lineage,
    index: int,
    model: nn.Module,
    iteration: _Iteration,
    sparsity: Sparsity,
    bench: Bench,
) -> dict[str, Any]:
    kept = kept_counts(iteration.masks)
    total = sum(mask.numel() for mask in iteration.masks.values())
    pruned, pruned_sparsity = iteration.pruned, iteration.pruned_sparsity
    return {
        "key": lineage.keys[index],
        "iteration": lineage.steps[index].iteration,
        "density": sum(kept.values()) / total,
        "density_target": lineage.steps[index].density,
        "params_prunable": total,
        "params_kept": sum(kept.values()),
        "collapsed_layers": ", ".join(name for name in kept if kept[name] == 0) or None,
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


def _retire_weights(lineage: Lineage, index: int, bench: Bench) -> None:
    """Drop the weights that `keep_weights` does not keep, now that the step is committed."""
    if bench.keep_weights == "all":
        return
    done = [index - 1] if index >= 1 else []
    if bench.keep_weights == "none" and index == len(lineage.keys) - 1:
        done.append(index)
    for key in (lineage.keys[i] for i in done):
        if key not in bench.branch_points and key != lineage.trunk:
            bench.store.drop_file(iteration_path(key), WEIGHTS)


def _checkpoint(lineage: Lineage, index: int, bench: Bench) -> EpochCheckpoint | None:
    if bench.checkpoint_minutes is None:
        return None
    return EpochCheckpoint(bench.store, lineage.keys[index], bench.checkpoint_minutes)


def _prunable_tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in prunable(model).items()}


def _peak_memory(device: torch.device) -> int:
    """Bytes: the device allocator's peak in this iteration, or the process's resident peak."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
