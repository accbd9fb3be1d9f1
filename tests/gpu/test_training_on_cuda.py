"""Training on a CUDA device, by each means there is; skipped, and said so, without one."""

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from orchestrator.results.tables import table_path
from trainables.data import DatasetConfig, data_roots, load_dataset
from trainables.errors import Interrupted
from trainables.models import ModelConfig, build_model, prunable
from trainables.pruning import MethodConfig, Network
from trainables.pruning.amount import kept_count
from trainables.sparsity.masks import Masks, dense_masks
from trainables.store import Store
from trainables.training import execution as executing
from trainables.training.batches import DeviceData, Randomness, batches_of
from trainables.training.checkpoint import StoredCheckpoint
from trainables.training.evaluation import Evaluations, evaluate
from trainables.training.execution import Execution
from trainables.training.graphs import WARM_UP, Graphed
from trainables.training.losses import CROSS_ENTROPY
from trainables.training.precision import arithmetic, laid_out
from trainables.training.progress import Progress
from trainables.training.recipe import Recipe
from trainables.training.run import Training, train
from trainables.training.stepping import stepping

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]

CUDA = torch.device("cuda")
EAGER, GRAPHS = Execution(graphs="off"), Execution(graphs="on")
ROOT = Path(__file__).parents[2]
MODELS: dict[str, Any] = {
    name: TypeAdapter(ModelConfig).validate_python(options)
    for name, options in {
        "mlp": {"name": "mlp", "hidden": [32]},
        "cnn": {"name": "cnn", "hidden": [8, 16]},
        "resnet20": {"name": "resnet20", "width": 4},
    }.items()
}
RECIPES: dict[str, dict[str, Any]] = {
    "sgd": {},
    "adam": {"optimizer": {"name": "adam"}, "clip_grad_norm": None},
    "augmented": {"augment": {"horizontal_flip": True, "crop_padding": 1}},
    "clipped before the mask": {"clip_before_mask": True},
    "adamw": {"optimizer": {"name": "adamw"}},
    "cut and mixed": {"cutout": 3, "mixup": 0.4},
}
ALL_AT_ONCE: dict[str, Any] = {
    "accumulate": 2, "cutout": 3, "mixup": 0.4, "ema": 0.9, "lr_interval": "step",
    "warmup_steps": 5,
}  # fmt: skip


@pytest.fixture(scope="module")
def data() -> DeviceData:
    # The last batch of an epoch is a smaller one.
    options = TypeAdapter(DatasetConfig).validate_python({"name": "digits", "subset": 490})
    return DeviceData.of(load_dataset(options, data_roots(None, {})), CUDA)


@pytest.fixture(autouse=True)
def _tell_anew() -> Iterator[None]:
    executing._told.clear()
    yield
    executing._told.clear()


def recipe(**options: Any) -> Recipe:
    return Recipe.model_validate({"epochs": 5, "batch_size": 40, "clip_grad_norm": 1.0, **options})


