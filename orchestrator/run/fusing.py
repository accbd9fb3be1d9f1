"""Which lineages are trained together as one computation, and how many."""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any, cast

from orchestrator.run.datasets import ResolvedDataset
from orchestrator.run.planning import Task
from orchestrator.run.ready import kind_of
from orchestrator.sweepfile.resources import Resources
from trainables.data import DatasetInfo
from trainables.lineage.keys import Cell
from trainables.models import blueprint

AUTO_WEIGHTS = {True: 2**26, False: 2**24}
"""`fuse: auto` on a GPU that no probe has measured, with and without convolutions: as many networks
as have together about as many weights…"""
AUTO_NETWORKS = {True: 8, False: 64}
"""… and no more, as on an H100 (docs/benchmarks.md): more are no faster there."""
AUTO_LARGEST = max(AUTO_NETWORKS.values())


def largest_bundles(
    tasks: Iterable[Task], datasets: Sequence[ResolvedDataset], resources: Resources, gpu: bool
) -> dict[Hashable, int]:
    """How many lineages of each kind may share a trial, on a GPU or not; kinds that are trained
    alone are not named."""
    if resources.fuse == "off" or (resources.fuse == "auto" and not gpu):
        return {}
    sizes: dict[Hashable, int] = {}
    for kind, cell, info in _kinds(tasks, datasets):
        if _why_alone(cell, info) is None:
            asked = resources.fuse
            sizes[kind] = _auto(cell.model, info) if asked == "auto" else int(asked)
    return sizes


def fusing_notices(
    tasks: Iterable[Task], datasets: Sequence[ResolvedDataset], resources: Resources
) -> Iterator[str]:
    """What the user should know of `fuse: K`."""
    tasks = list(tasks)
    if isinstance(resources.fuse, str) or resources.fuse == 1 or not tasks:
        return
    alone = {
        cell.method.name if cell.method.changes_masks else cell.model.name: reason
        for _, cell, info in _kinds(tasks, datasets)
        if (reason := _why_alone(cell, info)) is not None
    }
    for name, reason in alone.items():
        yield f"fuse: {name} is trained alone: {reason}"
    yield (
        f"fuse: {resources.fuse} trains up to {resources.fuse} lineages as one computation; their "
        "numbers agree with those of lineages trained alone within float rounding, and are "
        "bit-identical only for convolutional networks on a GPU (the column fused says which)"
    )


def _kinds(
    tasks: Iterable[Task], datasets: Sequence[ResolvedDataset]
) -> Iterator[tuple[Hashable, Cell, DatasetInfo]]:
    info = {found.config: found.info for found in datasets}
    cells = {kind_of(task): task.lineage.cell for task in tasks}
    for kind, cell in cells.items():
        yield kind, cell, info[cell.dataset]


def _why_alone(cell: Cell, info: DatasetInfo) -> str | None:
    if cell.method.changes_masks:
        return "it changes the masks of each network within the training"
    optimizer = cell.train.optimizer
    if not optimizer.elementwise:
        return f"a step of the optimizer {optimizer.name} may depend on the whole network"
    # Here, as they import torch, and a run with nothing to train does without.
    from trainables.training.losses import may_draw
    from trainables.training.networks import Unfusible, form_of

    if may_draw(cell.train.loss, info.classes):
        return f"the loss {cell.train.loss.name} may draw random numbers"
    try:
        form_of(cast(Any, cell.model), info.shape, info.classes)
    except Unfusible as error:
        return str(error)
    return None


def _auto(model: Any, info: DatasetInfo) -> int:
    from trainables.training.side_by_side import has_convolutions

    network = blueprint(model, info.shape, info.classes)
    weights = sum(each.numel() for each in network.parameters())
    wide = has_convolutions(network)
    return max(1, min(AUTO_NETWORKS[wide], AUTO_WEIGHTS[wide] // weights))
