"""A whole sweep on `digits` through the command: real Ray processes, real files."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from asking import ask
from safetensors import safe_open
from sweeping import ONE_AT_A_TIME, SWEEP, commits, comparable, planned, run, store_of, table, write

from orchestrator.records.sweep import existing_sweep
from orchestrator.results.tables import SCHEMAS, TABLES, table_path
from orchestrator.run.datasets import resolve_datasets
from orchestrator.run.planning import sweep_lineages
from orchestrator.sweepfile.spec import SweepSpec
from orchestrator.sweepfile.yaml_source import load_sweep
from trainables.data import data_roots, load_dataset
from trainables.lineage.bench import Bench
from trainables.lineage.identity import snapshot_key
from trainables.lineage.loop import run_lineage
from trainables.models import build_model
from trainables.store import Store, iteration_path, snapshot_path
from trainables.store.artifacts import MASK, WEIGHTS
from trainables.training.batches import DeviceData


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `small` run to its end in its default storage."""
    folder = tmp_path_factory.mktemp("finished")
    summary = run(folder, SWEEP)
    assert summary["planned"] == 2 + 2 * 3 * 2
    assert summary["failures"] == []
    return folder


def test_the_tables_are_complete(finished: Path) -> None:
    iterations = table(finished, "small", "iterations")
    expected = SCHEMAS["iterations"]
    assert iterations.schema.names == [*expected.names, "method_p"]
    assert iterations.select(expected.names).schema.equals(expected)
    assert len(iterations) == 6 * 3
    assert len(table(finished, "small", "layers")) == 6 * 3 * 2
    assert len(table(finished, "small", "epochs")) == 6 * 3 * 2
    # Global, two layers and two layers' neurons, on a 10 × 11 grid; pruned from iteration 1 on.
    assert len(table(finished, "small", "sparsity")) == 6 * 5 * (5 * 110)
    for name in TABLES[1:]:
        assert table(finished, "small", name).schema.equals(SCHEMAS[name])
    dense = [row for row in iterations.to_pylist() if row["iteration"] == 0]
    assert {row["density"] for row in dense} == {1.0}
    assert {row["pruned_test_accuracy"] for row in dense} == {None}
    assert len({row["key"] for row in dense}) == 2


def test_a_second_run_trains_nothing(finished: Path) -> None:
    before = commits(finished)
    manifests = {key: (store_of(finished).manifest(iteration_path(key))) for key in before}
    assert json.loads(ask(finished, "run", "small.yaml", "--json"))["planned"] == 0
    assert manifests == {k: store_of(finished).manifest(iteration_path(k)) for k in before}


def test_what_is_outside_the_identity_trains_nothing(finished: Path) -> None:
    elsewhere = SWEEP | {
        "wandb": {"project": "another"},
        "data_root": str(finished),
        "resources": {"cpus_per_lineage": 2},
        "name": "renamed",
    }
    assert planned(finished, elsewhere)["to_train"] == 0


def test_a_new_seed_trains_only_its_lineages(finished: Path, tmp_path: Path) -> None:
    with_seed = SWEEP | {"seeds": [0, 1, 2]}
    assert planned(finished, with_seed)["to_train"] == 1 + 3 * 2
    assert planned(finished, SWEEP | {"prune": {"iterations": 3}})["to_train"] == 6
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    assert run(folder, with_seed | {"name": "more"}, *ONE_AT_A_TIME)["planned"] == 1 + 3 * 2
    new = commits(folder) - commits(finished)
    seeds = {row["seed"] for row in table(folder, "more", "iterations").to_pylist()
             if row["key"] in new}  # fmt: skip
    assert seeds == {2}


@pytest.mark.parametrize(("keep", "own"), [("last", True), ("none", False)])
def test_no_sweep_drops_weights_that_another_keeps(
    keep: str, own: bool, finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished / "prunesweep-store", tmp_path / "prunesweep-store")
    before = commits(tmp_path)
    longer = SWEEP | {"name": "longer", "prune": {"iterations": 3}, "store": {"keep_weights": keep}}
    assert run(tmp_path, longer, *ONE_AT_A_TIME)["planned"] == 6
    left = store_of(tmp_path).committed("iterations")
    assert {key for key in before if WEIGHTS not in left[key]} == set()
    lines = existing_sweep(store_of(tmp_path), "longer").lineages
    assert {WEIGHTS in left[line.keys[3]] for line in lines} == {own}


