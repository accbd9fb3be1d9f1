"""Runs that are interrupted, killed or run at once: real Ray processes, real signals."""

import json
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
from asking import ask
from sweeping import (
    ONE_AT_A_TIME,
    SWEEP,
    assert_equal_results,
    commits,
    run,
    start,
    store_of,
    table,
    wait_for,
    write,
)

from orchestrator.records.stops import EVERYTHING, STOPS, ask_to_stop
from orchestrator.records.sweep import write_sweep
from orchestrator.run.planned_sweep import plan_sweep
from orchestrator.sweepfile.yaml_source import load_sweep
from trainables.data import data_roots
from trainables.store.storage_format import mark

LONGER: dict[str, Any] = SWEEP | {
    "name": "longer",
    "seeds": [0],
    "train": {"epochs": 20, "batch_size": 10},
    "prune": {"iterations": 3},
    "methods": ["one_shot", "lottery_ticket"],
}
"""Long enough (about 1 s an iteration) to be interrupted in the middle."""
COMMITS = 1 + 2 * 3


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    run(folder, LONGER, *ONE_AT_A_TIME)
    return folder


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
    assert 2 <= len(done) < COMMITS
    assert run(tmp_path, LONGER, *ONE_AT_A_TIME)["planned"] == COMMITS - len(done)
    assert_equal_results(tmp_path, uninterrupted, "longer")


def test_a_second_interruption_ends_a_run_at_once(tmp_path: Path) -> None:
    """W&B's services, which each worker has, included. What is called at the end is called."""
    endless = SWEEP | {
        "name": "endless",
        "train": {"epochs": 100_000, "batch_size": 10},
        "wandb": {"mode": "offline"},
        "on_finish": "echo $PRUNESWEEP_STATE >> told",
    }
    with start(tmp_path, "run", str(write(tmp_path, endless))) as process:
        try:
            wait_for(lambda: list(tmp_path.glob("prunesweep-store/claims/*/*")) != [])
            of_the_run = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGINT)
            assert process.stderr
            said = iter(process.stderr.readline, "")
            assert any(line.endswith("press Ctrl-C again to stop now\n") for line in said)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 130, err
    assert err == "interrupted; everything committed is safe, run again to resume\n"
    _, alive = psutil.wait_procs(of_the_run, timeout=240)
    assert alive == []
    assert commits(tmp_path) == set()
    assert (tmp_path / "told").read_text() == "interrupted\n"


SLOW = """
import time
from pathlib import Path

import numpy as np
from prunesweep import DataRoots, Dataset, DatasetInfo, Split, described_by


def describe(roots: DataRoots) -> DatasetInfo:
    return DatasetInfo((1, 4, 4), classes=2, train_examples=100, test_examples=100)


@described_by(describe)
def slow(roots: DataRoots) -> Dataset:
    Path("reading").touch()
    while Path("reading").exists():
        time.sleep(0.1)
    half = Split(np.zeros((100, 1, 4, 4), np.uint8), np.arange(100) % 2)
    return Dataset("slow", half, None, half, 2, (0.5,), (0.5,))
"""


def test_a_run_that_prepares_can_be_stopped(tmp_path: Path) -> None:
    """One of a sweep that was run before, as it is known by its name."""
    (tmp_path / "slow.py").write_text(SLOW)
    file = write(tmp_path, LONGER | {"name": "slow", "dataset": "slow", "plugins": ["slow.py"]})
    spec = load_sweep(file)
    store = mark(store_of(tmp_path))
    write_sweep(store, plan_sweep(spec, store, data_roots(None, {})).record)
    ask_to_stop(store, "slow", [EVERYTHING])  # of a run that is over
    process = start(tmp_path, "run", str(file))
    wait_for((tmp_path / "reading").exists)
    wait_for(lambda: ask(tmp_path, "status", "slow").startswith("slow: running\n"))
    assert STOPS.read(store, "slow") == []
    ask(tmp_path, "stop", "slow")
    (tmp_path / "reading").unlink()
    _, err = process.communicate(timeout=240)
    assert process.returncode == 130, err
    assert len(commits(tmp_path)) < COMMITS


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
    sweep = LONGER | {"train": {"epochs": 15, "batch_size": 20}, "prune": {"iterations": 2}}
    other = sweep | {"name": "other", "methods": ["lottery_ticket", "sap"]}
    files = [write(tmp_path, sweep), write(tmp_path, sweep), write(tmp_path, other)]
    processes = [start(tmp_path, "run", str(file), *ONE_AT_A_TIME) for file in files]
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
