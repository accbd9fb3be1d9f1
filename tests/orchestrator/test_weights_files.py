"""Networks that bring their weights, from a file or a plug-in: what is refused, what is kept of
them and how long; and a run that is killed and goes on."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from asking import ask, refused
from pydantic import TypeAdapter
from smallest import SWEEP
from sweeping import commits, run, start, store_of, wait_for, write
from torch import Tensor

from orchestrator.commands.verify import verify_store
from orchestrator.results.opening import open_results
from orchestrator.run.healing import set_damaged_aside
from orchestrator.run.planned_sweep import PlannedSweep, plan_sweep
from orchestrator.run.preparing import to_check, write_records
from orchestrator.storage.collecting import collect
from orchestrator.sweepfile.yaml_source import load_sweep
from trainables.data import data_roots, load_dataset
from trainables.lineage.bench import Bench
from trainables.lineage.initial_weights import files_of, kept_path
from trainables.lineage.loop import run_lineage
from trainables.models import ModelConfig, build_model
from trainables.store import Store
from trainables.store.artifacts import WEIGHTS, read_tensors
from trainables.store.index import StoreIndex
from trainables.store.storage_format import mark
from trainables.training.batches import DeviceData

ROOTS, CPU = data_roots(None, {}), torch.device("cpu")
MLP = {"name": "mlp", "hidden": [8]}


def state(hidden: int = 8, seed: int = 77) -> dict[str, Tensor]:
    config = TypeAdapter(ModelConfig).validate_python({"name": "mlp", "hidden": [hidden]})
    return build_model(config, (1, 8, 8), 10, seed).state_dict()


def sweep(*files: str, **sections: Any) -> dict[str, Any]:
    given: Any = files[0] if len(files) == 1 else [*files]
    return SWEEP | {"model": MLP | {"initial_weights": given}} | sections


def planned_here(folder: Path, of: dict[str, Any]) -> PlannedSweep:
    store = mark(store_of(folder))
    return plan_sweep(load_sweep(write(folder, of)), store, ROOTS)


def begun(folder: Path, of: dict[str, Any]) -> PlannedSweep:
    """The sweep with all that a run has in the storage before anything is trained."""
    planned = planned_here(folder, of)
    arrays = {
        json.dumps(found.identity, sort_keys=True, separators=(",", ":")): load_dataset(
            found.config, ROOTS
        )
        for found in planned.datasets
    }
    write_records(planned, store_of(folder), arrays)
    return planned


def trained(folder: Path, of: dict[str, Any]) -> PlannedSweep:
    planned = begun(folder, of)
    data = DeviceData.of(load_dataset(planned.datasets[0].config, ROOTS), CPU)
    for line in planned.plan.lineages:
        assert all(run_lineage(line, Bench(store_of(folder), data, CPU)))
    return planned


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.save(state(), tmp_path / "w.pt")
    return tmp_path


# What is refused


def without(name: str) -> dict[str, Tensor]:
    return {n: each for n, each in state().items() if n != name}


@dataclass
class Payload:
    """Makes a folder when it is unpickled."""

    folder: Path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.folder),)


SPARSE = state() | {"hidden1.bias": torch.zeros(8).to_sparse()}
HUGE = torch.full((8,), 1e300, dtype=torch.float64)
NOT_FINITE = state() | {"hidden1.bias": torch.tensor([0.0] * 7 + [float("nan")])}
WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "another shape": (
        lambda file: torch.save(state(9), file),
        "hidden1.weight is 9x64 in x.pt and 8x64 in mlp; give a state dict of this mlp",
    ),
    "a name that is missing": (
        lambda file: torch.save(without("classifier.bias"), file),
        "x.pt lacks classifier.bias; give",
    ),
    "names that nobody expects": (
        lambda file: torch.save({f"module.{n}": t for n, t in state().items()}, file),
        "x.pt lacks hidden1.weight and 3 more and has module.hidden1.weight and 3 more, which mlp "
        "has not; give",
    ),
    "whole numbers": (
        lambda file: torch.save({n: t.long() for n, t in state().items()}, file),
        "hidden1.weight is int64 in x.pt and float32 in mlp",
    ),
    "NaN": (
        lambda file: torch.save(NOT_FINITE, file),
        "hidden1.bias of x.pt has values that are not finite, NaN or infinite; nothing can",
    ),
    "what is infinite in float32": (
        lambda file: torch.save(state() | {"hidden1.bias": HUGE}, file),
        "hidden1.bias of x.pt has values that are not finite",
    ),
    "a sparse tensor": (
        lambda file: torch.save(SPARSE, file),
        "hidden1.bias of x.pt is sparse or quantized; save it as a plain tensor",
    ),
    "a checkpoint with more": (
        lambda file: torch.save({"state_dict": state(), "epoch": 3}, file),
        "x.pt has 'state_dict' beside tensors, which is OrderedDict; where it",
    ),
    "a whole module": (
        lambda file: torch.save(torch.nn.Linear(2, 2), file),
        "x.pt is no file of tensors alone, or damaged; save it with torch.save(network.state_dict()"
    ),
    "code that would run": (
        lambda file: torch.save(Payload(file.with_name("made")), file),
        "x.pt is no file of tensors alone, or damaged; save it with torch.save(network.state_dict()"
    ),
    "a list": (
        lambda file: torch.save([*state().values()], file),
        "x.pt holds list, no state dict; save it",
    ),
    "no such file": (
        lambda file: None,
        "x.pt cannot be read: No such file or directory; its path begins at the sweep file's",
    ),
    "a folder": (lambda file: file.mkdir(), "x.pt cannot be read: Is a directory"),
    "nothing": (lambda file: file.touch(), "x.pt is no file of tensors alone, or damaged"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_fit_is_one_error_and_nothing_is_written(what: str, folder: Path) -> None:
    make, message = WRONG[what]
    make(folder / "x.pt")
    file = str(write(folder, sweep("x.pt")))
    said = refused(folder, "plan", file)
    assert said.startswith(f"prunesweep: {file}:1:")
    assert f": model.initial_weights: {message}" in said
    assert said.count("\n") == 1
    assert not (folder / "prunesweep-store").exists()
    assert not (folder / "made").exists()


@pytest.mark.parametrize("name", ["x.bin", "x.safetensors"])
def test_files_that_hold_no_tensors(name: str, folder: Path) -> None:
    (folder / name).write_bytes(b"hello")
    said = refused(folder, "plan", str(write(folder, sweep(name))))
    reason = "is none of .pt, .pth, .safetensors" if name == "x.bin" else "is no file of tensors"
    assert f"{name} {reason}" in said


def test_all_files_that_are_missing_are_told(folder: Path) -> None:
    said = refused(folder, "plan", str(write(folder, sweep("a.pt", "w.pt", "b.pt"))))
    one, other = said.splitlines()
    assert ": model.initial_weights.0: a.pt cannot be read" in one
    assert ": model.initial_weights.2: b.pt cannot be read" in other


def test_equal_files_would_count_twice(folder: Path) -> None:
    shutil.copy(folder / "w.pt", folder / "v.pt")
    said = refused(folder, "plan", str(write(folder, sweep("w.pt", "v.pt"))))
    assert "model.initial_weights.1: the same as model.initial_weights.0" in said
    assert "the content of its files is equal; remove one" in said


# An axis


def test_files_are_an_axis_with_conditions_and_a_column(folder: Path) -> None:
    safetensors.torch.save_file(state(seed=5), folder / "v.safetensors")
    of = sweep("w.pt", "v.safetensors", methods=["one_shot", {"name": "snip", "density": 0.5,
                                                              "examples": 50}])  # fmt: skip
    rule = {"method": "snip", "model.initial_weights": "v.safetensors"}
    planned = planned_here(folder, of | {"exclude": [rule]})
    swept = [line.swept["model.initial_weights"] for line in planned.record.lineages]
    assert swept == ["w.pt", "w.pt", "v.safetensors"]
    assert planned.record.spec["model"][0]["initial_weights"] == "w.pt"


# What is kept of a file


def test_the_storage_has_what_the_file_had_and_a_moved_file_is_the_same(folder: Path) -> None:
    planned = trained(folder, sweep("w.pt"))
    (folder / "elsewhere").mkdir()
    (folder / "w.pt").rename(folder / "elsewhere/v.pt")
    line = open_results(folder / "prunesweep-store", "s").lineage("one_shot")
    for found in (line[0].initial(), line.network().state_dict()):
        assert all(torch.equal(found[name], each) for name, each in state().items())
    again = planned_here(folder, sweep("elsewhere/v.pt"))
    assert not again.plan.to_train
    torch.save(state(seed=5), folder / "elsewhere/v.pt")
    other = planned_here(folder, sweep("elsewhere/v.pt"))
    assert other.plan.to_train == frozenset(other.plan.lineages[0].keys)
    assert other.bytes > planned.bytes / 2


def test_weights_stay_as_long_as_a_sweep_names_them(folder: Path) -> None:
    planned = begun(folder, sweep("w.pt"))
    begun(folder, sweep("w.pt", name="other"))
    store, (path,) = store_of(folder), map(kept_path, files_of(planned.plan.lineages))
    store.discard("sweeps/s", "lineages.json")
    collect(store)
    assert store.is_committed(path)
    store.discard("sweeps/other", "lineages.json")
    collect(store)
    assert store.names("snapshots") == []


def test_damaged_weights_are_put_there_again(folder: Path) -> None:
    of, store = sweep("w.pt"), store_of(folder)
    planned = begun(folder, of)
    (path,) = map(kept_path, files_of(planned.plan.lineages))
    store.files.write(f"{path}/{WEIGHTS}", b"damaged")
    assert [each.path for each in verify_store(store).damage] == [path]
    (damage,) = set_damaged_aside(store, to_check(planned.plan, StoreIndex(store)))
    assert damage.path == path
    begun(folder, of)
    assert read_tensors(store, path).keys() == state().keys()


# Plug-ins that bring weights of their own

BRINGS = """\
import math, pathlib
import torch
from torch import nn
from prunesweep import Shape, model

