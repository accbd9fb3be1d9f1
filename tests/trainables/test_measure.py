"""What is measured of a masked model."""

import math

import pyarrow as pa
import pytest
import torch
from torch import Tensor

from trainables.pruning.scope import grouped
from trainables.sparsity.indices import gini, pq_index
from trainables.sparsity.weights import GRID_P, GRID_Q, Sparsity, measure_sparsity


@pytest.fixture(scope="module")
def net() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Masked weights, the pruned ones zero; one neuron has nothing left, one only kept zeros."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"conv.weight": (4, 3, 3, 3), "fc.weight": (5, 16)}
    weights = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    masks = {name: torch.rand(w.shape, generator=generator) < 0.6 for name, w in weights.items()}
    masks["fc.weight"][1] = False
    weights = {name: torch.where(masks[name], w, 0.0) for name, w in weights.items()}
    weights["conv.weight"][2] = 0.0
    return weights, masks


@pytest.fixture(scope="module")
def sparsity(net: tuple[dict[str, Tensor], dict[str, Tensor]]) -> Sparsity:
    return measure_sparsity(*net)


def test_neurons_are_summed_a_few_at_a_time(
    net: tuple[dict[str, Tensor], dict[str, Tensor]],
    sparsity: Sparsity,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for few in (1, 40, 64):
        monkeypatch.setattr("trainables.sparsity.weights.CACHED_WEIGHTS", few)
        assert measure_sparsity(*net).grid.equals(sparsity.grid)


def cells(grid: pa.Table, scope: str, layer: str | None) -> dict[tuple[float, float], float]:
    return {
        (row["p"], row["q"]): row["pq_index"]
        for row in grid.to_pylist()
        if (row["scope"], row["layer"]) == (scope, layer)
    }


def test_the_grid_has_every_scope_layer_and_exponent_once(sparsity: Sparsity) -> None:
    rows = [(r["scope"], r["layer"], r["p"], r["q"]) for r in sparsity.grid.to_pylist()]
    layers = ["conv.weight", "fc.weight"]
    groups = [("global", None), *(("layer", n) for n in layers), *(("neuron", n) for n in layers)]
    expected = [
        (*group, round(i / 10, 1), round(1 + j / 10, 1))
        for group in groups
        for i in range(1, 11)
        for j in range(11)
    ]
    assert rows == expected


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_the_grid_holds_the_index_of_the_kept_weights(scope, net, sparsity: Sparsity) -> None:
    weights, masks = net
    names = list(weights) if scope == "layer" else [None]
    groups = zip(names, grouped(weights, scope), grouped(masks, scope), strict=True)
    for name, values, kept in groups:
        found = cells(sparsity.grid, scope, name)
        for p in GRID_P:
            for q in GRID_Q:
                expected = pq_index(values, kept, p, q).item()
                assert found[p, q] == pytest.approx(expected, abs=1e-10)


def test_the_grid_averages_neurons_and_leaves_out_those_without_an_index(
    net, sparsity: Sparsity
) -> None:
    weights, masks = net
    for name, weight in weights.items():
        found = cells(sparsity.grid, "neuron", name)
        for p in GRID_P:
            for q in GRID_Q:
                indices = [
                    pq_index(w.reshape(1, -1), kept.reshape(1, -1), p, q).item()
                    for w, kept in zip(weight, masks[name], strict=True)
                ]
                defined = [index for index in indices if not math.isnan(index)]
                assert len(defined) == {"conv.weight": 3, "fc.weight": 5}[name]
                mean = sum(defined) / len(defined)
                assert found[p, q] == pytest.approx(mean, abs=1e-10)


def test_the_reported_figures_are_those_of_p_one_half_and_q_one(net, sparsity: Sparsity) -> None:
    weights, masks = net
    values, kept = grouped(weights, "global")[0], grouped(masks, "global")[0]
    assert sparsity.pq_index == pytest.approx(pq_index(values, kept, 0.5, 1.0).item(), abs=1e-10)
    assert sparsity.gini == pytest.approx(gini(values, kept).item(), abs=1e-12)
    for row, (name, weight) in zip(sparsity.layers, weights.items(), strict=True):
        values, kept = weight.reshape(1, -1), masks[name].reshape(1, -1)
        assert (row.layer, row.kept, row.total) == (name, int(kept.sum()), weight.numel())
        assert row.pq_index == pytest.approx(pq_index(values, kept, 0.5, 1.0).item(), abs=1e-10)
        assert row.gini == pytest.approx(gini(values, kept).item(), abs=1e-12)


def test_a_model_of_zeros_has_no_index_and_is_no_error() -> None:
    weights = {"w": torch.zeros(2, 3)}
    sparsity = measure_sparsity(weights, {"w": torch.ones(2, 3, dtype=torch.bool)})
    assert math.isnan(sparsity.pq_index)
    assert math.isnan(cells(sparsity.grid, "neuron", "w")[0.5, 1.0])
    assert sparsity.gini == pytest.approx(0, abs=1e-12)


def test_masks_in_another_order_of_layers_change_nothing(net, sparsity: Sparsity) -> None:
    weights, masks = net
    again = measure_sparsity(weights, dict(reversed(masks.items())))
    assert again.layers == sparsity.layers
    assert again.grid.equals(sparsity.grid)
    assert (again.pq_index, again.gini) == (sparsity.pq_index, sparsity.gini)
