"""Training: reproducibility, steps and rates, masks, augmentation, checkpoints, evaluation."""

import math
from collections.abc import Callable
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.data import DatasetConfig, load_dataset
from trainables.data.roots import DataRoots
from trainables.errors import Diverged, Interrupted
from trainables.models import prunable
from trainables.plugins.entry import PluginError
from trainables.sparsity.masks import Masks, apply_masks
from trainables.store import Store, checkpoint_path
from trainables.training.augmentation import FlipAndCrop
from trainables.training.batches import DeviceData, Examples, Randomness, steps_per_epoch
from trainables.training.checkpoint import STATE, StoredCheckpoint
from trainables.training.evaluation import evaluate
from trainables.training.optimizers import optimizer
from trainables.training.progress import EpochRow, Progress, State
from trainables.training.recipe import Recipe
from trainables.training.run import Training
from trainables.training.schedules import Constant, Cosine, StepDecay

CPU = torch.device("cpu")


def digits(subset: int, holdout: int = 0) -> DeviceData:
    options = TypeAdapter(DatasetConfig).validate_python(
        {"name": "digits", "subset": subset, "holdout": holdout}
    )
    return DeviceData.of(load_dataset(options, DataRoots((), Path())), CPU)


@pytest.fixture(scope="module")
def data() -> DeviceData:
    return digits(subset=150)


def recipe(**options: Any) -> Recipe:
    return Recipe.model_validate({"epochs": 3, "batch_size": 40, **options})


def plain_net() -> nn.Module:
    """A perceptron without BatchNorm or dropout; the same weights at every call."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))


def full_net() -> nn.Module:
    """A net with every kind of state: convolution, BatchNorm, dropout."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Dropout(0.3), nn.Linear(16, 10),
    )  # fmt: skip


def half_masks(model: nn.Module) -> Masks:
    generator = torch.Generator().manual_seed(1)
    return {n: torch.rand(w.shape, generator=generator) < 0.5 for n, w in prunable(model).items()}


def run(
    data: DeviceData,
    recipe: Recipe,
    net: Callable[[], nn.Module] = plain_net,
    masks: Masks | None = None,
    seed: int = 0,
    iteration: int = 0,
    **options: Any,
) -> tuple[State, Progress]:
    model = net()
    training = Training(model, masks, data, recipe, Randomness(seed, iteration), **options)
    progress = training.finish()
    return model.state_dict(), progress


def same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


# Reproducibility

EVERYTHING = {"horizontal_flip": True, "crop_padding": 1}


def test_two_runs_are_bit_identical(data: DeviceData) -> None:
    used = recipe(augment=EVERYTHING, clip_grad_norm=1.0)
    (one, first), (other, second) = (run(data, used, full_net) for _ in range(2))
    assert same(one, other)
    assert first.rows == second.rows


@pytest.mark.parametrize("changed", [{"seed": 1}, {"iteration": 1}], ids=str)
def test_another_seed_or_iteration_takes_another_path(data: DeviceData, changed: dict) -> None:
    assert not same(run(data, recipe())[0], run(data, recipe(), **changed)[0])


def test_what_was_drawn_before_does_not_matter(data: DeviceData) -> None:
    def disturbed() -> nn.Module:
        model = full_net()
        torch.manual_seed(99)
        torch.rand(7)
        return model

    assert same(run(data, recipe(), full_net)[0], run(data, recipe(), disturbed)[0])


# Rates and steps


def test_a_constant_rate_stays() -> None:
    rates = [Constant(name="constant")(0.3, e, 4) for e in range(4)]
    assert rates == [0.3] * 4


def test_a_cosine_rate_starts_at_the_base_and_would_be_zero_after_the_last_epoch() -> None:
    rates = [Cosine(name="cosine")(0.1, e, 4) for e in range(5)]
    half = math.sqrt(2) / 4
    assert rates == pytest.approx([0.1, 0.1 * (0.5 + half), 0.05, 0.1 * (0.5 - half), 0])


def test_a_step_rate_falls_after_its_milestones() -> None:
    schedule = StepDecay(name="step", milestones=(2, 3), factor=0.1)
    rates = [schedule(0.5, e, 5) for e in range(5)]
    assert rates == pytest.approx([0.5, 0.5, 0.05, 0.005, 0.005])


def test_the_cosine_rate_is_that_of_torch() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50)
    for epoch in range(50):
        expected = optimizer.param_groups[0]["lr"]
        assert Cosine(name="cosine")(0.1, epoch, 50) == pytest.approx(expected)
        optimizer.step()
        scheduler.step()


