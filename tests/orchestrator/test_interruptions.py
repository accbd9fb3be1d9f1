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
    """W&B's services, which each worker has, included."""
    endless = SWEEP | {
        "name": "endless",
        "train": {"epochs": 100_000, "batch_size": 10},
        "wandb": {"mode": "offline"},
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
    records = tmp_path / "prunesweep-store/sweeps/small"
    wait_for(lambda: any(records.glob("run-*.json")))  # written just before Ray is started
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
