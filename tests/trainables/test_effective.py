"""Effective weights: as brute force over all paths has them, and in every built-in network."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, TypeAlias

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from test_any_module import NETWORKS, built
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.models import MODEL, ModelConfig, Shape, build_model, prunable
from trainables.plugins.entry import built_in
from trainables.sparsity.effective import effective_masks
from trainables.sparsity.masks import Masks, dense_masks

Unit: TypeAlias = tuple[str, int]
"""A layer and a number there."""
Edge: TypeAlias = tuple[Unit, Unit, tuple[str, int, int] | None]
"""From a unit to a unit, by a weight, or by a kernel's weights, between an output and an input."""


def random_masks(model: nn.Module, density: float, seed: int) -> Masks:
    draws = torch.Generator().manual_seed(seed)
    return {n: torch.rand(w.shape, generator=draws) < density for n, w in prunable(model).items()}


# Brute force


def paths(edges: list[Edge], at: Unit) -> Iterator[list[Edge]]:
    """All paths from a unit to an output."""
    if at[0] == "output":
        yield []
    for edge in edges:
        if edge[0] == at:
            yield from ([edge, *rest] for rest in paths(edges, edge[1]))


def on_paths(edges: list[Edge], masks: Masks) -> Masks:
    """Of `masks`, what is on any path from an input to an output."""
    found = {name: torch.zeros_like(mask) for name, mask in masks.items()}
    for begin in {edge[0] for edge in edges if edge[0][0] == "input"}:
        for weight in (weight for path in paths(edges, begin) for _, _, weight in path if weight):
            name, output, input = weight
            found[name][output, input] = masks[name][output, input]
    return found


def layer(masks: Masks, name: str, source: str, target: str, groups: int = 1) -> Iterator[Edge]:
    """The edges of a layer whose weights, of which `masks` keeps some, are called `name`."""
    mask = masks[name]
    outputs, inputs = mask.shape[:2]
    for o in range(outputs):
        first = o // (outputs // groups) * inputs
        for i in range(inputs):
            if mask[o, i].any():
                yield (source, first + i), (target, o), (name, o, i)


def same(count: int, source: str, target: str, of: Callable[[int], int] = int) -> Iterator[Edge]:
    return (((source, of(i)), (target, i), None) for i in range(count))


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 4), min_size=2, max_size=5),
    density=st.sampled_from([0.2, 0.4, 0.6, 1.0]),
    seed=st.integers(0, 10**6),
)
def test_a_perceptron_is_as_by_brute_force(sizes: list[int], density: float, seed: int) -> None:
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    masks = random_masks(model, density, seed)
    between = ["input", *map(str, range(len(sizes) - 2)), "output"]
    edges = [
        edge
        for name, units in zip(masks, pairwise(between), strict=True)
        for edge in layer(masks, name, *units)
    ]
    expected = on_paths(edges, masks)
    found = effective_masks(model, masks, (sizes[0], 1, 1))
    assert found is not None
    assert all(torch.equal(found[name], expected[name]) for name in masks)


