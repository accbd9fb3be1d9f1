"""Linear mode connectivity: lines between networks whose barriers are known, and how a lineage is
measured."""

import math
import os
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import any_networks
import pytest
import torch
from pydantic import TypeAdapter
from test_lineage import (
    CNN,
    CPU,
    DIGITS,
    MLP,
    ROOTS,
    bench,
    held,
    lineage,
    method,
    model_config,
    run,
)
from torch import nn

from trainables.data import load_dataset
from trainables.errors import Interrupted
from trainables.lineage.bundle import Finished, run_bundle
from trainables.lineage.identity import snapshot_key
from trainables.lineage.keys import Lineage, Measurement, lineage_measurements
from trainables.lineage.loop import lineage_events, set_aside_damaged
from trainables.lineage.measurement_run import MeasurementRun
from trainables.lineage.stored import missing_iterations, stored_files
from trainables.measurements import MeasureConfig
from trainables.measurements.batchnorm import batchnorms, recompute
from trainables.measurements.connectivity import some, tensors_of_layers
from trainables.measurements.interpolation import alphas, barrier, barrier_above_line, between
from trainables.models import build_model
from trainables.store import Store, iteration_path, snapshot_path
from trainables.store.artifacts import WEIGHTS, decode_table, measured_file
from trainables.store.claims import Claims
from trainables.training.batches import DeviceData, Examples, Randomness
from trainables.training.evaluation import evaluate
from trainables.training.recipe import Recipe
from trainables.training.run import Training

TABLE = measured_file("connectivity")


def measure(name: str, **options: Any) -> Any:
    return TypeAdapter(MeasureConfig).validate_python({"name": name, "points": 5} | options)


def measured(of: Lineage, *measures: Any) -> Lineage:
    return replace(of, measurements=lineage_measurements(measures, of.steps, of.keys))


def rows(of: Lineage, root: Path) -> list[dict[str, Any]]:
    return [row for each in of.measurements for row in rows_of(each, root)]


def rows_of(each: Measurement, root: Path) -> list[dict[str, Any]]:
    return decode_table(Store(str(root)).read(iteration_path(each.key), TABLE)).to_pylist()


def bits(of: Lineage, root: Path) -> list[bytes]:
    store = Store(str(root))
    return [store.read(iteration_path(each.key), TABLE) for each in of.measurements]


@pytest.fixture(scope="module")
def data() -> DeviceData:
    return DeviceData.of(load_dataset(DIGITS, ROOTS), CPU)


# Lines


def states() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    one, other = (build_model(CNN, (1, 8, 8), 10, seed).state_dict() for seed in (0, 1))
    return dict(one), dict(other)


def test_the_ends_of_a_line_are_the_networks_bit_for_bit() -> None:
    one, other = states()
    for name in one:
        assert torch.equal(between(one, other, 0.0)[name], one[name])
        if one[name].is_floating_point():
            assert torch.equal(between(one, other, 1.0)[name], other[name])


