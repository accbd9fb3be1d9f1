"""The plug-ins that prunesweep ships: networks and datasets of other libraries."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from orchestrator.errors import PlanError
from orchestrator.run.planned_sweep import PlannedSweep, plan_sweep
from orchestrator.sweepfile.yaml_source import load_sweep
from trainables.data import DataRoots, DatasetNotFound, load_dataset
from trainables.lineage.bench import Bench
from trainables.lineage.loop import run_lineage
from trainables.store import Store
from trainables.training.batches import DeviceData

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

Plan = Callable[..., PlannedSweep]
Train = Callable[..., list[dict[str, Any]]]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing may ask a hub for anything, nor try to."""
    tried: list[object] = []

    def refuse(_: object, address: object) -> None:
        tried.append(address)
        raise OSError("offline")

    monkeypatch.setattr("socket.socket.connect", refuse)
    torch.set_num_threads(1)
    yield
    assert not tried


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Plans a sweep of such plug-ins, with a dataset and a model, that trains for one epoch."""

    def planned(plugins: list[str], dataset: Any, model: Any) -> PlannedSweep:
        file = tmp_path / "sweep.yaml"
        train = {"epochs": 1, "batch_size": 20, "optimizer": {"name": "sgd", "lr": 0.01}}
        sweep = {"name": "shipped", "plugins": plugins, "dataset": dataset, "model": model}
        methods = [{"name": "magnitude", "density": 0.5}]
        file.write_text(json.dumps({**sweep, "train": train, "methods": methods}))
        roots = DataRoots((tmp_path,), tmp_path)
        return plan_sweep(load_sweep(file), Store(str(tmp_path / "store")), roots)

    return planned


@pytest.fixture
def train(plan: Plan, tmp_path: Path) -> Train:
    """Trains the one lineage of such a sweep in this process; its iterations' metrics."""

    def trained(*sweep: Any) -> list[dict[str, Any]]:
        (lineage,) = plan(*sweep).plan.lineages
        data = load_dataset(lineage.cell.dataset, DataRoots((tmp_path,), tmp_path))
        cpu = torch.device("cpu")
        bench = Bench(Store(str(tmp_path / "store")), DeviceData.of(data, cpu), cpu)
        return [found for found in run_lineage(lineage, bench) if found is not None]

    return trained


def assert_trained(metrics: list[dict[str, Any]]) -> None:
    (found,) = metrics
    assert found["density"] == pytest.approx(0.5, abs=1e-4)
    assert 0 < found["macs_kept"] < found["macs_dense"]
    assert np.isfinite([found["train_loss"], found["test_loss"], found["pruned_test_loss"]]).all()


DIGITS = {"name": "digits", "subset": 60}
TORCHVISION, TIMM = ["prunesweep.torchvision_models"], ["prunesweep.timm_models"]
SAVED = ["prunesweep.saved_datasets"]


# torchvision


def test_a_network_of_torchvision_trains_on_images_of_one_channel(train: Train) -> None:
    assert_trained(train(TORCHVISION, DIGITS, "torchvision:mobilenet_v3_small"))


def test_the_cost_of_a_residual_network_of_torchvision(plan: Plan) -> None:
    # As published, 11,689,512 parameters; here of 10 classes and one channel, and in float32.
    parameters = 11_689_512 - 990 * 513 - 2 * 64 * 49
    weights = 4 * parameters
    found = plan(TORCHVISION, DIGITS, "torchvision:resnet18")
    assert 2 * weights < found.bytes < 2.1 * weights


def test_a_name_that_torchvision_does_not_have(plan: Plan) -> None:
    with pytest.raises(PlanError, match=r"no network resnet81; .* torchvision:resnet18\?"):
        plan(TORCHVISION, DIGITS, "torchvision:resnet81")


