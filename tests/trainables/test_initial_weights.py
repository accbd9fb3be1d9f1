"""What initial weights decide: which layers pruning at initialization keeps, against figures that
are computed here by other means."""

import math

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from trainables.models import ModelConfig, build_model, prunable
from trainables.pruning import MethodConfig, Network
from trainables.sparsity.masks import Masks, dense_masks
from trainables.training.batches import DeviceData, Examples

CIFAR = (3, 32, 32)
SMALL = (3, 16, 16)
DENSITIES = [0.1, 0.05, 0.02]
ERRORS = 5
"""Standard deviations that a count may be off."""


def pruned(
    model: nn.Module, name: str, density: float, shape: tuple[int, int, int] = CIFAR
) -> Masks:
    config = TypeAdapter(MethodConfig).validate_python({"name": name, "density": density})
    blank = Examples(
        torch.zeros(1, *shape, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64),
        torch.zeros(3), torch.ones(3),
    )  # fmt: skip
    data = DeviceData(shape, 10, blank, blank, None)
    return config(Network(model, dense_masks(prunable(model)), data, seed=0, iteration=1))


def built(name: str, **options: str) -> nn.Module:
    config = TypeAdapter(ModelConfig).validate_python({"name": name, **options})
    return build_model(config, CIFAR, 10, seed=0)


def expected_counts(model: nn.Module, density: float) -> dict[str, float]:
    """How many of each layer's Kaiming normal weights of fan in, N(0, 2/fan), are above one
    threshold that keeps `density` of all, on average."""
    shapes = {name: weight.shape for name, weight in prunable(model).items()}
    spread = {name: math.sqrt(2 / math.prod(shape[1:])) for name, shape in shapes.items()}

    def kept(threshold: float) -> dict[str, float]:
        return {
            name: math.prod(shape) * math.erfc(threshold / spread[name] / math.sqrt(2))
            for name, shape in shapes.items()
        }

    total = density * sum(map(math.prod, shapes.values()))
    low, high = 0.0, 10.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(kept(middle).values()) > total else (low, middle)
    return kept(low)


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("name", ["resnet20", "vgg19"])
def test_magnitude_keeps_of_each_layer_what_its_spread_says(name: str, density: float) -> None:
    model = built(name)
    masks, expected = pruned(model, "magnitude", density), expected_counts(model, density)
    for layer, mask in masks.items():
        count, share = expected[layer], expected[layer] / mask.numel()
        error = ERRORS * math.sqrt(count * (1 - share)) + 0.01 * count + 1
        assert abs(int(mask.sum()) - count) < error, layer


@pytest.mark.parametrize(
    ("name", "density", "count"), [("vgg19", 0.02, 1900), ("resnet20", 0.05, 250),
                                   ("resnet20", 0.02, 174)]
)  # fmt: skip
def test_magnitude_keeps_a_classifier_with_the_initialization_of_synflow_only(
    name: str, density: float, count: int
) -> None:
    kept = pruned(built(name), "magnitude", density)["classifier.weight"].sum().item()
    assert kept == pytest.approx(count, abs=ERRORS * math.sqrt(count))
    without = pruned(built(name, init="kaiming_fan_out_conv"), "magnitude", density)
    assert without["classifier.weight"].sum().item() == 0


def synflow_by_hand(model: nn.Module, density: float) -> dict[str, Tensor]:
    """SynFlow as its paper's Algorithm 1 has it: 100 rounds, kept shares rho^(i/100)."""
    model = model.double().eval()
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data.abs_() if tensor.is_floating_point() else None
    weights = prunable(model)
    start = {name: weight.detach().clone() for name, weight in weights.items()}
    masks = {name: torch.ones_like(weight) for name, weight in start.items()}
    for i in range(1, 101):
        for name, weight in weights.items():
            weight.data = start[name] * masks[name]
        model.zero_grad()
        model(torch.ones(1, *SMALL, dtype=torch.float64)).sum().backward()
        scores = {name: weight.grad * weight.data for name, weight in weights.items()}  # type: ignore[operator]
        every = torch.cat([score.flatten() for score in scores.values()])
        keep = len(every) - math.floor((1 - density ** (i / 100)) * len(every))
        threshold = every.topk(keep).values[-1]
        masks = {name: (score >= threshold).double() for name, score in scores.items()}
    return masks


@pytest.mark.parametrize("density", DENSITIES)
def test_synflow_keeps_of_each_layer_what_a_loop_by_hand_keeps(density: float) -> None:
    masks = pruned(built("resnet20"), "synflow", density, SMALL)
    by_hand = synflow_by_hand(built("resnet20"), density)
    for layer, mask in masks.items():
        assert int(mask.sum()) == pytest.approx(int(by_hand[layer].sum()), abs=2), layer
