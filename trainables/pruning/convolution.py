"""Convolutions in float64 on the CPU, to be differentiated twice.

What torch has for them takes each example alone and, in the second derivative, multiplies matrices
of few columns. The inner product of a slope with a convolution is linear in slope, input and
weight: its derivative by any of them is one of three functions of the other two, which are enough
for derivatives of every order. Sums are taken in another order than torch's: results differ by
their rounding, some 1e-15 of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.overrides import TorchFunctionMode

CHANNELS = 128
"""With fewer input channels, torch's own convolutions take less time."""

Pair = tuple[int, int]


class Convolutions(TorchFunctionMode):
    """While it is entered, convolutions that this module is for are its own."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.conv2d:
            return _conv2d(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def by_tap(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies of `weights` that require gradients; those of the convolutions here lie in memory tap
    by tap, as they are used, and so will their gradients."""
    return {name: _by_tap(weight).requires_grad_() for name, weight in weights.items()}


def _by_tap(weight: Tensor) -> Tensor:
    if weight.dim() != 4 or weight.shape[1] < CHANNELS or weight.device.type != "cpu":
        return weight.clone()
    tap_by_tap = weight.permute(2, 3, 0, 1).clone(memory_format=torch.contiguous_format)
    return tap_by_tap.permute(2, 3, 0, 1)


def _conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    ours = input.dtype == torch.float64 and input.device.type == "cpu" and input.dim() == 4
    if not ours or weight.shape[1] < CHANNELS or groups > 1 or isinstance(padding, str):
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    size = (input.shape[2], input.shape[3])
    shape = _Shape(size, _pair(weight.shape[2:]), _pair(stride), _pair(padding), _pair(dilation))
    out = _Partial.apply("output", input, weight, shape)
    return out if bias is None else out + bias.view(-1, 1, 1)


def _pair(value: int | tuple[int, ...]) -> Pair:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


class _Tap(NamedTuple):
    """A place in the kernel, and the parts of the input and of the output that it connects."""

    row: int
    column: int
    input: tuple[slice, ...]
    output: tuple[slice, ...]


@dataclass(frozen=True)
class _Shape:
    """Sizes, each (height, width); the three functions map [N, C, H, W] and [O, C, h, w]."""

    size: Pair
    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair

    @property
    def out(self) -> Pair:
        found = [
            (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, stride, padding, dilation in zip(
                self.size, self.kernel, self.stride, self.padding, self.dilation, strict=True
            )
        ]
        return found[0], found[1]

    def taps(self) -> Iterator[_Tap]:
        for row in range(self.kernel[0]):
            for column in range(self.kernel[1]):
                rows, columns = self._reach(0, row), self._reach(1, column)
                if rows and columns:
                    input, output = zip(rows, columns, strict=True)
                    yield _Tap(row, column, (slice(None), *input), (slice(None), *output))

    def _reach(self, axis: int, tap: int) -> tuple[slice, slice] | None:
        stride, offset = self.stride[axis], tap * self.dilation[axis] - self.padding[axis]
        first = max(0, -(offset // stride))
        end = min(self.out[axis], (self.size[axis] - 1 - offset) // stride + 1)
        if first >= end:
            return None
        start = first * stride + offset
        return slice(start, start + (end - first - 1) * stride + 1, stride), slice(first, end)

    def output(self, input: Tensor, weight: Tensor) -> Tensor:
        given, taps = input.permute(0, 2, 3, 1), weight.permute(2, 3, 1, 0)
        out = input.new_zeros(len(input), *self.out, len(weight))
        for tap in self.taps():
            _add(out[tap.output], given[tap.input], taps[tap.row, tap.column])
        return out.permute(0, 3, 1, 2)

    def by_input(self, slope: Tensor, weight: Tensor) -> Tensor:
        given, taps = slope.permute(0, 2, 3, 1), weight.permute(2, 3, 0, 1)
        out = slope.new_zeros(len(slope), *self.size, weight.shape[1])
        for tap in self.taps():
            _add(out[tap.input], given[tap.output], taps[tap.row, tap.column])
        return out.permute(0, 3, 1, 2)

    def by_weight(self, slope: Tensor, input: Tensor) -> Tensor:
        given, slopes = input.permute(0, 2, 3, 1), slope.permute(0, 2, 3, 1)
        out = slope.new_zeros(*self.kernel, slope.shape[1], input.shape[1])
        for tap in self.taps():
            left, right = slopes[tap.output].flatten(0, 2), given[tap.input].flatten(0, 2)
            torch.mm(left.T, right, out=out[tap.row, tap.column])
        return out.permute(2, 3, 0, 1)


def _add(out: Tensor, given: Tensor, tap: Tensor) -> None:
    """Add `given` [N, h, w, C] times `tap` [C, O] to `out` [N, h, w, O], in one product."""
    out += (given.flatten(0, 2) @ tap).view(out.shape)


Of = Literal["input", "weight", "output"]

OTHERS: dict[Of, tuple[Of, Of]] = {
    "output": ("input", "weight"),
    "input": ("output", "weight"),
    "weight": ("output", "input"),
}


class _Partial(Function):
    """The derivative by one of the three of the inner product of a slope, by which the output goes
    here, with the convolution; `first` and `second` are the others."""

    @staticmethod
    def forward(ctx: Any, of: Of, first: Tensor, second: Tensor, shape: _Shape) -> Tensor:
        ctx.save_for_backward(first, second)
        ctx.of, ctx.shape = of, shape
        function = {
            "output": shape.output, "input": shape.by_input, "weight": shape.by_weight
        }[of]  # fmt: skip
        return function(first, second)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        known = {ctx.of: slopes[0]} | dict(zip(OTHERS[ctx.of], ctx.saved_tensors, strict=True))
        found = [
            _Partial.apply(other, *(known[each] for each in OTHERS[other]), ctx.shape)
            if needed
            else None
            for other, needed in zip(OTHERS[ctx.of], ctx.needs_input_grad[1:3], strict=True)
        ]
        return None, *found, None