def test_actors_that_were_reused_compute_what_fresh_ones_do(finished: Path, tmp_path: Path) -> None:
    """The run's six lineages went through at most two actors; here each has a plain process."""
    spec = load_sweep(write(tmp_path, SWEEP))
    roots = data_roots(None, os.environ)
    torch.set_num_threads(1)
    device = torch.device("cpu")
    data = DeviceData.of(load_dataset(spec.dataset[0], roots), device)
    fresh = Store(str(tmp_path / "fresh"))
    for lineage in sweep_lineages(spec, resolve_datasets(spec, roots)):
        list(run_lineage(lineage, Bench(fresh, data, device)))
        for key in lineage.keys:
            for file in (WEIGHTS, MASK):
                path = iteration_path(key)
                assert fresh.read(path, file) == store_of(finished).read(path, file)


def test_results_answers_sql_in_every_format(finished: Path, tmp_path: Path) -> None:
    sql = "SELECT method, count(*) AS n FROM iterations GROUP BY ALL ORDER BY ALL"
    rows = json.loads(ask(finished, "results", "small", "--sql", sql, "--format", "json"))
    assert rows == [{"method": "one_shot", "n": 6}, {"method": "sap", "n": 12}]
    csv = ask(finished, "results", "small", "--sql", sql, "--format", "csv")
    assert csv.splitlines() == ['"method","n"', '"one_shot",6', '"sap",12']
    file = tmp_path / "out.parquet"
    ask(finished, "results", "small", "--format", "parquet", "--output", str(file))
    assert len(pq.read_table(file)) == 3 * 3
    assert "sap p=0.9" in ask(finished, "results", "small")


def test_status_verify_and_export(finished: Path, tmp_path: Path) -> None:
    status = json.loads(ask(finished, "status", "small", "--json"))
    assert (status["state"], status["lineages_done"], status["iterations_stored"]) == (
        "finished", 6, 14,
    )  # fmt: skip
    verified = json.loads(ask(finished, "verify", "--json"))
    assert verified["damage"] == []
    lineage = table(finished, "small", "iterations").to_pylist()[0]["lineage"]
    ask(finished, "export", "small", lineage, "--iteration", "2", "--output", str(tmp_path))
    state = torch.load(tmp_path / "state_dict.pt", weights_only=True)
    kept = table(finished, "small", "iterations").to_pylist()[2]["params_kept"]
    weights = [tensor for name, tensor in state.items() if name.endswith("weight")]
    assert sum(int((weight != 0).sum()) for weight in weights) == kept
    (tmp_path / "mine").touch()
    assert {file.stat().st_mode for file in tmp_path.iterdir()} == {
        (tmp_path / "mine").stat().st_mode
    }
    with safe_open(tmp_path / "weights.safetensors", "pt") as file:
        told = json.loads(file.metadata()["prunesweep"])
    assert told == json.loads((tmp_path / "model.json").read_text())
    assert (told["lineage"], told["iteration"]) == (lineage, 2)
    assert accuracy(state, told) == pytest.approx(
        table(finished, "small", "iterations").to_pylist()[2]["test_accuracy"]
    )


def accuracy(state: dict[str, torch.Tensor], told: dict[str, Any]) -> float:
    """On the test images of digits, of an exported network and by what is told of it alone."""
    spec = SweepSpec.model_validate(SWEEP)
    dataset = load_dataset(spec.dataset[0], data_roots(None, {}))
    assert (told["input_shape"], told["classes"]) == ([*dataset.test.images.shape[1:]], 10)
    mean, std = (torch.tensor(told["normalization"][n])[:, None, None] for n in ("mean", "std"))
    model = build_model(spec.model[0], (1, 8, 8), 10, 0)
    model.load_state_dict(state)
    model.eval()
    images = (torch.from_numpy(dataset.test.images) / 255 - mean) / std
    return float((model(images).argmax(1).numpy() == dataset.test.labels).mean())


DAMAGE: list[tuple[str, str]] = [
    ("flipped", "weights.safetensors"),
    ("flipped", "mask.safetensors"),
    ("flipped", "metrics.parquet"),
    ("flipped", "manifest.json"),
    ("truncated", "weights.safetensors"),
    ("truncated", "manifest.json"),
    ("truncated", "sparsity.parquet"),
    ("missing", "mask.safetensors"),
    ("missing", "layers.parquet"),
    ("missing", "manifest.json"),
]
TABLE_DAMAGE = list(zip(TABLES, ["flipped", "truncated", "missing", "flipped"], strict=True))


