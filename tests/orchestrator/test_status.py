"""Status: states of lineages and methods, and a view that goes on until the run ends."""

import fcntl
import io
import json
import os
import pty
import re
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from asking import ask, refused
from measured import SOME_METRICS, measured, sweep_file
from rich.console import Console
from sweeping import wait_for

from orchestrator.records.failures import FAILURES, Failure
from orchestrator.records.labels import find_lineages, lineage_labels
from orchestrator.records.status import MethodStatus, sweep_status
from orchestrator.records.sweep import LineageRecord, NoSuchLineage
from orchestrator.results.opening import Results
from orchestrator.run.capacity import Slot
from orchestrator.run.datasets import resolve_datasets
from orchestrator.run.machines import Cluster
from orchestrator.run.packing import Packing
from orchestrator.run.planning import make_plan, sweep_lineages
from orchestrator.run.progress import RunProgress
from orchestrator.sweepfile.yaml_source import load_sweep
from trainables.data import data_roots
from trainables.store import iteration_path

COMMAND = str(Path(sys.executable).with_name("prunesweep"))
SECTIONS: dict[str, Any] = {
    "seeds": [0, 1],
    "prune": {"iterations": 2},
    "methods": ["one_shot", "lottery_ticket"],
}


def all_but_one_shots_last(line: LineageRecord, t: int) -> dict[str, Any] | None:
    """Of the one-shot lineage of seed 1, iteration 2 is missing."""
    missing = (line.config["method"]["name"], line.config["seed"], t) == ("one_shot", 1, 2)
    return None if missing else SOME_METRICS


@pytest.fixture
def partial(tmp_path: Path) -> Results:
    return measured(tmp_path, sweep_file(tmp_path, **SECTIONS), all_but_one_shots_last)


@contextmanager
def in_flight(results: Results, folder: Path) -> Iterator[RunProgress]:
    """A run with a heartbeat, which trains nothing."""
    spec = load_sweep(folder / "sweep.yaml")
    lineages = sweep_lineages(spec, resolve_datasets(spec, data_roots(None, {})))
    stored = results.store.committed("iterations")
    progress = RunProgress(results.store, "s", Console(file=io.StringIO()))
    with progress.running(make_plan(lineages, stored.get), lineage_labels(results.record)):
        yield progress


def test_an_accuracy_on_noise_is_none_of_a_lineage_at_work(tmp_path: Path) -> None:
    methods = [{"name": "imp", "density": 0.4, "ratio": 0.5, "data": "random"}]
    file = sweep_file(tmp_path, methods=methods)
    results = measured(tmp_path, file, lambda line, t: None)
    (line,) = results.record.lineages
    heard = []
    for t in line.iterations:
        with in_flight(results, tmp_path) as progress:
            progress.started(line.id, 1)
            times = {"train_seconds": 1.0, "prune_seconds": 0.0}
            progress.committed(
                line.id, {"iteration": t, "test_accuracy": 0.1, "density": 1} | times
            )
        run = sweep_status(results.store, "s").run
        assert run is not None
        heard.append(run.running[line.id].accuracy)
    assert heard == [None, None, None, 0.1]


def commit_the_last(results: Results) -> None:
    store, lines = results.store, results.record.lineages
    store.commit(iteration_path(lines[1].keys[2]), {"metrics.parquet": b""})


def test_methods_count_their_lineages_and_iterations(partial: Results) -> None:
    status = sweep_status(partial.store, "s")
    assert (status.state, status.lineages_done, status.lineages) == ("incomplete", 3, 4)
    # Two trunks and two iterations of each of four lineages; the methods share the trunks.
    assert (status.iterations_stored, status.iterations) == (9, 10)
    assert status.methods == (
        MethodStatus("one_shot", 2, 1, 0, iterations=6, committed=5),
        MethodStatus("lottery_ticket", 2, 2, 0, iterations=6, committed=6),
    )
    failed = partial.record.lineages[1].id
    FAILURES.write(partial.store, "s", [Failure(failed, 2, 2, "ValueError: no")])
    assert [each.failed for each in sweep_status(partial.store, "s").methods] == [1, 0]


def test_of_a_sweeps_file_the_name_is_enough(partial: Results, tmp_path: Path) -> None:
    """What it names may be on another machine."""
    (tmp_path / "s.yaml").write_text("name: s\nmodel: {name: mlp, initial_weights: not-here.pt}\n")
    (tmp_path / "nameless.yaml").write_text("dataset: digits\n")
    storage = ("--storage", partial.store.location)
    assert ask(tmp_path, "status", "s.yaml", *storage) == ask(tmp_path, "status", "s", *storage)
    told = refused(tmp_path, "status", "nameless.yaml", *storage)
    assert "nameless.yaml:1:1: name: it has none; add name: …" in told