def rates(steps: int, **options: Any) -> list[float]:
    used = recipe(optimizer={"lr": 0.1}, **options)
    return [used.rate(epoch, step, steps) for epoch in range(used.epochs) for step in range(steps)]


def test_a_schedule_counts_epochs_or_steps() -> None:
    half = math.sqrt(2) / 4
    assert rates(2, epochs=2) == pytest.approx([0.1, 0.1, 0.05, 0.05])
    by_step = rates(2, epochs=2, lr_interval="step")
    assert by_step == pytest.approx([0.1, 0.1 * (0.5 + half), 0.05, 0.1 * (0.5 - half)])
    falling = {"name": "step", "milestones": [1, 3], "factor": 0.5}
    assert rates(2, epochs=2, lr_schedule=falling) == pytest.approx([0.1, 0.1, 0.05, 0.05])
    by_step = rates(2, epochs=2, lr_schedule=falling, lr_interval="step")
    assert by_step == pytest.approx([0.1, 0.05, 0.05, 0.025])
    constant = {"lr_schedule": "constant", "lr_interval": "step"}
    assert rates(2, epochs=2, **constant) == [0.1] * 4


def test_a_rate_by_step_is_that_of_torch_after_as_many_steps() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=12)
    for rate in rates(4, epochs=3, lr_interval="step"):
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("warmup", [{"warmup_epochs": 2}, {"warmup_steps": 4}], ids=str)
def test_a_warmup_goes_to_the_schedule_on_a_line_step_by_step(warmup: dict) -> None:
    constant = rates(2, epochs=4, lr_schedule="constant", **warmup)
    assert constant == pytest.approx([0.025, 0.05, 0.075, *[0.1] * 5])
    plain, cosine = (
        rates(2, epochs=4, lr_interval="step", **each) for each in ({}, warmup)
    )  # fmt: skip
    assert cosine == pytest.approx(
        [plain[0] / 4, plain[1] * 2 / 4, plain[2] * 3 / 4, *plain[3:]]
    )  # fmt: skip


def test_steps_are_taken_at_their_rates(data: DeviceData) -> None:
    """Plain descent of a weight whose gradient is always one."""

    class Sloped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))

        def forward(self, images: Tensor) -> Tensor:
            # Of two logits, the loss is their difference as good as exactly.
            far = torch.full((len(images),), 1e3)
            wrong = F.one_hot(torch.zeros(len(images), dtype=torch.int64), 10).float()
            return wrong * (self.weight + far)[:, None]

    taken: list[float] = []
    model = Sloped()
    labels = torch.ones_like(data.train.labels)
    ones = DeviceData(
        data.shape, data.classes, Examples(data.train.images, labels, data.train.mean,
        data.train.std), data.test, None,
    )  # fmt: skip
    used = recipe(
        lr_interval="step", warmup_steps=3,
        optimizer={"name": "sgd", "lr": 0.1, "momentum": 0.0, "nesterov": False,
                   "weight_decay": 0.0},
    )  # fmt: skip

    def keep(step: int) -> None:
        taken.append(model.weight.item())

    rows = Training(model, None, ones, used, Randomness(0, 0), snapshot=keep).finish().rows
    expected = rates(4, lr_interval="step", warmup_steps=3)
    assert [a - b for a, b in pairwise(taken)] == pytest.approx(expected, rel=1e-4)
    assert [row["lr"] for row in rows] == pytest.approx(expected[3::4])


@pytest.mark.parametrize("interval", ["epoch", "step"])
def test_the_last_rate_is_what_the_schedule_ends_with(interval: str) -> None:
    used = recipe(lr_interval=interval, warmup_epochs=2, optimizer={"lr": 0.1})
    last = used.at_last_rate()
    found = {last.rate(epoch, step, 4) for epoch in range(3) for step in range(4)}
    assert found == {used.rate(2, 3, 4)}


def test_one_warmup_is_enough() -> None:
    with pytest.raises(ValidationError, match="warmup_epochs and warmup_steps say the same"):
        recipe(warmup_epochs=1, warmup_steps=5)


