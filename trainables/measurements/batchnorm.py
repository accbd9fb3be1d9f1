"""BatchNorm: its statistics, of a network whose weights nobody has trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainables.lazy_torch import nn, torch
from trainables.training.batches import steps_per_epoch
from trainables.training.precision import arithmetic, logits_in

if TYPE_CHECKING:
    from trainables.training.batches import Examples
    from trainables.training.recipe import Recipe


def batchnorms(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """The layers that keep statistics."""
    kind = torch.nn.modules.batchnorm._BatchNorm
    return [
        each for each in model.modules() if isinstance(each, kind) and each.running_mean is not None
    ]


def recompute(model: nn.Module, examples: Examples, recipe: Recipe) -> None:
    """Give the layers of `model` the mean of the statistics of batches of `examples`, as they are,
    in the recipe's batch size; all other layers are in eval mode.

    The batches are drawn once, the same for all networks: datasets may lie class by class, and the
    statistics of a single class are not those of a batch in training.
    """
    layers = batchnorms(model)
    momenta = [layer.momentum for layer in layers]
    model.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # torch's word for the mean of all batches
        layer.train()
    size = recipe.batch_size
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(0))
    order = order.to(examples.labels.device)
    with torch.no_grad(), arithmetic(recipe.precision):
        for step in range(steps_per_epoch(len(examples), size)):
            images = examples.images[order[step * size : (step + 1) * size]]
            logits_in(recipe.precision, model, examples.normalized(images))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    model.eval()
