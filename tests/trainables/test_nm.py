"""N:M sparsity: of each m consecutive weights along the inputs, n are kept."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from test_lineage_sketching import data, lineage, masks_of, run
from torch import Tensor, nn

from trainables.models import prunable
from trainables.pruning import MethodConfig, Network
from trainables.pruning.methods.nm import NM
from trainables.sparsity.masks import Masks, dense_masks
from trainables.training.augmentation import Unfit
from trainables.training.batches import DeviceData

__all__ = ["data"]


def method(**options: Any) -> NM:
    found = TypeAdapter(MethodConfig).validate_python({"name": "nm", **options})
    assert isinstance(found, NM)
    return found


def pruned(net: nn.Module, data: DeviceData, masks: Masks | None = None, **options: Any) -> Masks:
    before = dense_masks(prunable(net)) if masks is None else masks
    return method(**options)(Network(net, before, data, seed=0, iteration=1))


def linear(*rows: list[float]) -> nn.Module:
    net = nn.Sequential(nn.Linear(len(rows[0]), len(rows), bias=False))
    net[0].weight.data = torch.tensor(rows)
    return net


def test_of_four_weights_the_two_largest_stay(data: DeviceData) -> None:
    (mask,) = pruned(linear([0.1, -0.4, 0.3, -0.2]), data).values()
    assert mask.tolist() == [[False, True, True, False]]


def test_every_group_is_by_itself_and_of_equal_weights_the_later_stay(data: DeviceData) -> None:
    net = linear([4, 3, 2, 1, 0.1, 0.2, 0.3, 0.4], [1, 1, 1, 1, 0, 0, 5, 0])
    (mask,) = pruned(net, data).values()
    assert mask.int().tolist() == [[1, 1, 0, 0, 0, 0, 1, 1], [0, 0, 1, 1, 0, 0, 1, 1]]
    (mask,) = pruned(net, data, n=1, m=8).values()
    assert mask.int().tolist() == [[1, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 1, 0]]


def test_a_group_of_a_convolution_is_of_channels_at_one_place_of_the_kernel(
    data: DeviceData,
) -> None:
    net = nn.Sequential(nn.Conv2d(4, 2, (1, 2), bias=False))
    weight = torch.arange(1.0, 17).reshape(2, 4, 1, 2)
    weight[0, :, 0, 1] = -weight[0, :, 0, 1].flip(0)
    net[0].weight.data = weight
    (mask,) = pruned(net, data).values()
    assert mask[0, :, 0, 0].int().tolist() == [0, 0, 1, 1]
    assert mask[0, :, 0, 1].int().tolist() == [1, 1, 0, 0]
    assert bool((mask.sum(dim=1) == 2).all())
    assert mask.is_contiguous()


def test_what_m_does_not_divide_stays_dense(data: DeviceData) -> None:
    net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.Conv2d(6, 8, 3), nn.Flatten(), nn.Linear(8, 10))
    first, second, last = pruned(net, data).values()
    assert bool(first.all())
    assert bool(second.all())
    assert bool((last.reshape(10, 2, 4).sum(dim=2) == 2).all())


def test_pruned_weights_stay_so_and_count(data: DeviceData) -> None:
    net = linear([4.0, 3, 2, 1], [4, 3, 2, 1])
    before = {"0.weight": torch.tensor([[True, False, False, False], [False, True, True, True]])}
    (mask,) = pruned(net, data, before).values()
    assert mask.int().tolist() == [[1, 0, 0, 0], [0, 1, 1, 0]]


def test_another_criterion_says_which(data: DeviceData) -> None:
    net = linear([0.1, -0.4, 0.3, -0.2])
    found = [pruned(net, data, criterion="random")["0.weight"] for _ in range(2)]
    assert int(found[0].sum()) == 2
    assert torch.equal(*found)


@pytest.mark.parametrize(("n", "m"), [(4, 4), (5, 4), (0, 4), (1, 1)])
def test_numbers_that_mean_nothing_are_refused(n: int, m: int) -> None:
    with pytest.raises(ValidationError):
        method(n=n, m=m)


def test_a_network_without_such_a_layer_is_refused() -> None:
    weights: dict[str, Tensor] = {"a": torch.empty(4, 6), "b": torch.empty(8, 3, 4, 4)}
    with pytest.raises(Unfit, match="no layer has a number of inputs that 4 divides"):
        method().require_fit(lambda: weights)
    method(m=3).require_fit(lambda: weights)


def test_a_lineage_is_trained_pruned_once_and_trained_again(
    data: DeviceData, tmp_path: Path
) -> None:
    one = lineage("nm")
    dense, sparse = run(one, data, tmp_path)
    assert dense["params_kept"] == sparse["params_prunable"] == 2 * sparse["params_kept"]
    masks = masks_of(tmp_path, one.keys[1])
    assert all(bool((m.reshape(-1, 4).sum(dim=1) == 2).all()) for m in masks.values())
    assert run(one, data, tmp_path) == []
