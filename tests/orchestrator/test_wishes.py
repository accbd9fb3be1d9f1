"""What a run is asked beside its file: which lineages, how long, and what to do at its end."""

import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from asking import ask, refused
from sweeping import SWEEP, write

from orchestrator.commands.given import all_of, conditions, duration
from orchestrator.records.failures import FAILURES, Failure
from orchestrator.records.heartbeat import Counts, Heartbeat, Process, write_heartbeat
from orchestrator.records.labels import lineage_labels
from orchestrator.records.recording import record_sweep
from orchestrator.records.stops import EVERYTHING, STOPS, ask_to_stop
from orchestrator.records.sweep import write_sweep
from orchestrator.run import ending, sweep
from orchestrator.run.datasets import resolve_datasets
from orchestrator.run.ending import Ending
from orchestrator.run.finishing import call
from orchestrator.run.planned_sweep import plan_sweep
from orchestrator.run.planning import sweep_lineages
from orchestrator.run.preparing import to_check
from orchestrator.run.progress import Lasting, RunProgress
from orchestrator.run.queue import Queue
from orchestrator.run.wishes import WishError, Wishes, failures_of, urgencies
from orchestrator.sweepfile.spec import SweepSpec
from orchestrator.sweepfile.yaml_document import SweepFileError
from trainables.data import data_roots
from trainables.lineage.keys import Lineage
from trainables.store import Store, StoreGone
from trainables.store.index import StoreIndex
from trainables.store.processes import this_process
from trainables.store.storage_format import mark

ROOTS = data_roots(None, {})


def spec_of(**changes: Any) -> SweepSpec:
    return SweepSpec.model_validate(SWEEP | changes)


def lineages_of(spec: SweepSpec) -> tuple[Lineage, ...]:
    return sweep_lineages(spec, resolve_datasets(spec, ROOTS))


@pytest.mark.parametrize(
    ("wishes", "left"),
    [
        (Wishes(), 6),
        (Wishes(only={"method": "sap"}), 4),
        (Wishes(only={"method": "sap", "seed": 1}), 2),
        (Wishes(only={"method.p": [0.5, 0.9], "seed": 0}), 2),
        (Wishes(skip=[{"method": "one_shot"}]), 4),
        (Wishes(skip=[{"method": "one_shot"}, {"seed": 1}]), 2),
        (Wishes(only={"method": "sap"}, skip=[{"method.p": 0.5}]), 2),
    ],
    ids=str,
)
def test_only_what_is_wished_is_planned(tmp_path: Path, wishes: Wishes, left: int) -> None:
    plan = plan_sweep(spec_of(), Store(str(tmp_path)), ROOTS, wishes).plan
    assert len(plan.tasks) == left
    assert len(plan.left) == 6 - left
    assert plan.complete == 0
    assert {task.lineage.id for task in plan.tasks}.isdisjoint(plan.left)
    assert plan.rows == 6 * 3


def test_what_is_not_wished_counts_as_neither_stored_nor_to_be_trained(tmp_path: Path) -> None:
    plan = plan_sweep(spec_of(), Store(str(tmp_path)), ROOTS, Wishes(only={"seed": 0})).plan
    assert (len(plan.to_train), plan.stored) == (1 + 3 * 2, 0)


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        (Wishes(only={"methd": "sap"}), '--only: unknown key "methd"; did you mean "method"?'),
        (
            Wishes(skip=[{"method": "spa"}]),
            "--skip method: no cell of the sweep has this: they have",
        ),
        (Wishes(only={"seed": 0}, skip=[{"seed": 0}]), "--skip: no lineage is left to train"),
    ],
)
def test_a_wish_that_nothing_meets_is_refused(tmp_path: Path, wishes: Wishes, message: str) -> None:
    with pytest.raises(WishError, match=re.escape(message)):
        plan_sweep(spec_of(), Store(str(tmp_path)), ROOTS, wishes)


