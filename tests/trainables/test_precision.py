"""Precision: what bf16 and TF32 touch of a run, and what stays float32."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from trainables.data import DatasetConfig, data_roots, describe_dataset, identity, load_dataset
from trainables.lineage.bench import Bench
from trainables.lineage.keys import Cell, make_lineage
from trainables.lineage.loop import run_lineage
from trainables.models import ModelConfig, build_model, prunable
from trainables.pruning import MethodConfig, Pruning
from trainables.sparsity.masks import Masks
from trainables.store import Store
from trainables.training.batches import DeviceData, Randomness
from trainables.training.evaluation import evaluate
from trainables.training.networks import One, Stack
from trainables.training.networks.mapped import Mapped
from trainables.training.networks.wide import Wide
from trainables.training.precision import arithmetic
from trainables.training.progress import OptimizerState, Progress
from trainables.training.recipe import Recipe
from trainables.training.run import Training, train
from trainables.training.steps import Steps

CPU = torch.device("cpu")
DIGITS = TypeAdapter(DatasetConfig).validate_python({"name": "digits"})
ROOTS = data_roots(None, {})
MODELS = {
    name: TypeAdapter(ModelConfig).validate_python(options)
    for name, options in {
        "mlp": {"name": "mlp", "hidden": [32]},
        "cnn": {"name": "cnn", "hidden": [4, 8]},
    }.items()
}


@pytest.fixture(scope="module")
def data() -> DeviceData:
    return DeviceData.of(load_dataset(DIGITS, ROOTS), CPU)


def recipe(precision: str, **options: Any) -> Recipe:
    options = {"epochs": 2, "batch_size": 50, "clip_grad_norm": 1.0, **options}
    return Recipe.model_validate({"precision": precision, **options})


def half_masks(network: nn.Module, seed: int) -> Masks:
    generator = torch.Generator().manual_seed(seed)
    weights = prunable(network).items()
    return {name: torch.rand(each.shape, generator=generator) < 0.5 for name, each in weights}


def training(data: DeviceData, used: Recipe, model: str = "mlp", seed: int = 1) -> Training:
    network = build_model(MODELS[model], data.shape, data.classes, seed)
    masks = half_masks(network, seed)
    return Training(network, masks, data, used, Randomness(seed, 1), architecture=MODELS[model])


def assert_sound(one: Training) -> None:
    """Everything that is kept is float32, and what is pruned is exactly zero."""
    for tensor in one.model.state_dict().values():
        assert tensor.dtype in (torch.float32, torch.int64)
    for name, mask in (one.masks or {}).items():
        assert (one.model.get_parameter(name)[~mask] == 0).all()


@pytest.mark.parametrize("model", MODELS)
def test_bf16_learns_with_masks_and_is_reproduced_bit_for_bit(data: DeviceData, model: str) -> None:
    runs = [training(data, recipe("bf16"), model) for _ in range(2)]
    first, second = (run.finish() for run in runs)
    assert first.rows == second.rows
    states = [run.model.state_dict() for run in runs]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert_sound(runs[0])
    exact = training(data, recipe("float32"), model).finish()
    assert first.rows != exact.rows
    assert first.rows[-1]["test_accuracy"] == pytest.approx(
        exact.rows[-1]["test_accuracy"], abs=0.06
    )
    # Two epochs are few for a small convolutional network.
    assert first.rows[-1]["test_accuracy"] > {"mlp": 0.8, "cnn": 0.2}[model]


@pytest.mark.parametrize("model", MODELS)
def test_in_bf16_a_run_among_others_is_the_run_alone(data: DeviceData, model: str) -> None:
    used = recipe("bf16")
    alone = [training(data, used, model, seed).finish() for seed in range(3)]
    fused = [training(data, used, model, seed) for seed in range(3)]
    for ended, other, one in zip(train(fused), alone, fused, strict=True):
        assert isinstance(ended, Progress)
        for row, expected in zip(ended.rows, other.rows, strict=True):
            assert row["train_loss"] == pytest.approx(expected["train_loss"], rel=0.03)
        assert_sound(one)


@pytest.mark.parametrize("form", [Wide, Mapped])
@pytest.mark.parametrize("model", MODELS)
def test_in_bf16_both_forms_have_the_gradients_of_float32_within_its_rounding(
    model: str, form: Any
) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(16, 2, 1, 8, 8, generator=generator)
    labels = torch.randint(10, (16, 2), generator=generator)
    gradients = {}
    for precision in ("float32", "bf16"):
        networks = [build_model(MODELS[model], (1, 8, 8), 10, seed) for seed in (1, 2)]
        masks = [half_masks(network, seed) for seed, network in enumerate(networks)]
        stack = Stack(networks, form)
        steps = Steps(stack, recipe(precision, clip_grad_norm=None), masks, [{}, {}])
        steps.at_rate(0.1)
        losses, _ = steps.take(images, labels)
        assert losses.dtype == torch.float32
        gradients[precision] = [weight.grad for weight in stack.parameters]
    for exact, rounded in zip(gradients["float32"], gradients["bf16"], strict=True):
        assert exact is not None
        assert rounded is not None
        assert rounded.dtype == torch.float32
        assert (rounded - exact).norm() <= 0.15 * exact.norm() + 1e-3
    assert any(
        not torch.equal(exact, rounded)
        for exact, rounded in zip(gradients["float32"], gradients["bf16"], strict=True)
    )


def test_what_is_evaluated_in_bf16_is_summed_in_float64(data: DeviceData) -> None:
    network = build_model(MODELS["mlp"], data.shape, data.classes, 0)
    exact, rounded = (evaluate(network, data.test, precision=each) for each in ("float32", "bf16"))
    assert exact != rounded
    assert rounded.loss == pytest.approx(exact.loss, rel=1e-2)


def test_on_a_cpu_tf32_is_float32(data: DeviceData) -> None:
    runs = [training(data, recipe(each)) for each in ("tf32", "float32")]
    assert runs[0].finish().rows == runs[1].finish().rows


def test_tf32_is_allowed_where_the_network_is_trained_and_evaluated_but_not_where_it_is_scored(
    tmp_path: Path, data: DeviceData
) -> None:
    cell = Cell(
        DIGITS, MODELS["mlp"], recipe("tf32", epochs=1), Pruning(),
        TypeAdapter(MethodConfig).validate_python({"name": "snip", "density": 0.1}), seed=0,
    )  # fmt: skip
    lineage = make_lineage(cell, identity(DIGITS, describe_dataset(DIGITS, ROOTS)))
    places = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [place.allow_tf32 for place in places]
    seen: set[tuple[Any, ...]] = set()

    def look(layer: nn.Module, given: tuple[Any, ...], made: Any) -> None:
        if type(layer) is nn.Linear and len(made) > 1:  # one image is for counting
            seen.add((made.dtype, *(place.allow_tf32 for place in places)))

    hook = register_module_forward_hook(look)
    try:
        assert len(list(run_lineage(lineage, Bench(Store(str(tmp_path)), data, CPU)))) == 1
    finally:
        hook.remove()
    assert seen == {(torch.float32, True, True), (torch.float64, False, False)}
    assert [place.allow_tf32 for place in places] == before


def test_float32_forbids_tf32_and_gives_back_what_was() -> None:
    places = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [place.allow_tf32 for place in places]
    with arithmetic("tf32"):
        with arithmetic("float32"):
            assert [place.allow_tf32 for place in places] == [False, False]
        assert [place.allow_tf32 for place in places] == [True, True]
    assert [place.allow_tf32 for place in places] == before


def test_weights_that_lie_channel_by_channel_are_stored_and_taken_up_as_others(
    data: DeviceData,
) -> None:
    """As they do on a device with tensor cores: masks, momentum and states have the same values."""
    used = recipe("float32", epochs=1)
    expected = training(data, used, "cnn")
    expected.finish()
    lain = training(data, used, "cnn")
    lain.model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    assert not prunable(lain.model)["conv2.weight"].is_contiguous()
    lain.finish()
    assert_sound(lain)
    for name, tensor in lain.model.state_dict().items():
        torch.testing.assert_close(tensor, expected.model.state_dict()[name], rtol=1e-3, atol=1e-4)
    weights = One(lain.model)
    optimizer = weights.optimizer(used.optimizer)
    stored: OptimizerState = {
        number: {"momentum_buffer": torch.rand(weight.shape)}
        for number, weight in enumerate(weights.parameters)
    }
    weights.load(optimizer, [stored])
    for number, weight in enumerate(weights.parameters):
        momentum = optimizer.state[weight]["momentum_buffer"]
        assert momentum.stride() == weight.stride()
        assert torch.equal(momentum, stored[number]["momentum_buffer"])
