"""Methods whose mask changes within a training: gradual magnitude, SET, RigL."""

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from trainables.data import DatasetConfig, DatasetOptions, load_dataset
from trainables.data.roots import DataRoots
from trainables.errors import Diverged, Interrupted
from trainables.lineage.bench import Bench
from trainables.lineage.bundle import run_bundle
from trainables.lineage.keys import Cell, Lineage, make_lineage
from trainables.lineage.loop import run_lineage
from trainables.models import ModelConfig, prunable
from trainables.pruning import MethodConfig, Network, Pruning
from trainables.pruning.amount import kept_count
from trainables.pruning.layer_densities import kept_by_layer
from trainables.pruning.scope import Scope
from trainables.sparsity.masks import Masks, dense_masks, kept_counts
from trainables.store import Store, iteration_path
from trainables.store.artifacts import (
    EPOCHS,
    LAYERS,
    MASK,
    WEIGHTS,
    decode_masks,
    decode_table,
    decode_tensors,
)
from trainables.training import execution as executing
from trainables.training.augmentation import Unfit
from trainables.training.batches import DeviceData, Randomness
from trainables.training.checkpoint import StoredCheckpoint
from trainables.training.execution import Execution
from trainables.training.networks import One
from trainables.training.optimizers import SGD, Optimizer, optimizer
from trainables.training.progress import Progress, State
from trainables.training.recipe import Recipe
from trainables.training.run import Training, train
from trainables.training.steps import Steps

CPU = torch.device("cpu")
DIGITS: DatasetOptions = TypeAdapter(DatasetConfig).validate_python(
    {"name": "digits", "subset": 150}
)
STEPS = 16
"""Of a training of four epochs."""
LAYERS_OF_NET = {"1.weight": 64 * 12, "3.weight": 12 * 10}
METHODS: dict[str, dict[str, Any]] = {
    "gradual_magnitude": {"begin": 0.1, "every": 3},
    "set": {"every": 3},
    "rigl": {"every": 3},
}


@pytest.fixture(scope="module")
def data() -> DeviceData:
    return DeviceData.of(load_dataset(DIGITS, DataRoots((), Path())), CPU)


def method(name: str, **options: Any) -> Any:
    said = {"name": name, "density": 0.3} | METHODS[name] | options
    return TypeAdapter(MethodConfig).validate_python(said)


def recipe(**options: Any) -> Recipe:
    return Recipe.model_validate({"epochs": 4, "batch_size": 40, **options})


def plain_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))


def normalized_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Dropout(0.3), nn.Linear(16, 10),
    )  # fmt: skip


def network(model: nn.Module, masks: Masks | None = None, scope: Scope = "global") -> Network:
    nothing: Any = None
    found = masks or dense_masks(prunable(model))
    return Network(model, found, nothing, seed=3, iteration=1, scope=scope)


def training(
    how: Any, data: DeviceData, used: Recipe, model: nn.Module, **options: Any
) -> Training:
    masks = how(network(model))
    plain = Training(model, masks, data, used, Randomness(3, 1), **options)
    schedule = how.mask_schedule(network(model, masks), plain.steps)
    return Training(model, masks, data, used, Randomness(3, 1), mask_schedule=schedule, **options)


def run(
    how: Any, data: DeviceData, used: Recipe, net: Any = plain_net, **options: Any
) -> tuple[State, Progress]:
    model = net()
    progress = training(how, data, used, model, **options).finish()
    return model.state_dict(), progress


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


# Four numbers, worked out by hand


class Four(nn.Module):
    """Four weights."""

    def __init__(self, *weights: float) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1, bias=False)
        self.layer.weight.data.copy_(torch.tensor([weights]))

    def with_gradient(self, *slopes: float) -> "Four":
        self.layer.weight.grad = torch.tensor([slopes])
        return self


def kept_of(masks: Masks) -> list[int]:
    return masks["layer.weight"].flatten().int().tolist()


def four_masks(*kept: int) -> Masks:
    return {"layer.weight": torch.tensor([kept], dtype=torch.bool)}


def test_gradual_magnitude_worked_out_by_hand() -> None:
    """Of 20 steps, updates before 5, 10 and 15; s = 0.75·(1 − (2/3)³) ≈ 0.53, 0.75·(1 − (1/3)³) ≈
    0.72 and 0.75, of four weights 2.1, 2.9 and 3."""
    how = method("gradual_magnitude", density=0.25, begin=0.0, every=5)
    assert [*how.updates(20)] == [5, 10, 15]
    net = network(Four(-0.4, 0.1, 0.3, -0.2))
    masks = how(net)
    assert kept_of(masks) == [1, 1, 1, 1]
    schedule = how.mask_schedule(net, 20)
    found = []
    for step in (5, 10, 15):
        masks = schedule.masks(step, masks)
        found.append(kept_of(masks))
    assert found == [[1, 0, 1, 0], [1, 0, 1, 0], [1, 0, 0, 0]]


