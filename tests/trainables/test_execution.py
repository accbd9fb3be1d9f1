"""Execution: by what means steps are computed changes nothing but rounding, or is told."""

import gc
import logging
import weakref
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from orchestrator.sweepfile.resources import Resources
from trainables.data import DatasetConfig, data_roots, load_dataset
from trainables.models import ModelConfig, build_model, prunable
from trainables.sparsity.masks import Masks
from trainables.training import execution, graphs
from trainables.training.batches import DeviceData, Randomness, batches_of
from trainables.training.execution import Execution, Graphs, told
from trainables.training.networks import One
from trainables.training.optimizers import Optimizer
from trainables.training.progress import Progress
from trainables.training.recipe import Recipe
from trainables.training.run import Training, train
from trainables.training.side_by_side import of_one
from trainables.training.steps import Steps

CPU = torch.device("cpu")
MLP = TypeAdapter(ModelConfig).validate_python({"name": "mlp", "hidden": [16]})


@pytest.fixture(scope="module")
def data() -> DeviceData:
    options = TypeAdapter(DatasetConfig).validate_python({"name": "digits", "subset": 150})
    return DeviceData.of(load_dataset(options, data_roots(None, {})), CPU)


@pytest.fixture(autouse=True)
def _tell_anew() -> Iterator[None]:
    execution._told.clear()
    yield
    execution._told.clear()


def half_masks(network: nn.Module, seed: int) -> Masks:
    generator = torch.Generator().manual_seed(seed)
    weights = prunable(network).items()
    return {name: torch.rand(each.shape, generator=generator) < 0.5 for name, each in weights}


def recipe(**options: Any) -> Recipe:
    return Recipe.model_validate({"epochs": 2, "batch_size": 40, "clip_grad_norm": 1.0, **options})


def training(data: DeviceData, execution: Execution, seed: int = 1, **options: Any) -> Training:
    network = build_model(MLP, data.shape, data.classes, seed)
    masks = half_masks(network, seed)
    return Training(network, masks, data, recipe(**options), Randomness(seed, 1),
                    architecture=MLP, execution=execution)  # fmt: skip


def test_a_sweep_file_says_how_steps_are_computed() -> None:
    assert Resources().execution == Execution(compile=False, graphs="auto")
    assert Resources(compile="on", graphs="on").execution == Execution(compile=True, graphs="on")


def test_without_a_device_graphs_change_nothing_and_are_told_once(
    data: DeviceData, caplog: pytest.LogCaptureFixture
) -> None:
    expected = training(data, Execution()).finish()
    runs = [training(data, Execution(graphs="on")) for _ in range(2)]
    with caplog.at_level(logging.WARNING, "prunesweep"):
        for run in runs:
            assert run.finish().rows == expected.rows
    assert (
        told()
        == caplog.messages
        == ["graphs: on: steps are taken without graphs, since only a CUDA device has them"]
    )


def test_optimizers_that_python_steps_are_not_captured() -> None:
    class Plugged(Optimizer):
        name: str = "of_a_user"
        lr: float = 0.1

    def why_not(optimizer: Any) -> str | None:
        used = recipe().model_copy(update={"optimizer": optimizer})
        return graphs._why_not(used, torch.device("cuda"))

    for name in ("sgd", "adam"):
        assert why_not(recipe(optimizer={"name": name}).optimizer) is None
    reason = why_not(Plugged())
    assert reason == "what the optimizer of_a_user does in Python would not be replayed"


def test_what_is_plugged_in_is_captured_only_if_asked_for() -> None:
    """It may do something else in Python at every step, which is not replayed."""

    class Plugged(type(MLP)):
        plugin: ClassVar[Any] = object()

    cuda, plugged = torch.device("cuda"), Plugged(**MLP.model_dump())
    expected: dict[Graphs, tuple[bool, bool]] = {
        "off": (False, False),
        "auto": (True, False),
        "on": (True, True),
    }
    for wanted, (built_in, of_a_user) in expected.items():
        assert graphs.are_captured(wanted, MLP, recipe(), cuda) == built_in
        assert graphs.are_captured(wanted, plugged, recipe(), cuda) == of_a_user
        assert not graphs.are_captured(wanted, MLP, recipe(), CPU)