def test_adamw_takes_the_steps_of_its_paper() -> None:
    """Algorithm 2 of Loshchilov & Hutter (2019), in float64, three steps; and torch's own."""
    weight = nn.Parameter(torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64))
    theirs = nn.Parameter(weight.detach().clone())
    w, m, v = weight.detach().clone(), torch.zeros(3), torch.zeros(3)
    used = recipe(optimizer={"name": "adamw", "lr": 0.1, "beta1": 0.8, "weight_decay": 0.3})
    ours = used.optimizer.over([weight])
    torchs = torch.optim.AdamW([theirs], lr=0.1, betas=(0.8, 0.999), weight_decay=0.3)
    for t, slope in enumerate(([0.3, -0.2, 5.0], [0.1, 0.0, -2.0], [-1.0, 0.4, 0.1]), start=1):
        g = torch.tensor(slope, dtype=torch.float64)
        weight.grad, theirs.grad = g.clone(), g.clone()
        ours.step()
        torchs.step()
        m, v = 0.8 * m + 0.2 * g, 0.999 * v + 0.001 * g * g
        step = (m / (1 - 0.8**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
        w = w - 0.1 * step - 0.1 * 0.3 * w
        torch.testing.assert_close(weight.detach(), w)
        torch.testing.assert_close(weight, theirs)


@pytest.mark.parametrize(
    ("examples", "batch", "steps"),
    [(100, 50, 2), (99, 50, 2), (102, 50, 3), (101, 50, 2), (30, 50, 1), (1, 50, 1), (3, 1, 3)],
)
def test_a_last_batch_of_one_example_is_left_out(examples: int, batch: int, steps: int) -> None:
    assert steps_per_epoch(examples, batch) == steps


@pytest.mark.parametrize(("batch_size", "steps", "left_out"), [(50, 3, 0), (149, 1, 1), (60, 3, 0)])
def test_rows_count_epochs_and_steps_from_one(
    data: DeviceData, batch_size: int, steps: int, left_out: int
) -> None:
    seen: list[int] = []
    used = recipe(batch_size=batch_size, epochs=2, optimizer={"name": "sgd", "lr": 0.01})
    _, progress = run(data, used, snapshot=seen.append)
    assert [row["epoch"] for row in progress.rows] == [1, 2]
    assert [row["step"] for row in progress.rows] == [steps, 2 * steps]
    assert [row["lr"] for row in progress.rows] == pytest.approx([0.01, 0.005])
    assert seen == list(range(2 * steps + 1))
    # An accuracy is a number of examples over those that were seen.
    hits = progress.rows[0]["train_accuracy"] * (150 - left_out)
    assert hits == pytest.approx(round(hits), abs=1e-9)


def test_batchnorm_survives_a_last_batch_of_one_example() -> None:
    def net() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4), nn.Linear(4, 10))

    _, progress = run(digits(subset=41), recipe(epochs=1), net)
    assert progress.rows[0]["step"] == 1


def test_an_epoch_takes_every_example_once_in_an_order_of_its_own(data: DeviceData) -> None:
    class Recorder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(64, 10)
            self.seen: list[Tensor] = []

        def forward(self, images: Tensor) -> Tensor:
            if self.training:
                self.seen.append(images)
            return self.head(images.flatten(1))

    model = Recorder()
    Training(model, None, data, recipe(epochs=2), Randomness(0, 0)).finish()
    assert [len(batch) for batch in model.seen] == [40, 40, 40, 30] * 2
    first, second = torch.cat(model.seen[:4]), torch.cat(model.seen[4:])
    expected = sorted(data.train.normalized(data.train.images).flatten(1).tolist())
    assert sorted(first.flatten(1).tolist()) == expected
    assert sorted(second.flatten(1).tolist()) == expected
    assert not torch.equal(first, second)


