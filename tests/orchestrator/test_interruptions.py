"""Runs that are interrupted, killed or run at once: real Ray processes, real signals."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from subprocess import Popen, check_output
from threading import Thread
from typing import Any

import psutil
import pytest
from asking import ask
from slurm import Slurm
from sweeping import (
    COMMAND,
    ONE_AT_A_TIME,
    SWEEP,
    assert_equal_results,
    claimed,
    commits,
    run,
    start,
    store_of,
    table,
    wait_for,
    write,
)

from orchestrator.records.provenance import read_provenance
from orchestrator.records.runs import runs_at_work
from orchestrator.records.stops import EVERYTHING, ask_to_stop
from orchestrator.records.sweep import write_sweep
from orchestrator.run.datasets import resolve_datasets
from orchestrator.run.planned_sweep import plan_sweep
from orchestrator.run.planning import sweep_lineages
from orchestrator.sweepfile.yaml_source import load_sweep
from trainables.data import data_roots
from trainables.store.claims import Claims
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
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 130, err
    assert "the same command resumes" in out
    done = commits(tmp_path)
    assert 2 <= len(done) < COMMITS
    assert run(tmp_path, LONGER, *ONE_AT_A_TIME)["planned"] == COMMITS - len(done)
    assert_equal_results(tmp_path, uninterrupted, "longer")


ENDLESS: dict[str, Any] = SWEEP | {
    "name": "endless",
    "train": {"epochs": 100_000, "batch_size": 10},
    "resources": {"max_concurrent": 1},
}


def of_the_run(process: Popen[Any]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def tell_all(process: Popen[str]) -> None:
    """As a job queue ends a job: its process group, and all that it finds of it besides."""
    found = of_the_run(process)
    os.killpg(process.pid, signal.SIGTERM)
    for each in [psutil.Process(process.pid), *found]:
        with suppress(psutil.NoSuchProcess):
            each.send_signal(signal.SIGTERM)


def tell_the_driver(process: Popen[str]) -> None:
    process.send_signal(signal.SIGUSR1)


def test_a_run_that_is_told_to_go_leaves_all_in_order(tmp_path: Path) -> None:
    """Told everywhere at once, and then, having gone on from there, its driver alone."""
    file, store = write(tmp_path, ENDLESS), store_of(tmp_path)
    places: list[str] = []
    for tell in (tell_all, tell_the_driver):
        process = start(tmp_path, "run", str(file), own_group=True)
        wait_for(lambda: claimed(tmp_path) != [])
        others = of_the_run(process)
        tell(process)
        out, err = process.communicate(timeout=240)
        assert process.returncode == 130, err
        assert err.count("told to go: keeping the state of what is in flight\n") == 1
        assert "GCS" not in err
        assert "Traceback" not in err
        assert out.startswith("told to go: everything committed is safe")
        _, alive = psutil.wait_procs(others, timeout=240)
        assert alive == []
        assert store.names("claims") == store.names("tmp") == store.names("tables") == []
        assert json.loads(ask(tmp_path, "status", "endless", "--json"))["run"]["state"] == "ended"
        [trunk] = store.names("checkpoints")
        [place] = store.names(f"checkpoints/{trunk}")
        places.append(place)
    assert places[0] < places[1]
    # Tables that lag are made by whoever shows them.
    assert ask(tmp_path, "results", "endless")
    assert "manifest-endless.json" in store.names("tables")


def hear_hangups() -> None:
    """In a process that is to begin, whatever the tests themselves are below."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def test_a_run_whose_terminal_is_closed_leaves_all_in_order(tmp_path: Path) -> None:
    terminal, its = os.openpty()
    process = Popen(
        ["setsid", "--ctty", COMMAND, "run", str(write(tmp_path, ENDLESS))],
        cwd=tmp_path, stdin=its, stdout=its, stderr=its, preexec_fn=hear_hangups,
    )  # fmt: skip
    os.close(its)
    Thread(target=read_all, args=(terminal,), daemon=True).start()
    try:
        wait_for(lambda: claimed(tmp_path) != [])
        others = of_the_run(process)
        os.close(terminal)
        assert process.wait(timeout=120) == 130
    finally:
        process.kill()
    _, alive = psutil.wait_procs(others, timeout=120)
    assert alive == []
    store = store_of(tmp_path)
    assert store.names("claims") == store.names("tmp") == []
    assert len(store.names("checkpoints")) == 1
    assert json.loads(ask(tmp_path, "status", "endless", "--json"))["run"]["state"] == "ended"