def half_masks(network: nn.Module, seed: int) -> Masks:
    def half(weight: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return (torch.rand(weight.shape, generator=generator) < 0.5).to(CUDA)

    return {name: half(weight) for name, weight in prunable(network).items()}


def network(name: str, data: DeviceData, seed: int, precision: Any = "float32") -> nn.Module:
    return laid_out(build_model(MODELS[name], data.shape, data.classes, seed), precision, CUDA)


def losses(
    name: str,
    data: DeviceData,
    used: Recipe,
    seeds: list[int],
    execution: Execution,
    steps: int = 50,
    double: bool = False,
) -> Tensor:
    """The losses of the first steps of networks, [steps] or [steps, K]."""
    networks = [network(name, data, seed, used.precision) for seed in seeds]
    networks = [each.double() if double else each for each in networks]
    batches = batches_of(data, used, [Randomness(seed, 1) for seed in seeds])

    def made(*drawn: Tensor) -> tuple[Tensor, ...]:
        images, *labels = batches.made(*drawn)
        return images.double() if double else images, *labels

    masks = [half_masks(each, seed) for each, seed in zip(networks, seeds, strict=True)]
    steps_of, take = stepping(
        networks, masks, [{} for _ in seeds], MODELS[name], used, data, made, execution
    )
    assert isinstance(take, Graphed) == (execution == GRAPHS)
    taken: list[Tensor] = []
    with arithmetic(used.precision):
        for epoch in range(steps):
            steps_of.at_rate(used.rate(epoch % used.epochs))
            for drawn in batches.drawn(epoch, range(13)):
                taken.append(take(*drawn)[0].clone())
                if len(taken) == steps:
                    for each, kept in zip(networks, masks, strict=True):
                        for weight, mask in kept.items():
                            assert (each.get_parameter(weight)[~mask] == 0).all()
                    if isinstance(take, Graphed):
                        assert {*take._captured} == {40, 10} if steps > 13 else {40}
                    return torch.stack(taken)
    raise AssertionError


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("options", RECIPES.values(), ids=RECIPES)
def test_steps_from_a_graph_are_those_without_bit_by_bit(
    data: DeviceData, name: str, options: dict[str, Any]
) -> None:
    """Over epochs with other learning rates and a smaller last batch, and again."""
    used = recipe(**options)
    eager, graphs, again = (losses(name, data, used, [1], each) for each in (EAGER, GRAPHS, GRAPHS))
    assert torch.equal(graphs, again)
    if options.get("optimizer"):  # on the device, Adam counts its steps in float32
        torch.testing.assert_close(graphs[:20], eager[:20], rtol=1e-3, atol=1e-5)
    else:
        assert torch.equal(graphs, eager)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("name", ["cnn", "resnet20"])
def test_networks_side_by_side_are_those_alone_bit_by_bit(
    data: DeviceData, name: str, precision: str
) -> None:
    used = recipe(precision=precision, augment={"horizontal_flip": True, "crop_padding": 1})
    alone = [losses(name, data, used, [seed], GRAPHS) for seed in (1, 2, 3)]
    fused = losses(name, data, used, [1, 2, 3], GRAPHS)
    assert torch.equal(fused, torch.stack(alone, dim=1))


@pytest.mark.parametrize("name", MODELS)
def test_steps_that_are_one_computation_are_those_alone(data: DeviceData, name: str) -> None:
    used = recipe()
    alone = [losses(name, data, used, [seed], EAGER, double=True) for seed in (1, 2, 3)]
    fused = losses(name, data, used, [1, 2, 3], EAGER, double=True)
    torch.testing.assert_close(fused, torch.stack(alone, dim=1), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("execution", [EAGER, GRAPHS], ids=str)
@pytest.mark.parametrize(("precision", "near"), [("tf32", 0.02), ("bf16", 0.08)])
@pytest.mark.parametrize("name", MODELS)
def test_a_precision_is_near_float32(
    data: DeviceData, name: str, precision: str, near: float, execution: Execution
) -> None:
    used = recipe(optimizer={"name": "sgd", "lr": 0.01})
    for seeds in ([1], [1, 2, 3]):
        exact, other = (
            losses(name, data, used.model_copy(update={"precision": each}), seeds, by, steps=4)
            for each, by in (("float32", EAGER), (precision, execution))
        )
        assert other.dtype == torch.float32
        torch.testing.assert_close(other, exact, rtol=near, atol=near)
        # Products may be too small for a kernel that has TF32.
        assert precision == "tf32" or not torch.equal(other, exact)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(nn.Linear(1024, 1024), (1024, 1024)), (nn.Conv2d(64, 64, 3), (64, 64, 16, 16))],
    ids=["Linear", "Conv2d"],
)
def test_float32_is_nearer_to_float64_than_tf32(layer: nn.Module, shape: tuple[int, ...]) -> None:
    """Convolutions too, for which torch by itself allows TF32."""
    given = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(CUDA)
    layer = layer.to(CUDA)
    exact = layer.double()(given.double())
    layer.float()
    errors = {}
    for precision in ("float32", "tf32"):
        with arithmetic(precision):
            errors[precision] = (layer(given) - exact).abs().max().item()
    assert errors["float32"] < 2e-5
    assert errors["tf32"] > 10 * errors["float32"]