@pytest.mark.parametrize("step", [1, 4, 6, 8])
def test_a_run_from_step_k_takes_the_steps_that_an_unbroken_one_takes(
    data: DeviceData, step: int
) -> None:
    # Without momentum a fresh optimizer is no break.
    used = recipe(
        augment=EVERYTHING,
        optimizer={"name": "sgd", "lr": 0.05, "momentum": 0.0, "nesterov": False},
    )
    kept: dict[int, State] = {}
    model = plain_net()

    def keep(at: int) -> None:
        kept[at] = {name: t.clone() for name, t in model.state_dict().items()}

    Training(model, None, data, used, Randomness(0, 0), snapshot=keep).finish()
    assert sorted(kept) == list(range(13))
    later = plain_net()
    later.load_state_dict(kept[step])
    progress = Training(later, None, data, used, Randomness(0, 0), start_step=step).finish()
    assert same(later.state_dict(), kept[12])
    assert [row["epoch"] for row in progress.rows] == list(range(step // 4 + 1, 4))


# Masks

OPTIMIZERS = [
    {"name": "sgd", "lr": 0.1, "momentum": 0.0, "nesterov": False, "weight_decay": 0.1},
    {"name": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": False, "weight_decay": 0.0},
    {"name": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    {"name": "adam", "lr": 0.01, "weight_decay": 0.0},
    {"name": "adam", "lr": 0.01, "weight_decay": 0.1},
    {"name": "adamw", "lr": 0.01, "weight_decay": 0.1},
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
@pytest.mark.parametrize("clip", [None, 0.5])
def test_pruned_weights_are_exactly_zero_at_every_step(
    data: DeviceData, optimizer: dict, clip: float | None
) -> None:
    model = full_net()
    masks = half_masks(model)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    steps = 0

    def check(step: int) -> None:
        nonlocal steps
        steps += 1
        for name, mask in masks.items():
            assert (model.state_dict()[name][~mask] == 0).all()

    used = recipe(optimizer=optimizer, clip_grad_norm=clip)
    Training(model, masks, data, used, Randomness(0, 1), snapshot=check).finish()
    assert steps == 13
    for name, mask in masks.items():
        kept = model.state_dict()[name][mask]
        assert (kept != before[name][mask]).any()
        assert (kept != 0).all()


def test_a_mask_that_keeps_everything_trains_as_no_mask_does(data: DeviceData) -> None:
    dense = {
        name: torch.ones_like(w, dtype=torch.bool) for name, w in prunable(plain_net()).items()
    }
    assert same(run(data, recipe())[0], run(data, recipe(), masks=dense)[0])


@pytest.mark.parametrize("clip", [0.05, 1e6], ids=["clipped", "far from clipped"])
@pytest.mark.parametrize("before", [False, True], ids=["after", "before"])
def test_gradients_are_clipped_after_or_before_masking(
    data: DeviceData, clip: float, before: bool
) -> None:
    model = plain_net()
    masks = half_masks(model)
    apply_masks(model, masks)
    images, labels = data.train.normalized(data.train.images), data.train.labels
    parameters = dict(model.named_parameters())
    loss = F.cross_entropy(model(images), labels)
    found = torch.autograd.grad(loss, [*parameters.values()])
    gradients = dict(zip(parameters, found, strict=True))
    unmasked = math.sqrt(sum(g.square().sum().item() for g in gradients.values()))
    for name, mask in masks.items():
        gradients[name] *= mask
    norm = math.sqrt(sum(g.square().sum().item() for g in gradients.values()))
    assert norm < 0.9 * unmasked
    expected = {
        name: p.detach() - 0.5 * gradients[name] * min(1, clip / (unmasked if before else norm))
        for name, p in parameters.items()
    }
    used = recipe(
        epochs=1,
        batch_size=150,
        clip_grad_norm=clip,
        clip_before_mask=before,
        lr_schedule={"name": "constant"},
        optimizer={
            "name": "sgd", "lr": 0.5, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0
        },
    )  # fmt: skip
    state, _ = run(data, used, masks=masks)
    for name, weight in expected.items():
        assert torch.allclose(state[name], weight, rtol=1e-4, atol=1e-7)


def test_clipping_before_the_mask_needs_a_norm() -> None:
    with pytest.raises(ValidationError, match="clip_before_mask needs clip_grad_norm"):
        recipe(clip_before_mask=True)


# Augmentation

IMAGE = torch.arange(1, 10, dtype=torch.uint8).view(1, 1, 3, 3)


def crop(offset: tuple[int, int], mode: str) -> list[list[int]]:
    augment = FlipAndCrop(crop_padding=1, padding_mode=mode)  # type: ignore[arg-type]
    return augment.augmented(IMAGE, {"offset": torch.tensor([offset])})[0, 0].tolist()


def test_a_flip_mirrors_columns_of_the_chosen_images_only() -> None:
    images = torch.cat([IMAGE, IMAGE])
    drawn = {"flip": torch.tensor([False, True])}
    flipped = FlipAndCrop(horizontal_flip=True).augmented(images, drawn)
    assert flipped[0].tolist() == IMAGE[0].tolist()
    assert flipped[1, 0].tolist() == [[3, 2, 1], [6, 5, 4], [9, 8, 7]]


def test_a_crop_in_the_middle_of_the_padding_is_the_image() -> None:
    for mode in ("reflect", "zeros"):
        assert crop((1, 1), mode) == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


def test_a_crop_at_the_corner_shows_the_padding() -> None:
    assert crop((0, 0), "zeros") == [[0, 0, 0], [0, 1, 2], [0, 4, 5]]
    assert crop((0, 0), "reflect") == [[5, 4, 5], [2, 1, 2], [5, 4, 5]]
    assert crop((2, 1), "zeros") == [[4, 5, 6], [7, 8, 9], [0, 0, 0]]
    assert crop((1, 2), "reflect") == [[2, 3, 2], [5, 6, 5], [8, 9, 8]]


def test_each_image_is_cropped_at_its_own_offset_with_all_its_channels() -> None:
    images = torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).view(2, 3, 4, 5)
    offsets = torch.tensor([[0, 3], [2, 1]])
    augment = FlipAndCrop(crop_padding=2, padding_mode="zeros")
    cropped = augment.augmented(images, {"offset": offsets})
    for image, (row, column), result in zip(images, offsets.tolist(), cropped, strict=True):
        padded = F.pad(image, (2, 2, 2, 2))
        assert torch.equal(result, padded[:, row : row + 4, column : column + 5])


def test_augmented_images_are_drawn_alike_again_and_anew_at_every_epoch(data: DeviceData) -> None:
    class Recorder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(64, 10)
            self.seen: list[Tensor] = []

        def forward(self, images: Tensor) -> Tensor:
            if self.training:
                self.seen.append(images)
            return self.head(images.flatten(1))

    def seen() -> list[list[float]]:
        model = Recorder()
        used = recipe(epochs=2, augment=EVERYTHING)
        Training(model, None, data, used, Randomness(0, 0)).finish()
        return torch.cat(model.seen).flatten(1).tolist()

    once = seen()
    assert seen() == once
    originals = data.train.normalized(data.train.images).flatten(1).tolist()
    assert sorted(once[:150]) != sorted(originals)
    assert sorted(once[:150]) != sorted(once[150:])


# What is kept


def states_by_step(
    data: DeviceData, recipe: Recipe
) -> tuple[dict[int, State], State, list[EpochRow]]:
    """The state before every step and after the last, the state kept, and the rows."""
    states: dict[int, State] = {}
    model = plain_net()

    def keep(step: int) -> None:
        states[step] = {name: t.clone() for name, t in model.state_dict().items()}

    progress = Training(model, None, data, recipe, Randomness(0, 0), snapshot=keep).finish()
    return states, model.state_dict(), progress.rows


def test_the_best_epoch_is_kept(data: DeviceData) -> None:
    # A rate that is too large makes later epochs worse than earlier ones.
    used = recipe(
        epochs=8,
        keep="best_test",
        optimizer={"name": "sgd", "lr": 1.0},
        lr_schedule={"name": "constant"},
    )
    states, kept, rows = states_by_step(data, used)
    accuracies = [row["test_accuracy"] for row in rows]
    best = accuracies.index(max(accuracies))
    assert best < 7
    assert same(kept, states[4 * (best + 1)])
    assert same(run(data, used.model_copy(update={"keep": "last"}))[0], states[32])


def test_of_equally_good_epochs_the_first_is_kept(data: DeviceData) -> None:
    used = recipe(
        epochs=3,
        keep="best_test",
        optimizer={"name": "sgd", "lr": 1e-5},
        lr_schedule={"name": "constant"},
    )
    states, kept, rows = states_by_step(data, used)
    assert len({row["test_accuracy"] for row in rows}) == 1
    assert not same(states[4], states[12])
    assert same(kept, states[4])


def test_the_best_epoch_by_validation_is_that_of_the_held_out_examples() -> None:
    data = digits(subset=150, holdout=60)
    used = recipe(
        epochs=8,
        optimizer={"name": "sgd", "lr": 1.0},
        lr_schedule={"name": "constant"},
        keep="best_validation",
    )
    model = plain_net()
    progress = Training(model, None, data, used, Randomness(0, 0)).finish()
    found = [row["validation_accuracy"] for row in progress.rows]
    accuracies = [accuracy for accuracy in found if accuracy is not None]
    assert len(accuracies) == 8
    assert data.validation is not None
    assert evaluate(model, data.validation).accuracy == max(accuracies) > accuracies[-1]


def test_validation_columns_are_filled_with_a_holdout_only(data: DeviceData) -> None:
    _, without = run(data, recipe())
    assert all(row["validation_loss"] is None for row in without.rows)
    assert all(row["validation_accuracy"] is None for row in without.rows)
    held = digits(subset=150, holdout=60)
    state, with_holdout = run(held, recipe())
    model = plain_net()
    model.load_state_dict(state)
    assert held.validation is not None
    assert len(held.validation) == 60
    measured = evaluate(model, held.validation)
    last = with_holdout.rows[-1]
    assert (last["validation_loss"], last["validation_accuracy"]) == (
        measured.loss,
        measured.accuracy,
    )


def test_a_diverging_run_says_so(data: DeviceData) -> None:
    used = recipe(optimizer={"name": "sgd", "lr": 1e30})
    with pytest.raises(Diverged, match=r"epoch 1 of 3 \(learning rate 1e\+30\)"):
        run(data, used)


# Evaluation


def examples(pixels: list[int], labels: list[int]) -> Examples:
    return Examples(
        torch.tensor(pixels, dtype=torch.uint8).view(-1, 1, 1, 1),
        torch.tensor(labels),
        mean=torch.zeros(1, 1, 1, 1),
        std=torch.ones(1, 1, 1, 1),
    )


def two_logits() -> nn.Module:
    """Logits (x, 0) for one pixel x in 0…1."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False))
    model[1].weight.data = torch.tensor([[1.0], [0.0]])  # type: ignore[union-attr]
    return model


def test_evaluation_worked_out_by_hand() -> None:
    result = evaluate(two_logits(), examples([255, 255, 51], [0, 1, 0]))
    losses = [math.log(1 + math.exp(-1)), math.log(1 + math.e), math.log(1 + math.exp(-0.2))]
    assert result.loss == pytest.approx(sum(losses) / 3)
    assert result.accuracy == 2 / 3


@given(st.integers(1, 2600))
def test_every_example_is_evaluated_once_whatever_their_number(count: int) -> None:
    # The last one alone is wrong.
    result = evaluate(two_logits(), examples([255] * count, [0] * (count - 1) + [1]))
    assert result.accuracy == (count - 1) / count
    right, wrong = math.log(1 + math.exp(-1)), math.log(1 + math.e)
    assert result.loss == pytest.approx((right * (count - 1) + wrong) / count, rel=1e-6)


def test_images_are_normalized_by_the_mean_and_deviation_of_the_data() -> None:
    split = Examples(
        torch.tensor([[[[0]], [[255]]]], dtype=torch.uint8),
        torch.tensor([0]),
        mean=torch.tensor([0.5, 0.25]).view(1, 2, 1, 1),
        std=torch.tensor([0.5, 0.125]).view(1, 2, 1, 1),
    )
    assert split.normalized(split.images).flatten().tolist() == [-1, 6]


def test_evaluation_changes_nothing_and_uses_the_running_statistics(data: DeviceData) -> None:
    model = full_net()
    model.train()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    first = evaluate(model, data.test)
    assert same(model.state_dict(), before)
    assert evaluate(model, data.test) == first


# Checkpoints


class Killed(Exception):
    pass


def interrupt_at(step: int) -> Callable[[int], None]:
    def snapshot(at: int) -> None:
        if at == step:
            raise Killed

    return snapshot


def checkpoint(tmp_path: Path, minutes: float | None = 0.0) -> StoredCheckpoint:
    """With 0 minutes, after every step."""
    return StoredCheckpoint(Store(str(tmp_path)), "key", minutes)


def told_after(steps: int) -> Callable[[], bool]:
    """A process that is told to go after so many steps."""
    asked = count(1)
    return lambda: next(asked) >= steps


class Counting(torch.optim.Optimizer):
    """Remembers numbers, of each parameter and of all, as many optimizers do."""

    def __init__(self, parameters: Any, lr: float) -> None:
        super().__init__(parameters, {"lr": lr, "taken": 0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            group["taken"] += 1
            group["sum"] = group.get("sum", 0.0) + group["lr"]
            for each in group["params"]:
                state = self.state[each]
                state["step"] = state.get("step", 0) + 1
                state["mean"] = state.get("mean", torch.zeros_like(each)).lerp(each.grad, 0.3)
                rate = group["sum"] / (group["taken"] * state["step"])
                each.sub_(rate * state["mean"])


@optimizer
def counting(parameters: Any, *, lr: float = 0.1) -> torch.optim.Optimizer:
    return Counting(parameters, lr)


RESUMED = {
    "an optimizer that counts": {"optimizer": vars(counting)["config"](name="counting")},
    "sgd": {"augment": EVERYTHING, "clip_grad_norm": 1.0},
    "sgd without momentum": {
        "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.0, "nesterov": False}
    },
    "adam": {"optimizer": {"name": "adam"}, "lr_schedule": {"name": "step", "milestones": [2]}},
    "adamw by step": {
        "optimizer": {"name": "adamw"},
        "lr_interval": "step",
        "warmup_steps": 7,
    },
    "averaged, cut and mixed": {
        "ema": 0.9,
        "augment": EVERYTHING,
        "cutout": 3,
        "mixup": 0.4,
        "clip_grad_norm": 1.0,
    },
    "several batches": {"batch_size": 15, "accumulate": 3, "ema": 0.8},
    # The best epoch is neither the last nor, with the interruption below, one that comes after it.
    "best": {
        "keep": "best_test",
        "optimizer": {"name": "sgd", "lr": 30.0},
        "lr_schedule": {"name": "constant"},
    },
}


@pytest.mark.parametrize("options", RESUMED.values(), ids=RESUMED)
@pytest.mark.parametrize("step", [5, 8, 11], ids=lambda step: f"step {step}")
def test_an_interrupted_run_ends_as_an_unbroken_one(
    data: DeviceData, tmp_path: Path, options: dict, step: int
) -> None:
    used = recipe(epochs=4, **options)
    masks = half_masks(full_net())
    unbroken, expected = run(data, used, full_net, masks)
    with pytest.raises(Killed):
        run(
            data, used, full_net, masks,
            checkpoint=checkpoint(tmp_path), snapshot=interrupt_at(step),
        )  # fmt: skip
    steps: list[int] = []
    resumed, progress = run(
        data, used, full_net, masks, checkpoint=checkpoint(tmp_path), snapshot=steps.append
    )
    assert steps[0] == step
    assert same(resumed, unbroken)
    assert progress.rows == expected.rows
    if used.keep == "best_test":
        accuracies = [row["test_accuracy"] for row in expected.rows]
        assert accuracies.index(max(accuracies)) < step // 4


@optimizer
def listing(parameters: Any, *, lr: float = 0.1) -> torch.optim.Optimizer:
    found = Counting(parameters, lr)
    for each in found.param_groups[0]["params"]:
        found.state[each]["seen"] = [0]
    return found


def test_what_an_optimizer_remembers_and_cannot_be_kept_is_told(
    data: DeviceData, tmp_path: Path
) -> None:
    used = recipe(optimizer=vars(listing)["config"](name="listing"))
    with pytest.raises(PluginError, match="the optimizer remembers seen, which is list"):
        run(data, used, checkpoint=checkpoint(tmp_path))
    assert run(data, used)[1].epoch == 3


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_what_ours_remember_are_tensors(data: DeviceData, tmp_path: Path, name: str) -> None:
    _, progress = run(data, recipe(optimizer={"name": name}), checkpoint=checkpoint(tmp_path))
    assert progress.optimizer
    for index, held in progress.optimizer.items():
        assert index >= 0
        assert all(isinstance(each, Tensor) for each in held.values())


@pytest.mark.parametrize("options", RESUMED.values(), ids=RESUMED)
@pytest.mark.parametrize("start_step", [0, 3], ids=["from the start", "rewound"])
def test_a_run_that_is_told_to_go_goes_on_where_it_was(
    data: DeviceData, tmp_path: Path, options: dict, start_step: int
) -> None:
    """With no checkpoints asked for; in the middle of an epoch, twice in the same one, and at the
    end of one."""
    used = recipe(epochs=4, **options)
    masks = half_masks(full_net())
    unbroken, expected = run(data, used, full_net, masks, start_step=start_step)
    taken: list[int] = []

    def go_on(**told: Any) -> tuple[State, Progress]:
        return run(
            data, used, full_net, masks, start_step=start_step, snapshot=taken.append,
            checkpoint=checkpoint(tmp_path, minutes=None), **told,
        )  # fmt: skip

    for steps in (1, 1, 3, 5):
        with pytest.raises(Interrupted):
            go_on(is_told=told_after(steps))
    resumed, progress = go_on()
    assert taken == [*range(start_step, 4 * 4 + 1)]
    assert same(resumed, unbroken)
    assert progress.rows == expected.rows


def test_a_run_that_is_told_to_go_in_its_last_epoch_ends_it_if_no_step_is_left(
    data: DeviceData, tmp_path: Path
) -> None:
    used = recipe(epochs=2)
    _, expected = run(data, used)
    _, progress = run(
        data, used, checkpoint=checkpoint(tmp_path, minutes=None), is_told=told_after(8 + 1)
    )
    assert progress.rows == expected.rows
    assert Store(str(tmp_path)).names("checkpoints") == []


def test_what_is_trained_again_to_be_rewound_to_is_left_when_told(data: DeviceData) -> None:
    training = Training(plain_net(), None, data, recipe(), Randomness(0, 0), is_told=told_after(2))
    with pytest.raises(Interrupted):
        training.until(6)


def test_a_run_interrupted_again_and_again_ends_as_an_unbroken_one(
    data: DeviceData, tmp_path: Path
) -> None:
    used = recipe(epochs=4)
    unbroken, expected = run(data, used, full_net)
    for step in (2, 6, 7, 13):
        with pytest.raises(Killed):
            run(
                data, used, full_net,
                checkpoint=checkpoint(tmp_path), snapshot=interrupt_at(step),
            )  # fmt: skip
    resumed, progress = run(data, used, full_net, checkpoint=checkpoint(tmp_path))
    assert same(resumed, unbroken)
    assert progress.rows == expected.rows


def test_a_run_from_step_k_is_resumed_too(data: DeviceData, tmp_path: Path) -> None:
    used = recipe(epochs=4)
    unbroken, expected = run(data, used, start_step=6)
    with pytest.raises(Killed):
        run(
            data, used, start_step=6,
            checkpoint=checkpoint(tmp_path), snapshot=interrupt_at(10),
        )  # fmt: skip
    resumed, progress = run(data, used, start_step=6, checkpoint=checkpoint(tmp_path))
    assert same(resumed, unbroken)
    assert progress.rows == expected.rows


def test_time_spent_before_an_interruption_counts(data: DeviceData, tmp_path: Path) -> None:
    run(data, recipe(), checkpoint=checkpoint(tmp_path))
    saved = checkpoint(tmp_path).load(plain_net())
    assert saved is not None
    _, resumed = run(data, recipe(), checkpoint=checkpoint(tmp_path))
    assert resumed.epoch == 3
    assert resumed.seconds >= saved.seconds > 0


def test_only_the_newest_checkpoint_is_kept(data: DeviceData, tmp_path: Path) -> None:
    run(data, recipe(), checkpoint=checkpoint(tmp_path))
    assert Store(str(tmp_path)).names("checkpoints/key") == ["000003"]


def test_no_checkpoint_is_written_before_its_time(data: DeviceData, tmp_path: Path) -> None:
    run(data, recipe(), checkpoint=checkpoint(tmp_path, minutes=60))
    assert Store(str(tmp_path)).names("checkpoints/key") == []


def test_a_damaged_checkpoint_is_set_aside_and_the_run_starts_again(
    data: DeviceData, tmp_path: Path
) -> None:
    used = recipe(epochs=4, keep="best_test")
    unbroken, expected = run(data, used, full_net)
    with pytest.raises(Killed):
        run(data, used, full_net, checkpoint=checkpoint(tmp_path), snapshot=interrupt_at(8))
    file = tmp_path / checkpoint_path("key", 2) / STATE
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.write_bytes(damaged)
    steps: list[int] = []
    resumed, progress = run(
        data, used, full_net, checkpoint=checkpoint(tmp_path), snapshot=steps.append
    )
    assert steps[0] == 0
    assert same(resumed, unbroken)
    assert progress.rows == expected.rows
    assert len(Store(str(tmp_path)).names("quarantine")) == 1


def test_of_two_checkpoints_the_newer_is_used_unless_it_is_damaged(
    data: DeviceData, tmp_path: Path
) -> None:
    store, used = Store(str(tmp_path)), recipe(epochs=4)
    older = checkpoint_path("key", 1)

    def interrupted(step: int) -> None:
        with pytest.raises(Killed):
            run(data, used, checkpoint=checkpoint(tmp_path), snapshot=interrupt_at(step))

    interrupted(4)
    saved = {name: store.read(older, name) for name in store.manifest(older)["files"]}
    interrupted(8)
    # As a writer leaves it that was killed before it removed the older one.
    store.commit(older, saved)
    assert store.names("checkpoints/key") == ["000001", "000002"]

    def first_epoch() -> int:
        progress = checkpoint(tmp_path).load(plain_net())
        assert progress is not None
        return progress.epoch

    assert first_epoch() == 2
    (tmp_path / checkpoint_path("key", 2) / STATE).write_bytes(b"")
    assert first_epoch() == 1


def test_the_seconds_of_training_are_without_those_of_snapshots(
    data: DeviceData, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("trainables.training.run.time.perf_counter", lambda: clock[0])

    def snapshot(at: int) -> None:
        clock[0] += 100.0

    _, progress = run(data, recipe(), snapshot=snapshot)
    assert progress.seconds == 0.0
    assert clock[0] > 100.0
