"""Networks trained as one computation: what each of them is when it is trained alone."""

import math
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from trainables.data import DatasetConfig, load_dataset
from trainables.data.roots import DataRoots
from trainables.errors import Diverged, Interrupted
from trainables.models import MODEL, ModelConfig, Shape, build_model, prunable
from trainables.plugins.entry import Catalogue, built_in
from trainables.plugins.loading import load_plugins
from trainables.plugins.source import read_plugin
from trainables.sparsity.masks import Masks
from trainables.store import Store
from trainables.training.batches import DeviceData, Randomness
from trainables.training.checkpoint import StoredCheckpoint
from trainables.training.networks import One, Stack, Unfusible, form_of
from trainables.training.networks.mapped import Mapped
from trainables.training.networks.wide import Wide
from trainables.training.progress import Progress, State
from trainables.training.recipe import Recipe
from trainables.training.run import Training, train
from trainables.training.steps import Steps

CPU = torch.device("cpu")
HERE = Path(__file__).parent
PLUGGED: Catalogue = load_plugins(
    [read_plugin(name, HERE) for name in ("any_networks.py", "fused_parts.py")]
)
DIGIT: Shape = (1, 8, 8)
MODELS = sorted(built_in(MODEL))


def model_config(name: str, **options: Any) -> Any:
    return TypeAdapter(ModelConfig).validate_python({"name": name, **options}, context=PLUGGED)


def recipe(**options: Any) -> Recipe:
    options = {"epochs": 3, "batch_size": 40, "clip_grad_norm": 1.0} | options
    return Recipe.model_validate(options, context=PLUGGED)


def half_masks(network: nn.Module, seed: int) -> Masks:
    generator = torch.Generator().manual_seed(seed)
    weights = prunable(network).items()
    return {name: torch.rand(each.shape, generator=generator) < 0.5 for name, each in weights}


# Steps

SMALLEST = {"vgg11": (3, 16, 16), "vgg16": (3, 16, 16), "vgg19": (3, 16, 16)}


def losses(networks: One | Stack, masks: Sequence[Masks], batches: Sequence[Any]) -> Tensor:
    """The loss of each step, of each network: [steps] or [steps, K]."""
    steps = Steps(networks, recipe(), masks, [{} for _ in masks])
    steps.at_rate(0.05)
    return torch.stack([steps.take(*batch)[0].detach() for batch in batches])


LONG = {"imagenet_resnet50", "resnet18", "resnet50", "tiny_resnet18", "tiny_wide_resnet18",
        "cnn", "vgg11", "vgg16", "vgg19", "wide_resnet20", "wide_resnet_28x8"}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [pytest.param(each, marks=pytest.mark.long if each in LONG else ()) for each in MODELS],
)
def test_every_model_takes_the_steps_that_it_takes_alone(name: str) -> None:
    """In float64, with masks, momentum, weight decay and clipping, from weights of their own."""
    assert_same_steps(model_config(name), SMALLEST.get(name, DIGIT), 50)


def assert_same_steps(config: Any, shape: Shape, steps: int) -> None:
    networks = [build_model(config, shape, 10, seed).double() for seed in (1, 2)]
    masks = [half_masks(network, seed) for seed, network in enumerate(networks)]
    generator = torch.Generator().manual_seed(0)
    batches = [
        (
            torch.randn(4, 2, *shape, generator=generator, dtype=torch.float64),
            torch.randint(10, (4, 2), generator=generator),
        )
        for _ in range(steps)
    ]
    alone = [
        losses(One(build_model(config, shape, 10, seed).double()), [masks[k]],
               [(images[:, k], labels[:, k]) for images, labels in batches])
        for k, seed in enumerate((1, 2))
    ]  # fmt: skip
    fused = losses(Stack(networks, form_of(config, shape, 10)), masks, batches)
    torch.testing.assert_close(fused, torch.stack(alone, dim=1), rtol=1e-5, atol=0)
    for network, kept in zip(networks, masks, strict=True):
        for name_, mask in kept.items():
            assert (network.get_parameter(name_)[~mask] == 0).all()


FORMS = {
    "grouped": Wide,
    "zero_head": Mapped,
    "scaled_head": Mapped,
    "conv1d": Mapped,
    "conv3d": Mapped,
    "tied_linears": Mapped,
    "attention": Mapped,
    "dropout": "it draws random numbers in training",
    "normed": "created explicitly by the user",
}


