"""The arithmetic cost of one forward pass."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from trainables.models.prunable import prunable
from trainables.models.shape import Shape

aten = torch.ops.aten
PRODUCTS = {aten.mv: 0, aten.mm: 0, aten.bmm: 0, aten.addmv: 1, aten.addmm: 1, aten.baddbmm: 1}
"""The matrix products, and which of their arguments is the left factor; the right one is next."""


def multiply_adds(model: nn.Module, shape: Shape, kept: Mapping[str, int] | None = None) -> int:
    """Multiply-adds with the prunable weights for one image of `shape` (FLOPs are twice).

    `kept` gives the number of unpruned weights of each, by name; None counts every weight. Each
    weight of a convolution or matrix product is used once per output position, padding included,
    and as often as the network applies it; other uses, as by an embedding, cost nothing. Raises
    KeyError when `kept` lacks a weight.
    """
    dense = dense_multiply_adds(model, shape)
    return sum(dense.values()) if kept is None else kept_multiply_adds(model, dense, kept)


def kept_multiply_adds(model: nn.Module, dense: Mapping[str, int], kept: Mapping[str, int]) -> int:
    """Of the `dense` multiply-adds with each weight, those with the unpruned ones."""
    weights = prunable(model)
    return sum(dense[name] * kept[name] // weight.numel() for name, weight in weights.items())


def dense_multiply_adds(model: nn.Module, shape: Shape) -> dict[str, int]:
    """The multiply-adds with each weight for one image."""
    uses = _Uses(model)
    with evaluating(model), _plainly(), torch.no_grad(), uses:
        # On the model's own device and in its dtype: the model is not moved to be measured.
        model(next(model.parameters()).new_zeros((1, *shape)))
    return uses.multiply_adds


class _Uses(TorchDispatchMode):
    """Sees every operation of PyTorch's, wherever in a network it comes from.

    A weight is known by its memory, whether it is used as it is, transposed or in parts.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler, for a second, to keep it out

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        weights = prunable(model)
        self._names = {_memory(weight): name for name, weight in weights.items()}
        self.multiply_adds = dict.fromkeys(weights, 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output, operation = func(*args, **(kwargs or {})), func.overloadpacket
        if operation in PRODUCTS:
            left, right = args[PRODUCTS[operation] :][:2]
            count = left.numel() * (right.shape[-1] if right.ndim > 1 else 1)
            self._add(count, left)
            self._add(count, right)
        elif operation is aten.convolution:
            images, weight, transposed = args[0], args[1], args[6]
            at = images if transposed else output
            self._add(at.numel() // at.shape[1] * weight.numel(), weight)
        return output

    def _add(self, count: int, weight: Tensor) -> None:
        name = self._names.get(_memory(weight))
        if name is not None:
            self.multiply_adds[name] += count


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _plainly() -> Iterator[None]:
    """Without the fast paths of attention and recurrent layers: each is one operation, which shows
    nothing of what it does with its weights."""
    backends = torch.backends
    attention = backends.mha.get_fastpath_enabled()
    kernels: tuple[Any, ...] = (backends.mkldnn, backends.cudnn)
    enabled = [each.enabled for each in kernels]
    try:
        backends.mha.set_fastpath_enabled(False)
        for each in kernels:
            each.enabled = False
        yield
    finally:
        backends.mha.set_fastpath_enabled(attention)
        for each, before in zip(kernels, enabled, strict=True):
            each.enabled = before