def read_all(terminal: int) -> None:
    with suppress(OSError):
        while os.read(terminal, 4096):
            pass


def test_nohup_keeps_a_run_from_hearing_that_its_terminal_is_closed() -> None:
    asked = "from orchestrator.run.interruption import TOLD_TO_GO; print(*map(int, TOLD_TO_GO))"
    python = [sys.executable, "-c", asked]
    plain, below = (
        {*map(int, check_output([*before, *python], preexec_fn=hear_hangups).split())}
        for before in ([], ["nohup"])
    )
    assert plain == {signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP}
    assert below == plain - {signal.SIGHUP}


@pytest.mark.cluster
def test_a_sweep_told_to_go_again_and_again_ends_with_the_same_tables(
    tmp_path: Path, uninterrupted: Path
) -> None:
    """In all, its lineages fused and alone; told everywhere, the driver alone, a worker alone."""
    file = write(tmp_path, LONGER)

    def tell_a_worker(process: Popen[str]) -> None:
        for each in of_the_run(process):
            if "Trainable" in " ".join(each.cmdline()):
                each.send_signal(signal.SIGTERM)
        wait_for(lambda: claimed(tmp_path) == [])
        wait_for(lambda: claimed(tmp_path) != [])
        tell_the_driver(process)

    for tell in (tell_all, tell_the_driver, tell_a_worker):
        before = len(commits(tmp_path))
        process = start(tmp_path, "run", str(file), own_group=True)
        wait_for(lambda before=before: len(commits(tmp_path)) > before)
        tell(process)
        _, err = process.communicate(timeout=240)
        assert process.returncode == 130, err
        assert "will be tried again" not in err
        assert store_of(tmp_path).names("claims") == []
    run(tmp_path, LONGER, *ONE_AT_A_TIME)
    assert store_of(tmp_path).names("checkpoints") == []
    assert_equal_results(tmp_path, uninterrupted, "longer")


@pytest.mark.cluster
def test_the_claims_of_a_machine_that_is_lost_are_waited_for_once(tmp_path: Path) -> None:
    """When the first of them is trained, none is left."""
    sweep = SWEEP | {"seeds": [0, 1, 2], "methods": ["one_shot"]}
    file = write(tmp_path, sweep)
    spec, store = load_sweep(file), store_of(tmp_path)
    lineages = sweep_lineages(spec, resolve_datasets(spec, data_roots(None, {})))
    lost = [Claims(store).take(line.trunk) for line in lineages]
    assert len(lost) == 3
    for claim in lost:
        assert claim is not None
        claim._done.set()
        ticket = claim.ticket | {"process": claim.ticket["process"] | {"host": "another"}}
        store.put(claim.path, json.dumps(ticket).encode())
    process = start(tmp_path, "run", str(file), *ONE_AT_A_TIME)
    wait_for(lambda: commits(tmp_path) != set())
    assert not any(store.exists(claim.path) for claim in lost if claim)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err


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
            wait_for(lambda: claimed(tmp_path) != [])
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
    ask_to_stop(store, "slow", [EVERYTHING], ["20260101T000000-over"])
    process = start(tmp_path, "run", str(file))
    wait_for((tmp_path / "reading").exists)
    wait_for(lambda: ask(tmp_path, "status", "slow").startswith("slow: running\n"))
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
    records = tmp_path / "prunesweep-store/sweeps/small"
    wait_for(lambda: any(records.glob("run-*.json")))  # written just before Ray is started
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 130, err
    assert commits(tmp_path) == set()


UNTIL_TOLD = """    while Path("reading").exists():
        time.sleep(0.1)
"""
SLOW_TO_LEAVE = """    try:
        while True:
            time.sleep(0.1)
    finally:
        time.sleep(4)  # Ray's alarm comes after three
"""
ONCE_RAY_IS_THERE = """    import ray
    while not ray.is_initialized():
        time.sleep(0.1)
"""


