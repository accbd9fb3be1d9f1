"""The arithmetic cost of one forward pass."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from trainables.models.prunable import prunable
from trainables.models.shape import Shape

COUNTED = {F.linear, F.conv1d, F.conv2d, F.conv3d}


def multiply_adds(model: nn.Module, shape: Shape, kept: Mapping[str, int] | None = None) -> int:
    """Multiply-adds with the prunable weights for one image of `shape` (FLOPs are twice).

    `kept` gives the number of unpruned weights of each, by name; None counts every weight. Each
    weight of a convolution or matrix product is used once per output position, padding included,
    and as often as the network applies it; other uses, as by an embedding, cost nothing. Raises
    KeyError when `kept` lacks a weight.
    """
    positions = _positions(model, shape)
    return sum(
        positions[name] * (weight.numel() if kept is None else kept[name])
        for name, weight in prunable(model).items()
    )


def _positions(model: nn.Module, shape: Shape) -> dict[str, int]:
    """How often each weight is applied to one image."""
    uses = _Uses(model)
    # With gradients: without, attention takes a path of its own that shows nothing.
    with _evaluating(model), torch.enable_grad(), uses:
        # On the model's own device and in its dtype: the model is not moved to be measured.
        model(next(model.parameters()).new_zeros((1, *shape)))
    return uses.positions


class _Uses(TorchFunctionMode):
    """Sees every function call of PyTorch's, wherever in a network it is made."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._names = {id(weight): name for name, weight in prunable(model).items()}
        self.positions = dict.fromkeys(self._names.values(), 0)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in COUNTED:
            weight = args[1] if len(args) > 1 else (kwargs or {})["weight"]
            name = self._names.get(id(weight))
            if name is not None:
                self.positions[name] += output.numel() // weight.shape[0]
        return output


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
