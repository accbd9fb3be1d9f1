"""What `plan` tells of a sweep's datasets, and what the records keep."""

import json
from pathlib import Path

import numpy as np
import pytest
from asking import ask
from PIL import Image
from rich.console import Console

from orchestrator.errors import PlanError
from orchestrator.records.datasets import DATASETS
from orchestrator.run import datasets
from orchestrator.run.planned_sweep import plan_sweep
from orchestrator.run.progress import RunProgress
from orchestrator.run.sweep import run_sweep
from orchestrator.sweepfile.yaml_source import load_sweep
from trainables.data import DataRoots, Dataset, DatasetOptions, data_roots, load_dataset
from trainables.store import Store

SWEEP = """\
name: s
data_root: .
dataset: [{name: image_folder, path: flowers, holdout: 1}, {name: digits, subset: 100}, mnist]
model: {name: mlp, hidden: [8]}
methods: [one_shot]
"""
TOLD = """\
image_folder flowers: 4 training and 1 held-out (of 5) and 2 test examples of 2 classes, 3x4 RGB
  training: 5 examples of 2 classes, from 2 (rose) to 3 (tulip) of a class; 2 of one colour only; \
1 repeated
  test: 2 examples of 2 classes, 1 of each class
  left out: train/.cache (hidden, or a system's)
  1 of 7 images are gray, turned into RGB
digits: 100 training and 360 test examples of 10 classes, 8x8 gray, as published
mnist: 60,000 training and 10,000 test examples of 10 classes, 28x28 gray, as published
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Seven images, one of them gray, and two equal ones of one colour."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    draw = np.random.RandomState(0)

    def put(place: str, image: Image.Image) -> None:
        path = tmp_path / "flowers" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)

    places = ("train/rose/0", "train/rose/1", "train/tulip/0", "test/rose/0", "test/tulip/0")
    for place in places:
        image = Image.fromarray(draw.randint(0, 256, (3, 4, 3), dtype=np.uint8))
        put(f"{place}.png", image.convert("L") if place == "train/rose/0" else image)
    for number in (1, 2):
        put(f"train/tulip/{number}.png", Image.new("RGB", (4, 3), "red"))
    put("train/.cache/0.png", Image.new("RGB", (4, 3)))
    (tmp_path / "s.yaml").write_text(SWEEP)
    return tmp_path


def test_plan_tells_what_is_in_each_dataset(folder: Path) -> None:
    told, notice = ask(folder, "plan", "s.yaml").split("mnist: its files are not here")
    assert told.endswith(TOLD)
    assert str(folder / "cache/prunesweep") in notice


def test_what_is_told_is_there_for_scripts_and_is_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flowers, digits, _ = json.loads(ask(folder, "plan", "s.yaml", "--json"))["datasets"]
    assert flowers["info"]["contents"]["names"] == ["rose", "tulip"]
    assert flowers["info"]["contents"]["train"]["constant"] == 2
    assert flowers["dataset"]["fingerprint"] == flowers["info"]["fingerprint"]
    assert digits["info"]["contents"] is None
    monkeypatch.chdir(folder)
    planned = plan_sweep(
        load_sweep(folder / "s.yaml"), Store(str(folder / "store")), data_roots(".", {})
    )
    store = Store(str(folder / "store"))
    DATASETS.write(store, "s", planned.datasets_record)
    assert DATASETS.read(store, "s") == planned.datasets_record


def test_files_that_change_after_they_were_planned_are_not_trained_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their results would be stored under the keys of the files that were there before."""
    monkeypatch.chdir(folder)
    (folder / "s.yaml").write_text(SWEEP.replace(", {name: digits, subset: 100}, mnist", ""))

    def load(config: DatasetOptions, roots: DataRoots) -> Dataset:
        Image.new("RGB", (4, 3), "blue").save(folder / "flowers/train/rose/1.png")
        return load_dataset(config, roots)

    monkeypatch.setattr(datasets, "load_dataset", load)
    spec, store = load_sweep(folder / "s.yaml"), Store(str(folder / "store"))
    progress = RunProgress(store, "s", Console(stderr=True))
    with pytest.raises(PlanError, match="its files changed while they were read"):
        run_sweep(spec, store, data_roots(".", {}), progress, address=None, command=[])
    assert not (folder / "store").exists()