def test_wishes_are_given_as_values_of_a_sweep_file() -> None:
    given = ["method=sap", "seed=[0, 1]", "method.p=0.5"]
    assert all_of("--only", given) == {"method": "sap", "seed": [0, 1], "method.p": 0.5}
    assert conditions("--skip", ["seed=0", "seed=1"]) == [{"seed": 0}, {"seed": 1}]
    with pytest.raises(SweepFileError, match="--only sap: write KEY=VALUE"):
        conditions("--only", ["sap"])
    with pytest.raises(SweepFileError, match="--only seed: it is given twice"):
        all_of("--only", ["seed=0", "seed=1"])


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("11h", 39600), ("90m", 5400), ("1h30m", 5400), ("2d", 172800), ("1.5s", 1.5)],
)
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "11", "h", "11 h", "-1h", "1h x", "1w"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(SweepFileError, match="write a duration such as 11h"):
        duration(text)


def test_the_command_says_what_is_wrong_with_a_wish(tmp_path: Path) -> None:
    file = str(write(tmp_path, SWEEP))
    assert "--only seed: no cell" in refused(tmp_path, "run", file, "--only", "seed=7")
    assert "--for 11x: write a duration" in refused(tmp_path, "run", file, "--for", "11x")
    planned = json.loads(ask(tmp_path, "plan", file, "--only", "seed=1", "--json"))
    assert planned["to_train"] == 1 + 3 * 2
    listed = json.loads(ask(tmp_path, "plan", file, "--only", "seed=1", "--list", "--json"))
    assert {each["label"]: each["to_train"] for each in listed["each_lineage"]} == {
        "one_shot": 3,
        "sap p=0.5": 3,
        "sap p=0.9": 3,
    }
    assert "sap p=0.9" in ask(tmp_path, "plan", file, "--list")
    assert not (tmp_path / "prunesweep-store").exists()


def test_what_has_diverged_is_left_until_it_is_asked_for(tmp_path: Path) -> None:
    spec, store = spec_of(), Store(str(tmp_path))
    lineages = lineages_of(spec)
    store = mark(store)
    write_sweep(store, record_sweep(spec, lineages))
    diverged = Failure(lineages[0].id, 1, 1, "…", diverged=True)
    failed = Failure(lineages[1].id, 1, 2, "…")
    gone = Failure("of-another-grid", 1, 1, "…", diverged=True)
    FAILURES.write(store, spec.name, [diverged, failed, gone])
    assert Wishes().given_up(store, spec.name) == {diverged.lineage, gone.lineage}
    assert failures_of(store, spec.name, [diverged.lineage]) == (diverged,)
    planned = plan_sweep(spec, store, ROOTS)
    assert planned.plan.left == (diverged.lineage,)
    assert any("--retry failed" in notice for notice in planned.notices)
    assert not plan_sweep(spec, store, ROOTS, Wishes(retry_failed=True)).plan.left


def test_priorities_rank_the_lineages_by_the_first_condition_that_they_meet() -> None:
    spec = spec_of(priority=[{"method.p": 0.9}, {"seed": 1}])
    lineages = lineages_of(spec)
    urgency = urgencies(spec, lineages)
    for lineage in lineages:
        sap = getattr(lineage.cell.method, "p", None) == 0.9
        expected = 0 if sap else 1 if lineage.cell.seed == 1 else None
        assert urgency.get(lineage.id) == expected


class Nobody:
    def __getattr__(self, event: str) -> Any:
        return lambda *arguments: None


def queue_of(folder: Path) -> Queue:
    plan = plan_sweep(spec_of(), Store(str(folder)), ROOTS).plan
    return Queue(plan.tasks, {}.get, 0, 0, cast(Any, Nobody()))


def test_what_is_urgent_does_not_wait_for_what_it_shares_with_others(tmp_path: Path) -> None:
    spec = spec_of(priority=[{"method.p": 0.9}])
    tasks = plan_sweep(spec, Store(str(tmp_path)), ROOTS).plan.tasks
    first = [task for task in tasks if task.after is None]
    assert {getattr(task.lineage.cell.method, "p", None) for task in first} == {0.9}


def test_what_is_left_out_is_no_damage(tmp_path: Path) -> None:
    index = StoreIndex(Store(str(tmp_path)))
    plan = plan_sweep(spec_of(), index.store, ROOTS, Wishes(only={"seed": 0})).plan
    assert to_check(plan, index) == []


