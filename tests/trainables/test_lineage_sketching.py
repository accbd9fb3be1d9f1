"""Lineages of the sketching paper's methods, without Ray, on `digits`."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from trainables.data import DatasetConfig, DatasetOptions, load_dataset
from trainables.data.roots import DataRoots
from trainables.lineage.bench import Bench, StoreOptions
from trainables.lineage.identity import snapshot_key
from trainables.lineage.keys import Cell, Lineage, make_lineage
from trainables.lineage.loop import run_lineage
from trainables.models import ModelConfig
from trainables.pruning import MethodConfig, Pruning
from trainables.pruning.criterion import criterion
from trainables.pruning.scoring import Scoring
from trainables.store import Store, iteration_path, snapshot_path
from trainables.store.artifacts import (
    LAYERS,
    MASK,
    SCORES,
    WEIGHTS,
    decode_masks,
    decode_table,
    decode_tensors,
)
from trainables.training.batches import DeviceData
from trainables.training.recipe import Recipe

CPU = torch.device("cpu")
DIGITS: DatasetOptions = TypeAdapter(DatasetConfig).validate_python(
    {"name": "digits", "subset": 200}
)
RECIPE = Recipe(epochs=2, batch_size=40)
PRUNABLE = 64 * 32 + 32 * 10
AT_INIT = ["random", "magnitude", "snip", "grasp", "synflow"]


@pytest.fixture(scope="module")
def data() -> DeviceData:
    return DeviceData.of(load_dataset(DIGITS, DataRoots((), Path())), CPU)


def lineage(name: str, **options: Any) -> Lineage:
    # The data of `snip` and `grasp` is 256 examples by default, more than there are here.
    examples = {"examples": 64} if name in ("snip", "grasp") else {}
    model = TypeAdapter(ModelConfig).validate_python({"name": "mlp", "hidden": [32]})
    how = TypeAdapter(MethodConfig).validate_python({"name": name, **examples, **options})
    cell = Cell(DIGITS, model, RECIPE, Pruning(), how, seed=0)
    return make_lineage(cell, {"name": "digits", "subset": 200})


def run(one: Lineage, data: DeviceData, root: Path, **options: Any) -> list[dict[str, Any]]:
    committed = run_lineage(one, Bench(Store(str(root)), data, CPU, **options))
    return [metrics for metrics in committed if metrics is not None]


def masks_of(root: Path, key: str) -> dict[str, torch.Tensor]:
    return decode_masks(Store(str(root)).read(iteration_path(key), MASK))


def kept(density: float) -> int:
    return PRUNABLE - int((1 - Fraction(repr(density))) * PRUNABLE)


@pytest.mark.parametrize("name", AT_INIT)
@pytest.mark.parametrize("selection", ["threshold", "sampled"])
def test_a_method_at_initialization_is_one_iteration(
    name: str, selection: str, data: DeviceData, tmp_path: Path
) -> None:
    one = lineage(name, density=0.1, selection=selection)
    (metrics,) = run(one, data, tmp_path)
    assert (metrics["iteration"], metrics["params_kept"]) == (1, kept(0.1))
    assert metrics["density_target"] == 0.1
    assert metrics["pruned_test_accuracy"] is not None
    (key,) = one.keys
    weights = decode_tensors(Store(str(tmp_path)).read(iteration_path(key), WEIGHTS))
    for layer, mask in masks_of(tmp_path, key).items():
        assert bool((weights[layer][~mask] == 0).all())
    assert run(one, data, tmp_path) == []


def test_methods_and_densities_at_initialization_have_keys_of_their_own() -> None:
    keys = {lineage(name, density=d).keys for name in AT_INIT for d in (0.1, 0.05)}
    assert len(keys) == 10


def test_the_iterations_of_a_method_at_initialization_ignore_t() -> None:
    one = lineage("snip", density=0.1)
    assert [step.iteration for step in one.steps] == [1]


def test_imp_meets_its_density_exactly_at_its_last_iteration(
    data: DeviceData, tmp_path: Path
) -> None:
    one = lineage("imp", density=0.3, ratio=0.4, rewind={"step": 3})
    rows = run(one, data, tmp_path)
    # 0.6³ = 0.216 < 0.3 < 0.36 = 0.6²
    assert [row["iteration"] for row in rows] == [0, 1, 2, 3]
    first = PRUNABLE - int(Fraction(2, 5) * PRUNABLE)
    second = first - int(Fraction(2, 5) * first)
    assert [row["params_kept"] for row in rows] == [PRUNABLE, first, second, kept(0.3)]
    assert [row["density_target"] for row in rows] == [None, None, None, 0.3]
    masks = [masks_of(tmp_path, key) for key in one.keys]
    for earlier, later in pairwise(masks):
        assert all(bool((earlier[name] | ~later[name]).all()) for name in later)


def test_the_densities_of_imp_share_the_iterations_above_them() -> None:
    dense, sparse = lineage("imp", density=0.5), lineage("imp", density=0.1)
    assert len(dense.keys) == 1 + 4
    assert dense.keys[:4] == sparse.keys[:4]
    assert dense.keys[4] != sparse.keys[4]


def test_imp_on_random_data_retrains_its_mask_on_real_data(
    data: DeviceData, tmp_path: Path
) -> None:
    one = lineage("imp", density=0.6, ratio=0.3, data="random", rewind={"step": 2})
    rows = run(one, data, tmp_path)
    assert [row["iteration"] for row in rows] == [0, 1, 2, 3]
    assert one.keys[0] != one.trunk
    found, retrained = masks_of(tmp_path, one.keys[2]), masks_of(tmp_path, one.keys[3])
    assert all(torch.equal(found[name], retrained[name]) for name in found)
    # Random labels of ten classes cannot be learnt, real ones can.
    assert rows[0]["train_accuracy"] < 0.3
    assert rows[3]["train_accuracy"] > rows[0]["train_accuracy"]
    assert Store(str(tmp_path)).is_committed(snapshot_path(snapshot_key(one.trunk, 2)))
    assert Store(str(tmp_path)).is_committed(snapshot_path(snapshot_key(one.keys[0], 2)))


def test_imp_samples_its_masks(data: DeviceData, tmp_path: Path) -> None:
    sampled = lineage("imp", density=0.5, ratio=0.3, selection="sampled")
    threshold = lineage("imp", density=0.5, ratio=0.3)
    rows = run(sampled, data, tmp_path)
    run(threshold, data, tmp_path)
    assert rows[-1]["params_kept"] == kept(0.5)
    one, other = masks_of(tmp_path, sampled.keys[1]), masks_of(tmp_path, threshold.keys[1])
    for name in one:
        assert int(one[name].sum()) == int(other[name].sum())
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_layer_collapse_is_a_result(data: DeviceData, tmp_path: Path) -> None:
    # SNIP at one weight keeps nothing of one of the two layers.
    one = lineage("snip", density=0.0004)
    (metrics,) = run(one, data, tmp_path)
    assert metrics["params_kept"] == 1
    assert metrics["collapsed_layers"] in ("hidden1.weight", "classifier.weight")
    layers = decode_table(Store(str(tmp_path)).read(iteration_path(one.keys[0]), LAYERS))
    assert sorted(row["kept"] for row in layers.to_pylist()) == [0, 1]


def test_an_uncollapsed_net_has_no_collapsed_layers(data: DeviceData, tmp_path: Path) -> None:
    (metrics,) = run(lineage("synflow", density=0.1), data, tmp_path)
    assert metrics["collapsed_layers"] is None


def test_layers_tell_the_kept_magnitude_at_initialization(data: DeviceData, tmp_path: Path) -> None:
    one = lineage("magnitude", density=0.2)
    run(one, data, tmp_path)
    store = Store(str(tmp_path))
    initial = decode_tensors(store.read(snapshot_path(snapshot_key(one.trunk, 0)), WEIGHTS))
    masks = masks_of(tmp_path, one.keys[0])
    for row in decode_table(store.read(iteration_path(one.keys[0]), LAYERS)).to_pylist():
        weight, mask = initial[row["layer"]].double(), masks[row["layer"]]
        share = weight[mask].abs().sum() / weight.abs().sum()
        assert row["init_magnitude_share"] == pytest.approx(share.item(), rel=1e-12)
        assert row["uniform_share"] == mask.double().mean().item()
        assert row["init_norm_kept"] == pytest.approx(weight[mask].norm().item(), rel=1e-12)
        if 0 < row["kept"] < row["total"]:
            assert row["init_magnitude_share"] > row["uniform_share"]


def test_retired_weights_leave_branch_points_alone(data: DeviceData, tmp_path: Path) -> None:
    dense, sparse = lineage("imp", density=0.5), lineage("imp", density=0.3)
    shared = dense.keys[3]
    for one in (dense, sparse):
        run(
            one,
            data,
            tmp_path,
            keeping=StoreOptions(keep_weights="last"),
            branch_points=frozenset({shared}),
        )
    store = Store(str(tmp_path))

    def with_weights(one: Lineage) -> list[bool]:
        return [WEIGHTS in store.manifest(iteration_path(key))["files"] for key in one.keys]

    # The trunk, the branch point and the end.
    assert with_weights(dense) == [True, False, False, True, True]
    assert with_weights(sparse) == [True, False, False, True, False, False, True]


def scores_of(root: Path, key: str) -> list[dict[str, Any]]:
    return decode_table(Store(str(root)).read(iteration_path(key), SCORES)).to_pylist()


@pytest.mark.parametrize("name", AT_INIT)
def test_kept_scores_are_of_weights_drawn_from_the_whole_network(
    name: str, data: DeviceData, tmp_path: Path
) -> None:
    one = lineage(name, density=0.1)
    run(one, data, tmp_path, keeping=StoreOptions(keep_scores=1_000))
    rows, masks = scores_of(tmp_path, one.keys[0]), masks_of(tmp_path, one.keys[0])
    assert len({(row["layer"], row["index"]) for row in rows}) == len(rows) == 1_000
    shares = {layer: mask.numel() / PRUNABLE for layer, mask in masks.items()}
    for layer, share in shares.items():
        assert sum(row["layer"] == layer for row in rows) == pytest.approx(1_000 * share, rel=0.2)
    for row in rows:
        assert (
            row["kept"] == row["kept_by_threshold"] == masks[row["layer"]].flatten()[row["index"]]
        )
    lowest_kept = min(row["score"] for row in rows if row["kept"])
    if name != "synflow":  # which has scored more than once
        assert lowest_kept > max(row["score"] for row in rows if not row["kept"])


def test_scores_are_those_of_the_network_before_it_is_pruned(
    data: DeviceData, tmp_path: Path
) -> None:
    one = lineage("magnitude", density=0.1, rounds=3)
    run(one, data, tmp_path, keeping=StoreOptions(keep_scores=10**6))
    snapshot = Store(str(tmp_path)).read(snapshot_path(snapshot_key(one.trunk, 0)), WEIGHTS)
    initial = decode_tensors(snapshot)
    rows = scores_of(tmp_path, one.keys[0])
    assert len(rows) == PRUNABLE
    for layer in masks_of(tmp_path, one.keys[0]):
        found = [row["score"] for row in rows if row["layer"] == layer]
        assert found == pytest.approx(initial[layer].abs().flatten().tolist())


NUMBERS: dict[str, Callable[[Tensor], Tensor]] = {
    "with_gradients": lambda weight: weight.requires_grad_().abs(),
    "bfloat16": lambda weight: weight.abs().bfloat16(),
    "whole": lambda weight: (1000 * weight.abs()).long(),
    "boolean": lambda weight: weight.abs() > 0.1,
}


@pytest.mark.parametrize("selection", ["threshold", "sampled"])
@pytest.mark.parametrize("name", NUMBERS)
def test_scores_of_a_plug_in_are_kept_whatever_kind_of_numbers_they_are(
    name: str, selection: str, data: DeviceData, tmp_path: Path
) -> None:
    def score(scoring: Scoring) -> dict[str, Tensor]:
        return {layer: NUMBERS[name](weight) for layer, weight in scoring.weights.items()}

    score.__name__ = name
    how = vars(criterion(score))["at_init"](name=name, density=0.1, selection=selection)
    one = make_lineage(replace(lineage("random", density=0.1).cell, method=how), {"name": "digits"})
    run(one, data, tmp_path, keeping=StoreOptions(keep_scores=10**6))
    weights = decode_tensors(
        Store(str(tmp_path)).read(snapshot_path(snapshot_key(one.trunk, 0)), WEIGHTS)
    )
    rows = scores_of(tmp_path, one.keys[0])
    for layer in masks_of(tmp_path, one.keys[0]):
        found = [row["score"] for row in rows if row["layer"] == layer]
        expected = NUMBERS[name](weights[layer].double()).detach().double().flatten().tolist()
        assert found == pytest.approx(expected)


def test_a_randomized_mask_keeps_other_weights_than_the_highest(
    data: DeviceData, tmp_path: Path
) -> None:
    threshold, sampled = (
        lineage("snip", density=0.1, selection=each) for each in ("threshold", "sampled")
    )
    for one in (threshold, sampled):
        run(one, data, tmp_path, keeping=StoreOptions(keep_scores=1_000))
    plain, drawn = (scores_of(tmp_path, one.keys[0]) for one in (threshold, sampled))
    assert [row["kept"] for row in plain] == [row["kept_by_threshold"] for row in drawn]
    masks = masks_of(tmp_path, sampled.keys[0])
    assert [row["kept"] for row in drawn] == [
        bool(masks[row["layer"]].flatten()[row["index"]]) for row in drawn
    ]
    assert any(row["kept"] != row["kept_by_threshold"] for row in drawn)


def test_keeping_scores_changes_nothing_else(data: DeviceData, tmp_path: Path) -> None:
    one = lineage("synflow", density=0.1, selection="sampled", sampled_rounds="every")
    found = []
    for folder, options in (("with", {"keeping": StoreOptions(keep_scores=9)}), ("without", {})):
        run(one, data, tmp_path / folder, **options)
        path = iteration_path(one.keys[0])
        store = Store(str(tmp_path / folder))
        found.append([store.read(path, file) for file in (WEIGHTS, MASK, LAYERS)])
        assert (SCORES in store.manifest(path)["files"]) == (folder == "with")
    assert found[0] == found[1]


def test_who_does_not_score_at_initialization_keeps_no_scores(
    data: DeviceData, tmp_path: Path
) -> None:
    one = lineage("imp", density=0.5, ratio=0.5)
    run(one, data, tmp_path, keeping=StoreOptions(keep_scores=9))
    manifests = [Store(str(tmp_path)).manifest(iteration_path(key)) for key in one.keys]
    assert all(SCORES not in manifest["files"] for manifest in manifests)