def test_set_worked_out_by_hand() -> None:
    """Of 8 steps the updates before 0, 2 and 4, T_end = 6. Of the two kept weights half goes at
    first, 0.5/2·(1 + cos(π/3)) · 2 < 1 later."""
    how = method("set", density=0.5, every=2, fraction=0.5)
    assert [*how.updates(8)] == [0, 2, 4]
    assert [how.dropped(2, step, 8) for step in (0, 2, 4)] == [1, 0, 0]
    net = network(Four(-0.4, 0.1, 0.0, 0.0), four_masks(1, 1, 0, 0))
    _, *others = (
        torch.rand((1, 4), generator=net.stream("grown weights", 0), dtype=torch.float64)
        .flatten()
        .tolist()
    )
    grown = max(range(3), key=lambda place: others[place]) + 1
    expected = [1, 0, 0, 0]
    expected[grown] = 1
    masks = how.mask_schedule(net, 8).masks(0, net.masks)
    assert kept_of(masks) == expected
    assert kept_of(how.mask_schedule(net, 8).masks(2, masks)) == expected


def test_rigl_worked_out_by_hand() -> None:
    how = method("rigl", density=0.5, every=2, fraction=0.5)
    model = Four(-0.4, 0.1, 0.0, 0.0).with_gradient(9.0, 0.1, 0.2, -0.3)
    net = network(model, four_masks(1, 1, 0, 0))
    schedule = how.mask_schedule(net, 8)
    assert schedule.by_gradient
    assert kept_of(schedule.masks(0, net.masks)) == [1, 0, 0, 1]
    # What has been dropped grows at once where its gradient is the largest.
    model.with_gradient(0.0, -0.5, 0.2, 0.3)
    assert kept_of(schedule.masks(0, net.masks)) == [1, 1, 0, 0]
    # A quarter, 0.5/2·(1 + cos(π/2)), of two is none.
    model.with_gradient(0.0, 0.0, 0.0, 9.0)
    assert kept_of(how.mask_schedule(net, 8).masks(3, net.masks)) == [1, 1, 0, 0]


def test_an_update_of_rigl_is_in_the_place_of_a_step(data: DeviceData) -> None:
    """It moves no weight, but for those that go, which become zero."""
    seen: list[State] = []

    def snapshot(step: int) -> None:
        seen.append({name: value.clone() for name, value in model.state_dict().items()})

    model, how = plain_net(), method("rigl", every=3, fraction=0.5)
    training(how, data, recipe(), model, snapshot=snapshot).finish()
    for step in range(STEPS):
        before, after = seen[step], seen[step + 1]
        updated = step in (0, 3, 6, 9)
        assert torch.equal(before["1.bias"], after["1.bias"]) is updated
        if updated:
            moved = before["1.weight"] != after["1.weight"]
            assert bool(moved.any())
            assert not after["1.weight"][moved].any()


def test_an_update_of_set_is_beside_a_step(data: DeviceData) -> None:
    """So that without any, all is as with a fixed mask."""
    how, (one, other) = method("set", fraction=1e-9), (plain_net(), plain_net())
    progress = training(how, data, recipe(), one).finish()
    masks = how(network(other))
    assert progress.masks is not None
    assert same(progress.masks, masks)
    Training(other, masks, data, recipe(), Randomness(3, 1)).finish()
    assert same(one.state_dict(), other.state_dict())


# Exact counts at every update


def counts_at_updates(
    how: Any, data: DeviceData, used: Recipe, scope: Scope = "global"
) -> dict[int, dict[str, int]]:
    """Of every step how many weights of each layer are kept from it on, where that is updated."""
    model = plain_net()
    masks = how(network(model, scope=scope))
    found: dict[int, dict[str, int]] = {}

    class Told:
        def __init__(self) -> None:
            self.asked = how.mask_schedule(network(model, scope=scope), STEPS)
            self.by_gradient, self.is_due = self.asked.by_gradient, self.asked.is_due

        def masks(self, step: int, masks: Masks) -> Masks:
            for name, weight in prunable(model).items():
                assert not weight[~masks[name]].any()
            changed = self.asked.masks(step, masks)
            found[step] = kept_counts(changed)
            return changed

    Training(model, masks, data, used, Randomness(3, 1), mask_schedule=Told()).finish()
    return found


