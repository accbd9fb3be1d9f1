"""Effective weights: of the kept ones, those on a path of kept weights from an input to an output
(Vysogorets & Kempe, 2023). The others cannot change what the network computes from its inputs."""

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from trainables.models.prunable import prunable
from trainables.models.shape import Shape
from trainables.sparsity.masks import Masks
from trainables.sparsity.multiply_adds import evaluating

Operation = Callable[..., Any]

CONVOLUTIONS: set[Operation] = {torch.conv1d, torch.conv2d, torch.conv3d}
ONE_TO_ONE: set[Operation] = {
    F.batch_norm, F.dropout, F.dropout2d, torch.dropout, F.prelu, torch.prelu, F.leaky_relu,
    F.relu, torch.relu, torch.relu_, torch.Tensor.relu, F.relu6, F.hardtanh, F.elu, F.celu, F.selu,
    F.gelu, F.silu, F.mish, F.hardswish, F.hardsigmoid, F.softplus, torch.tanh, torch.Tensor.tanh,
    torch.sigmoid, torch.Tensor.sigmoid,
}  # fmt: skip
"""Each unit of the output has the one unit of the input."""
SUMS: set[Operation] = {torch.add, torch.Tensor.add, torch.Tensor.add_}
MAXIMA: set[Operation] = {
    F.max_pool1d, F.max_pool2d, F.max_pool3d, torch.max_pool1d, torch.max_pool2d, torch.max_pool3d,
    F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d,
}  # fmt: skip
LINEAR: set[Operation] = {
    F.avg_pool1d, F.avg_pool2d, F.avg_pool3d, F.adaptive_avg_pool1d, F.adaptive_avg_pool2d,
    F.adaptive_avg_pool3d, torch.cat, torch.mean, torch.Tensor.mean, torch.sum, torch.Tensor.sum,
    torch.flatten, torch.Tensor.flatten, torch.unflatten, torch.Tensor.unflatten, torch.reshape,
    torch.Tensor.reshape, torch.Tensor.view, torch.Tensor.contiguous, torch.squeeze,
    torch.Tensor.squeeze, torch.unsqueeze, torch.Tensor.unsqueeze, torch.permute,
    torch.Tensor.permute, torch.transpose, torch.Tensor.transpose, torch.Tensor.__getitem__,
}  # fmt: skip
"""What comes out is positive where something that goes in is, and the same for gradients."""
QUESTIONS: set[Operation] = {
    torch.Tensor.size, torch.Tensor.dim, torch.Tensor.numel,
    *(getattr(torch.Tensor, name).__get__ for name in ("shape", "ndim", "dtype", "device")),
}  # fmt: skip
"""What gives no tensor."""


def effective_masks(model: nn.Module, masks: Masks, shape: Shape) -> Masks | None:
    """Of `masks`, the weights on a path of kept ones from an image of `shape` to an output.

    A channel of a convolution is one unit, whatever its size: a weight is on a path where the
    channels are that it connects. Biases are no inputs, nor is what BatchNorm adds; weights that
    are not prunable are kept. None when `model`, which stays as it is, does something of which it
    is not known what it connects, such as a product of two activations, or prunes what connects
    nothing, such as biases.
    """
    if any(mask.ndim < 2 for mask in masks.values()):
        return None
    paths, device = _Paths(model, masks), next(iter(masks.values())).device
    image = torch.ones(1, *shape, device=device)
    try:
        with evaluating(model), torch.enable_grad(), paths:
            outputs = model(image)
        slopes = torch.autograd.grad(outputs.sum(), [*paths.kept.values()], allow_unused=True)
    except Exception:  # _Unknown, or whatever a network of a user's makes of what is no image
        return None
    return {
        name: mask & _on_path(slope, mask)
        for (name, mask), slope in zip(masks.items(), slopes, strict=True)
    }


def _on_path(slope: Tensor | None, mask: Tensor) -> Tensor:
    if slope is None:  # the network does not use it
        return torch.zeros_like(mask)
    return (slope > 0).reshape(*slope.shape, *(1 for _ in mask.shape[2:]))


class _Unknown(Exception):
    """Not known is what this connects."""


class _Paths(TorchFunctionMode):
    """Computes what can be reached instead of what a network computes: from an image of ones, each
    unit that a path leads to is positive, and the others are 0. Gradients lead back.

    `kept` has for each prunable weight by name, by output and input unit, whether they are
    connected, as numbers.
    """

    def __init__(self, model: nn.Module, masks: Masks) -> None:
        super().__init__()
        weights = prunable(model)
        self.kept = {
            name: _connected(mask).to(torch.float32).requires_grad_()
            for name, mask in masks.items()
        }
        self._kept = {id(weights[name]): kept for name, kept in self.kept.items()}
        # By what they are: the network may have them under several names.
        self._own = {id(each): each for each in chain(model.parameters(), model.buffers())}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in QUESTIONS:
            return func(*args, **kwargs)
        first = args[0] if args else kwargs.get("input")
        if func in ONE_TO_ONE:
            return first.clone()  # which may be added to in place
        if func is F.linear:
            return self._linear(*args, **kwargs)
        if func in CONVOLUTIONS:
            return self._convolution(func, *args, **kwargs)
        if any(id(each) in self._own for each in _tensors((args, kwargs))):
            raise _Unknown(func)
        if func in SUMS and not kwargs and all(isinstance(each, Tensor) for each in args):
            return func(*args)
        if func in LINEAR or (func in MAXIMA and _is_even(first)):
            return func(*args, **kwargs)
        raise _Unknown(func)

    def _convolution(
        self,
        func: Operation,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        if input.ndim != weight.ndim:
            raise _Unknown("images without a batch")
        kernel = torch.ones(1, 1, *weight.shape[2:], device=input.device)
        size = func(input[:, :1].detach(), kernel, None, stride, padding, dilation).shape[2:]
        channels = input.flatten(2).mean(2, keepdim=True)
        reached = F.conv1d(channels, self._between(weight).unsqueeze(2), groups=groups)
        each = _Reached.apply(reached).reshape(1, -1, *(1 for _ in size))
        return each.expand(-1, -1, *size).contiguous()

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return _Reached.apply(F.linear(input, self._between(weight)))

    def _between(self, weight: Tensor) -> Tensor:
        """Which units a weight of a layer connects."""
        if id(weight) in self._kept:
            return self._kept[id(weight)]
        if id(weight) in self._own:
            return torch.ones(weight.shape[:2], device=next(iter(self.kept.values())).device)
        raise _Unknown("a weight that is computed")


class _Reached(torch.autograd.Function):
    """1 where anything arrives, and for gradients too, so that no number of paths is too large."""

    @staticmethod
    def forward(ctx: Any, arriving: Tensor) -> Tensor:
        return (arriving > 0).to(arriving.dtype)

    @staticmethod
    def backward(ctx: Any, *leaving: Tensor) -> Tensor:
        return (leaving[0] > 0).to(leaving[0].dtype)


def _connected(mask: Tensor) -> Tensor:
    """Whether a kernel has anything left, by output and input unit."""
    return mask.reshape(*mask.shape[:2], -1).any(-1)


def _is_even(images: Tensor) -> bool:
    """Whether all places of a channel are alike: of others, only the largest has a gradient."""
    places = images.flatten(2)
    return torch.equal(places, places[..., :1].expand_as(places))


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, dict):
        yield from _tensors([*values.values()])
    elif isinstance(values, list | tuple):
        for each in values:
            yield from _tensors(each)
