"""Commits: what an iteration leaves in the store, and the schemas of its tables."""

from collections.abc import Mapping

import pyarrow as pa
from torch import Tensor, nn

from trainables.lineage.iteration import Iteration
from trainables.lineage.made import Made
from trainables.lineage.metrics import METRICS_SCHEMA, Measured, Metrics, metrics_of
from trainables.lineage.schemas import EPOCH_SCHEMA, LAYER_SCHEMA, SCORE_SCHEMA
from trainables.models import prunable
from trainables.pruning.score_sample import ScoreSample
from trainables.sparsity.masks import Masks
from trainables.sparsity.weights import Sparsity, kept_magnitude, measure_sparsity
from trainables.store import iteration_path
from trainables.store.artifacts import (
    EPOCHS,
    LAYERS,
    MASK,
    METRICS,
    SCORES,
    SPARSITY,
    WEIGHTS,
    encode_masks,
    encode_table,
    encode_tensors,
)
from trainables.store.claims import Claim


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
    metrics = metrics_of(Measured(iteration, model, made, sparsity))
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
    if made.scores is not None and made.scores.scores is not None:
        files[SCORES] = encode_table(_score_table(made.scores, made.masks))
    store, path = iteration.bench.store, iteration_path(iteration.key)
    if claim is not None:
        claim.require()
    committed = store.commit(path, files)
    if not committed and WEIGHTS not in store.manifest(path)["files"]:
        # They were not kept and are needed after all. A commit that has them is another run's.
        store.replace(path, files)
    if claim is not None:
        claim.is_spent = True
    if iteration.bench.keeping.checkpoint_minutes is not None or store.local_root is not None:
        store.remove(f"checkpoints/{iteration.key}")
    return metrics


def _sparsity_table(retrained: Sparsity, pruned: Sparsity | None) -> pa.Table:
    states = [("retrained", retrained.grid)] + ([("pruned", pruned.grid)] if pruned else [])
    return pa.concat_tables(
        grid.add_column(0, "state", pa.array([state] * len(grid), pa.string()))
        for state, grid in states
    )


def _score_table(sample: ScoreSample, masks: Masks) -> pa.Table:
    columns = {
        "layer": [name for name, index in sample.index.items() for _ in index],
        "index": [place for index in sample.index.values() for place in index.tolist()],
        "score": sample.scores,
        "kept": sample.of(masks),
        "kept_by_threshold": sample.highest,
    }
    arrays = [each.numpy() if isinstance(each, Tensor) else each for each in columns.values()]
    return pa.table(dict(zip(columns, arrays, strict=True)), SCORE_SCHEMA)


def prunable_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The prunable weights, out of reach of gradients."""
    return {name: parameter.detach() for name, parameter in prunable(model).items()}
