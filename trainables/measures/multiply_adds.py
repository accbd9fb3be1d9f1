"""The arithmetic cost of one forward pass."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from trainables.models.prunable import prunable_modules
from trainables.models.shape import Shape


def multiply_adds(model: nn.Module, shape: Shape, kept: Mapping[str, int] | None = None) -> int:
    """Multiply-adds of the Conv2d and Linear layers for one image of `shape` (FLOPs are twice).

    `kept` gives the number of unpruned weights of each prunable layer, by the name of the weight;
    None counts every weight. Each weight is used once per output position, padding included.
    Raises KeyError when `kept` lacks a layer.
    """
    positions = _positions(model, shape)
    weights = {
        name: module.weight.numel() if kept is None else kept[name]
        for name, module in prunable_modules(model).items()
    }
    return sum(positions[name] * count for name, count in weights.items())


def _positions(model: nn.Module, shape: Shape) -> dict[str, int]:
    """How often each layer applies each of its weights to one image."""
    modules = prunable_modules(model)
    positions = dict.fromkeys(modules, 0)

    def count(name: str, _module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        positions[name] += output.numel() // modules[name].weight.shape[0]

    hooks = [module.register_forward_hook(partial(count, name)) for name, module in modules.items()]
    try:
        with _evaluating(model), torch.no_grad():
            # On the model's own device and in its dtype: the model is not moved to be measured.
            model(next(model.parameters()).new_zeros((1, *shape)))
    finally:
        for hook in hooks:
            hook.remove()
    return positions


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
