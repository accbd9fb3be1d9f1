"""A lineage: one network trained, pruned, rewound and retrained, iteration by iteration.

This is Algorithm 1 of the papers, against a store: every iteration reads its parent's commit and
writes its own. It needs no cluster and runs in a plain Python process.
"""

import time
from collections.abc import Callable, Collection, Generator
from typing import Any

import torch
from torch import nn

from trainables.lineage.bench import Bench
from trainables.lineage.commits import Made, commit_iteration, prunable_tensors
from trainables.lineage.identity import snapshot_key
from trainables.lineage.keys import Lineage
from trainables.measures.masks import Masks, apply_masks, dense_masks
from trainables.measures.weights import measure_sparsity
from trainables.models import build_model
from trainables.pruning import METHODS, Step, prune, prune_at_init, rewind_step
from trainables.pruning.configs import IterativePruning, PruningAtInit
from trainables.store import Damaged, Store, iteration_path, snapshot_path
from trainables.store.artifacts import WEIGHTS, encode_tensors, read_masks, read_tensors
from trainables.store.claims import Claim, ClaimLost, Claims
from trainables.training.batches import Inputs, Randomness
from trainables.training.checkpoint import EpochCheckpoint
from trainables.training.randomness import stream
from trainables.training.run import State, evaluate, train


def run_lineage(lineage: Lineage, bench: Bench) -> Generator[dict[str, Any] | None]:
    """Train and commit what the store lacks of `lineage`, yielding each new iteration's metrics.

    Yields None every second or so while someone else trains the iteration that comes next. A
    damaged commit that is needed is set aside and trained again. Raises Diverged when training
    does; what was committed before stays.
    """
    claims = Claims(bench.store, bench.run, lineage.id, bench.attempt)
    looked_at: set[str] = set()
    while True:
        try:
            index = _first_missing(lineage, bench.store)
            if index is None:
                return
            claim = claims.take(lineage.keys[index])
            metrics = _run_claimed(lineage, index, bench, claim) if claim else None
        except Damaged as damage:
            if damage.path in looked_at:
                raise
            looked_at.add(damage.path)
            set_aside_damaged(damage.path, claims)
            continue
        if claim is None:
            claims.pause()
            yield None
        elif metrics is not None:
            _retire_weights(lineage, index, bench)
            looked_at.clear()
            yield metrics


def _first_missing(lineage: Lineage, store: Store) -> int | None:
    return next(iter(missing_iterations(lineage, stored_files(store))), None)


def _run_claimed(lineage: Lineage, index: int, bench: Bench, claim: Claim) -> dict[str, Any] | None:
    """The metrics of the iteration; None when someone else has committed it or taken it over."""
    with claim:
        # It may have been committed while the claim was asked for.
        if _first_missing(lineage, bench.store) != index:
            return None
        try:
            return run_iteration(lineage, index, bench, claim)
        except ClaimLost:
            return None


def set_aside_damaged(path: str, claims: Claims) -> Damaged | None:
    """Move a commit to quarantine if it is damaged; what was wrong with it.

    None when it is sound, or when someone else is at it.
    """
    claim = claims.take(path.rpartition("/")[2])
    if claim is None:
        return None
    with claim:
        damage = next(claims.store.damage(path), None)
        if damage is not None:
            claims.store.set_aside(path)
        return damage


def missing_iterations(
    lineage: Lineage, files_of: Callable[[str], Collection[str] | None]
) -> list[int]:
    """The indexes of the lineage's steps that have to be trained, in order.

    `files_of(key)` are the files of an iteration's commit, None without one. An iteration whose
    weights were not kept is complete in itself, but is trained again when a missing one reads them.
    """
    missing: list[int] = []
    read: set[int] = set()
    for t in reversed(range(len(lineage.keys))):
        files = files_of(lineage.keys[t])
        if files is None or (t in read and WEIGHTS not in files):
            missing.append(t)
            read |= _weights_read(lineage, t)
    return missing[::-1]


def _weights_read(lineage: Lineage, index: int) -> set[int]:
    """The indexes of the steps whose final weights the step at `index` reads."""
    if lineage.steps[index].kind != "prune":
        return set()
    return {index - 1, 0} if _scores_dense(lineage) else {index - 1}


def _scores_dense(lineage: Lineage) -> bool:
    return METHODS[lineage.method.name].scored == "dense"


def stored_files(store: Store) -> Callable[[str], Collection[str] | None]:
    """`files_of` for `missing_iterations`, looking each iteration up in the store."""

    def files_of(key: str) -> Collection[str] | None:
        path = iteration_path(key)
        return store.manifest(path)["files"] if store.is_committed(path) else None

    return files_of


