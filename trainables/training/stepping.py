"""Which steps networks take, by the means that fit them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from trainables.lazy_torch import Tensor, nn
from trainables.models import Model
from trainables.sparsity.masks import Masks
from trainables.training.batches import DeviceData
from trainables.training.execution import Execution
from trainables.training.graphs import Graphed, Take, are_captured
from trainables.training.networks import One, Stack, form_of
from trainables.training.progress import OptimizerState
from trainables.training.recipe import Recipe
from trainables.training.side_by_side import SideBySide, has_convolutions
from trainables.training.steps import Steps


def stepping(
    models: Sequence[nn.Module],
    masks: Sequence[Masks | None],
    states: Sequence[OptimizerState],
    architecture: Model | None,
    recipe: Recipe,
    data: DeviceData,
    made: Callable[..., tuple[Tensor, ...]],
    execution: Execution,
) -> tuple[Steps | SideBySide, Take]:
    """What takes the steps of one network, or of several of one `architecture` at once, and the
    function that takes one, from a graph or not; see `Steps` for what is given.

    Raises Unfusible when several cannot be one computation.
    """
    captured = are_captured(execution.graphs, architecture, recipe, data.train.labels.device)

    def side_by_side() -> SideBySide:
        each = zip(models, masks, states, strict=True)
        return SideBySide([Steps(One(m), recipe, [mask], [s], made) for m, mask, s in each])

    def together() -> Steps:
        if len(models) == 1:
            network: Any = One(models[0])
        else:
            network = Stack(models, form_of(cast(Any, architecture), data.shape, data.classes))
        return Steps(network, recipe, masks, states, made, execution.compile)

    beside = captured and len(models) > 1 and not execution.compile and has_convolutions(models[0])
    steps = side_by_side() if beside else together()
    if not captured:
        return steps, steps.take
    steps.make_capturable()
    return steps, Graphed(steps.take)