class Residual(nn.Module):
    """All that built-in networks are made of, on 5x5 images; `projected`, its shortcut is a
    convolution, else it is added to in place."""

    def __init__(self, width: int, groups: int, projected: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, width, 3, padding=1)
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, groups=groups)
        self.conv2 = nn.Conv2d(width, width, 3, padding="same", dilation=2, bias=False)
        self.shortcut = nn.Conv2d(width, width, 1) if projected else nn.Identity()
        self.pool = nn.MaxPool2d(2)
        self.hidden, self.classifier = nn.Linear(width * 4, 3), nn.Linear(3, 2)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.stem(images)), inplace=True)
        out = self.conv2(F.gelu(self.norm2(self.conv1(x))))
        out += self.shortcut(x)
        return self.classifier(torch.tanh(self.hidden(self.pool(out).view(1, -1))))

    def edges(self, masks: Masks) -> Iterator[Edge]:
        width, groups = self.conv1.out_channels, self.conv1.groups
        yield from layer(masks, "stem.weight", "input", "x")
        yield from layer(masks, "conv1.weight", "x", "branch", groups)
        yield from layer(masks, "conv2.weight", "branch", "sum")
        if isinstance(self.shortcut, nn.Conv2d):
            yield from layer(masks, "shortcut.weight", "x", "sum")
        else:
            yield from same(width, "x", "sum")
        yield from same(width * 4, "sum", "flat", lambda i: i // 4)
        yield from layer(masks, "hidden.weight", "flat", "hidden")
        yield from layer(masks, "classifier.weight", "hidden", "output")


@settings(max_examples=60, deadline=None)
@given(
    groups=st.sampled_from([(1, 1), (2, 1), (2, 2), (3, 1), (4, 2)]),
    projected=st.booleans(),
    density=st.sampled_from([0.03, 0.1, 0.3, 1.0]),
    seed=st.integers(0, 10**6),
)
def test_a_residual_network_is_as_by_brute_force(
    groups: tuple[int, int], projected: bool, density: float, seed: int
) -> None:
    model = Residual(*groups, projected)
    masks = random_masks(model, density, seed)
    expected = on_paths([*model.edges(masks)], masks)
    found = effective_masks(model, masks, (2, 5, 5))
    assert found is not None
    assert all(torch.equal(found[name], expected[name]) for name in masks)


# Built-in networks

SMALL: dict[str, tuple[Shape, dict[str, Any]]] = {
    "mlp": ((1, 8, 8), {}), "linear": ((1, 8, 8), {}), "lenet_300_100": ((1, 8, 8), {}),
    "cnn": ((3, 8, 8), {"hidden": [8, 16, 8]}),
}  # fmt: skip


@pytest.mark.parametrize("name", built_in(MODEL))
def test_every_built_in_network_is_understood(name: str) -> None:
    shape, options = SMALL.get(name, ((3, 16, 16), {}))
    config = TypeAdapter(ModelConfig).validate_python({"name": name, **options})
    model = build_model(config, shape, 10, seed=0)
    every = dense_masks(prunable(model))
    count = sum(mask.numel() for mask in every.values())
    if count < 10**7:
        found = effective_masks(model, every, shape)
        assert found is not None
        assert all(mask.all() for mask in found.values())
    masks = random_masks(model, 0.05 if count < 10**6 else 0.02, seed=1)
    found, expected = effective_masks(model, masks, shape), by_flow(model, masks, shape)
    assert found is not None
    assert all(torch.equal(found[name], expected[name]) for name in masks)
    assert any(mask.any() for mask in found.values())
    assert any(not torch.equal(found[n], masks[n]) for n in masks) or name == "linear"


def by_flow(model: nn.Module, masks: Masks, shape: Shape) -> Masks:
    """By numbers of paths: SynFlow's gradient, in float64, of the network itself, whose weights are
    1 or 0, and a whole kernel 1 where any of it is kept."""
    weights = {name: whole(mask).double().requires_grad_() for name, mask in masks.items()}
    state = {
        name: torch.full_like(value, float(name.endswith(("weight", "running_var")))).double()
        for name, value in model.state_dict().items()
        if name not in weights and value.is_floating_point()
    }
    images = torch.ones(1, *shape, dtype=torch.float64)
    flow = torch.func.functional_call(model.eval(), state | weights, (images,)).sum()
    slopes = torch.autograd.grad(flow, [*weights.values()])
    return {n: masks[n] & whole(slope != 0) for n, slope in zip(masks, slopes, strict=True)}


def whole(kept: Tensor) -> Tensor:
    """Kernels that are kept in whole where any of it is."""
    return kept if kept.ndim == 2 else kept.any(-1, True).any(-2, True).expand(kept.shape)


def test_no_number_of_paths_is_too_large_or_too_small() -> None:
    layers = [layer for _ in range(150) for layer in (nn.Linear(200, 200), nn.ReLU())]
    model = nn.Sequential(nn.Flatten(), *layers)
    masks = dense_masks(prunable(model))
    found = effective_masks(model, masks, (1, 10, 20))
    assert found is not None
    assert all(mask.all() for mask in found.values())
    # Of 200 inputs one, 150 layers long.
    masks = {name: torch.zeros_like(mask) for name, mask in masks.items()}
    for mask in masks.values():
        mask[3, 3] = mask[5, 7] = True  # nothing leads to 7, and nothing from 5 on
    found = effective_masks(model, masks, (1, 10, 20))
    assert found is not None
    assert [mask.nonzero().tolist() for mask in found.values()] == [[[3, 3]]] * 150


# Networks of users


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, images: Tensor) -> Tensor:
        x = images.flatten(1)
        return self.one(x) * self.other(x).sigmoid()


class Offset(nn.Linear):
    """A parameter that is added would be an input of its own."""

    def __init__(self) -> None:
        super().__init__(4, 4)
        self.offset = nn.Parameter(torch.zeros(4))

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.flatten(1) + self.offset)


class Uneven(nn.Module):
    """A maximum of units that are not those of one channel."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(3, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(F.max_pool1d(self.first(images.flatten(1)).unsqueeze(1), 2).flatten(1))


class Everything(nn.Sequential):
    """Biases, and what BatchNorm scales by, are pruned too."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 4))

    def prunes(self, name: str, parameter: nn.Parameter) -> bool:
        return True


@pytest.mark.parametrize("network", [Gated, Offset, Uneven, Everything])
def test_what_is_not_understood_is_not_known(network: Callable[[], nn.Module]) -> None:
    model = network()
    masks = dense_masks(prunable(model))
    for mask in masks.values():
        mask[0] = False
    assert effective_masks(model, masks, (1, 2, 2)) is None


@pytest.mark.parametrize("name", NETWORKS)
def test_any_module_is_measured_or_not_and_stays_as_it_is(name: str) -> None:
    model = built(name).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = effective_masks(model, dense_masks(prunable(model)), (1, 8, 8))
    assert (found is not None) == (name in UNDERSTOOD)
    assert all(mask.all() for mask in (found or {}).values())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


UNDERSTOOD = {
    "conv1d", "conv3d", "frozen", "grouped", "lazy", "shared_norm", "tied_linears"
}  # fmt: skip


def test_a_weight_that_two_layers_share_counts_where_one_of_them_needs_it() -> None:
    model = built("tied_linears")
    masks = dense_masks(prunable(model))
    (name,) = [name for name in masks if name.startswith("first")]
    masks[name][:] = False
    masks[name][2, 3] = masks[name][3, 5] = True  # 5 leads to 3, which leads to 2
    found = effective_masks(model, masks, (1, 8, 8))
    assert found is not None
    assert torch.equal(found[name], masks[name])


def test_weights_that_are_not_pruned_and_unused_ones() -> None:
    class Partly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fixed, self.used, self.unused = (nn.Linear(4, 4) for _ in range(3))

        def prunes(self, name: str, parameter: nn.Parameter) -> bool:
            return name in ("used.weight", "unused.weight")

        def forward(self, images: Tensor) -> Tensor:
            return self.used(self.fixed(images.flatten(1)))

    model = Partly()
    found = effective_masks(model, dense_masks(prunable(model)), (1, 2, 2))
    assert found is not None
    assert (found["used.weight"].all(), found["unused.weight"].any()) == (True, False)