def test_sigterm_after_ray_has_started_leaves_time_to_end(tmp_path: Path) -> None:
    """Ray's own handler prints a stack, and has the process aborted after three seconds."""
    touched = '    Path("reading").touch()\n'
    source = SLOW.replace(UNTIL_TOLD, SLOW_TO_LEAVE).replace(touched, ONCE_RAY_IS_THERE + touched)
    (tmp_path / "slow.py").write_text(source)
    file = write(tmp_path, SWEEP | {"dataset": "slow", "plugins": ["slow.py"]})
    process = start(tmp_path, "run", str(file))
    wait_for((tmp_path / "reading").exists)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 130, err
    assert "***" not in err


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
    for name, runs in (("longer", 2), ("other", 1)):
        assert len(read_provenance(store_of(tmp_path), name)) == runs
        assert len(table(tmp_path, name, "iterations")) == 2 * 3
    assert json.loads(ask(tmp_path, "verify", "--json"))["damage"] == []


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    made = Slurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{made.bin}{os.pathsep}{os.environ['PATH']}")
    yield made
    made.close()


@pytest.mark.cluster
def test_an_array_whose_time_is_up_goes_on_where_it_was(
    tmp_path: Path, slurm: Slurm, uninterrupted: Path
) -> None:
    file = write(tmp_path, LONGER)
    submitted = ask(tmp_path, "submit", str(file), "--slurm", "--array", "2", *ONE_AT_A_TIME)
    assert "job 100: 2 runs of longer for 7 iterations" in submitted
    wait_for(lambda: not slurm.attend() and commits(tmp_path) != set())
    first, _ = slurm.tasks
    slurm.warn(first)
    wait_for(slurm.attend)
    assert [(task.code, task.starts) for task in slurm.tasks] == [(0, 2), (0, 1)], logs(tmp_path)
    assert logs(tmp_path).count(" iteration ") == COMMITS
    assert len(read_provenance(store_of(tmp_path), "longer")) == 3
    assert_equal_results(tmp_path, uninterrupted, "longer")
    assert "nothing was submitted" in ask(tmp_path, "submit", str(file), "--slurm")


WIDE = LONGER | {
    "name": "wide",
    "seeds": [0, 1, 2],
    "methods": ["one_shot", "lottery_ticket", {"name": "sap", "p": [0.3, 0.5, 0.9]}],
}


@pytest.mark.cluster
@pytest.mark.timeout(2400)
def test_four_runs_of_which_machines_are_lost_divide_a_sweep(
    tmp_path: Path, slurm: Slurm, tmp_path_factory: pytest.TempPathFactory
) -> None:
    alone, store = tmp_path_factory.mktemp("alone"), store_of(tmp_path)
    _, err = (whole := start(alone, "run", str(write(alone, WIDE)))).communicate(timeout=1200)
    assert whole.returncode == 0, err
    file = str(write(tmp_path, WIDE))
    ask(tmp_path, "submit", file, "--slurm", "--array", "4", *ONE_AT_A_TIME)
    wait_for(lambda: not slurm.attend() and len(runs_at_work(store, "wide")) == 4, seconds=900)
    wait_for(lambda: not slurm.attend() and len(commits(tmp_path)) >= 6, seconds=900)
    status = json.loads(ask(tmp_path, "status", "wide", "--json"))
    assert (status["state"], len(status["runs"]), status["run"]["together"]) == ("running", 4, 4)
    assert len(status["run"]["running"]) >= 3  # each began elsewhere
    slurm.lose(slurm.tasks[1])
    slurm.warn(slurm.tasks[2])
    wait_for(slurm.attend, seconds=900)
    assert [task.code for task in slurm.tasks] == [0] * 4, logs(tmp_path)
    assert [task.starts for task in slurm.tasks] == [1, 2, 2, 1]
    assert len(read_provenance(store, "wide")) == 6
    assert store.names("claims") == store.names("quarantine") == []
    assert [name for name in store.names("sweeps/wide") if name.startswith("run-")] == []
    assert_equal_results(tmp_path, alone, "wide")


def logs(folder: Path) -> str:
    return "".join(file.read_text() for file in sorted(folder.glob("slurm-*/*.log")))