@pytest.mark.parametrize(("name", "form"), FORMS.items())
def test_a_module_of_a_user_is_fused_in_a_form_that_fits_it_or_says_why_not(
    name: str, form: Any
) -> None:
    config = model_config(name)
    if isinstance(form, str):
        with pytest.raises(Unfusible, match=form):
            form_of(config, DIGIT, 10)
        return
    assert form_of(config, DIGIT, 10) is form
    networks = [build_model(config, DIGIT, 10, seed).double() for seed in (1, 2, 3)]
    images = torch.randn(5, 3, *DIGIT, dtype=torch.float64)
    expected = torch.stack([each(images[:, k]) for k, each in enumerate(networks)], dim=1)
    expected.square().sum().backward()
    gradients = [[p.grad for p in each.parameters()] for each in networks]
    stack = Stack(networks, form)
    logits = stack.logits(images)
    torch.testing.assert_close(logits, expected)
    logits.square().sum().backward()
    for number, stacked in enumerate(stack.parameters):
        for k in range(3):
            torch.testing.assert_close(
                stacked.grad[k] if stacked.grad is not None else None, gradients[k][number]
            )


@pytest.mark.parametrize("name", sorted(set(PLUGGED.plugged[MODEL.name]) - set(FORMS)))
def test_what_no_form_is_known_to_fit_is_fused_or_refused_but_never_wrong(name: str) -> None:
    config = model_config(name)
    try:
        form = form_of(config, DIGIT, 10)
    except ValueError:  # Unfusible, or no model at all
        return
    networks = [build_model(config, DIGIT, 10, seed).train() for seed in (1, 2)]
    images = torch.randn(5, 2, *DIGIT)
    expected = torch.stack([each(images[:, k]) for k, each in enumerate(networks)], dim=1)
    networks = [build_model(config, DIGIT, 10, seed).train() for seed in (1, 2)]
    torch.testing.assert_close(Stack(networks, form).logits(images), expected)
    assert_same_steps(config, DIGIT, 5)


def test_networks_with_a_weight_that_is_a_number_are_clipped_each() -> None:
    networks = [build_model(model_config("scaled_head"), DIGIT, 10, seed) for seed in (1, 2)]
    stack = Stack(networks, form_of(model_config("scaled_head"), DIGIT, 10))
    stack.logits(torch.randn(5, 2, *DIGIT)).square().sum().backward()
    stack.clip(0.5)
    for k in range(2):
        squares = [
            each.grad[k].square().sum() for each in stack.parameters if each.grad is not None
        ]
        assert torch.stack(squares).sum().sqrt() <= 0.5 + 1e-4


def test_what_an_optimizer_remembered_goes_to_the_device_of_the_weights() -> None:
    networks = [build_model(CNN, DIGIT, 10, seed).to("meta") for seed in (1, 2)]
    stack = Stack(networks, Wide)
    kept = {0: {"momentum_buffer": torch.zeros(networks[0].get_parameter("conv1.weight").shape)}}
    together = stack._together([kept, kept])
    assert together[0]["momentum_buffer"].device.type == "meta"


# Runs


@pytest.fixture(scope="module")
def data() -> DeviceData:
    options = {"name": "digits", "subset": 150, "holdout": 30}
    config = TypeAdapter(DatasetConfig).validate_python(options)
    return DeviceData.of(load_dataset(config, DataRoots((), Path())), CPU)


CNN = model_config("cnn", hidden=(4, 8))
CNN_NETWORK = build_model(CNN, DIGIT, 10, 0)


def training(data: DeviceData, used: Recipe, seed: int, **options: Any) -> Training:
    network = build_model(CNN, DIGIT, 10, seed)
    masks = half_masks(network, seed) if seed else None  # one of them dense, as a trunk is
    options = {"architecture": CNN} | options
    return Training(network, masks, data, used, Randomness(seed, 1), **options)


def states(trainings: Sequence[Training]) -> list[State]:
    return [{n: t.clone() for n, t in each.model.state_dict().items()} for each in trainings]


def progress_of(ended: Progress | Exception) -> Progress:
    assert isinstance(ended, Progress)
    return ended


