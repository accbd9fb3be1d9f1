"""How many weights each layer keeps, where its shape decides it and not the scores."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from test_lineage_sketching import data, kept, lineage, masks_of, run
from torch import Tensor, nn

from trainables.models import prunable
from trainables.pruning import MethodConfig, Network
from trainables.pruning.at_init import AtInit
from trainables.pruning.layer_densities import divided, kept_by_layer
from trainables.sparsity.masks import Masks, dense_masks, kept_counts
from trainables.training.augmentation import Unfit
from trainables.training.batches import DeviceData

__all__ = ["data"]

WAYS: Any = ["uniform", "erk", "smart_ratio"]


def method(name: str, **options: Any) -> AtInit:
    found = TypeAdapter(MethodConfig).validate_python({"name": name, **options})
    assert isinstance(found, AtInit)
    return found


def masks(*shapes: tuple[int, ...]) -> Masks:
    return dense_masks({str(at): torch.empty(shape) for at, shape in enumerate(shapes)})


@pytest.mark.parametrize(
    ("how", "count", "found"),
    [
        # Of 6, 12 and 8 weights.
        ("uniform", 13, [3, 6, 4]),
        ("uniform", 14, [3, 7, 4]),  # 3.23, 6.46, 4.31: the largest fraction is rounded up
        # ε(2+3), ε(4+3), ε(2+4).
        ("erk", 18, [5, 7, 6]),
        ("erk", 9, [3, 3, 3]),  # 2.5, 3.5, 3: the earlier of equal fractions
        ("erk", 24, [6, 10, 8]),  # 6.7 of 6, then 8.3 of 8
        # 0.3 of the last, and 3² + 3 and 2² + 2 times as large as the layers are.
        ("smart_ratio", 10, [4, 4, 2]),
        ("smart_ratio", 16, [6, 8, 2]),
        ("smart_ratio", 22, [6, 12, 4]),
        ("smart_ratio", 26, [6, 12, 8]),
    ],
)
def test_worked_out_by_hand(how: Any, count: int, found: list[int]) -> None:
    assert [*kept_by_layer(how, masks((2, 3), (4, 3), (2, 4)), count).values()] == found


def test_erk_of_a_convolution_counts_its_kernel() -> None:
    # (8 + 4 + 3 + 3)/288 and (6 + 3)/18 are the densities.
    assert [*kept_by_layer("erk", masks((8, 4, 3, 3), (6, 3)), 27).values()] == [18, 9]


@given(
    st.sampled_from(WAYS),
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=6),
    st.floats(0, 1),
    st.integers(0, 99),
)
def test_the_whole_is_exact_and_no_layer_keeps_more_than_it_has(
    how: Any, shapes: list[tuple[int, int]], share: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    some = {n: torch.rand(m.shape, generator=generator) < 0.7 for n, m in masks(*shapes).items()}
    most = kept_counts(some)
    count = int(share * sum(most.values()))
    found = kept_by_layer(how, some, count)
    assert found.keys() == most.keys()
    assert sum(found.values()) == count
    assert all(0 <= found[name] <= most[name] for name in most)


def test_parts_of_nothing() -> None:
    assert divided(0, [], []) == []
    assert divided(0, [3, 5], [3, 5]) == [0, 0]


# As an option of every method at initialization


def two_layers() -> nn.Module:
    net = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Linear(1, 2, bias=False))
    net[0].weight.data = torch.tensor([[0.1, -0.2]])
    net[1].weight.data = torch.tensor([[-4.0], [3.0]])
    return net


def kept_of(config: AtInit, net: nn.Module, data: DeviceData, seed: int = 0) -> list[list[bool]]:
    found = config(Network(net, dense_masks(prunable(net)), data, seed, iteration=1))
    return [mask.flatten().tolist() for mask in found.values()]


def test_of_four_weights_the_larger_of_each_layer_stay(data: DeviceData) -> None:
    global_ = method("magnitude", density=0.5)
    uniform = method("magnitude", density=0.5, layer_densities="uniform")
    assert kept_of(global_, two_layers(), data) == [[False, False], [True, True]]
    assert kept_of(uniform, two_layers(), data) == [[False, True], [True, False]]


@pytest.mark.parametrize("selection", ["threshold", "sampled"])
def test_rounds_and_samples_keep_as_many_of_each_layer(selection: str, data: DeviceData) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    config = method(
        "magnitude", density=0.2, layer_densities="erk", rounds=3, selection=selection,
        sampled_rounds="every",
    )  # fmt: skip
    found = kept_of(config, net, data)
    # 119 of 592 as 72 : 18, of which no layer has too few.
    assert [sum(layer) for layer in found] == [95, 24]
    assert kept_of(config, net, data) == found


def test_random_weights_are_others_with_another_seed(data: DeviceData) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8))
    config = method("random", density=0.5, layer_densities="uniform")
    one, again, other = (kept_of(config, net, data, seed) for seed in (0, 0, 1))
    assert one == again
    assert one != other
    assert sum(one[0]) == sum(other[0]) == 256


@pytest.mark.parametrize(
    ("how", "of_layers"),
    # 237 of 2048 and 320: 205.0 and 32.0; as 96 to 42; all but 0.3 of the last.
    [("uniform", [205, 32]), ("erk", [165, 72]), ("smart_ratio", [141, 96])],
)
def test_a_random_network_by_layer_is_trained(
    how: str, of_layers: list[int], data: DeviceData, tmp_path: Path
) -> None:
    one = lineage("random", density=0.1, layer_densities=how)
    (metrics,) = run(one, data, tmp_path)
    assert metrics["params_kept"] == kept(0.1)
    found = kept_counts(masks_of(tmp_path, one.keys[0]))
    assert sorted(found.values()) == sorted(of_layers)


def test_each_has_keys_of_its_own_and_the_default_those_without() -> None:
    plain, *others = (lineage("random", density=0.1, layer_densities=how).keys
                      for how in ("global", *WAYS))  # fmt: skip
    assert plain == lineage("random", density=0.1).keys
    assert len({plain, *others}) == 4


def test_a_last_layer_that_would_take_all_is_refused() -> None:
    weights: dict[str, Tensor] = {"a": torch.empty(30, 30), "b": torch.empty(10, 10)}
    with pytest.raises(Unfit, match=r"keeps 30 of 1,000 weights, .* 30 of the last .* 0\.031 or"):
        method("random", density=0.03, layer_densities="smart_ratio").require_fit(lambda: weights)
    for fits in (
        method("random", density=0.031, layer_densities="smart_ratio"),
        method("random", density=0.03, layer_densities="erk"),
    ):
        fits.require_fit(lambda: weights)
