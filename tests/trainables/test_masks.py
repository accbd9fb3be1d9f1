"""Masks: packing, counting, and what applying them leaves."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from trainables.sparsity.masks import (
    apply_masks,
    dense_masks,
    density,
    kept_counts,
)
from trainables.store.artifacts import decode_masks, encode_masks, packed, unpacked

shapes = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple)


def random_mask(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5


def test_bits_are_packed_in_order_with_the_first_weight_highest() -> None:
    mask = torch.tensor([[True, False, False], [True, True, False], [False, True, True]])
    assert packed(mask).tolist() == [0b10011001, 0b10000000]


@pytest.mark.parametrize("size", range(1, 18))
def test_every_size_is_packed_into_as_few_bytes_as_hold_it(size: int) -> None:
    mask = random_mask((size,), size)
    assert packed(mask).nbytes == math.ceil(size / 8)
    assert torch.equal(unpacked(packed(mask), (size,)), mask)


@given(shapes, st.integers(0, 2**32))
def test_packing_is_undone_exactly(shape: tuple[int, ...], seed: int) -> None:
    mask = random_mask(shape, seed)
    back = unpacked(packed(mask), shape)
    assert back.dtype == torch.bool
    assert torch.equal(back, mask)


@given(st.lists(shapes, min_size=1, max_size=4), st.integers(0, 2**32))
def test_encoded_masks_come_back_with_names_and_shapes(
    many: list[tuple[int, ...]], seed: int
) -> None:
    masks = {f"layer.{i}.weight": random_mask(shape, seed + i) for i, shape in enumerate(many)}
    back = decode_masks(encode_masks(masks))
    assert set(back) == set(masks)
    assert all(torch.equal(back[name], mask) for name, mask in masks.items())


def test_a_mask_that_is_no_contiguous_tensor_is_packed_as_it_reads() -> None:
    mask = torch.tensor([[True, True, False], [False, False, True]])
    assert packed(mask.T).tolist() == packed(mask.T.contiguous()).tolist() == [0b10100100]


def test_pruned_weights_become_positive_zero_whatever_they_were() -> None:
    layer = nn.Linear(6, 1)
    values = [[-2.0, math.nan, math.inf, -math.inf, -0.0, 3.0]]
    layer.weight.data = torch.tensor(values)
    bias = layer.bias.clone()
    apply_masks(nn.Sequential(layer), {"0.weight": torch.tensor([[False] * 5 + [True]])})
    assert layer.weight.tolist() == [[0, 0, 0, 0, 0, 3]]
    assert not layer.weight.signbit().any()
    assert torch.equal(layer.bias, bias)
    assert layer.weight.requires_grad


def test_kept_weights_stay_as_they_are_nan_included() -> None:
    layer = nn.Linear(2, 1)
    layer.weight.data = torch.tensor([[math.nan, -0.0]])
    apply_masks(nn.Sequential(layer), {"0.weight": torch.tensor([[True, True]])})
    assert layer.weight.isnan().tolist() == [[True, False]]
    assert layer.weight.signbit()[0, 1]


def test_density_counts_weights_and_not_layers() -> None:
    masks = {
        "big": torch.tensor([[True] * 3 + [False] * 5] * 2),
        "small": torch.tensor([True, True, True, False]),
    }
    assert kept_counts(masks) == {"big": 6, "small": 3}
    assert density(masks) == 9 / 20


def test_dense_masks_keep_everything() -> None:
    masks = dense_masks({"a": torch.zeros(3, 2), "b": torch.randn(4)})
    assert kept_counts(masks) == {"a": 6, "b": 4}
    assert density(masks) == 1
    assert all(mask.dtype == torch.bool for mask in masks.values())
