"""The convolutions that criteria differentiate twice, against torch's."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.pruning.convolution import Convolutions, by_tap
from trainables.training.randomness import stream

CASES: list[dict[str, Any]] = [
    {},
    {"padding": 1},
    {"stride": 2, "padding": 1},
    {"stride": (2, 3), "padding": (0, 2)},
    {"stride": 3, "kernel": (1, 1)},
    {"padding": 3, "dilation": 2},
    {"padding": (4, 4), "stride": 2, "dilation": (3, 1), "kernel": (2, 5)},
    {"padding": 2, "size": (1, 2), "kernel": (3, 3)},
    {"inputs": 3, "padding": 1},
    {"groups": 2, "padding": 1},
    {"padding": "same"},
]


@pytest.fixture(autouse=True)
def _few_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainables.pruning.convolution.CHANNELS", 4)


def derivatives(
    convolution: Callable[..., Tensor], arguments: list[Tensor], options: dict[str, Any]
) -> list[Tensor]:
    """The output, its gradients, and the gradients of an inner product with those."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in arguments]
    generator = stream(0, "along")
    out = convolution(*leaves, **options)
    # Not linear in the output, so that the second derivative has all its parts.
    first = torch.autograd.grad(out.pow(3).sum(), leaves, create_graph=True)
    along = [torch.randn(each.shape, generator=generator, dtype=each.dtype) for each in first]
    return [out, *first, *torch.autograd.grad(first, leaves, along)]


@pytest.mark.parametrize("tap_by_tap", [True, False])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_all_derivatives_are_those_of_torch(case: dict[str, Any], tap_by_tap: bool) -> None:
    options = dict(case)
    inputs, kernel = options.pop("inputs", 8), options.pop("kernel", (3, 3))
    size = options.pop("size", (7, 6))
    weight_shape = (4, inputs // options.get("groups", 1), *kernel)
    generator = stream(0, "test")
    arguments = [
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((5, inputs, *size), weight_shape, (4,))
    ]
    if tap_by_tap:
        arguments[1] = by_tap({"weight": arguments[1]})["weight"]
    expected = derivatives(F.conv2d, arguments, options)
    with Convolutions():
        found = derivatives(F.conv2d, arguments, options)
    for ours, theirs in zip(found, expected, strict=True):
        size = float(theirs.detach().abs().max())
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13 * size)


def test_layers_call_them_and_other_types_and_shapes_are_torchs() -> None:
    layer = nn.Conv2d(8, 4, 3, padding=1)
    images = torch.randn(2, 8, 5, 5, generator=stream(0, "test"))
    with Convolutions():
        assert torch.equal(layer(images), F.conv2d(images, layer.weight, layer.bias, padding=1))
        assert (
            "Partial" in type(layer.double()(images.double()).grad_fn.next_functions[0][0]).__name__
        )
        assert layer(images[0].double()).shape == (4, 5, 5)


def test_a_layer_whose_inputs_need_no_gradient_computes_none() -> None:
    weight = torch.randn(4, 8, 3, 3, dtype=torch.float64, requires_grad=True)
    with Convolutions():
        out = F.conv2d(torch.ones(2, 8, 5, 5, dtype=torch.float64), weight)
    (slope,) = torch.autograd.grad(out.sum(), [weight])
    torch.testing.assert_close(slope, torch.full_like(weight, 18.0))