@pytest.mark.parametrize("scope", ["global", "layer", "neuron"])
def test_gradual_magnitude_keeps_exactly_what_its_schedule_says(
    data: DeviceData, scope: Scope
) -> None:
    how = method("gradual_magnitude", density=0.07, begin=0.1, every=2)
    counts = counts_at_updates(how, data, recipe(), scope)
    # From step ⌊1.6⌋ = 1 to ⌊12⌋ at the most.
    assert [*counts] == [3, 5, 7, 9, 11]
    groups = {
        "global": [sum(LAYERS_OF_NET.values())],
        "layer": [64 * 12, 12 * 10],
        "neuron": [64] * 12 + [12] * 10,
    }
    for index, step in enumerate(counts, start=1):
        found = counts[step]
        pruned = Fraction(93, 100) * (1 - (1 - Fraction(index, 5)) ** 3)
        expected = [size - math.floor(pruned * size) for size in groups[scope]]
        assert sum(found.values()) == sum(expected)
        if scope == "layer":
            assert [*found.values()] == expected
    assert sum(counts[11].values()) == sum(kept_count(0.07, size) for size in groups[scope])


@pytest.mark.parametrize("distribution", ["erk", "uniform"])
@pytest.mark.parametrize("name", ["set", "rigl"])
def test_a_layer_has_as_many_weights_all_the_time(
    data: DeviceData, name: str, distribution: Literal["erk", "uniform"]
) -> None:
    how = method(name, distribution=distribution, every=1, fraction=0.9)
    counts = counts_at_updates(how, data, recipe())
    shapes = {"1.weight": (12, 64), "3.weight": (10, 12)}
    masks = {name: torch.ones(shape, dtype=torch.bool) for name, shape in shapes.items()}
    expected = kept_by_layer(distribution, masks, kept_count(0.3, 12 * 64 + 10 * 12))
    assert sum(expected.values()) == kept_count(0.3, sum(LAYERS_OF_NET.values()))
    assert counts == dict.fromkeys(range(12), expected)


@pytest.mark.parametrize("name", ["set", "rigl"])
def test_a_dense_layer_is_left_alone(data: DeviceData, name: str) -> None:
    how = method(name, density=1.0, distribution="uniform", every=2)
    used = recipe()
    model = plain_net()
    masks = dense_masks(prunable(model))
    progress = training(how, data, used, model).finish()
    assert progress.masks is not None
    assert same(progress.masks, masks)
    if name == "set":  # no update is in the place of a step
        other = plain_net()
        Training(other, None, data, used, Randomness(3, 1)).finish()
        assert same(model.state_dict(), other.state_dict())


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("name", METHODS)
def test_pruned_weights_are_zero_and_so_is_what_is_remembered_of_them(
    data: DeviceData, tmp_path: Path, name: str, optimizer: str
) -> None:
    model = plain_net()
    used = recipe(optimizer={"name": optimizer, "lr": 0.01})
    kept = StoredCheckpoint(Store(str(tmp_path)), "key", 0.0)
    progress = training(method(name), data, used, model, checkpoint=kept).finish()
    assert progress.masks is not None
    saved = kept.load(plain_net())
    assert saved is not None
    assert saved.masks is not None
    assert same(saved.masks, progress.masks)
    parameters = dict(enumerate(model.named_parameters()))
    looked_at = 0
    for index, held in saved.optimizer.items():
        layer, weight = parameters[index]
        mask = saved.masks.get(layer)
        for remembered in held.values():
            if mask is not None and remembered.shape == weight.shape:
                looked_at += 1
                assert not remembered[~mask].any()
                assert not weight[~mask].any()
    assert looked_at >= 2


