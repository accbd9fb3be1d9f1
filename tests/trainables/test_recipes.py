"""What a recipe can ask for besides: averaged weights, cutout, mixup, steps of several batches."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.data import DatasetConfig, load_dataset
from trainables.data.roots import DataRoots
from trainables.lineage.bench import Bench
from trainables.lineage.identity import snapshot_key
from trainables.lineage.keys import Cell, make_lineage
from trainables.lineage.loop import run_lineage
from trainables.models import ModelConfig, build_model, prunable
from trainables.pruning import MethodConfig, Network, Pruning
from trainables.sparsity.masks import Masks
from trainables.store import Store, iteration_path, snapshot_path
from trainables.store.artifacts import read_masks, read_tensors
from trainables.training.batches import (
    DeviceData,
    Randomness,
    batches_of,
    each_batch,
    examples_taken,
    steps_per_epoch,
)
from trainables.training.cutout import centers, cut
from trainables.training.evaluation import evaluate
from trainables.training.mixup import mixed, pairs
from trainables.training.networks import One
from trainables.training.progress import Progress, State
from trainables.training.recipe import Recipe
from trainables.training.run import Training
from trainables.training.side_by_side import SideBySide, of_one
from trainables.training.steps import Steps

CPU = torch.device("cpu")
PLAIN_SGD = {"name": "sgd", "lr": 0.1, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0}


@pytest.fixture(scope="module")
def data() -> DeviceData:
    options = TypeAdapter(DatasetConfig).validate_python({"name": "digits", "subset": 150})
    return DeviceData.of(load_dataset(options, DataRoots((), Path())), CPU)


def recipe(**options: Any) -> Recipe:
    return Recipe.model_validate({"epochs": 3, "batch_size": 40, **options})


def plain_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))


def normalized_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(16, 10),
    )  # fmt: skip


def half_masks(model: nn.Module) -> Masks:
    generator = torch.Generator().manual_seed(1)
    return {n: torch.rand(w.shape, generator=generator) < 0.5 for n, w in prunable(model).items()}


def copied(state: State) -> State:
    return {name: tensor.clone() for name, tensor in state.items()}


def by_step(
    data: DeviceData, used: Recipe, model: nn.Module, **options: Any
) -> tuple[list[State], Progress]:
    """What the network is before each step and after the last, and the progress."""
    states: list[State] = []

    def keep(step: int) -> None:
        states.append(copied(model.state_dict()))

    masks = options.pop("masks", None)
    training = Training(model, masks, data, used, Randomness(0, 0), snapshot=keep, **options)
    return states, training.finish()


# Averaged weights


def averaged(states: list[State], decay: float) -> State:
    """The average after the last of `states`, by hand, in float64."""
    first, *rest = states
    mean = {name: value.double() for name, value in first.items()}
    for state in rest:
        for name, value in state.items():
            mean[name] = decay * mean[name] + (1 - decay) * value.double()
    return {name: value for name, value in mean.items() if not name.endswith("tracked")}


@pytest.mark.parametrize("start_step", [0, 6])
def test_what_a_training_comes_to_is_the_average_of_its_weights(
    data: DeviceData, start_step: int
) -> None:
    model, before = normalized_net(), normalized_net()
    states, progress = by_step(data, recipe(ema=0.8), model, start_step=start_step)
    found = model.state_dict()
    for name, value in averaged(states, 0.8).items():
        torch.testing.assert_close(found[name].double(), value, rtol=1e-4, atol=1e-6)
        assert not torch.equal(found[name], states[-1][name])
    assert found["1.num_batches_tracked"] == 12 - start_step
    # Each epoch is measured by the average up to its end.
    for row in progress.rows:
        steps = row["step"] - start_step
        before.load_state_dict(averaged(states[: steps + 1], 0.8), strict=False)
        measured = evaluate(before, data.test)
        assert row["test_loss"] == pytest.approx(measured.loss, rel=1e-4)
        assert row["test_accuracy"] == pytest.approx(measured.accuracy, abs=0.003)


def test_training_itself_goes_the_same_way_with_an_average_and_without(data: DeviceData) -> None:
    """So what is rewound to, the weights of a step, is the same."""
    (plain, without), (other, with_one) = (
        by_step(data, recipe(ema=ema), normalized_net()) for ema in (0.0, 0.9)
    )
    for one, two in zip(plain, other, strict=True):
        assert all(torch.equal(one[name], two[name]) for name in one)
    for row, measured in zip(without.rows, with_one.rows, strict=True):
        assert row["train_loss"] == measured["train_loss"]
        assert row["test_loss"] != measured["test_loss"]


def test_the_best_epoch_is_that_of_the_average(data: DeviceData) -> None:
    used = recipe(
        ema=0.8, epochs=6, keep="best_test", lr_schedule="constant", optimizer={"lr": 2.0}
    )
    model = normalized_net()
    states, progress = by_step(data, used, model)
    accuracies = [row["test_accuracy"] for row in progress.rows]
    best = accuracies.index(max(accuracies))
    assert best < 5
    expected = averaged(states[: 4 * (best + 1) + 1], 0.8)
    for name, value in expected.items():
        torch.testing.assert_close(model.state_dict()[name].double(), value, rtol=1e-3, atol=1e-5)
    assert evaluate(model, data.test).accuracy == max(accuracies)


def test_what_is_pruned_is_zero_in_the_average(data: DeviceData) -> None:
    model = normalized_net()
    masks = half_masks(model)
    by_step(data, recipe(ema=0.9, optimizer="adamw"), model, masks=masks)
    for name, mask in masks.items():
        assert (model.state_dict()[name][~mask] == 0).all()
        assert (model.state_dict()[name][mask] != 0).all()


@pytest.mark.parametrize("name", ["gradual_magnitude", "set", "rigl"])
def test_masks_that_change_in_the_training_hold_for_the_average(
    data: DeviceData, name: str
) -> None:
    method: Any = TypeAdapter(MethodConfig).validate_python(
        {"name": name, "density": 0.3, "every": 3}
    )
    model = plain_net()
    nothing: Any = None
    dense = {n: torch.ones_like(w, dtype=torch.bool) for n, w in prunable(model).items()}
    network = Network(model, dense, nothing, seed=3, iteration=1, scope="global")
    masks = method(network)
    schedule = method.mask_schedule(replace(network, masks=masks), 12)
    training = Training(
        model, masks, data, recipe(ema=0.9), Randomness(3, 1), mask_schedule=schedule
    )
    found = training.finish().masks
    assert found is not None
    assert any(not torch.equal(found[layer], masks[layer]) for layer in masks)
    for layer, mask in found.items():
        assert (model.get_parameter(layer)[~mask] == 0).all()


def test_networks_side_by_side_have_each_its_average(data: DeviceData) -> None:
    """Steps are taken one network after the other here, as there are no streams without a GPU."""
    used = recipe(ema=0.75, optimizer=PLAIN_SGD)
    models = [plain_net(), plain_net()]
    each = [Steps(One(model), used, [None], [{}]) for model in models]
    together = SideBySide(each)
    together.at_rate(0.1)
    began = [copied(model.state_dict()) for model in models]
    images = data.train.normalized(data.train.images)
    for number, steps in enumerate(each):
        steps.take(images[number::2][:20], data.train.labels[number::2][:20])
    ended = [copied(model.state_dict()) for model in models]
    expected = [averaged([*both], 0.75) for both in zip(began, ended, strict=True)]
    with together.averaged():
        inside = [copied(model.state_dict()) for model in models]
    for number, average in enumerate(together.averages()):
        for name, value in expected[number].items():
            torch.testing.assert_close(average[name].double(), value)
            assert torch.equal(inside[number][name], average[name])
            assert torch.equal(models[number].state_dict()[name], ended[number][name])
    assert not torch.equal(inside[0]["1.weight"], inside[1]["1.weight"])


def test_buffers_that_have_no_mean_are_those_of_the_network(data: DeviceData) -> None:
    class Fading(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.head = nn.Linear(64, 10)
            self.register_buffer("never", torch.tensor([-math.inf, 0.0]))
            self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
            self.tied = self.head  # a layer that is there twice counts once

        def forward(self, images: Tensor) -> Tensor:
            if self.training:
                self.steps += 1
            return self.head(images.flatten(1))

    model = Fading()
    states, _ = by_step(data, recipe(ema=0.8), model)
    assert model.state_dict()["never"].tolist() == [-math.inf, 0.0]
    assert model.state_dict()["steps"] == 12
    expected = averaged([{"w": state["head.weight"]} for state in states], 0.8)["w"]
    for name in ("head.weight", "tied.weight"):
        torch.testing.assert_close(model.state_dict()[name].double(), expected)


# Cutout


def test_a_square_is_cut_around_its_center_and_ends_at_the_border() -> None:
    images = torch.ones(3, 2, 4, 5)
    found = cut(images, torch.tensor([[1, 2], [0, 0], [3, 4]]), 2)
    inside, corner, end = found[:, 0].tolist()
    assert inside == [[1, 0, 0, 1, 1], [1, 0, 0, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1]]
    assert corner == [[0, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1]]
    assert end == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 0, 0]]
    assert torch.equal(found[:, 0], found[:, 1])
    odd = cut(images[:1], torch.tensor([[1, 2]]), 3)[0, 0].tolist()
    assert odd == [[1, 0, 0, 0, 1]] * 3 + [[1, 1, 1, 1, 1]]


def test_centers_are_any_pixels() -> None:
    at = centers(500, (1, 3, 4), torch.Generator().manual_seed(0))
    assert {tuple(each) for each in at.tolist()} == {(r, c) for r in range(3) for c in range(4)}


def made(data: DeviceData, used: Recipe, epoch: int = 0, first: int = 0) -> list[Any]:
    """The batches of an epoch from a step on, as training computes with them."""
    batches = batches_of(data, used, [Randomness(0, 0)])
    steps = steps_per_epoch(len(data.train), used.batch_size, used.accumulate)
    return [
        batches.made(*batch)
        for drawn in batches.drawn(epoch, range(first, steps))
        for batch in each_batch(drawn, used.batch_size)
    ]


AUGMENT: dict[str, Any] = {"horizontal_flip": True, "crop_padding": 1}


def test_images_are_cut_when_their_mean_is_taken_out(data: DeviceData) -> None:
    plain, found = (made(data, recipe(augment=AUGMENT, cutout=size)) for size in (0, 3))
    for (images, labels), (cut_images, same_labels) in zip(plain, found, strict=True):
        assert torch.equal(labels, same_labels)
        zero = (cut_images == 0).flatten(1).sum(1)
        assert ((zero >= 4) & (zero <= 9)).all()
        assert torch.equal(cut_images, images * (cut_images != 0))


# Mixup


def test_partners_are_of_the_batch_and_share_its_lambda() -> None:
    partners, shares = pairs([40, 40, 7], 0.4, torch.Generator().manual_seed(0))
    for first, size in ((0, 40), (40, 40), (80, 7)):
        assert sorted(partners[first : first + size].tolist()) == [*range(size)]
        assert len({*shares[first : first + size].tolist()}) == 1
    assert len({*shares.tolist()}) == 3


@pytest.mark.parametrize("alpha", [0.2, 1.0, 8.0])
def test_shares_are_of_a_beta_distribution(alpha: float) -> None:
    _, shares = pairs([1] * 20_000, alpha, torch.Generator().manual_seed(0))
    assert shares.mean().item() == pytest.approx(0.5, abs=0.01)
    assert shares.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.03)


def test_images_and_labels_are_mixed_with_their_partners() -> None:
    images = torch.tensor([1.0, 2.0, 4.0]).view(3, 1, 1, 1)
    found, labels, others, own = mixed(
        images, torch.tensor([5, 6, 7]), torch.tensor([2, 0, 1]), torch.full((3,), 0.75)
    )
    assert found.flatten().tolist() == [1.75, 1.75, 3.5]
    assert (labels.tolist(), others.tolist(), own.item()) == ([5, 6, 7], [7, 5, 6], 0.75)


def test_networks_are_mixed_each_by_its_own_shares() -> None:
    images = torch.randn(4, 2, 1, 3, 3)
    labels, partners = torch.randint(10, (4, 2)), torch.tensor([[1, 3], [0, 2], [3, 1], [2, 0]])
    shares = torch.tensor([0.9, 0.2]).expand(4, 2)
    together = mixed(images, labels, partners, shares)
    for k in range(2):
        alone = mixed(images[:, k], labels[:, k], partners[:, k], shares[:, k])
        for one, of_all in zip(alone[:3], together[:3], strict=True):
            assert torch.equal(one, of_all[:, k])
        assert together[3][k] == alone[3]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_a_mixture_is_that_of_its_mixed_labels(
    data: DeviceData, smoothing: float
) -> None:
    """One step of plain descent on the formula of Zhang et al. (2018), with soft labels."""
    used = recipe(
        epochs=1, batch_size=150, mixup=4.0, optimizer=PLAIN_SGD,
        loss={"name": "cross_entropy", "label_smoothing": smoothing},
    )  # fmt: skip
    [(images, labels, others, own)] = made(data, used)
    assert 0.05 < own < 0.95
    model, expected = plain_net(), plain_net()
    targets = own * F.one_hot(labels, 10) + (1 - own) * F.one_hot(others, 10)
    targets = (1 - smoothing) * targets + smoothing / 10
    logits = expected(images)
    loss = -(targets * logits.log_softmax(1)).sum(1).mean()
    loss.backward()
    _, progress = by_step(data, used, model)
    larger = labels if own >= 0.5 else others
    assert progress.rows[0]["train_loss"] == pytest.approx(loss.item(), rel=1e-5)
    hits = (logits.argmax(1) == larger).float().mean().item()
    assert progress.rows[0]["train_accuracy"] == pytest.approx(hits)
    for weight, before in zip(model.parameters(), expected.parameters(), strict=True):
        assert before.grad is not None
        torch.testing.assert_close(weight, before - 0.1 * before.grad)


@pytest.mark.parametrize("options", [{"cutout": 3}, {"mixup": 0.4}], ids=str)
def test_each_has_a_stream_of_its_own(data: DeviceData, options: dict[str, Any]) -> None:
    """The order of the data and its augmentation are as without; epochs differ, and an epoch that
    is taken up in its middle has what it had."""

    def inputs(**more: Any) -> list[Any]:
        used = recipe(augment=AUGMENT, **more)
        batches = batches_of(data, used, [Randomness(0, 0)])
        return [drawn[:3] for drawn in batches.drawn(0, range(4))]

    for one, other in zip(inputs(), inputs(**options), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    used = recipe(**options)
    whole, rest, next_one = made(data, used), made(data, used, first=2), made(data, used, epoch=1)
    for one, other in zip(whole[2:], rest, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert not torch.equal(whole[0][0], next_one[0][0])


def test_random_inputs_are_not_augmented(data: DeviceData) -> None:
    plain, other = (
        [*batches_of(data, used, [Randomness(0, 0)], "random").drawn(0, range(4))]
        for used in (recipe(), recipe(cutout=3, mixup=0.4))
    )
    for one, two in zip(plain, other, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


# Steps of several batches


@pytest.mark.parametrize(
    ("examples", "batch", "accumulate", "steps", "taken"),
    [
        (150, 40, 1, 4, 150),
        (150, 40, 2, 2, 150),
        (150, 40, 3, 2, 150),
        (121, 40, 2, 2, 120),
        (150, 40, 9, 1, 150),
        (1, 40, 2, 1, 1),
    ],
)
def test_a_step_takes_several_batches_and_the_last_those_that_are_left(
    examples: int, batch: int, accumulate: int, steps: int, taken: int
) -> None:
    assert steps_per_epoch(examples, batch, accumulate) == steps
    assert examples_taken(examples, batch) == taken


CLIPPED: dict[str, Any] = {"clip_grad_norm": 0.3, "optimizer": PLAIN_SGD | {"momentum": 0.9}}


@pytest.mark.parametrize(("whole", "batch", "n"), [(80, 40, 2), (150, 50, 3), (120, 40, 3)])
@pytest.mark.parametrize("inputs", ["real", "random"])
def test_accumulated_batches_are_one_large_batch(
    data: DeviceData, whole: int, batch: int, n: int, inputs: Any
) -> None:
    """Without BatchNorm; clipped after all of them, and the last step is of fewer and smaller
    batches."""
    masks = half_masks(plain_net())
    options: dict[str, Any] = {"augment": AUGMENT, "lr_interval": "step", **CLIPPED}
    one, other = plain_net(), plain_net()
    large, expected = by_step(
        data, recipe(batch_size=whole, **options), one, masks=masks, inputs=inputs
    )
    small, found = by_step(
        data, recipe(batch_size=batch, accumulate=n, **options), other, masks=masks, inputs=inputs
    )
    assert len(large) == len(small) == 3 * steps_per_epoch(150, whole) + 1
    for before, after in zip(large, small, strict=True):
        for name, value in before.items():
            torch.testing.assert_close(after[name], value, rtol=1e-4, atol=1e-6)
    for row, wanted in zip(found.rows, expected.rows, strict=True):
        assert (row["step"], row["lr"]) == (wanted["step"], wanted["lr"])
        for measure in ("train_loss", "train_accuracy", "test_loss"):
            assert row[measure] == pytest.approx(wanted[measure], rel=1e-4)


def test_a_run_from_step_k_has_taken_k_steps_of_the_optimizer(data: DeviceData) -> None:
    used = recipe(accumulate=3, optimizer=PLAIN_SGD, cutout=2, mixup=0.5, augment=AUGMENT)
    model, later = plain_net(), plain_net()
    states, progress = by_step(data, used, model)
    assert len(states) == 7
    assert [row["step"] for row in progress.rows] == [2, 4, 6]
    later.load_state_dict(states[3])
    by_step(data, used, later, start_step=3)
    assert all(
        torch.equal(later.state_dict()[name], model.state_dict()[name]) for name in states[0]
    )
    again = plain_net()
    Training(again, None, data, used, Randomness(0, 0)).until(3)
    assert all(torch.equal(again.state_dict()[name], states[3][name]) for name in states[0])


def test_batches_of_a_step_are_those_of_epochs_of_single_ones(data: DeviceData) -> None:
    """The same examples, cut and mixed alike."""
    options: dict[str, Any] = {"augment": AUGMENT, "cutout": 2, "mixup": 0.5}
    single, several = (made(data, recipe(accumulate=n, **options)) for n in (1, 3))
    assert [len(batch[0]) for batch in several] == [40, 40, 40, 30]
    for one, other in zip(single, several, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_what_is_drawn_for_networks_together_is_what_each_draws_alone(
    data: DeviceData,
) -> None:
    """As networks side by side are given it, and as those that are one computation are."""
    used = recipe(augment=AUGMENT, cutout=2, mixup=0.5, accumulate=2)
    streams = [Randomness(seed, 1) for seed in range(3)]
    together = batches_of(data, used, streams)
    alone = [batches_of(data, used, [each]) for each in streams]
    epochs = [each.drawn(0, range(2)) for each in alone]
    for drawn, *of_each in zip(together.drawn(0, range(2)), *epochs, strict=True):
        for number, expected in enumerate(of_each):
            own = of_one(drawn, number)
            assert all(torch.equal(a, b) for a, b in zip(own, expected, strict=True))
        parts = [[*each_batch(one, 40)] for one in of_each]
        for index, batch in enumerate(each_batch(drawn, 40)):
            images, labels, others, shares = together.made(*batch)
            for number, batches in enumerate(alone):
                mine = batches.made(*parts[number][index])
                assert torch.equal(images[:, number], mine[0])
                assert torch.equal(labels[:, number], mine[1])
                assert torch.equal(others[:, number], mine[2])
                assert shares[number] == mine[3]


# A lineage


def test_a_lineage_prunes_its_average_and_rewinds_to_the_weights_of_a_step(
    data: DeviceData, tmp_path: Path
) -> None:
    """Whether those were kept in passing, or are trained again."""
    used = recipe(ema=0.8, accumulate=2, mixup=0.4, lr_interval="step", warmup_steps=3)
    model: Any = TypeAdapter(ModelConfig).validate_python({"name": "cnn", "hidden": [4, 8]})
    how: Any = TypeAdapter(MethodConfig).validate_python(
        {"name": "lottery_ticket", "ratio": 0.5, "rewind": {"step": 3}}
    )
    dataset = TypeAdapter(DatasetConfig).validate_python({"name": "digits", "subset": 150})
    line = make_lineage(
        Cell(dataset, model, used, Pruning(iterations=1), how, 0), {"name": "digits"}
    )
    store = Store(str(tmp_path))

    def ran(snapshots: frozenset[int]) -> dict[str, State]:
        for _ in run_lineage(line, Bench(store, data, CPU, {line.trunk: snapshots})):
            pass
        trunk, last = map(iteration_path, line.keys)
        found = {"trained": read_tensors(store, trunk), "retrained": read_tensors(store, last)}
        return found | {"kept": read_masks(store, last)}

    first = ran(frozenset({3}))
    rewound = snapshot_path(snapshot_key(line.trunk, 3))
    w_3 = read_tensors(store, rewound)
    again = build_model(model, data.shape, data.classes, 0)
    states, _ = by_step(data, used, again)
    assert all(torch.equal(w_3[name], states[3][name]) for name in w_3)
    assert all(torch.equal(first["trained"][n], t) for n, t in again.state_dict().items())
    assert not torch.equal(first["trained"]["conv1.weight"], states[-1]["conv1.weight"])
    sizes = {name: first["trained"][name].abs() for name in first["kept"]}
    smallest = min(sizes[name][mask].min() for name, mask in first["kept"].items())
    assert all((sizes[name][~mask] <= smallest).all() for name, mask in first["kept"].items())
    for path in (rewound, iteration_path(line.keys[1])):
        store.remove(path)
    second = ran(frozenset())
    assert all(torch.equal(first["retrained"][n], t) for n, t in second["retrained"].items())
