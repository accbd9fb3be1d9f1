"""Sizes: how many bytes what a plan commits will take."""

from collections.abc import Sequence
from typing import Any

from orchestrator.errors import PlanError
from orchestrator.run.datasets import ResolvedDataset
from orchestrator.run.planning import Plan
from trainables.config import canonical_json
from trainables.data import DatasetInfo
from trainables.models import Model, blueprint, check_model, prunable

TABLE_BYTES = 64_000
"""About what the measures of one iteration take."""
MAX_WEIGHTS = 2**31
"""Of one model, whose training holds several copies of them."""


def commit_bytes(
    plan: Plan,
    datasets: Sequence[ResolvedDataset],
    keep_weights: str,
    models: Sequence[Model] = (),
) -> int:
    """About how many bytes the commits to come will hold; `models` are those of the sweep.

    Raises PlanError when a model cannot take a dataset's images, or is too large.
    """
    shapes = {canonical_json(found.identity): found.info for found in datasets}
    sizes: dict[tuple[str, Any], tuple[int, int]] = {}
    files: set[str] = set()
    total = 0
    counted: set[str] = set()
    trunks: set[str] = set()
    for task in plan.tasks:
        lineage = task.lineage
        about = canonical_json(lineage.dataset)
        model = lineage.cell.model
        if (about, model) not in sizes:
            field = ("model", models.index(model)) if model in models else ("model",)
            sizes[about, model] = _model_bytes(model, shapes[about], field)
        weights, mask = sizes[about, model]
        new = [key for key in lineage.keys if key in plan.to_train and key not in counted]
        counted.update(new)
        kept = len(new) if keep_weights == "all" else min(len(new), 2)
        # A trunk leaves w_init beside its own weights.
        snapshots = 1 if new and lineage.trunk not in trunks else 0
        trunks.add(lineage.trunk)
        if model.initial_weights not in (None, *files):
            snapshots += 1  # they are kept once more, as they are in the file
            files.add(model.initial_weights)
        total += (kept + snapshots) * weights + len(new) * (mask + TABLE_BYTES)
    return total + len(plan.to_measure) * TABLE_BYTES


def _model_bytes(config: Model, info: DatasetInfo, field: tuple[str | int, ...]) -> tuple[int, int]:
    """The bytes of a model's weights and of its mask."""
    try:
        model = blueprint(config, info.shape, info.classes)
        if config.plugin is not None:
            check_model(config, model, info.shape, info.classes)
    except ValueError as error:
        raise PlanError(str(error), field) from error
    count = sum(tensor.numel() for tensor in model.state_dict().values())
    if count > MAX_WEIGHTS:
        raise PlanError(
            f"{config.name} has {count:,} weights for {'x'.join(map(str, info.shape))} images, and "
            f"at most {MAX_WEIGHTS:,} are allowed; choose a smaller one",
            field,
        )
    weights = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    return weights, sum(w.numel() for w in prunable(model).values()) // 8