def test_images_that_are_too_small_for_a_network_of_torchvision(plan: Plan) -> None:
    with pytest.raises(PlanError, match=r"torchvision:alexnet cannot take images of 1x8x8 "):
        plan(TORCHVISION, DIGITS, "torchvision:alexnet")


# timm


def test_a_residual_network_of_timm_on_images_of_one_channel(train: Train) -> None:
    assert_trained(train(TIMM, DIGITS, "timm:test_resnet"))


def test_a_vision_transformer_of_timm_takes_the_size_of_the_images(
    train: Train, saved: "Saved"
) -> None:
    saved("images", size=32)
    dataset = {"name": "saved_dataset", "path": "images"}
    model = {"name": "timm:test_vit", "img_size": True, "drop_rate": 0.1}
    assert_trained(train([*TIMM, *SAVED], dataset, model))


def test_a_vision_transformer_of_timm_for_images_of_another_size(plan: Plan) -> None:
    with pytest.raises(PlanError, match="timm:test_vit cannot take images of 1x8x8"):
        plan(TIMM, DIGITS, "timm:test_vit")


def test_a_name_that_timm_does_not_have(plan: Plan) -> None:
    with pytest.raises(PlanError, match=r"no network resnet10tt; did you mean timm:resnet10t\?"):
        plan(TIMM, DIGITS, "timm:resnet10tt")


# datasets

Saved = Callable[..., Path]


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    """Writes a DatasetDict of noisy images as the library does, 40 to train on and 20 to test."""
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
    from PIL.Image import fromarray

    def save(
        name: str, *, size: int = 8, test_size: int | None = None, rgb: bool = False,
        splits: tuple[str, str] = ("train", "test"),
    ) -> Path:  # fmt: skip
        noise = np.random.default_rng(0)
        features = Features({"image": Image(), "label": ClassLabel(names=["a", "b", "c"])})

        def split(count: int, sizes: list[int]) -> Dataset:
            shapes = [(s, s, 3) if rgb else (s, s) for s in sizes]
            pixels = (noise.integers(0, 256, shape, dtype=np.uint8) for shape in shapes)
            labels = [i % 3 for i in range(count)]
            return Dataset.from_dict(
                {"image": [fromarray(each) for each in pixels], "label": labels}, features
            )

        whole = DatasetDict(
            {
                splits[0]: split(40, [size] * 40),
                splits[1]: split(20, [size] * 19 + [test_size or size]),
            }
        )
        whole.save_to_disk(tmp_path / name)
        return tmp_path / name

    return save


@pytest.mark.parametrize("rgb", [False, True], ids=["gray", "rgb"])
def test_a_dataset_that_was_saved(saved: Saved, train: Train, plan: Plan, rgb: bool) -> None:
    saved("mine", rgb=rgb)
    sweep = SAVED, {"name": "saved_dataset", "path": "mine"}, {"name": "mlp", "hidden": [8]}
    info = plan(*sweep).datasets[0].info
    assert info.shape == ((3, 8, 8) if rgb else (1, 8, 8))
    assert (info.classes, info.train_examples, info.test_examples) == (3, 40, 20)
    assert_trained(train(*sweep))


def test_the_content_of_a_saved_dataset_is_its_identity(saved: Saved, plan: Plan) -> None:
    def key(name: str) -> str:
        sweep = plan(SAVED, {"name": "saved_dataset", "path": name}, "linear")
        return sweep.plan.lineages[0].trunk

    saved("one")
    saved("copy")
    saved("other", rgb=True)
    assert key("one") == key("copy") != key("other")


def test_splits_of_other_names(saved: Saved, plan: Plan) -> None:
    saved("mine", splits=("fit", "validation"))
    dataset = {"name": "saved_dataset", "path": "mine", "train": "fit", "test": "validation"}
    assert plan(SAVED, dataset, "linear").datasets[0].info.test_examples == 20
    with pytest.raises(PlanError, match="mine has no split train; it has fit, validation"):
        plan(SAVED, {"name": "saved_dataset", "path": "mine"}, "linear")