def test_a_run_ends_after_its_time(tmp_path: Path) -> None:
    queue = queue_of(tmp_path)
    Ending(Store(str(tmp_path)), "small", "a", seconds=1000).heed(queue)
    assert not queue.stopping
    Ending(Store(str(tmp_path)), "small", "a", seconds=0).heed(queue)
    assert queue.stopping


def test_another_terminal_stops_lineages_or_the_whole_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ending, "SECONDS", 0.0)
    store, queue = mark(Store(str(tmp_path))), queue_of(tmp_path)
    run = Ending(store, "small", "a")
    run.heed(queue)
    first = queue.tasks[0].lineage.id
    ask_to_stop(store, "small", [first], ["a"])
    run.heed(queue)
    (attempt,) = queue.hand_out("a")
    assert attempt.task.lineage.id != first
    ask_to_stop(store, "small", [EVERYTHING], ["another"])
    run.heed(queue)
    assert not queue.stopping
    ask_to_stop(store, "small", [EVERYTHING], ["another", "a"])
    run.heed(queue)
    assert queue.stopping


def test_stop_needs_a_run_in_flight_and_a_lineage_that_there_is(tmp_path: Path) -> None:
    spec, store = spec_of(), mark(Store(str(tmp_path / "prunesweep-store")))
    lineages = lineages_of(spec)
    write_sweep(store, record_sweep(spec, lineages))
    assert "no run of small is in flight" in refused(tmp_path, "stop", "small")
    assert "no lineage of small matches" in refused(tmp_path, "stop", "small", "nothing-like-it")
    beat = Heartbeat(
        state="running", host="here", pid=os.getpid(), process=Process(**this_process()),
        heartbeat=datetime.now(UTC).isoformat(), counts=Counts(), running={}, eta_seconds=None,
    )  # fmt: skip
    write_heartbeat(store, "small", beat, "one")
    wanted = lineages[0].id
    label = lineage_labels(record_sweep(spec, lineages))[wanted]
    for named in (wanted[-8:], label):
        told = ask(tmp_path, "stop", "small", named)
        assert told.startswith(f"asked: {label}; ")
        assert STOPS.of("one").read(store, "small") == [wanted]
    assert "the whole run" in ask(tmp_path, "stop", "small")
    write_heartbeat(store, "small", beat, "another")
    assert "all 2 runs" in ask(tmp_path, "stop", "small")
    assert EVERYTHING in (STOPS.of("another").read(store, "small") or [])


def test_what_is_called_at_the_end_is_told_how_it_ended(tmp_path: Path) -> None:
    file = tmp_path / "told"
    command = f'echo "$PRUNESWEEP_SWEEP $PRUNESWEEP_STATE $PRUNESWEEP_STORAGE" > {file}'
    assert call(command, "small", "/s", "finished") is None
    assert file.read_text() == "small finished /s\n"
    assert call("exit 3", "small", "/s", "failed") == "on_finish: it ended with 3"


@pytest.mark.parametrize(
    ("begun", "error", "told"),
    [
        (True, StoreGone("it is gone"), "failed\n"),
        (True, ZeroDivisionError(), "failed\n"),
        (True, KeyboardInterrupt(), "interrupted\n"),
        (False, StoreGone("it is gone"), ""),
    ],
)
def test_what_is_called_at_the_end_is_called_whatever_ends_a_run(
    begun: bool, error: BaseException, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(spec: SweepSpec, store: Store, roots: Any, progress: RunProgress, *rest: Any) -> None:
        if begun:
            progress.beat()
            progress.rest()
        raise error

    monkeypatch.setattr(sweep, "_run", dies)
    file = tmp_path / "told"
    file.touch()
    spec = SweepSpec.model_validate(SWEEP | {"on_finish": f"echo $PRUNESWEEP_STATE >> {file}"})
    store = Store(str(tmp_path / "store"))
    progress = RunProgress(store, spec.name, Lasting(quiet=True))
    with pytest.raises(type(error)):
        sweep.run_sweep(spec, store, ROOTS, progress, address=None, command=[])
    assert file.read_text() == told