def test_what_is_drawn_for_several_networks_is_each_ones_own(data: DeviceData) -> None:
    used = recipe(augment={"horizontal_flip": True, "crop_padding": 2})
    each = [Randomness(seed, 1) for seed in (1, 2, 3)]
    for inputs in ("real", "random"):
        together = batches_of(data, used, each, inputs)
        alone = [batches_of(data, used, [one], inputs) for one in each]
        batches = zip(*(one.drawn(0, range(4)) for one in (together, *alone)), strict=True)
        for drawn, *of_each in batches:
            for number, expected in enumerate(of_each):
                found = alone[number].made(*of_one(drawn, number))
                for tensor, other in zip(found, alone[number].made(*expected), strict=True):
                    assert torch.equal(tensor, other)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_what_can_be_captured_takes_the_same_steps(optimizer: str) -> None:
    """With the learning rate on the device, where a graph finds what it has become."""
    generator = torch.Generator().manual_seed(0)
    batches = [
        (torch.randn(8, 1, 8, 8, generator=generator), torch.randint(10, (8,), generator=generator))
        for _ in range(6)
    ]
    used = recipe(optimizer={"name": optimizer})

    def weights(capturable: bool) -> list[Tensor]:
        network = build_model(MLP, (1, 8, 8), 10, 0)
        steps = Steps(One(network), used, [half_masks(network, 0)], [{}])
        if capturable:
            steps.make_capturable()
        for number, batch in enumerate(batches):
            steps.at_rate(0.1 / (1 + number // 2))
            steps.take(*batch)
        return [*network.parameters()]

    for one, other in zip(weights(True), weights(False), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("compiled", [False, True])
def test_steps_leave_no_memory_for_the_garbage_collector(compiled: bool) -> None:
    """Which may come late, and knows nothing of what a device has left."""
    network = build_model(MLP, (1, 8, 8), 10, 0)
    if compiled:
        torch.compiler.reset()  # imports the compiler, which looks at those who call it
    gc.disable()
    try:
        used = recipe(ema=0.9, accumulate=2)
        steps = Steps(One(network), used, [None], [{}], compiled=compiled)
        with steps.averaged():
            pass
        seen = weakref.ref(steps)
        del steps
        assert seen() is None
    finally:
        gc.enable()


@pytest.mark.long  # seconds to minutes of torch's compiler
def test_where_nothing_can_be_compiled_steps_are_as_without_and_it_is_told_once(
    data: DeviceData, caplog: pytest.LogCaptureFixture
) -> None:
    """As on a machine that has no C++ compiler."""
    from torch._inductor import config

    expected = training(data, Execution()).finish()
    without = {"cpp.cxx": ("no-compiler-of-this-name",), "force_disable_caches": True}
    with config.patch(without), caplog.at_level(logging.WARNING, "prunesweep"):
        found = [training(data, Execution(compile=True)).finish() for _ in range(2)]
    assert all(progress.rows == expected.rows for progress in found)
    (line,) = (one.getMessage() for one in caplog.records if one.name == "prunesweep")
    assert line.startswith("compile: on: not compiled, since ")
    assert "no-compiler-of-this-name" in line or "compiler" in line
    assert "\n" not in line


@pytest.mark.long
@pytest.mark.parametrize(
    "options", [{}, {"mixup": 0.4, "cutout": 3, "accumulate": 2, "ema": 0.9}], ids=str
)
def test_what_is_compiled_agrees_within_rounding(data: DeviceData, options: dict[str, Any]) -> None:
    for seeds in ([1], [1, 2]):
        runs = [
            train([training(data, Execution(compile=each), seed, **options) for seed in seeds])
            for each in (False, True)
        ]
        for plain, compiled in zip(*runs, strict=True):
            assert isinstance(plain, Progress)
            assert isinstance(compiled, Progress)
            for row, expected in zip(compiled.rows, plain.rows, strict=True):
                assert row["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-4)