def test_every_view_calls_lineages_by_what_tells_them_apart(
    partial: Results, tmp_path: Path
) -> None:
    store, line = partial.store, partial.record.lineages[1]
    failure = Failure(line.id, 2, 2, "Traceback:\nValueError: no")
    with in_flight(partial, tmp_path) as progress:
        progress.started(line.id, 1)
        for width in (80, 140):
            view = Console(file=io.StringIO(), width=width, record=True)
            view.print(progress)
            assert "\none_shot seed 1 " in view.export_text()
        wait_for(lambda: line.id in sweep_status(store, "s").labels)
        shown = ask(tmp_path, "status", "s", "--storage", store.location)
        assert "\none_shot seed 1 " in shown
        assert line.id not in shown
        progress.failed(failure, retried=False)
    assert isinstance(progress.console.file, io.StringIO)
    told = f"one_shot seed 1 ({line.id}) failed at iteration 2: ValueError: no"
    assert told in progress.console.file.getvalue()
    told = f"failed: one_shot seed 1 ({line.id}) at iteration 2\n"
    assert told in ask(tmp_path, "status", "s", "--storage", store.location)
    status = json.loads(ask(tmp_path, "status", "s", "--storage", store.location, "--json"))
    assert status["labels"] == {line.id: "one_shot seed 1"}


def test_a_lineage_is_found_by_its_label_or_a_part_of_its_id(partial: Results) -> None:
    record = partial.record
    one, other, *_ = record.lineages
    assert find_lineages(record, "one_shot seed 1") == [other]
    assert find_lineages(record, "one_shot") == [one, other]
    assert find_lineages(record, other.id[-10:]) == [other]
    with pytest.raises(NoSuchLineage, match="4 lineages of s match 'global'"):
        find_lineages(record, "global")
    with pytest.raises(
        NoSuchLineage, match=r"no lineage of s matches 'one_shut seed 1'; .* 'one_shot"
    ):
        find_lineages(record, "one_shut seed 1")


def test_watching_a_sweep_at_rest_ends_at_once(partial: Results) -> None:
    told = ask(Path.cwd(), "status", "s", "--watch", "--storage", partial.store.location)
    assert told == "s: incomplete, lineages 3/4, iterations 9/10\n"


@pytest.mark.parametrize("as_json", [False, True])
def test_without_a_terminal_every_change_is_a_line_until_the_run_ends(
    partial: Results, tmp_path: Path, as_json: bool
) -> None:
    arguments = ["status", "s", "--watch", "--storage", partial.store.location]
    with in_flight(partial, tmp_path):
        process = subprocess.Popen(
            [COMMAND, *arguments, *(["--json"] if as_json else [])],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        first = process.stdout.readline()
        commit_the_last(partial)
        second = process.stdout.readline()
    third = process.stdout.readline()
    assert process.stdout.read() == ""
    assert process.wait(timeout=240) == 0
    if as_json:
        states = [json.loads(line) for line in (first, second, third)]
        assert [each["state"] for each in states] == ["running", "running", "finished"]
        assert [each["iterations_stored"] for each in states] == [9, 10, 10]
    else:
        assert first == "s: running, lineages 3/4, iterations 9/10\n"
        assert second == "s: running, lineages 4/4, iterations 10/10\n"
        assert third == "s: finished, lineages 4/4, iterations 10/10\n"


@pytest.mark.parametrize("ended_by", ["the run", "Ctrl-C"])
def test_in_a_terminal_the_view_is_drawn_anew(
    partial: Results, tmp_path: Path, ended_by: str
) -> None:
    master, terminal = pty.openpty()
    with in_flight(partial, tmp_path) as progress:
        lineage = partial.record.lineages[1].id
        progress.started(lineage, 2)
        process = subprocess.Popen(
            [COMMAND, "status", "s", "--watch", "--storage", partial.store.location],
            stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
            preexec_fn=lambda: make_controlling(terminal),
            env=os.environ | {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"},
        )  # fmt: skip
        os.close(terminal)
        shown = read_until(master, "iterations 9/10 committed")
        commit_the_last(partial)
        shown += read_until(master, "iterations 10/10 committed")
        if ended_by == "Ctrl-C":
            os.write(master, b"\x03")
            assert process.wait(timeout=240) == 0
    if ended_by == "the run":
        shown += read_until(master, "s: finished")
        assert process.wait(timeout=240) == 0
    os.close(master)
    assert "lottery_ticket" in shown
    assert "Traceback" not in shown


def make_controlling(terminal: int) -> None:
    """Make the pseudo-terminal the process's own, so that its Ctrl-C is a signal."""
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)


def read_until(master: int, text: str) -> str:
    """What the terminal shows, without its control sequences, until it shows `text`."""
    shown = ""
    deadline = time.monotonic() + 240
    while text not in shown:
        assert time.monotonic() < deadline, shown
        shown += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", os.read(master, 65536).decode())
    return shown


def test_a_run_in_flight_says_how_its_lineages_are_laid(
    partial: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.run.progress.HEARTBEAT_SECONDS", 0.05)
    line = "2 trials at a time, 1 CPU each"
    with in_flight(partial, tmp_path) as progress:
        progress.on(Cluster(2, 0), Packing((Slot(0.0, 0.0),) * 2, {}, line))
        store = partial.store.location
        wait_for(lambda: line in ask(tmp_path, "status", "s", "--storage", store))
        shown = json.loads(ask(tmp_path, "status", "s", "--storage", store, "--json"))
        assert shown["run"]["packing"] == line