def test_in_between_is_the_weighted_mean_of_both() -> None:
    one, other = {"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([3.0, 0.0])}
    assert between(one, other, 0.25)["w"].tolist() == [1.5, 0.0]


def test_what_both_have_in_common_stays_as_it_is() -> None:
    one, _ = states()
    for alpha in alphas(30):
        assert all(torch.equal(value, one[n]) for n, value in between(one, one, alpha).items())


def test_a_line_of_one_layer_leaves_the_others() -> None:
    one, other = states()
    model = build_model(CNN, (1, 8, 8), 10, 0)
    layers = tensors_of_layers(model)
    first, *rest = layers.values()
    assert {name.rpartition(".")[2] for name in first} >= {"weight"}
    found = between(one, other, 1.0, first)
    assert all(torch.equal(found[name], other[name]) for name in first)
    assert all(torch.equal(found[name], one[name]) for name in one.keys() - {*first})
    assert not {*first} & {name for names in rest for name in names}


def test_a_line_of_a_layer_whose_weight_is_computed_moves_what_it_is_computed_from() -> None:
    config: Any = vars(any_networks.normed)["config"](name="normed")
    one, other, model = (build_model(config, (1, 8, 8), 10, seed).eval() for seed in (0, 1, 2))
    weight, *_ = layers = tensors_of_layers(model)
    found = between(one.state_dict(), other.state_dict(), 1.0, layers[weight])
    model.load_state_dict(found)
    images = torch.randn(3, 64)
    assert torch.equal(model.get_submodule("hidden")(images), other.get_submodule("hidden")(images))
    assert all(torch.equal(found[n], each) for n, each in one.state_dict().items()
               if not n.startswith("hidden."))  # fmt: skip


@pytest.mark.parametrize("shared", [any_networks.tied_linears, any_networks.tied_embedding])
def test_a_weight_that_layers_share_goes_to_the_other_end(shared: Any) -> None:
    config = vars(shared)["config"](name=shared.__name__)
    one, other, model = (build_model(config, (1, 8, 8), 10, seed) for seed in (0, 1, 2))
    for weight, names in tensors_of_layers(model).items():
        layer = weight.rpartition(".")[0]
        model.load_state_dict(between(one.state_dict(), other.state_dict(), 1.0, names))
        for name, each in model.named_parameters():
            moved = each is model.get_parameter(weight) or name.rpartition(".")[0] == layer
            assert torch.equal(each, (other if moved else one).get_parameter(name))


def test_points_are_evenly_spaced_with_both_ends() -> None:
    assert alphas(5) == [0.0, 0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(
    ("values", "mean", "line"),
    [
        ([0.2, 0.2, 0.2], 0.0, 0.0),
        ([0.1, 0.6, 0.3], 0.4, 0.4),
        ([0.0, 0.5, 1.0], 0.5, 0.0),
        ([1.0, 0.1, 1.0], 0.0, 0.0),
        ([0.0, 0.0, 0.9, 0.9], 0.45, 0.3),
        ([0.0, math.inf, 0.0], math.inf, math.inf),
        ([0.0, math.nan, 0.0], math.nan, math.nan),
        ([0.0, 1.0, math.nan, 0.0], math.nan, math.nan),
    ],
)
def test_a_barrier_is_above_the_mean_of_the_ends_or_above_the_line_between_them(
    values: Sequence[float], mean: float, line: float
) -> None:
    assert barrier(values) == pytest.approx(mean, abs=1e-15, nan_ok=True)
    assert barrier_above_line(values) == pytest.approx(line, abs=1e-15, nan_ok=True)


# BatchNorm


def test_recomputed_statistics_are_the_means_of_batches_and_nothing_else_changes(
    data: DeviceData,
) -> None:
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, 10))
    (layer,) = batchnorms(model)
    with torch.no_grad():
        layer.running_mean.fill_(7)  # pyright: ignore[reportOptionalMemberAccess]
    recompute(model, data.train, Recipe(batch_size=40))
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))
    batches = data.train.normalized(data.train.images[order]).split(40)
    means, variances = (
        torch.stack([getattr(batch, what)() for batch in batches]).mean()
        for what in ("mean", "var")
    )
    assert layer.running_mean == pytest.approx(means.item(), abs=1e-6)
    assert layer.running_var == pytest.approx(variances.item(), rel=1e-5)
    assert layer.momentum == 0.1
    assert not any(module.training for module in model.modules())


def test_a_dataset_that_lies_class_by_class_has_the_statistics_of_any_other_order(
    data: DeviceData,
) -> None:
    """As a folder with a folder for each class does: batches of one class alone are narrower."""

    def ordered(by: torch.Tensor) -> Examples:
        return replace(data.train, images=data.train.images[by], labels=data.train.labels[by])

    by_class = ordered(data.train.labels.argsort(stable=True))
    mixed = ordered(torch.randperm(len(by_class), generator=torch.Generator().manual_seed(7)))
    model = build_model(CNN, data.shape, data.classes, 0)
    Training(model, None, data, Recipe(epochs=3, batch_size=16), Randomness(0, 0)).finish()
    found: list[tuple[torch.Tensor, float]] = []
    for examples in (by_class, mixed):
        recompute(model, examples, Recipe(batch_size=16))
        variances = [layer.running_var for layer in batchnorms(model)]
        every = torch.cat([each for each in variances if each is not None])
        found.append((every, evaluate(model, data.test).loss))
    (one, its_loss), (other, others_loss) = found
    assert one.numpy() == pytest.approx(other.numpy(), rel=0.05)
    assert its_loss == pytest.approx(others_loss, rel=0.05)


def test_recomputed_statistics_are_what_a_line_is_measured_with_and_the_table_says_so(
    data: DeviceData, tmp_path: Path
) -> None:
    both = [measure("lmc", batchnorm=how, points=3) for how in ("recompute", "average")]
    one = measured(lineage(model=CNN, epochs=1, iterations=0), *both)
    run(one, data, tmp_path)
    recomputed, averaged = (rows_of(each, tmp_path) for each in one.measurements)
    assert {row["batchnorm"] for row in recomputed} == {"recompute"}
    assert {row["batchnorm"] for row in averaged} == {"average"}
    assert recomputed[1]["test_loss"] != averaged[1]["test_loss"]