def test_all_damage_is_found_named_and_healed_at_once(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    storage = folder / "prunesweep-store"
    before = {name: comparable(folder, "small", name) for name in TABLES}
    keys = list(dict.fromkeys(row["key"] for row in before["iterations"]))
    victims = list(zip(keys, DAMAGE, strict=False))
    assert len(victims) == len(DAMAGE)
    for key, (how, file) in victims:
        spoil(storage / iteration_path(key) / file, how)
    for name, how in TABLE_DAMAGE:
        spoil(storage / table_path(name, "small"), how)
    snapshot = storage / snapshot_path(snapshot_key(keys[0], 0))
    spoil(snapshot / "weights.safetensors", "flipped")

    found = json.loads(ask(folder, "verify", "--json", expect=1))["damage"]
    assert len(found) == len(DAMAGE) + len(TABLE_DAMAGE) + 1
    for key, (_, file) in victims:
        (about,) = [line for line in found if key in line]
        assert file in about or file == "manifest.json"
        assert "in the sweep small, which `prunesweep run` sets aside and trains again" in about
    for name, _ in TABLE_DAMAGE:
        (about,) = [line for line in found if table_path(name, "small") in line]
        assert "rebuilds it" in about
    assert any(snapshot.name in line and "to rewind to" in line for line in found)

    summary = run(folder, SWEEP, *ONE_AT_A_TIME)
    assert summary["planned"] == len(DAMAGE)
    # What has no manifest was never a commit; the rest is, and the snapshot.
    assert len(summary["healed"]) == len(DAMAGE) - 1 + 1
    assert len(store_of(folder).names("quarantine")) == len(DAMAGE) + 1
    assert {name: comparable(folder, "small", name) for name in TABLES} == before
    assert json.loads(ask(folder, "verify", "--json"))["damage"] == []


def spoil(file: Path, how: str) -> None:
    if how == "flipped":
        flip(file)
    elif how == "truncated":
        file.write_bytes(file.read_bytes()[:-20])
    else:
        file.unlink()


@pytest.mark.parametrize("name", TABLES)
def test_results_mends_a_damaged_table(finished: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    path = folder / "prunesweep-store" / table_path(name, "small")
    sound = pq.read_table(path)
    content = bytearray(path.read_bytes())
    for at in range(4, len(content) // 2, 50):  # pages, not the description at the end
        content[at] ^= 1
    path.write_bytes(bytes(content))
    rows = json.loads(ask(
        folder, "results", "small", "--sql", f"SELECT * FROM {name}", "--format", "json"
    ))  # fmt: skip
    assert len(rows) == len(sound)
    assert pq.read_table(path, page_checksum_verification=True).equals(sound)


def flip(file: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


def test_tables_of_an_older_sweep_file_are_not_shown_for_the_new_one(
    finished: Path, tmp_path: Path
) -> None:
    """As after a run that was stopped at once, between its last commit and its tables."""
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    store = store_of(folder)
    old = store.absolute(table_path("iterations", "small"))
    kept = Path(old).read_bytes()
    ask(folder, "run", str(write(folder, SWEEP | {"seeds": [1, 0]})))
    Path(old).write_bytes(kept)
    sql = "SELECT seed FROM iterations LIMIT 1"
    rows = json.loads(ask(folder, "results", "small", "--sql", sql, "--format", "json"))
    assert rows == [{"seed": 1}]


def test_a_disk_too_full_for_tables_costs_no_lineage(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    tables = folder / "prunesweep-store" / "tables"
    shutil.rmtree(tables)
    tables.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(tables)], check=False)
    if not os.path.ismount(tables):
        pytest.skip("mounting a small file system is not permitted here")
    try:
        summary = run(folder, SWEEP | {"prune": {"iterations": 3}}, *ONE_AT_A_TIME, expect=1)
    finally:
        subprocess.run(["umount", "-l", str(tables)], check=True)
    assert summary["failures"] == []
    assert "Invalid cross-device link" in summary["problem"] or "full" in summary["problem"]
    assert len(commits(folder)) == 14 + 6
    rows = json.loads(ask(folder, "results", "small", "--sql", "SELECT key FROM iterations",
                              "--format", "json"))  # fmt: skip
    assert len(rows) == 6 * 4
