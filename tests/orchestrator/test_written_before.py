"""A storage that version 0.1.0 has written: read, planned and resumed, nothing trained again.

`tests/golden/written-before.zip` holds what `prunesweep run tests/golden/written-before.yaml` left,
without the tables.
"""

import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from asking import ask
from rich.console import Console

from orchestrator.records.sweep import existing_sweep, write_sweep
from orchestrator.records.versions import changed_parts, record_versions
from orchestrator.results.figures.rows import iteration_rows
from orchestrator.results.opening import open_results
from orchestrator.run.planned_sweep import plan_sweep
from orchestrator.run.progress import RunProgress
from orchestrator.run.sweep import run_sweep
from orchestrator.sweepfile.yaml_source import load_sweep
from trainables.data import data_roots, load_dataset
from trainables.lineage.bench import Bench
from trainables.lineage.keys import Lineage
from trainables.lineage.loop import run_lineage
from trainables.store import Store, iteration_path
from trainables.store.artifacts import read_masks
from trainables.training.batches import DeviceData
from trainables.training.optimizers import Adam
from trainables.versions import VERSIONS

GOLDEN = Path(__file__).parents[1] / "golden"
FILE, SWEEP = GOLDEN / "written-before.yaml", "written-before"
ROOTS = data_roots(None, {})

ACCURACIES = {
    "one_shot": [0.2139, 0.1889, 0.1889],
    "lottery_ticket": [0.2139, 0.1861, 0.175],
    "sap": [0.2139, 0.2056, 0.1917],
    "imp": [0.1389, 0.1167, 0.1417, 0.1278],
    "snip": [0.1361],
    "synflow": [0.1194],
}


@pytest.fixture
def before(tmp_path: Path) -> Store:
    with zipfile.ZipFile(GOLDEN / "written-before.zip") as packed:
        packed.extractall(tmp_path / "store")
    return Store(str(tmp_path / "store"))


def lineages(store: Store) -> tuple[Lineage, ...]:
    return plan_sweep(load_sweep(FILE), store, ROOTS).plan.lineages


def test_every_iteration_is_found_and_nothing_is_trained(before: Store) -> None:
    planned = plan_sweep(load_sweep(FILE), before, ROOTS)
    assert planned.plan.to_train == frozenset()
    stored = {key for line in planned.plan.lineages for key in line.keys}
    assert stored == set(before.committed("iterations"))
    record = existing_sweep(before, SWEEP)
    assert [(line.id, line.config, line.keys) for line in record.lineages] == [
        (line.id, line.config, line.keys) for line in planned.record.lineages
    ]


