"""Whole sweeps on `digits` through the command: real Ray processes, real files, real signals."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from asking import ask

from orchestrator.results.tables import SCHEMAS, TABLES, table_path
from orchestrator.run.planning import sweep_lineages
from orchestrator.run.sweep import resolve_datasets
from orchestrator.sweepfile.yaml_source import load_sweep
from trainables.data import data_roots, load_dataset
from trainables.lineage.bench import Bench
from trainables.lineage.identity import snapshot_key
from trainables.lineage.loop import run_lineage
from trainables.store import Store, iteration_path, snapshot_path
from trainables.store.artifacts import MASK, WEIGHTS
from trainables.training.batches import DeviceData

COMMAND = str(Path(sys.executable).with_name("prunesweep"))
TIMES = {"train_seconds", "prune_seconds", "peak_memory_bytes", "attempt", "finished_at"}
"""What two runs of one sweep may differ in."""

SWEEP: dict[str, Any] = {
    "name": "small",
    "dataset": "digits",
    "model": {"name": "mlp", "hidden": [32]},
    "seeds": [0, 1],
    "train": {"epochs": 2, "batch_size": 50},
    "prune": {"iterations": 2},
    "methods": ["one_shot", {"name": "sap", "p": [0.5, 0.9]}],
}
LONGER = SWEEP | {
    "name": "longer",
    "seeds": [0],
    "train": {"epochs": 40, "batch_size": 10},
    "methods": ["one_shot", "lottery_ticket"],
}
"""Long enough (about 2 s an iteration) to be interrupted in the middle."""

ONE_AT_A_TIME = ("--set", f"resources.cpus_per_lineage={os.cpu_count()}")
"""For tests of something else than concurrency: a second worker takes seconds to start."""


def write(folder: Path, sweep: dict[str, Any]) -> Path:
    """A sweep file; JSON is YAML too."""
    file = folder / f"{sweep['name']}.yaml"
    file.write_text(json.dumps(sweep))
    return file


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | {"COLUMNS": "60"}
    return subprocess.Popen(
        [COMMAND, *arguments], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def command(folder: Path, *arguments: str, expect: int = 0) -> str:
    process = start(folder, *arguments)
    out, err = process.communicate(timeout=240)
    assert process.returncode == expect, f"exit code {process.returncode}\n{out}\n{err}"
    return out


def run(folder: Path, sweep: dict[str, Any], *arguments: str, expect: int = 0) -> dict[str, Any]:
    """Run `sweep` with the default, relative, storage of `folder`; the summary."""
    out = command(folder, "run", str(write(folder, sweep)), "--json", *arguments, expect=expect)
    return json.loads(out)


def planned(folder: Path, sweep: dict[str, Any]) -> dict[str, Any]:
    return json.loads(ask(folder, "plan", str(write(folder, sweep)), "--json"))


def store_of(folder: Path) -> Store:
    return Store(str(folder / "prunesweep-store"))


def table(folder: Path, sweep: str, name: str) -> pa.Table:
    return pq.read_table(store_of(folder).absolute(table_path(name, sweep)))


def comparable(folder: Path, sweep: str, name: str) -> list[dict[str, Any]]:
    read = table(folder, sweep, name)
    return read.drop_columns(sorted(TIMES & set(read.column_names))).to_pylist()


def wait_for(condition: Callable[[], bool], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def commits(folder: Path) -> set[str]:
    return set(store_of(folder).committed("iterations"))


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
    assert run(finished, SWEEP)["planned"] == 0
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


def test_a_failing_lineage_stops_nothing_else(tmp_path: Path) -> None:
    sweep = SWEEP | {
        "name": "half",
        "seeds": [0],
        "train": {"epochs": 2, "optimizer": [
            {"name": "sgd", "lr": 0.1}, {"name": "sgd", "lr": 1e30},
        ]},
        "methods": ["one_shot", "lottery_ticket"],
    }  # fmt: skip
    summary = run(tmp_path, sweep, *ONE_AT_A_TIME, expect=1)
    failures = summary["failures"]
    assert len(failures) == 2
    assert [failure["attempt"] for failure in failures] == [1, 0]
    assert all("Diverged" in failure["traceback"] for failure in failures)
    assert "which it shares with" in failures[1]["traceback"]
    assert len(table(tmp_path, "half", "iterations")) == 2 * 3
    assert len(json.loads(ask(tmp_path, "status", "half", "--json"))["failures"]) == 2


def test_an_interrupted_sweep_resumes_to_the_same_tables(
    tmp_path: Path, uninterrupted: Path
) -> None:
    process = start(tmp_path, "run", str(write(tmp_path, LONGER)))
    wait_for(lambda: len(commits(tmp_path)) >= 2)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 130, err
    assert "the same command resumes" in out
    done = commits(tmp_path)
    assert 2 <= len(done) < 5
    assert run(tmp_path, LONGER)["planned"] == 5 - len(done)
    assert_equal_results(tmp_path, uninterrupted, "longer")


def test_a_second_interruption_ends_a_run_at_once(tmp_path: Path) -> None:
    endless = SWEEP | {"name": "endless", "train": {"epochs": 100_000, "batch_size": 10}}
    with start(tmp_path, "run", str(write(tmp_path, endless))) as process:
        try:
            wait_for(lambda: list(tmp_path.glob("prunesweep-store/claims/*/*")) != [])
            of_the_run = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGINT)
            assert process.stderr
            assert process.stderr.readline().endswith("press Ctrl-C again to stop now\n")
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 130, err
    assert err == "interrupted; everything committed is safe, run again to resume\n"
    _, alive = psutil.wait_procs(of_the_run, timeout=240)
    assert alive == []
    assert commits(tmp_path) == set()


def test_a_killed_worker_costs_only_its_iteration(tmp_path: Path, uninterrupted: Path) -> None:
    process = start(tmp_path, "run", str(write(tmp_path, LONGER)))
    wait_for(lambda: len(commits(tmp_path)) >= 2)
    workers = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "Trainable" in " ".join(child.cmdline())
    ]
    assert workers
    workers[0].kill()
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert "will be tried again" in err
    assert_equal_results(tmp_path, uninterrupted, "longer")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    run(folder, LONGER)
    return folder


def assert_equal_results(one: Path, other: Path, sweep: str) -> None:
    """Weights, masks and tables are equal bit for bit, times apart."""
    for name in TABLES:
        assert comparable(one, sweep, name) == comparable(other, sweep, name), name
    for key in commits(other):
        for file in (WEIGHTS, MASK):
            path = iteration_path(key)
            assert store_of(one).read(path, file) == store_of(other).read(path, file)


def test_fractions_of_a_gpu_are_scheduled_and_zero_is_the_cpu(tmp_path: Path) -> None:
    """Ray believes in two GPUs that are not there: quarters of them run eight at a time at most,
    and what runs finds no CUDA and uses the CPU."""
    code = """
