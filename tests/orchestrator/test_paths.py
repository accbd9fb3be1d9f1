"""Paths of a sweep file begin at its folder, whatever the current one is."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asking import ask
from PIL import Image

SWEEP = """
name: s
dataset: {name: image_folder, path: birds}
model: {name: mlp, hidden: [8]}
methods: [one_shot]
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def birds(folder: Path, count: int) -> None:
    """So many training images of two classes."""
    for split, many in (("train", count), ("test", 2)):
        for number in range(many):
            path = folder / "birds" / split / ("crow", "swan")[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.full((4, 4, 3), number + 10 * (split == "test"), np.uint8)
            pixels[0, 0] = 255 - number
            Image.fromarray(pixels).save(path)


def planned(folder: Path, lines: str, **more: Any) -> Any:
    """The plan of `sweeps/s.yaml`, asked from `folder`."""
    (folder / "sweeps").mkdir(exist_ok=True)
    (folder / "sweeps/s.yaml").write_text(SWEEP + lines)
    out = ask(folder, "plan", "sweeps/s.yaml", "--json", **more)
    return json.loads(out) if out else None


def examples(plan: dict[str, Any]) -> int:
    return plan["datasets"][0]["info"]["train_examples"]


def test_a_data_root_is_beside_the_sweep_file(tmp_path: Path) -> None:
    birds(tmp_path / "sweeps/data", 4)
    plan = planned(tmp_path, "data_root: data\n")
    assert (examples(plan), plan["notices"]) == (4, [])
    birds(tmp_path / "elsewhere", 6)
    assert examples(planned(tmp_path, "data_root: ../elsewhere\n")) == 6
    assert examples(planned(tmp_path, f"data_root: {tmp_path / 'elsewhere'}\n")) == 6


def test_one_in_the_current_folder_alone_is_still_meant(tmp_path: Path) -> None:
    birds(tmp_path / "data", 6)
    plan = planned(tmp_path, "data_root: data\n")
    assert examples(plan) == 6
    (notice,) = plan["notices"]
    assert notice.startswith("data_root: data is the one in the current folder")


def test_one_that_may_be_meant_either_way_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    birds(tmp_path / "data", 6)
    birds(tmp_path / "sweeps/data", 4)
    planned(tmp_path, "data_root: data\n", expect=2)
    said = capsys.readouterr().err
    assert said.startswith("prunesweep: sweeps/s.yaml:6:12: data_root: there is one beside")
    assert said.endswith("; write an absolute path\n")


def test_the_path_of_a_dataset_may_be_beside_the_sweep_file(tmp_path: Path) -> None:
    birds(tmp_path / "sweeps", 4)
    assert examples(planned(tmp_path, "")) == 4
    # What is below a data_root is found there, as ever.
    birds(tmp_path / "sweeps/data", 6)
    assert examples(planned(tmp_path, "data_root: data\n")) == 6


def test_plan_tells_which_files_a_run_would_miss(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    for dataset in ("mnist", "fashion_mnist", "cifar10", "cifar100", "tiny_imagenet", "digits"):
        model = "tiny_resnet18" if dataset == "tiny_imagenet" else "mlp"
        file.write_text(f"name: s\ndataset: {dataset}\nmodel: {model}\nmethods: [one_shot]\n")
        plan = json.loads(ask(tmp_path, "plan", "s.yaml", "--json"))
        told = [notice.partition(":")[0] for notice in plan["notices"]]
        assert told == ([] if dataset == "digits" else [dataset])
    (tmp_path / "cifar-10-batches-py").mkdir()
    file.write_text(file.read_text().replace("digits", "cifar10"))
    assert json.loads(ask(tmp_path, "plan", "s.yaml", "--json"))["notices"] == []


def test_the_plan_says_which_seeds_were_understood(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    for written, said in (
        ("3", "one, seed 3; for 3 seeds write seeds: {count: 3}"),
        ("[0, 7]", "2: 0, 7"),
        ("{count: 20, first: 1}", "20: 1 … 20"),
    ):
        file.write_text(
            f"name: s\ndataset: digits\nmodel: mlp\nseeds: {written}\nmethods: [one_shot]\n"
        )
        assert said in ask(tmp_path, "plan", "s.yaml")
    assert json.loads(ask(tmp_path, "plan", "s.yaml", "--json"))["seeds"] == [*range(1, 21)]


def listed(folder: Path, kind: str, name: str) -> dict[str, Any]:
    entries = json.loads(ask(folder, "list", kind, "--json"))
    (entry,) = (entry for entry in entries if entry["name"] == name)
    return entry


def test_the_list_has_what_an_option_can_be(tmp_path: Path) -> None:
    snip = listed(tmp_path, "methods", "snip")
    assert snip["values"]["data"] == "real, normal, sparse"
    assert snip["values"]["density"] == "0 < … <= 1"
    assert "data=real" in snip["options"]
    assert "data=real (real, normal, sparse)" in ask(tmp_path, "list", "methods")
    sgd = listed(tmp_path, "optimizers", "sgd")
    assert sgd["values"]["nesterov"] == "true, false"