RUNS: dict[str, dict[str, Any]] = {
    "sgd": {},
    "adam": {"optimizer": {"name": "adam"}, "clip_grad_norm": None},
    "adamw by step": {
        "optimizer": {"name": "adamw"},
        "lr_interval": "step",
        "warmup_epochs": 1,
    },
    "averaged": {"ema": 0.8, "keep": "best_test"},
    "cut and mixed": {"augment": {"crop_padding": 1}, "cutout": 3, "mixup": 0.5},
    "several batches": {"batch_size": 15, "accumulate": 3, "mixup": 0.5, "ema": 0.5},
    "mixed with parts of a user": {"augment": "noise", "loss": "of_batch", "mixup": 0.5},
    "clipped before the mask": {"clip_before_mask": True, "clip_grad_norm": 0.1},
    "augmented": {"augment": {"horizontal_flip": True, "crop_padding": 1}},
    "best on held-out examples": {"keep": "best_validation"},
    "smoothed labels": {"loss": {"name": "cross_entropy", "label_smoothing": 0.1}},
    "a loss of a user": {"loss": "of_batch"},
    "an augmentation of a user": {"augment": "noise"},
}


@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS)
@pytest.mark.parametrize("start", [{}, {"start_step": 2}, {"inputs": "random"}], ids=str)
def test_a_run_among_others_is_the_run_alone(
    data: DeviceData, options: dict[str, Any], start: dict[str, Any]
) -> None:
    used = recipe(**options)
    alone = [training(data, used, seed, **start) for seed in range(3)]
    expected = [each.finish() for each in alone]
    fused = [training(data, used, seed, **start) for seed in range(3)]
    for ended, other in zip(map(progress_of, train(fused)), expected, strict=True):
        assert (ended.fused, other.fused) == (3, 1)
        assert ended.seconds > 0
        for row, expected_row in zip(ended.rows, other.rows, strict=True):
            assert row == pytest.approx(expected_row, rel=1e-3, abs=0.021)
            assert row["step"] == expected_row["step"]
    for state, other in zip(states(fused), states(alone), strict=True):
        # A bias before BatchNorm has no gradient but rounding, which Adam makes steps of.
        for name in prunable(CNN_NETWORK):
            torch.testing.assert_close(state[name], other[name], rtol=1e-2, atol=1e-3)
    for one in fused:
        for name, mask in (one.masks or {}).items():
            assert (one.model.get_parameter(name)[~mask] == 0).all()


def test_what_a_run_shows_of_its_steps_is_its_own(data: DeviceData) -> None:
    seen: dict[int, list[tuple[int, State]]] = {0: [], 1: []}

    def run(seed: int) -> Training:
        made = training(data, recipe(epochs=1), seed)

        def snapshot(step: int) -> None:
            state = {name: tensor.clone() for name, tensor in made.model.state_dict().items()}
            seen[seed].append((step, state))

        object.__setattr__(made, "snapshot", snapshot)
        return made

    fused = [run(0), run(1)]
    initial = states(fused)
    train(fused)
    for seed, begun, ended in zip((0, 1), initial, states(fused), strict=True):
        assert [step for step, _ in seen[seed]] == [0, 1, 2, 3, 4]
        first, last = seen[seed][0][1], seen[seed][-1][1]
        assert all(torch.equal(last[name], ended[name]) for name in ended)
        masks = fused[seed].masks or {}
        for name in begun:
            kept = masks.get(name, torch.ones_like(begun[name], dtype=torch.bool))
            assert torch.equal(first[name], begun[name] * kept)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_one_that_diverges_harms_no_other(data: DeviceData, ema: float) -> None:
    """Weights that overflow in the first epoch, and a network that is nothing but NaN."""
    used = recipe(clip_grad_norm=None, ema=ema)
    alone = [training(data, used, seed) for seed in (0, 3)]
    expected = [each.finish() for each in alone]
    fused = [training(data, used, seed) for seed in range(4)]
    with torch.no_grad():
        [*prunable(fused[1].model).values()][-1].mul_(1e38)
        for weight in fused[2].model.parameters():
            weight.fill_(math.nan)
    ended = train(fused)
    assert [isinstance(each, Diverged) for each in ended] == [False, True, True, False]
    for one, other in zip((ended[0], ended[3]), expected, strict=True):
        assert progress_of(one).rows[-1]["train_loss"] == pytest.approx(
            other.rows[-1]["train_loss"], rel=1e-3
        )
    for one, other in zip((fused[0], fused[3]), alone, strict=True):
        for name, tensor in other.model.state_dict().items():
            torch.testing.assert_close(one.model.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)