# Networks whose barriers are known


class Given:
    """Tickets of networks that nobody has trained."""

    def __init__(self, model: nn.Module, data: DeviceData) -> None:
        self.index, self.steps, self.seed = 0, (), 0
        self.data, self.recipe, self._model = data, Recipe(batch_size=40), model

    def model(self, state: Any) -> nn.Module:
        self._model.load_state_dict(state)
        return self._model

    def require_time(self) -> None:
        pass


def barriers(model: nn.Module, ends: Sequence[Any], data: DeviceData) -> list[dict[str, Any]]:
    given: Any = Given(model, data)
    found = measure("lmc", points=11).rows(given, dict(enumerate(ends)))
    return [row for row in found if row["what"] != "point"]


VALUES = ("test_loss", "test_error", "train_loss", "train_error")


@pytest.fixture(scope="module")
def trained(data: DeviceData) -> nn.Module:
    model = build_model(MLP, data.shape, data.classes, 0)
    recipe = Recipe.model_validate({"epochs": 5, "batch_size": 20})
    Training(model, None, data, recipe, Randomness(0, 0)).finish()
    return model


def test_a_network_and_itself_have_no_barrier_at_all(trained: nn.Module, data: DeviceData) -> None:
    state = {name: value.clone() for name, value in trained.state_dict().items()}
    for row in barriers(trained, [state, state], data):
        assert [row[name] for name in VALUES] == [0.0] * 4


def test_a_network_and_itself_with_permuted_units_have_a_barrier_and_equal_ends(
    trained: nn.Module, data: DeviceData
) -> None:
    one = {name: value.clone() for name, value in trained.state_dict().items()}
    (weight, bias, last), order = list(one)[:3], torch.arange(16).roll(1)
    other = one | {weight: one[weight][order], bias: one[bias][order], last: one[last][:, order]}
    given: Any = Given(trained, data)
    found = measure("lmc", points=11).rows(given, {1: one, 2: other})
    points = [row for row in found if row["what"] == "point"]
    assert points[0]["test_loss"] == pytest.approx(points[-1]["test_loss"], rel=1e-5)
    assert points[0]["test_error"] == points[-1]["test_error"]
    for row in found[len(points) :]:
        assert all(row[name] > 0.1 for name in VALUES)


def test_a_convex_model_has_no_barrier_above_the_line(data: DeviceData, tmp_path: Path) -> None:
    linear = lineage(model=model_config("linear"), epochs=4, lr=0.5, iterations=1)
    one = measured(linear, measure("lmc", copies=3, points=11), measure("lmc_consecutive"))
    run(one, data, tmp_path)
    found = [row for row in rows(one, tmp_path) if row["what"] == "barrier_above_line"]
    assert len(found) == 2 * 3 + 1
    for row in found:
        assert row["train_loss"] <= 1e-6
        assert row["test_loss"] <= 1e-6


# A lineage that is measured


def test_copies_are_trained_from_the_rewound_weights_with_the_mask_in_orders_of_their_own(
    data: DeviceData, tmp_path: Path
) -> None:
    one = measured(lineage(), measure("lmc", rewind=3, copies=3, iterations=(1,)))
    run(one, data, tmp_path)
    store, step = Store(str(tmp_path)), one.steps[1]
    assert store.is_committed(snapshot_path(snapshot_key(one.trunk, 3)))
    (each,) = one.measurements
    tickets = MeasurementRun(one, 1, bench(data, tmp_path), each)
    masks, losses = held(one, tmp_path).masks[1], []
    for number in (1, 2, 3):
        model = tickets.model(tickets.rewound(3))
        randomness = Randomness(one.cell.seed, step.iteration, number)
        Training(model, masks, data, one.cell.train, randomness, start_step=3).finish()
        for name, mask in masks.items():
            assert not model.get_parameter(name)[~mask].any()
        losses.append(evaluate(model, data.test).loss)
    assert len({*losses}) == 3
    points = [row for row in rows(one, tmp_path) if row["what"] == "point"]
    pairs = {(row["one"], row["other"]) for row in points}
    assert pairs == {(1, 2), (1, 3), (2, 3)}
    for row in points:
        if row["alpha"] in (0.0, 1.0):
            end = row["other"] if row["alpha"] else row["one"]
            assert row["test_loss"] == losses[end - 1]