def training(data: DeviceData, seed: int, name: str = "mlp", **options: Any) -> Training:
    execution = options.pop("execution", EAGER)
    made = network(name, data, seed, options.get("precision", "float32"))
    return Training(made, half_masks(made, seed), data, recipe(**options), Randomness(seed, 1),
                    architecture=MODELS[name], execution=execution)  # fmt: skip


@pytest.mark.parametrize("options", [{}, ALL_AT_ONCE], ids=["plain", "all at once"])
@pytest.mark.parametrize("seeds", [[1], [1, 2, 3]], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_a_run_from_graphs_is_the_run_without(
    data: DeviceData, name: str, seeds: list[int], options: dict[str, Any]
) -> None:
    runs = [
        train([training(data, seed, name, execution=each, **options) for seed in seeds])
        for each in (EAGER, GRAPHS, GRAPHS)
    ]
    for plain, graphs, again in zip(*runs, strict=True):
        assert isinstance(plain, Progress)
        assert isinstance(graphs, Progress)
        assert isinstance(again, Progress)
        assert graphs.rows == again.rows
        if len(seeds) == 1 or name == "mlp":
            assert graphs.rows == plain.rows


class Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 10)
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


def test_layers_that_draw_do_so_anew_at_every_replay_and_alike_again(data: DeviceData) -> None:
    def run(execution: Execution) -> Progress:
        torch.manual_seed(0)
        model = Dropping().to(CUDA)
        return Training(model, None, data, recipe(), Randomness(0, 0), execution=execution).finish()

    first, second = run(GRAPHS), run(GRAPHS)
    for row, again in zip(first.rows, second.rows, strict=True):
        assert row["train_loss"] == pytest.approx(again["train_loss"], rel=1e-4)
    plain = run(EAGER)
    assert first.rows[-1]["train_loss"] == pytest.approx(plain.rows[-1]["train_loss"], rel=0.2)