def test_a_saved_dataset_that_is_not_there(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFound, match=f"save_to_disk(.|\n)*{tmp_path}/nowhere"):
        plan(SAVED, {"name": "saved_dataset", "path": "nowhere"}, "linear")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image": "img"}, "mine, train: no column img; it has image, label"),
        ({"label": "class"}, "mine, train: no column class; it has image, label"),
        ({"image": "label"}, "mine, train: the column label is ClassLabel"),
    ],
)
def test_columns_that_do_not_fit(saved: Saved, plan: Plan, options: dict, message: str) -> None:
    saved("mine")
    with pytest.raises(PlanError, match=message):
        plan(SAVED, {"name": "saved_dataset", "path": "mine", **options}, "linear")


def test_images_of_several_sizes(saved: Saved, plan: Plan) -> None:
    saved("mine", test_size=9)
    with pytest.raises(
        PlanError,
        match="mine, test, row 19 has 9x9 pixels instead of 8x8",
    ):
        plan(SAVED, {"name": "saved_dataset", "path": "mine"}, "linear")


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_saved_images_of_more_than_8_bits_are_refused(
    tmp_path: Path, plan: Plan, dtype: type
) -> None:
    from datasets import Dataset, DatasetDict, Features, Image, Value
    from PIL.Image import fromarray

    features = Features({"image": Image(), "label": Value("int64")})
    deep = [fromarray(np.full((4, 4), 4000 + i, dtype)) for i in range(4)]
    split = Dataset.from_dict({"image": deep, "label": [0, 1, 0, 1]}, features)
    DatasetDict({"train": split, "test": split}).save_to_disk(tmp_path / "mine")
    with pytest.raises(PlanError, match="mine, train, row 0 has more than 8 bits per channel"):
        plan(SAVED, {"name": "saved_dataset", "path": "mine"}, "linear")


def test_saved_labels_with_gaps_are_refused_or_numbered(tmp_path: Path, plan: Plan) -> None:
    from datasets import Dataset, DatasetDict, Features, Image, Value
    from PIL.Image import fromarray

    features = Features({"image": Image(), "label": Value("int64")})
    draw = np.random.RandomState(0)

    def split(labels: list[int]) -> Dataset:
        images = [fromarray(draw.randint(0, 256, (4, 4), np.uint8)) for _ in labels]
        return Dataset.from_dict({"image": images, "label": labels}, features)

    DatasetDict({"train": split([3, 1, 3]), "test": split([1])}).save_to_disk(tmp_path / "mine")
    mine = {"name": "saved_dataset", "path": "mine"}
    with pytest.raises(PlanError, match="mine, column label: the labels are 1, 3, and not 0 to 1"):
        plan(SAVED, mine, "linear")
    (found,) = plan(SAVED, mine | {"relabel": True}, "linear").datasets
    assert found.info.contents
    assert found.info.contents.names == ("1", "3")


def test_a_saved_dataset_with_a_file_missing(saved: Saved, plan: Plan) -> None:
    (saved("mine") / "train" / "state.json").unlink()
    with pytest.raises(PlanError, match=r"mine cannot be read: .*state\.json"):
        plan(SAVED, {"name": "saved_dataset", "path": "mine"}, "linear")


# without the libraries


@pytest.mark.parametrize(
    ("library", "plugin", "dataset", "model"),
    [
        ("timm", TIMM, DIGITS, "timm:resnet10t"),
        ("datasets", SAVED, {"name": "saved_dataset", "path": "mine"}, "linear"),
    ],
)
def test_without_the_library_one_message_says_what_to_install(
    plan: Plan,
    monkeypatch: pytest.MonkeyPatch,
    library: str,
    plugin: list[str],
    dataset: Any,
    model: Any,
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(PlanError, match=rf"pip install 'prunesweep\[{library}\]'"):
        plan(plugin, dataset, model)
