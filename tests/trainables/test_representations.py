"""Convergent representations: networks whose correlations are known, and pairs of lineages."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from test_connectivity import measured
from test_lineage import CNN, CPU, DIGITS, MLP, ROOTS, bench, lineage, method, run
from torch import Tensor, nn

from trainables.data import load_dataset
from trainables.errors import Diverged
from trainables.lineage.bundle import run_bundle
from trainables.lineage.keys import Lineage, Measurement
from trainables.lineage.loop import lineage_events
from trainables.lineage.pairs import compared, measurable, with_pairs
from trainables.measurements import MeasureConfig
from trainables.measurements.activations import bipartite, correlations, greedy, watched
from trainables.models import MODEL, build_model, prunable
from trainables.models.prunable import layer_of
from trainables.plugins.loading import load_plugins
from trainables.plugins.source import read_plugin
from trainables.store import Store, iteration_path
from trainables.store.artifacts import decode_table, measured_file
from trainables.store.claims import Claims
from trainables.training.batches import DeviceData, Examples
from trainables.training.run import Training

TABLE = measured_file("representations")
ANY = load_plugins([read_plugin("any_networks.py", Path(__file__).parent)]).plugged[MODEL.name]


def measure(**options: Any) -> Any:
    return TypeAdapter(MeasureConfig).validate_python({"name": "representations"} | options)


@pytest.fixture(scope="module")
def data() -> DeviceData:
    return DeviceData.of(load_dataset(DIGITS, ROOTS), CPU)


# Matching, by hand


def test_greedily_one_unit_may_be_that_of_several_and_in_pairs_it_is_not() -> None:
    alive = torch.tensor([[0.9, 0.8], [0.7, 0.1]]).double()
    assert greedy(alive) == pytest.approx((0.9 + 0.7) / 2)
    assert greedy(alive.T) == pytest.approx((0.9 + 0.8) / 2)
    assert bipartite(alive) == pytest.approx((0.8 + 0.7) / 2)


def test_of_networks_with_unequally_many_units_the_fewer_are_matched() -> None:
    alive = torch.tensor([[0.9, 0.8, -0.5]], dtype=torch.float64)
    assert (greedy(alive), bipartite(alive)) == (0.9, 0.9)
    assert greedy(alive.T) == pytest.approx((0.9 + 0.8 - 0.5) / 3)
    assert (greedy(alive[:0]), bipartite(alive[:0])) == (None, None)


# Networks whose correlations are known


def network(seed: int, architecture: Any = MLP) -> nn.Module:
    return build_model(architecture, (1, 8, 8), 10, seed)


def permuted(model: nn.Module) -> nn.Module:
    """The same network with the units of its first layer in another order."""
    other = network(0)
    one, order = model.state_dict(), torch.arange(16).roll(5)
    weight, bias, last = [*one][:3]
    other.load_state_dict(
        one | {weight: one[weight][order], bias: one[bias][order], last: one[last][:, order]}
    )
    return other


def hidden(model: nn.Module, images: Tensor) -> Tensor:
    """What the units of the hidden layer do."""
    with torch.no_grad():
        return model.get_submodule("hidden1")(images.flatten(1)).relu()


def test_what_a_layer_is_given_is_what_is_watched(data: DeviceData) -> None:
    model, images = network(0), data.test.normalized(data.test.images[:7])
    with watched(model) as seen:
        model(images)
    assert [*seen] == ["classifier.weight"]
    assert torch.equal(seen["classifier.weight"], hidden(model, images))
    assert not any(each._forward_pre_hooks or each._forward_hooks for each in model.modules())
    cnn = network(0, CNN)
    with watched(cnn.eval()) as seen:
        cnn(images)
    # Channels of 4 × 4 pixels after the pool, and the averages of channels.
    assert {n: each.shape for n, each in seen.items()} == {
        "conv2.weight": (7 * 16, 4), "classifier.weight": (7, 8),
    }  # fmt: skip


@pytest.mark.parametrize("architecture", [MLP, CNN])
def test_equal_networks_correlate_fully(architecture: Any, data: DeviceData) -> None:
    for each in correlations(
        network(3, architecture), network(3, architecture), data.test
    ).values():
        assert (greedy(each.alive), bipartite(each.alive)) == (pytest.approx(1), pytest.approx(1))


@pytest.mark.parametrize("name", sorted(ANY.keys() - {"computed_weight", "scaled", "lazy_misfit"}))
def test_of_any_network_each_layer_but_the_first_has_a_row(name: str, data: DeviceData) -> None:
    one, other = (network(0, ANY[name](name=name)) for _ in range(2))
    found = correlations(one, other, data.test)
    layers = [layer_of(weight) for weight in prunable(one)]
    assert len(found) == len({*layers} - WITHOUT_ROW.get(name, {layers[0]}))
    assert all(greedy(each.alive) == pytest.approx(1) for each in found.values())


WITHOUT_ROW = {
    # Attention takes the weight of its layer, and never calls that.
    "attention": {"attention.out_proj", "head"},
    "encoder_layer": {"1", "2.self_attn.out_proj"},
}


def test_networks_with_permuted_units_correlate_fully(data: DeviceData) -> None:
    model = network(3)
    (each,) = correlations(model, permuted(model), data.test).values()
    assert (greedy(each.alive), bipartite(each.alive)) == (pytest.approx(1), pytest.approx(1))
    assert each.alive.diagonal().mean() < 0.9


def test_correlations_are_pearsons_whatever_the_batches(data: DeviceData) -> None:
    one, other = network(0), network(1)
    (found,) = correlations(one, other, data.test).values()
    images = data.test.normalized(data.test.images)
    units = [hidden(model, images).numpy() for model in (one, other)]
    alive = [each.std(0) > 0 for each in units]
    every = np.corrcoef(units[0][:, alive[0]].T, units[1][:, alive[1]].T)
    count = int(alive[0].sum())
    assert len(data.test) > 100
    assert found.alive.numpy() == pytest.approx(every[:count, count:], abs=1e-9)
    assert found.dead == tuple(16 - int(each.sum()) for each in alive)


def test_units_that_are_independent_noise_hardly_correlate() -> None:
    """Each network sees its own half of the pixels, and they have nothing in common."""
    pixels = torch.randint(256, (4_000, 1, 2, 8), generator=torch.Generator().manual_seed(0))
    examples = Examples(
        pixels.to(torch.uint8), torch.zeros(4_000, dtype=torch.long), torch.tensor(0.5),
        torch.tensor(0.3),
    )  # fmt: skip
    one, other = (build_model(MLP, (1, 2, 8), 10, seed) for seed in (0, 1))
    with torch.no_grad():
        one.get_parameter("hidden1.weight")[:, 8:] = 0
        other.get_parameter("hidden1.weight")[:, :8] = 0
    (each,) = correlations(one, other, examples).values()
    # The deviation of one is 1/√4000 = 0.016, and each is the largest of 16.
    assert greedy(each.alive) == pytest.approx(0.03, abs=0.03)
    assert bipartite(each.alive) == pytest.approx(0.0, abs=0.06)


def test_dead_units_are_counted_and_matched_with_nothing(data: DeviceData) -> None:
    one, other = network(3), network(3)
    with torch.no_grad():
        for number in (2, 9):  # nothing goes in, and the ReLU lets nothing, or the bias, out
            one.get_parameter("hidden1.weight")[number] = 0
            one.get_parameter("hidden1.bias")[number] = number - 5
    before = correlations(other, network(3), data.test)["classifier.weight"]
    each = correlations(one, other, data.test)["classifier.weight"]
    assert (each.units, each.dead) == (16, (before.dead[0] + 2, before.dead[1]))
    assert (greedy(each.alive), bipartite(each.alive)) == (pytest.approx(1), pytest.approx(1))
    with torch.no_grad():
        one.get_parameter("hidden1.weight").zero_()
    (each,) = correlations(one, other, data.test).values()
    assert each.dead[0] == 16
    assert (greedy(each.alive), greedy(each.alive.T), bipartite(each.alive)) == (None, None, None)


# Pairs of lineages


def tickets(*seeds: int, how: Any = None, **options: Any) -> list[Lineage]:
    return [lineage(how, seed=seed, **options) for seed in seeds]


def pairs(lineages: Sequence[Lineage], *measures: Any) -> list[Lineage]:
    return [*with_pairs(lineages, measures)]


def told(of: Lineage) -> list[tuple[int, int, int]]:
    return [
        (each.pair[0].seed, each.pair[1].seed, each.pair[1].iteration)
        for each in of.measurements
        if each.pair is not None and each.is_of(of.id)
    ]


def test_each_two_seeds_are_a_pair_at_each_iteration_that_both_have_and_one_owns() -> None:
    one, two, three = pairs(tickets(0, 1, 2, iterations=1), measure())
    assert told(one) == []
    assert told(two) == [(0, 1, 0), (0, 1, 1)]
    assert told(three) == [(0, 2, 0), (0, 2, 1), (1, 2, 0), (1, 2, 1)]
    for each in (one, two, three):
        assert len(each.measurements) == 4
    assert {m.key for m in one.measurements} & {m.key for m in two.measurements} == {
        m.key for m in two.measurements if m.is_of(two.id)
    }


def test_keys_of_pairs_follow_from_both_tickets_and_from_no_order() -> None:
    one, two = pairs(tickets(0, 1), measure(iterations=[1]))
    two_first, one_second = pairs(tickets(1, 0), measure(iterations=[1]))
    assert (one_second.measurements, two_first.measurements) == (
        one.measurements, two.measurements,
    )  # fmt: skip
    others = pairs(tickets(0, 2), measure(iterations=[1]))
    assert others[0].measurements[0].key != one.measurements[0].key
    changed = pairs(tickets(0, 1), measure(iterations=[1], examples=50))
    assert changed[0].measurements[0].key != one.measurements[0].key


def test_the_key_of_a_pair_stays_what_it_is() -> None:
    lines = [replace(each, keys=(key * 64,)) for each, key in zip(
        tickets(0, 1, iterations=0), "ab", strict=True)]  # fmt: skip
    (found,) = with_pairs(lines, [measure()])[0].measurements
    assert found.key[:16] == GOLDEN_KEY


GOLDEN_KEY = "7f71bc6ad1aee76e"


def test_what_differs_in_more_than_the_seed_is_no_pair() -> None:
    others = [lineage(method("one_shot", ratio=0.3), seed=1), lineage(seed=2, lr=0.2)]
    assert not [*compared([*tickets(0), *others], measure())]


def rows(of: Lineage, root: Path) -> list[dict[str, Any]]:
    store = Store(str(root))
    return [
        row
        for each in of.measurements
        if each.is_of(of.id)
        for row in decode_table(store.read(iteration_path(each.key), TABLE)).to_pylist()
    ]


def made(of: Lineage, root: Path) -> list[bool]:
    store = Store(str(root))
    return [store.is_committed(iteration_path(each.key)) for each in of.measurements]


def test_who_comes_last_measures_the_pair_and_who_comes_first_waits_for_nobody(
    data: DeviceData, tmp_path: Path
) -> None:
    one, two = pairs(tickets(0, 1, iterations=1), measure())
    run(two, data, tmp_path)
    assert made(two, tmp_path) == [False, False]
    assert not Store(str(tmp_path)).names("claims")
    run(one, data, tmp_path)
    assert made(two, tmp_path) == [True, True]
    found = rows(two, tmp_path)
    assert [(row["one"], row["other"], row["layer"]) for row in found] == [
        (0, 1, "classifier.weight")
    ] * 2
    for row in found:
        assert (row["units"], row["examples"]) == (16, len(data.test))
        assert 0.2 < row["bipartite"] <= row["greedy_one"] < 1
    # The other way round it is the same, bit for bit.
    run(one, data, tmp_path / "other")
    run(two, data, tmp_path / "other")
    assert rows(two, tmp_path / "other") == found


def test_lineages_in_one_bundle_measure_their_pairs_once(data: DeviceData, tmp_path: Path) -> None:
    lineages = pairs(tickets(0, 1, 2, iterations=1), measure(iterations=[1]))
    rounds = run_bundle([(each, bench(data, tmp_path)) for each in lineages])
    found = [each for outcomes in rounds for each in outcomes.values()]
    measured_of = [each.key for each in found if isinstance(each, Measurement)]
    assert sorted(measured_of) == sorted({m.key for each in lineages for m in each.measurements})
    assert len(measured_of) == 3


def test_a_pair_of_which_one_has_failed_is_left_and_made_once_it_is_there(
    data: DeviceData, tmp_path: Path
) -> None:
    one, two, hot = pairs([*tickets(0, 1, iterations=0)], measure()) + tickets(2, iterations=0)
    run(one, data, tmp_path)
    broken = replace(two, cell=replace(two.cell, train=lineage(lr=1e30).cell.train))
    with pytest.raises(Diverged):
        run(broken, data, tmp_path)
    assert made(one, tmp_path) == [False]
    store = Store(str(tmp_path))
    (kept, other) = measurable([one, hot], lambda key: store.is_committed(iteration_path(key)))
    assert (kept.measurements, other) == ((), hot)
    run(two, data, tmp_path)
    assert made(one, tmp_path) == [True]


def test_a_ticket_whose_weights_are_damaged_is_set_aside_and_the_pair_is_left(
    data: DeviceData, tmp_path: Path
) -> None:
    one, two = pairs(tickets(0, 1, iterations=0), measure())
    run(one, data, tmp_path)
    path = iteration_path(one.keys[0])
    (tmp_path / path / "weights.safetensors").write_bytes(b"something else")
    run(two, data, tmp_path)
    assert made(two, tmp_path) == [False]
    assert not Store(str(tmp_path)).is_committed(path)
    run(one, data, tmp_path)
    assert made(two, tmp_path) == [True]


def test_weights_that_a_pair_reads_and_that_were_not_kept_are_trained_again(
    data: DeviceData, tmp_path: Path
) -> None:
    plain = tickets(0, 1)
    for each in plain:
        run(each, data, tmp_path, keep_weights="none")
    lineages = pairs(plain, measure(iterations=[1]))
    for each in lineages:
        run(each, data, tmp_path)
    assert made(lineages[0], tmp_path) == [True]


def test_what_another_measures_of_a_pair_is_waited_for(data: DeviceData, tmp_path: Path) -> None:
    one, two = pairs(tickets(0, 1, iterations=0), measure())
    run(one, data, tmp_path)
    claim = Claims(Store(str(tmp_path))).take(two.measurements[0].key)
    assert claim is not None
    events = lineage_events(two, bench(data, tmp_path))
    event = next(events)
    with claim:
        while event is not None:
            event = events.send(event.finish() if isinstance(event, Training) else None)
    assert events.send(None) == two.measurements[0]
    assert [*events] == []


def test_the_prunable_layers_of_a_measured_network_are_as_they_were(data: DeviceData) -> None:
    model = network(0)
    before = {name: weight.clone() for name, weight in prunable(model).items()}
    correlations(model, network(1), data.test)
    assert all(torch.equal(before[name], weight) for name, weight in prunable(model).items())


def test_a_measure_of_pairs_is_none_of_a_single_lineage() -> None:
    assert measured(lineage(), measure()).measurements == ()