def test_the_command_trains_nothing_and_shows_what_there_is(before: Store) -> None:
    command = [str(Path(sys.executable).with_name("prunesweep")), "run", str(FILE), "--json"]
    done = subprocess.run(
        [*command, "--storage", before.location], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["planned"] == 0
    assert summary["healed"] == summary["failures"] == []


def test_a_run_makes_tables_anew_only_where_they_lack_rows_or_columns(before: Store) -> None:
    """Another version may have made them."""
    folder = Path(before.location)
    tables = folder / "tables"

    def run_again() -> dict[str, int]:
        ask(folder, "run", str(FILE), "--storage", ".", "--json")
        return {file.name: file.stat().st_mtime_ns for file in tables.iterdir()}

    made = run_again()
    assert run_again() == made
    for name, column in (("iterations", "gini"), ("layers", "kept")):
        file = tables / f"{name}-{SWEEP}.parquet"
        whole = pq.read_table(file)
        pq.write_table(whole.drop_columns([column]), file)
        manifest = json.loads((tables / f"manifest-{SWEEP}.json").read_text())
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        manifest["files"][f"tables/{file.name}"] = {"rows": "other columns", "sha256": sha256}
        (tables / f"manifest-{SWEEP}.json").write_text(json.dumps(manifest))
        assert run_again() != made
        assert pq.read_table(file).equals(whole)


def test_a_run_with_nothing_to_train_lists_the_storage_once(
    before: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[str] = []
    committed = Store.committed
    monkeypatch.setattr(
        Store, "committed", lambda s, path: listed.append(path) or committed(s, path)
    )
    monkeypatch.setenv("WANDB_MODE", "disabled")
    progress = RunProgress(before, SWEEP, Console(stderr=True))
    summary = run_sweep(load_sweep(FILE), before, ROOTS, progress, address=None, command=[])
    assert summary.planned.plan.to_train == frozenset()
    assert listed == ["iterations"]


def test_its_results_are_what_they_were(before: Store) -> None:
    found: dict[str, list[float]] = {}
    for row in open_results(before, SWEEP).iterations.to_pylist():
        assert row["params_effective"] is None  # which it did not measure
        found.setdefault(row["method"], []).append(round(row["test_accuracy"], 4))
    assert found == ACCURACIES


def test_a_record_that_does_not_say_whose_weights_were_pruned_is_understood(
    before: Store,
) -> None:
    rows = iteration_rows(open_results(before, SWEEP))
    at: dict[tuple[str, int], Any] = {(row["label"], row["iteration"]): row for row in rows}
    again, first = at["one_shot", 2], at["one_shot", 1]
    # What one_shot pruned the second time is w_0, as the first time.
    assert again["accuracy_difference"] == pytest.approx(
        first["pruned_test_accuracy"] - again["pruned_test_accuracy"]
    )
    ticket, parent = at["lottery_ticket", 2], at["lottery_ticket", 1]
    assert ticket["accuracy_difference"] == pytest.approx(
        parent["test_accuracy"] - ticket["pruned_test_accuracy"]
    )
    assert all(at["imp", t]["accuracy_difference"] is None for t in range(4))


@pytest.mark.parametrize("method", sorted(ACCURACIES))
def test_a_lineage_goes_on_from_what_is_stored(before: Store, method: str) -> None:
    line = next(each for each in lineages(before) if each.cell.method.name == method)
    last = line.keys[-1]
    masks = read_masks(before, iteration_path(last))
    before.remove(iteration_path(last))
    data = DeviceData.of(load_dataset(line.cell.dataset, ROOTS), torch.device("cpu"))
    (row,) = [row for row in run_lineage(line, Bench(before, data, torch.device("cpu"))) if row]
    assert row["key"] == last
    assert row["params_kept"] == sum(int(mask.sum()) for mask in masks.values())
    # Another processor may round otherwise.
    assert row["test_accuracy"] == pytest.approx(ACCURACIES[method][-1], abs=0.05)


@pytest.mark.parametrize(
    ("part", "anew"),
    [
        ("criterion/snip", {"snip"}),
        ("criterion/magnitude", {"one_shot", "lottery_ticket", "sap", "imp"}),
        ("method/sap", {"sap"}),
        ("inputs/random", {"imp"}),
        ("scope/layer", set()),
        ("model/vgg11", set()),
    ],
)
def test_what_a_part_of_another_version_made_is_trained_anew_and_told_once(
    before: Store, monkeypatch: pytest.MonkeyPatch, part: str, anew: set[str]
) -> None:
    monkeypatch.setitem(VERSIONS, part, 2)
    planned = plan_sweep(load_sweep(FILE), before, ROOTS)
    assert {task.lineage.cell.method.name for task in planned.plan.tasks} == anew
    for name in anew:
        assert any(f"the code of {part} has another version" in n for n in planned.notices), name
    record_versions(before, SWEEP, planned.spec.configs)
    assert not plan_sweep(load_sweep(FILE), before, ROOTS).notices


def test_a_part_that_a_sweep_did_not_have_is_not_told_of(
    before: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    used, other = load_sweep(FILE).configs, Adam(name="adam")
    monkeypatch.setitem(VERSIONS, "optimizer/adam", 2)
    record_versions(before, SWEEP, used)
    assert changed_parts(before, SWEEP, [*used, other]) == []
    record_versions(before, SWEEP, [*used, other])
    monkeypatch.setitem(VERSIONS, "optimizer/adam", 3)
    assert changed_parts(before, SWEEP, [*used, other]) == ["optimizer/adam"]
    assert changed_parts(before, "another", [*used, other]) == []


DRAWN = """\
name: drawn
dataset: {name: digits, subset: 60}
model: {name: resnet20%s}
train: {epochs: 1, batch_size: 30}
methods: [{name: magnitude, density: 0.5}]
"""


def test_what_was_drawn_otherwise_is_read_and_not_taken_for_what_is_drawn_now(
    tmp_path: Path,
) -> None:
    """Version 0.1.0 drew the weights of resnet20 as SAP's code does, and had no word for it."""
    as_before, now = tmp_path / "before.yaml", tmp_path / "now.yaml"
    as_before.write_text(DRAWN % ", init: kaiming_fan_out_conv")
    now.write_text(DRAWN % "")
    store = Store(str(tmp_path / "store"))
    planned = plan_sweep(load_sweep(as_before), store, ROOTS)
    (line,) = planned.plan.lineages
    assert line.config()["model"] == {"name": "resnet20", "width": 1}
    data = DeviceData.of(load_dataset(line.cell.dataset, ROOTS), torch.device("cpu"))
    assert all(run_lineage(line, Bench(store, data, torch.device("cpu"))))
    write_sweep(store, planned.record)
    anew = plan_sweep(load_sweep(now), store, ROOTS).plan
    assert (len(anew.to_train), anew.stored) == (1, 0)
    (row,) = open_results(store, "drawn").iterations.to_pylist()
    assert row["lineage"] == line.id