def test_between_consecutive_tickets_the_ends_are_what_the_iterations_have_measured(
    data: DeviceData, tmp_path: Path
) -> None:
    one = measured(lineage(), measure("lmc_consecutive"))
    run(one, data, tmp_path)
    metrics = held(one, tmp_path).metrics
    for row in rows(one, tmp_path):
        if row["what"] == "point" and row["alpha"] in (0.0, 1.0):
            iteration = row["other"] if row["alpha"] else row["one"]
            assert row["test_loss"] == metrics[iteration]["test_loss"]
            assert row["test_error"] == 1 - metrics[iteration]["test_accuracy"]
    assert {(row["one"], row["other"]) for row in rows(one, tmp_path)} == {(0, 1), (1, 2)}


def test_a_table_has_every_point_and_barrier_of_every_layer(
    data: DeviceData, tmp_path: Path
) -> None:
    one = measured(
        lineage(iterations=1), measure("lmc_consecutive", layerwise=True, train_examples=50)
    )
    run(one, data, tmp_path)
    found = rows(one, tmp_path)
    layers = {row["layer"] for row in found}
    assert layers == {None, *held(one, tmp_path).masks[0]}
    assert len(found) == len(layers) * (5 + 2)
    assert {row["train_examples"] for row in found} == {50}
    assert {row["batchnorm"] for row in found} == {None}


def test_the_training_examples_are_the_same_whatever_the_seed(data: DeviceData) -> None:
    few = some(data.train, 30)
    assert len(few) == 30
    assert torch.equal(few.images, some(data.train, 30).images)
    assert some(data.train, None) is data.train


def test_nothing_is_measured_of_iterations_on_random_data() -> None:
    imp = lineage(method("imp", density=0.5, ratio=0.3, data="random"))
    every = measured(imp, measure("lmc")).measurements
    assert {imp.steps[each.index].inputs for each in every} == {"real"}
    assert len(every) == sum(step.inputs == "real" for step in imp.steps) < len(imp.steps)


# Once, whatever happens


LMC = measure("lmc", rewind=2, iterations=(1,), copies=3)