def run_iteration(
    lineage: Lineage, index: int, bench: Bench, claim: Claim | None = None
) -> dict[str, Any]:
    """Train, measure and commit the step at `index`, whose parent is committed; its metrics.

    Raises ClaimLost, and commits nothing, when `claim` was taken over meanwhile.
    """
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(bench.device)
    step = lineage.steps[index]
    model = _initial_model(lineage, bench)
    initial = {name: weight.clone() for name, weight in prunable_tensors(model).items()}
    if step.kind == "train":
        made = _train_trunk(lineage, step, model, bench)
    else:
        prepare = {"prune": _prune, "prune_at_init": _prune_at_init, "retrain": _take_parent_masks}
        made = prepare[step.kind](lineage, index, model, bench)
        made.progress = train(
            model,
            made.masks,
            bench.data,
            lineage.recipe,
            Randomness(lineage.seed, step.iteration),
            inputs=step.inputs,
            start_step=rewind_step(lineage.method),
            checkpoint=_checkpoint(lineage, index, bench),
        )
    return commit_iteration(lineage, index, model, initial, made, bench, claim)


def _initial_model(lineage: Lineage, bench: Bench) -> nn.Module:
    model = build_model(lineage.model, bench.data.shape, bench.data.classes, lineage.seed)
    return model.to(bench.device)


def _train_trunk(lineage: Lineage, step: Step, model: nn.Module, bench: Bench) -> Made:
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
    return Made(dense_masks(prunable_tensors(model)), progress=progress)


def _prune(lineage: Lineage, index: int, model: nn.Module, bench: Bench) -> Made:
    """Leave `model` as m_t ⊙ the rewound weights, having measured the pruned model on the way."""
    started = time.perf_counter()
    step = lineage.steps[index]
    parent = read_tensors(bench.store, iteration_path(lineage.keys[index - 1]))
    scored = parent
    if _scores_dense(lineage) and index > 1:
        scored = read_tensors(bench.store, iteration_path(lineage.keys[0]))
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
    made = _measured_pruned(model, masks, bench)
    rewound = _rewound_state(lineage, lineage.keys[0], lineage.steps[0].inputs, bench)
    if not lineage.pruning.rewind_batchnorm:
        rewound |= {name: parent[name] for name, _ in model.named_buffers()}
    model.load_state_dict(rewound)
    made.prune_seconds = time.perf_counter() - started
    return made


def _prune_at_init(lineage: Lineage, index: int, model: nn.Module, bench: Bench) -> Made:
    """Leave `model`, which has its initial weights, as it is and find its masks."""
    started = time.perf_counter()
    _commit_snapshot(lineage.trunk, 0, model.state_dict(), bench.store)
    assert isinstance(lineage.method, PruningAtInit)
    masks = prune_at_init(lineage.method, model, bench.data, lineage.seed)
    made = _measured_pruned(model, masks, bench)
    made.prune_seconds = time.perf_counter() - started
    return made


def _take_parent_masks(lineage: Lineage, index: int, model: nn.Module, bench: Bench) -> Made:
    """Leave `model` with the weights of the trunk on real data, and take the parent's masks."""
    started = time.perf_counter()
    masks = _parent_masks(lineage, index, bench)
    model.load_state_dict(_rewound_state(lineage, lineage.trunk, "real", bench))
    made = _measured_pruned(model, masks, bench)
    made.prune_seconds = time.perf_counter() - started
    return made


def _parent_masks(lineage: Lineage, index: int, bench: Bench) -> Masks:
    parent = read_masks(bench.store, iteration_path(lineage.keys[index - 1]))
    return {name: mask.to(bench.device) for name, mask in parent.items()}


def _measured_pruned(model: nn.Module, masks: Masks, bench: Bench) -> Made:
    apply_masks(model, masks)
    return Made(
        masks=masks,
        pruned=evaluate(model, bench.data.test),
        pruned_sparsity=measure_sparsity(prunable_tensors(model), masks),
    )


def _rewound_state(lineage: Lineage, trunk: str, inputs: Inputs, bench: Bench) -> State:
    """w_k of a trunk: from its snapshot, or trained again for k steps when there is none."""
    step = rewind_step(lineage.method)
    path = snapshot_path(snapshot_key(trunk, step))
    if bench.store.is_committed(path):
        return read_tensors(bench.store, path)
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


def _retire_weights(lineage: Lineage, index: int, bench: Bench) -> None:
    """Drop the weights that `keep_weights` does not keep, now that the step is committed."""
    if bench.keep_weights == "all":
        return
    done = [index - 1] if index >= 1 else []
    if bench.keep_weights == "none" and index == len(lineage.keys) - 1:
        done.append(index)
    for key in (lineage.keys[i] for i in done):
        if key in bench.branch_points or key == lineage.trunk:
            continue
        try:
            bench.store.drop_file(iteration_path(key), WEIGHTS)
        except Damaged as damage:
            bench.store.set_aside(damage.path)


def _checkpoint(lineage: Lineage, index: int, bench: Bench) -> EpochCheckpoint | None:
    if bench.checkpoint_minutes is None:
        return None
    return EpochCheckpoint(bench.store, lineage.keys[index], bench.checkpoint_minutes)