import json, sys
import ray
from orchestrator.run.capacity import concurrency, gpus_per_lineage
from orchestrator.run.cluster import Cluster
from orchestrator.sweepfile.spec import Resources
cluster = Cluster(cpus=16, gpus=2)
for asked in ("auto", 0.0, 0.25, 0.5, 1.0):
    resources = Resources(gpus_per_lineage=asked)
    print(asked, gpus_per_lineage(resources, cluster), concurrency(resources, cluster))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines() == [
        "auto 0.25 8",
        "0.0 0.0 16",
        "0.25 0.25 8",
        "0.5 0.5 4",
        "1.0 1.0 2",
    ]


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

    summary = run(folder, SWEEP)
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
    run(folder, SWEEP | {"seeds": [1, 0]})
    Path(old).write_bytes(kept)
    sql = "SELECT seed FROM iterations LIMIT 1"
    rows = json.loads(ask(folder, "results", "small", "--sql", sql, "--format", "json"))
    assert rows == [{"seed": 1}]


def test_sigterm_while_ray_starts_ends_as_an_interruption(tmp_path: Path) -> None:
    process = start(tmp_path, "run", str(write(tmp_path, SWEEP)))
    record = tmp_path / "prunesweep-store/sweeps/small/run.json"
    wait_for(record.exists)  # written just before Ray is started
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 130, err
    assert commits(tmp_path) == set()


def test_runs_at_once_train_each_iteration_once(tmp_path: Path) -> None:
    """Two of the same sweep, and one that shares its trunk and a part of its lineages."""
    sweep = LONGER | {"train": {"epochs": 15, "batch_size": 20}}
    other = sweep | {"name": "other", "methods": ["lottery_ticket", "sap"]}
    files = [write(tmp_path, sweep), write(tmp_path, sweep), write(tmp_path, other)]
    processes = [start(tmp_path, "run", str(file)) for file in files]
    trained: list[str] = []
    for process in processes:
        _, err = process.communicate(timeout=280)
        assert process.returncode == 0, err
        trained += [line for line in err.splitlines() if " iteration " in line]
    assert len(trained) == len(commits(tmp_path)) == 1 + 3 * 2
    assert store_of(tmp_path).names("claims") == store_of(tmp_path).names("quarantine") == []
    for name in ("longer", "other"):
        assert len(table(tmp_path, name, "iterations")) == 2 * 3
    assert json.loads(ask(tmp_path, "verify", "--json"))["damage"] == []


def test_an_iteration_that_takes_too_long_is_ended_and_stops_nothing_else(tmp_path: Path) -> None:
    sweep = SWEEP | {
        "name": "hung",
        "seeds": [0],
        "train": {"epochs": [1, 100_000]},
        "methods": ["one_shot"],
        "resources": {"timeout_minutes": 0.25, "retries": 0},
    }
    (failure,) = run(tmp_path, sweep, expect=1)["failures"]
    assert failure["iteration"] == 0
    assert "longer than resources.timeout_minutes: 0.25" in failure["traceback"]
    assert "training/run.py" in failure["traceback"]  # where it was
    assert len(commits(tmp_path)) == 3
    assert store_of(tmp_path).names("claims")[1:] == []  # what the ended worker left is void
    assert run(tmp_path, sweep | {"train": {"epochs": 1}})["planned"] == 0


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


def test_a_broken_progress_view_costs_no_lineage(tmp_path: Path) -> None:
    """Its heartbeat cannot be written, and nobody reads its lines any more."""
    folder = tmp_path / "prunesweep-store/sweeps/small"
    (folder / "run.json").mkdir(parents=True)
    process = start(tmp_path, "run", str(write(tmp_path, SWEEP)), *ONE_AT_A_TIME)
    assert process.stderr
    process.stderr.close()
    assert process.stdout
    out = process.stdout.read()
    assert process.wait(timeout=240) == 0, out
    assert len(commits(tmp_path)) == 14