class Waiting(nn.Module):
    """Its forward waits for a number, which no capture allows."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits = self.layer(images.flatten(1))
        return logits * 0.5 if logits.sum().item() > 1e9 else logits


def test_what_cannot_be_captured_is_trained_as_it_is_and_told(
    data: DeviceData, caplog: pytest.LogCaptureFixture
) -> None:
    def run(execution: Execution) -> Progress:
        torch.manual_seed(0)
        model = Waiting().to(CUDA)
        return Training(model, None, data, recipe(), Randomness(0, 0), execution=execution).finish()

    expected = run(EAGER)
    with caplog.at_level(logging.WARNING, "prunesweep"):
        found = run(GRAPHS)
    (line,) = caplog.messages
    assert line.startswith("graphs: steps are taken without graphs, since ")
    for row, other in zip(found.rows, expected.rows, strict=True):
        assert row["train_loss"] == pytest.approx(other["train_loss"], rel=1e-3)
    # The device is as good as before.
    assert run(EAGER).rows[-1]["train_loss"] == pytest.approx(
        expected.rows[-1]["train_loss"], rel=1e-3
    )


@pytest.mark.parametrize("name", ["gradual_magnitude", "set", "rigl"])
def test_masks_that_change_in_training_do_so_on_the_device(
    data: DeviceData, tmp_path: Path, name: str
) -> None:
    """And go on from a checkpoint, with exact counts."""
    how: Any = TypeAdapter(MethodConfig).validate_python({"name": name, "density": 0.1, "every": 5})
    kept = StoredCheckpoint(Store(str(tmp_path)), "key", None)
    asked = count(1)

    def run(is_told: Any) -> tuple[nn.Module, Progress]:
        model = network("cnn", data, 0)
        begun = Network(model, dense_masks(prunable(model)), data, seed=0, iteration=1)
        begun = replace(begun, masks=how(begun))
        plain = Training(
            model, begun.masks, data, recipe(), Randomness(0, 1), checkpoint=kept, is_told=is_told
        )
        schedule = how.mask_schedule(begun, plain.steps)
        return model, replace(plain, mask_schedule=schedule).finish()

    with pytest.raises(Interrupted):
        run(lambda: next(asked) > 17)
    model, progress = run(lambda: False)
    assert progress.masks is not None
    total = sum(mask.numel() for mask in progress.masks.values())
    assert sum(int(mask.sum()) for mask in progress.masks.values()) == kept_count(0.1, total)
    for layer, mask in progress.masks.items():
        assert mask.device.type == CUDA.type
        assert not model.get_parameter(layer)[~mask].any()


def test_a_graph_leaves_no_memory_behind(data: DeviceData) -> None:
    def run() -> int:
        training(data, 1, "resnet20", execution=GRAPHS).finish()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved()

    first = run()
    assert max(run() for _ in range(3)) <= 1.1 * first


def test_no_step_waits_for_the_device(data: DeviceData) -> None:
    used = recipe(augment={"horizontal_flip": True, "crop_padding": 1})
    for seeds in ([1], [1, 2]):
        networks = [network("cnn", data, seed) for seed in seeds]
        batches = batches_of(data, used, [Randomness(seed, 1) for seed in seeds])
        masks = [half_masks(each, 1) for each in networks]
        steps, _ = stepping(
            networks, masks, [{} for _ in seeds], MODELS["cnn"], used, data, batches.made, EAGER
        )
        steps.at_rate(0.1)
        drawn = list(batches.drawn(0, range(13)))
        for each in drawn[: WARM_UP + 1]:
            steps.take(*each)
        torch.cuda.set_sync_debug_mode("error")
        try:
            for each in drawn[WARM_UP + 1 :]:
                steps.take(*each)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_evaluation_from_a_graph_is_that_without(data: DeviceData) -> None:
    models = [network("mlp", data, seed) for seed in range(3)]
    captured, plain = (
        Evaluations(models, CROSS_ENTROPY, "float32", each) for each in (True, False)
    )
    for _ in range(4):
        assert captured.of(data.test) == plain.of(data.test)
        for model in models:
            for weight in model.parameters():
                weight.data.mul_(0.9)
    assert len(captured._graphs) == 1


def test_evaluation_in_large_batches_is_that_in_small_ones_and_falls_back_to_them(
    data: DeviceData,
) -> None:
    model = network("cnn", data, 0)
    many = replace(
        data.test, images=data.test.images.repeat(12, 1, 1, 1), labels=data.test.labels.repeat(12)
    )
    assert len(many) > 4000
    large = evaluate(model, many)
    seen: list[int] = []

    def look(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        seen.append(len(given[0]))
        if len(given[0]) > 1000:
            raise torch.OutOfMemoryError("too much")

    model.register_forward_pre_hook(look)
    small = evaluate(model, many)
    assert seen[0] == len(many)
    assert max(seen[1:]) == 1000
    assert (small.loss, small.accuracy) == pytest.approx((large.loss, large.accuracy), rel=1e-5)


def command(folder: Path, *arguments: str) -> str:
    code = "from orchestrator.commands.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=folder, text=True, capture_output=True,
        timeout=300, env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_a_bundle_that_needs_more_than_its_share_is_halved_until_it_fits(tmp_path: Path) -> None:
    """Eight networks of 70 MB, of which each takes three times as much in training, in 2 GiB."""
    share = 2 * 2**30 / torch.cuda.get_device_properties(CUDA).total_memory
    sweep = {
        "name": "halved",
        "dataset": "digits",
        "model": {"name": "mlp", "hidden": [4096, 4096]},
        "seeds": [*range(8)],
        "train": {"epochs": 1, "batch_size": 100, "optimizer": {"name": "sgd", "lr": 0.01}},
        "prune": {"iterations": 1},
        "methods": [{"name": "random", "density": 0.5}],
        "resources": {"fuse": 8, "gpus_per_lineage": round(share, 4), "max_concurrent": 1},
        "store": {"keep_weights": "none"},
        "wandb": {"mode": "disabled"},
    }
    (tmp_path / "halved.yaml").write_text(json.dumps(sweep))
    command(tmp_path, "run", "halved.yaml")
    store = Store(str(tmp_path / "prunesweep-store"))
    rows = pq.read_table(store.absolute(table_path("iterations", "halved"))).to_pylist()
    assert len(rows) == 8
    assert 1 < max(row["fused"] for row in rows) <= 4
    assert all(0 < row["peak_memory_bytes"] <= 2.1 * 2**30 for row in rows)


def test_a_sweep_with_graphs_and_bf16_runs_as_any_other(tmp_path: Path) -> None:
    sweep = {
        "name": "quick",
        "dataset": "digits",
        "model": {"name": "mlp", "hidden": [64]},
        "seeds": [0, 1],
        "train": {"epochs": 4, "batch_size": 50, "precision": ["float32", "bf16"]},
        "prune": {"iterations": 2},
        "methods": ["lottery_ticket"],
        "resources": {"graphs": "on", "fuse": 2, "gpus_per_lineage": 0.2},
        "wandb": {"mode": "disabled"},
    }
    (tmp_path / "quick.yaml").write_text(json.dumps(sweep))
    command(tmp_path, "run", "quick.yaml")
    store = Store(str(tmp_path / "prunesweep-store"))
    rows = pq.read_table(store.absolute(table_path("iterations", "quick"))).to_pylist()
    assert len(rows) == 2 * 2 * 3
    assert all(row["test_accuracy"] > 0.7 for row in rows)
    assert len({row["params_kept"] for row in rows}) == 3


SCRIPT = """
import sys
sys.path[:0] = sys.argv[1:]
import test_training_on_cuda as here
from trainables.data import DatasetConfig, data_roots, load_dataset
options = here.TypeAdapter(DatasetConfig).validate_python({"name": "digits", "subset": 490})
data = here.DeviceData.of(load_dataset(options, data_roots(None, {})), here.CUDA)
print(here.training(data, 1).finish().rows[-1]["train_loss"])
"""


@pytest.mark.skipif(
    shutil.which("nvidia-cuda-mps-control") is None, reason="no nvidia-cuda-mps-control here"
)
def test_processes_under_the_multi_process_service_train_as_one_does(
    data: DeviceData, tmp_path: Path
) -> None:
    env = {
        **os.environ,
        "CUDA_MPS_PIPE_DIRECTORY": str(tmp_path / "pipe"),
        "CUDA_MPS_LOG_DIRECTORY": str(tmp_path / "log"),
    }
    (tmp_path / "pipe").mkdir()
    (tmp_path / "log").mkdir()
    subprocess.run(["nvidia-cuda-mps-control", "-d"], env=env, check=True, timeout=30)
    try:
        started = [
            subprocess.Popen(
                [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(ROOT)],
                env=env, text=True, stdout=subprocess.PIPE,
            )
            for _ in range(3)
        ]  # fmt: skip
        found = [float(process.communicate(timeout=120)[0]) for process in started]
    finally:
        subprocess.run(
            ["nvidia-cuda-mps-control"], input="quit\n", env=env, text=True, timeout=60, check=False
        )
    expected = training(data, 1).finish().rows[-1]["train_loss"]
    assert found == pytest.approx([expected] * 3, rel=1e-3)