@pytest.fixture(scope="module")
def undisturbed(data: DeviceData, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    root = tmp_path_factory.mktemp("undisturbed")
    one = measured(lineage(iterations=1), LMC)
    run(one, data, root)
    return bits(one, root)


def trainings(of: Lineage, data: DeviceData, root: Path, **options: Any) -> Generator[Training]:
    """Each training of a lineage, before it is done."""
    events = lineage_events(of, bench(data, root, **options))
    progress = None
    while True:
        try:
            event = events.send(progress)
        except StopIteration:
            return
        progress = None
        if isinstance(event, Training):
            yield event
            progress = event.finish()


def left_to_train(training: Training) -> int:
    """The epochs that a training has left by its checkpoint."""
    assert training.checkpoint is not None
    found = training.checkpoint.load(training.model)
    return training.recipe.epochs - (found.epoch if found else 0)


def test_who_is_killed_between_two_copies_goes_on_with_the_second_and_ends_with_the_same_bits(
    data: DeviceData, tmp_path: Path, undisturbed: list[bytes]
) -> None:
    one = measured(lineage(iterations=1), LMC)
    child = os.fork()
    if child == 0:
        for number, _ in enumerate(trainings(one, data, tmp_path)):
            if number == 3:  # two iterations, and the first copy
                os._exit(9)  # nothing is cleaned up
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert Store(str(tmp_path)).names("claims")
    left = [left_to_train(training) for training in trainings(one, data, tmp_path)]
    assert left == [0, 2, 2]
    assert bits(one, tmp_path) == undisturbed
    store = Store(str(tmp_path))
    assert not store.names("checkpoints")
    assert not store.names("claims")


def test_who_is_told_to_go_within_a_copy_goes_on_from_there_and_ends_with_the_same_bits(
    data: DeviceData, tmp_path: Path, undisturbed: list[bytes]
) -> None:
    one = measured(lineage(iterations=1), LMC)
    told, asked = False, 0

    def is_told() -> bool:
        nonlocal asked
        asked += told
        return told and asked > 3

    going = trainings(one, data, tmp_path, is_told=is_told)
    for _ in range(3):  # two iterations, and the first copy
        next(going)
    told = True
    with pytest.raises(Interrupted):
        next(going)
    assert not Store(str(tmp_path)).names("claims")
    first = next(trainings(one, data, tmp_path))
    assert first.checkpoint is not None
    found = first.checkpoint.load(first.model)
    assert found is not None
    assert found.begun is not None
    run(one, data, tmp_path)
    assert bits(one, tmp_path) == undisturbed


def test_what_another_measures_is_waited_for_and_not_measured_twice(
    data: DeviceData, tmp_path: Path, undisturbed: list[bytes]
) -> None:
    one = measured(lineage(iterations=1), LMC)
    (each,), store = one.measurements, Store(str(tmp_path))
    events = lineage_events(one, bench(data, tmp_path))
    claim = Claims(store).take(each.key)
    assert claim is not None
    with claim:
        event = next(events)
        while event is not None:
            event = events.send(event.finish() if isinstance(event, Training) else None)
        assert not store.is_committed(iteration_path(each.key))
        assert events.send(None) is None
    event = events.send(None)
    while isinstance(event, Training):
        event = events.send(event.finish())
    assert event == each
    assert list(events) == []
    assert bits(one, tmp_path) == undisturbed
    assert list(trainings(one, data, tmp_path)) == []


def test_a_bundle_is_told_of_measurements_and_ends_after_them(
    data: DeviceData, tmp_path: Path
) -> None:
    one = measured(lineage(iterations=1), measure("lmc_consecutive"))
    outcomes = [o[one.id] for o in run_bundle([(one, bench(data, tmp_path))])]
    iterations, (last, end) = outcomes[:-2], outcomes[-2:]
    assert [isinstance(each, dict) for each in iterations] == [True, True]
    assert last == one.measurements[0]
    assert isinstance(end, Finished)


def test_copies_of_lineages_in_a_bundle_are_trained_together_as_if_alone(
    data: DeviceData, tmp_path: Path
) -> None:
    lmc = measure("lmc", iterations=(1,))
    lineages = [measured(lineage(seed=seed, iterations=1), lmc) for seed in (0, 1)]
    for one in lineages:
        run(one, data, tmp_path / "alone")
    rounds = [*run_bundle([(one, bench(data, tmp_path / "bundle")) for one in lineages])]
    assert [{id: type(each) for id, each in outcomes.items()} for outcomes in rounds[-2:]] == [
        {one.id: kind for one in lineages} for kind in (Measurement, Finished)
    ]
    for one in lineages:
        for alone, together in zip(
            rows(one, tmp_path / "alone"), rows(one, tmp_path / "bundle"), strict=True
        ):
            if alone["what"] == "point":
                assert together["train_loss"] == pytest.approx(alone["train_loss"], rel=1e-3)


def test_a_measurement_that_is_damaged_is_made_again(
    data: DeviceData, tmp_path: Path, undisturbed: list[bytes]
) -> None:
    one = measured(lineage(iterations=1), LMC)
    run(one, data, tmp_path)
    (each,), store = one.measurements, Store(str(tmp_path))
    path = iteration_path(each.key)
    (tmp_path / path / TABLE).write_bytes(b"something else")
    assert set_aside_damaged(path, Claims(store))
    run(one, data, tmp_path)
    assert bits(one, tmp_path) == undisturbed


def test_weights_that_a_measurement_reads_and_that_were_not_kept_are_trained_again(
    data: DeviceData, tmp_path: Path
) -> None:
    one = lineage()
    run(one, data, tmp_path, keep_weights="last")
    store = Store(str(tmp_path))
    assert WEIGHTS not in store.manifest(iteration_path(one.keys[1]))["files"]
    consecutive = measured(one, measure("lmc_consecutive"))
    assert missing_iterations(consecutive, stored_files(store)) == [1]
    run(consecutive, data, tmp_path)
    assert missing_iterations(consecutive, stored_files(store)) == []
    assert len(rows(consecutive, tmp_path)) == 2 * 7


# Keys


def test_the_keys_of_measurements_stay_what_they_are() -> None:
    """A changed key makes stored measurements unreachable, and all of them are made again."""
    one = measured(
        replace(lineage(), keys=("a" * 64, "b" * 64, "c" * 64)),
        measure("lmc", points=30, iterations=(0,)),
        measure("lmc", points=30, rewind=100, layerwise=True, train_examples=7, iterations=(2,)),
        measure("lmc_consecutive", points=30, batchnorm="average", iterations=(1,)),
    )
    assert [each.key[:16] for each in one.measurements] == GOLDEN_KEYS


GOLDEN_KEYS = ["e8b15afb64c3b3f6", "f3951b7ad5803bea", "ed6b89172935bee3"]


def test_what_is_measured_is_in_no_key_of_an_iteration_and_which_in_none_of_a_measurement() -> None:
    plain = lineage()
    every = measured(plain, measure("lmc"))
    assert (every.keys, every.id) == (plain.keys, plain.id)
    some_of_them = measured(
        plain, measure("lmc", iterations=(2,)), measure("lmc", iterations=(1, 2))
    )
    keys = {each.key: each.index for each in every.measurements}
    assert {each.key: each.index for each in some_of_them.measurements} == {
        key: index for key, index in keys.items() if index > 0
    }
    assert len(some_of_them.measurements) == 2