class Killed(Exception):
    pass


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_runs_that_were_interrupted_end_as_unbroken_ones(
    data: DeviceData, tmp_path: Path, optimizer: str
) -> None:
    """One of them kept its state some steps less far, another not at all: they catch up."""
    used = recipe(epochs=4, optimizer={"name": optimizer, "lr": 0.02}, keep="best_test")
    unbroken = [training(data, used, seed) for seed in range(3)]
    expected = [progress_of(each) for each in train(unbroken)]

    def checkpoint(seed: int) -> StoredCheckpoint:
        return StoredCheckpoint(Store(str(tmp_path)), f"key{seed}", 0.0)

    def interrupt(step: int) -> None:
        if step == 13:
            raise Killed

    with pytest.raises(Killed):
        train([training(data, used, 0, checkpoint=checkpoint(0), snapshot=interrupt),
               training(data, used, 1, checkpoint=checkpoint(1))])  # fmt: skip
    store = Store(str(tmp_path))
    [kept] = store.names("checkpoints/key0")
    assert store.names("checkpoints/key1") == [kept]
    store.remove(f"checkpoints/key1/{kept}")
    resumed = [training(data, used, seed, checkpoint=checkpoint(seed)) for seed in range(3)]
    for ended, other in zip(map(progress_of, train(resumed)), expected, strict=True):
        assert ended.rows == [pytest.approx(row, rel=1e-3, abs=0.021) for row in other.rows]
    for state, other in zip(states(resumed), states(unbroken), strict=True):
        for name in prunable(CNN_NETWORK):
            torch.testing.assert_close(state[name], other[name], rtol=1e-2, atol=1e-3)


TOLD: dict[str, dict[str, Any]] = {
    "sgd": {},
    "adam": {"optimizer": {"name": "adam", "lr": 0.02}},
    "averaged, cut and mixed": {"ema": 0.8, "cutout": 3, "mixup": 0.5, "lr_interval": "step"},
    "several batches": {"batch_size": 15, "accumulate": 3, "ema": 0.8},
}


@pytest.mark.parametrize("options", TOLD.values(), ids=TOLD)
def test_runs_that_are_told_to_go_together_go_on_as_if_they_had_not_been(
    data: DeviceData, tmp_path: Path, options: dict[str, Any]
) -> None:
    """Bit for bit, since they are the same computation again."""
    used = recipe(epochs=3, keep="best_test", **{"optimizer": {"lr": 0.02}} | options)
    unbroken = [training(data, used, seed) for seed in range(3)]
    expected = [progress_of(each).rows for each in train(unbroken)]
    taken: list[int] = []

    def go_on(**told: Any) -> list[Training]:
        return [
            training(
                data, used, seed, snapshot=taken.append if seed == 0 else None,
                checkpoint=StoredCheckpoint(Store(str(tmp_path)), f"key{seed}", None), **told,
            )
            for seed in range(3)
        ]  # fmt: skip

    for steps in (2, 4):
        asked = count(1)
        with pytest.raises(Interrupted):
            train(go_on(is_told=lambda asked=asked, steps=steps: next(asked) >= steps))
    resumed = go_on()
    assert [progress_of(each).rows for each in train(resumed)] == expected
    assert taken == [*range(len(taken))]
    for state, other in zip(states(resumed), states(unbroken), strict=True):
        assert all(torch.equal(state[name], other[name]) for name in other)


def test_only_runs_of_one_kind_are_one_computation(data: DeviceData) -> None:
    one = training(data, recipe(), 0)
    assert one.kind == training(data, recipe(), 1).kind
    others = [
        training(data, recipe(epochs=2), 0),
        training(data, recipe(), 0, start_step=1),
        training(data, recipe(), 0, inputs="random"),
        training(data, recipe(), 0, architecture=model_config("cnn", hidden=(4, 9))),
    ]
    assert all(one.kind != other.kind for other in others)
    # A step of which may depend on all parameters of a network.
    whole = recipe(optimizer={"name": "of_whole_norm"})
    assert training(data, whole, 0).kind != training(data, whole, 1).kind
    # Alone each draws from its own stream; of one that refuses to be tried nobody knows.
    for name in ("drawn", "of_many"):
        random = recipe(loss={"name": name})
        assert training(data, random, 0).kind != training(data, random, 1).kind
    of_batch = recipe(loss={"name": "of_batch"})
    assert training(data, of_batch, 0).kind == training(data, of_batch, 1).kind
    unknown = training(data, recipe(), 0, architecture=None)
    assert unknown.kind != training(data, recipe(), 0, architecture=None).kind