class Remembering(torch.optim.Optimizer):
    """Remembers something of every weight, whatever its gradient."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    held = self.state[weight].setdefault("held", torch.zeros_like(weight))
                    weight.data.sub_(group["lr"] * held.add_(weight.grad + 1))


@optimizer
class RememberingConfig(Optimizer):
    name: Literal["remembering"] = "remembering"
    lr: float = 0.1

    def __call__(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return Remembering(parameters, self.lr)


@pytest.mark.parametrize("used", [SGD(name="sgd", weight_decay=0.1), RememberingConfig()])
def test_what_goes_and_what_comes_is_zero_and_nothing_is_remembered_of_it(used: Optimizer) -> None:
    layer = nn.Linear(64, 10, bias=False)
    everything = torch.ones(10, 64, dtype=torch.bool)
    first, second = everything.clone(), everything.clone()
    first[0], second[1] = False, False
    network = One(nn.Sequential(nn.Flatten(), layer))
    steps = Steps(network, recipe(optimizer=used), [{"1.weight": everything}], [{}])
    steps.at_rate(0.1)
    images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(1))

    def step() -> None:
        steps.take(images, torch.arange(40) % 10)

    def rows() -> list[list[bool]]:
        """Of the first three, whether they are other than zero: the weights, what is remembered."""
        (states,) = steps.states()
        (held,) = states[0].values()
        return [each[:3].any(dim=1).tolist() for each in (layer.weight, held)]

    step()
    assert rows() == [[True, True, True]] * 2
    steps.change_masks([{"1.weight": first}])
    assert rows() == [[False, True, True]] * 2
    step()
    assert rows()[0] == [False, True, True]
    steps.change_masks([{"1.weight": second}])
    assert rows() == [[False, False, True]] * 2
    step()
    assert rows()[0] == [True, False, True]


# Reproducibility


@pytest.mark.parametrize("net", [plain_net, normalized_net])
@pytest.mark.parametrize("name", METHODS)
def test_two_runs_are_bit_identical_and_masks_do_change(
    data: DeviceData, name: str, net: Any
) -> None:
    used = recipe(clip_grad_norm=1.0)
    (one, first), (other, second) = (run(method(name), data, used, net) for _ in range(2))
    assert same(one, other)
    assert first.masks is not None
    assert second.masks is not None
    assert same(first.masks, second.masks)
    assert first.rows == second.rows
    assert not same(first.masks, method(name)(network(net())))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("options", [{}, {"optimizer": {"name": "adam"}}], ids=str)
def test_a_run_that_is_told_to_go_goes_on_where_it_was(
    data: DeviceData, tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    """After every single step, so before an update, after one, and where an epoch ends."""
    used, how = recipe(**options), method(name)
    unbroken, expected = run(how, data, used, normalized_net)
    kept = StoredCheckpoint(Store(str(tmp_path)), "key", None)
    stopped_at = []
    for _ in range(STEPS - 1):
        with pytest.raises(Interrupted):
            run(how, data, used, normalized_net, checkpoint=kept, is_told=lambda: True)
        found = kept.load(normalized_net())
        assert found is not None
        stopped_at.append(found.place)
    assert stopped_at == [divmod(step, 4) for step in range(1, STEPS)]
    resumed, progress = run(how, data, used, normalized_net, checkpoint=kept)
    assert same(resumed, unbroken)
    assert progress.masks is not None
    assert expected.masks is not None
    assert same(progress.masks, expected.masks)
    assert progress.rows == expected.rows


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("lr", [1e20, 1e30, 1e38])
def test_a_training_that_diverges_says_so(
    data: DeviceData, name: str, every: int, lr: float
) -> None:
    """Before its weights are numbers no more, and after that."""
    used = recipe(optimizer={"name": "sgd", "lr": lr})
    scopes = ("global", "layer", "neuron") if name == "gradual_magnitude" else ("global",)
    for scope in scopes:
        how, net = method(name, every=every), plain_net()
        within = training(how, data, used, net)
        schedule = how.mask_schedule(network(net, within.masks, scope), within.steps)
        with pytest.raises(Diverged):
            replace(within, mask_schedule=schedule).finish()


def test_trainings_whose_masks_change_are_trained_alone_and_without_graphs(
    data: DeviceData, caplog: pytest.LogCaptureFixture
) -> None:
    mlp = TypeAdapter(ModelConfig).validate_python({"name": "mlp", "hidden": [8]})
    alike = [
        training(
            method("set"), data, recipe(), plain_net(), architecture=mlp,
            execution=Execution(graphs="on"),
        )
        for _ in range(2)
    ]  # fmt: skip
    assert len({each.kind for each in alike}) == 2
    executing._told.clear()
    with caplog.at_level(logging.WARNING, "prunesweep"):
        (progress,) = train(alike[:1])
    assert isinstance(progress, Progress)
    assert progress.fused == 1
    told = "graphs: on: steps are taken without graphs, since masks change in the training"
    assert caplog.messages == [told]


# What is refused


@pytest.mark.parametrize("name", METHODS)
def test_what_cannot_mean_what_it_says_is_unfit(name: str) -> None:
    with pytest.raises(Unfit, match=r"of 16 steps leaves .* choose a smaller every") as error:
        method(name, every=13).require_time(recipe(), STEPS)
    assert error.value.option == "every"
    with pytest.raises(Unfit, match=r"train\.keep: last"):
        method(name).require_time(recipe(keep="best_test"), STEPS)
    method(name).require_time(recipe(), STEPS)


def test_gradual_magnitude_ends_after_it_begins() -> None:
    with pytest.raises(ValidationError, match=r"begin = 0.8 must be below end = 0.75"):
        method("gradual_magnitude", begin=0.8)


# Lineages


def lineage(
    how: Any, seed: int = 0, epochs: int = 4, hidden: Sequence[int] = (16,), **pruning: Any
) -> Lineage:
    mlp = TypeAdapter(ModelConfig).validate_python({"name": "mlp", "hidden": [*hidden]})
    used = recipe(epochs=epochs, optimizer={"name": "sgd", "lr": 0.05})
    cell = Cell(DIGITS, mlp, used, Pruning.model_validate(pruning), how, seed)
    return make_lineage(cell, {"name": "digits", "subset": 150})


def held(one: Lineage, root: Path) -> tuple[State, Masks]:
    (key,) = one.keys
    path, store = iteration_path(key), Store(str(root))
    return decode_tensors(store.read(path, WEIGHTS)), decode_masks(store.read(path, MASK))


@pytest.mark.parametrize("name", METHODS)
def test_a_lineage_is_one_iteration_that_commits_the_final_mask(
    data: DeviceData, tmp_path: Path, name: str
) -> None:
    one, total = lineage(method(name)), 64 * 16 + 16 * 10
    (metrics,) = [*run_lineage(one, Bench(Store(str(tmp_path)), data, CPU))]
    assert metrics is not None
    assert (metrics["iteration"], metrics["density_target"]) == (1, 0.3)
    assert metrics["params_kept"] == kept_count(0.3, total)
    weights, masks = held(one, tmp_path)
    assert sum(kept_counts(masks).values()) == kept_count(0.3, total)
    for layer, mask in masks.items():
        assert not weights[layer][~mask].any()
        assert bool(weights[layer][mask].any())
    (key,) = one.keys
    tables = [
        decode_table(Store(str(tmp_path)).read(iteration_path(key), table)).to_pydict()
        for table in (LAYERS, EPOCHS)
    ]
    layers, epochs = tables
    assert dict(zip(layers["layer"], layers["kept"], strict=True)) == kept_counts(masks)
    densities = epochs["density"]
    assert densities[-1] == kept_count(0.3, total) / total
    if name == "gradual_magnitude":
        assert 1 == densities[0] > densities[1] > densities[-1]
    else:
        assert densities == [densities[-1]] * 4


@pytest.mark.parametrize("name", METHODS)
def test_lineages_in_a_bundle_are_what_they_are_alone_and_go_on_when_told(
    data: DeviceData, tmp_path: Path, name: str
) -> None:
    two = [lineage(method(name), seed) for seed in (0, 1)]
    alone, together = tmp_path / "alone", tmp_path / "together"
    for one in two:
        assert [*run_lineage(one, Bench(Store(str(alone)), data, CPU))]
    steps = iter(range(1000))
    bench = Bench(Store(str(together)), data, CPU, is_told=lambda: next(steps) > 9)
    with pytest.raises(Interrupted):
        list(run_bundle([(one, bench) for one in two]))
    assert [*run_bundle([(one, Bench(Store(str(together)), data, CPU)) for one in two])]
    for one in two:
        weights, masks = held(one, alone)
        weights_too, masks_too = held(one, together)
        assert same(weights, weights_too)
        assert same(masks, masks_too)


@pytest.mark.parametrize("name", METHODS)
def test_layers_of_which_nothing_is_kept_are_named_in_order_after_an_interruption(
    data: DeviceData, tmp_path: Path, name: str
) -> None:
    one = lineage(method(name, density=0.0009, every=2), hidden=[16, 30, 12])
    (unbroken,) = [*run_lineage(one, Bench(Store(str(tmp_path / "unbroken")), data, CPU))]
    steps, store = iter(range(1000)), Store(str(tmp_path / "broken"))
    with pytest.raises(Interrupted):
        list(run_lineage(one, Bench(store, data, CPU, is_told=lambda: next(steps) > 14)))
    (resumed,) = [*run_lineage(one, Bench(store, data, CPU))]
    assert unbroken is not None
    assert resumed is not None
    assert ", " in unbroken["collapsed_layers"]
    assert resumed["collapsed_layers"] == unbroken["collapsed_layers"]