class Brings(nn.Sequential):
    def __init__(self, shape: Shape, classes: int):
        super().__init__(nn.Flatten(), nn.Linear(math.prod(shape), classes))
        self.load_state_dict(torch.load({file!r}, weights_only=True))

@model
def brings(shape: Shape, classes: int) -> nn.Module:
    return Brings(shape, classes)
"""


@pytest.fixture
def plugged(folder: Path) -> Path:
    own = {"1.weight": torch.linspace(-0.1, 0.1, 640).view(10, 64), "1.bias": torch.zeros(10)}
    torch.save(own, folder / "own.pt")
    (folder / "lab.py").write_text(BRINGS.format(file=str(folder / "own.pt")))
    return folder


def test_a_module_keeps_the_weights_that_its_constructor_loads(plugged: Path) -> None:
    """Whatever the seed; and is the same as one that is given them in a file."""
    of = SWEEP | {"plugins": ["lab.py"], "model": "brings", "seeds": [0, 1]}
    trained(plugged, of)
    results = open_results(plugged / "prunesweep-store", "s", plugins=[str(plugged / "lab.py")])
    own = torch.load(plugged / "own.pt", weights_only=True)
    for seed in (0, 1):
        begun_with = results.lineage(seed=seed)[0].initial()
        assert all(torch.equal(begun_with[name], each) for name, each in own.items())
    given = of | {"name": "g", "model": {"name": "brings", "initial_weights": "own.pt"}}
    trained(plugged, given)
    other = open_results(plugged / "prunesweep-store", "g", plugins=[str(plugged / "lab.py")])
    for seed in (0, 1):
        one, same = (each.lineage(seed=seed)[1] for each in (results, other))
        assert one.key != same.key
        for name, weight in one.weights().items():
            assert torch.equal(weight, same.weights()[name])


def test_weights_that_are_the_same_for_every_seed_cannot_be_drawn_anew(plugged: Path) -> None:
    of = SWEEP | {"plugins": ["lab.py"], "model": ["brings", MLP], "ablations": ["reinit"]}
    file = str(write(plugged, of))
    said = refused(plugged, "plan", file)
    assert ": ablations.0: reinit draws initial weights anew, and brings (" in said
    exclude = {"model": "brings", "ablation": "reinit"}
    assert "exclude: [{model: brings, ablation: reinit}]" in said
    write(plugged, of | {"exclude": [exclude]})
    ask(plugged, "plan", file)


# Through Ray


@pytest.mark.long
def test_a_killed_run_goes_on_with_a_file_that_was_moved(folder: Path) -> None:
    """And ends with what a plain process makes of it."""
    longer = {"seeds": [0, 1], "train": {"epochs": 20, "batch_size": 5}, "methods": [
        {"name": "lottery_ticket", "rewind": {"step": 7}}]}  # fmt: skip
    of = sweep("w.pt", prune={"iterations": 3}, **longer)
    process = start(folder, "run", str(write(folder, of)))
    wait_for(lambda: len(commits(folder)) >= 2)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=240)
    assert len(commits(folder)) < 8
    (folder / "w.pt").rename(folder / "v.pt")
    moved = sweep("v.pt", prune={"iterations": 3}, **longer)
    summary = run(folder, moved)
    assert summary["planned"] < 8
    plain = folder / "plain"
    plain.mkdir()
    shutil.copy(folder / "v.pt", plain)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    planned = trained(plain, moved)
    torch.set_num_threads(threads)
    for line in planned.plan.lineages:
        for key in line.keys:
            one, other = (
                Store.read(store_of(each), f"iterations/{key}", WEIGHTS) for each in (folder, plain)
            )
            assert one == other
