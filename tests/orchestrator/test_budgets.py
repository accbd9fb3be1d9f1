"""Budgets: what runs may train together, and where they end when it is spent."""

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from asking import ask, refused
from smallest import SWEEP as SMALLEST
from stored import store_sweep
from sweeping import ONE_AT_A_TIME, commits, planned, run, write
from test_scheduling import Listener
from test_scheduling import planned as plan_of

from orchestrator.records.runs import begin_run, end_run
from orchestrator.records.spending import Spent, read_spending, write_spending
from orchestrator.run.allowance import Allowance, budget_line
from orchestrator.run.planning import Plan
from orchestrator.run.queue import Queue
from orchestrator.sweepfile.budget import Budget
from trainables.store import Store

FOUR = "seeds: [0, 1, 2, 3]\nprune: {iterations: 3}\nmethods: [one_shot]"
"""Four lineages of four iterations that share none."""

SWEEP: dict[str, Any] = SMALLEST | {
    "name": "cheap", "seeds": [0, 1], "prune": {"iterations": 2}, "budget": {"trainings": 4},
}  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(str(tmp_path / "store"))
    store_sweep(store, "s")
    return store


def trained(queue: Queue, plan: Plan, trials: int, seconds: float = 1.0) -> int:
    """How many iterations are trained by as many trials at a time, one after the other, as Tune
    asks and tells."""
    names: Iterator[str] = map(str, count())
    done = dict.fromkeys((line.id for line in plan.lineages), 0)
    at_work: list[str] = []
    lines = {line.id: line for line in plan.lineages}
    for _ in range(1000):
        while len(at_work) < trials:
            name = next(names)
            if not queue.hand_out(name):
                break
            at_work.append(name)
        if not at_work:
            assert queue.exhausted
            return sum(done.values())
        trial = at_work.pop(0)
        reports = {}
        for id in queue.lineages_of(trial):
            key = lines[id].keys[done[id]]
            done[id] += 1
            reports[id] = {
                "iteration": done[id] - 1, "key": key, "complete": key == lines[id].keys[-1],
                "train_seconds": seconds, "prune_seconds": 0.0,
            }  # fmt: skip
        ends = queue.reported(trial, reports)
        if ends or not queue.lineages_of(trial):
            queue.ended(trial)
        else:
            at_work.append(trial)
    raise AssertionError("it never ends")


def queue_with(plan: Plan, allowance: Allowance, trials: int, fuse: int = 1) -> Queue:
    from orchestrator.run.ready import kind_of

    largest = {kind_of(task): fuse for task in plan.tasks}
    return Queue(
        plan.tasks, {}.get, 0.25, 0, Listener(), trials, largest, allowance=allowance
    )  # fmt: skip


@pytest.mark.parametrize("trainings", [1, 2, 5, 7, 15, 16, 99])
@pytest.mark.parametrize(("trials", "fuse"), [(1, 1), (3, 1), (1, 4), (2, 2)])
def test_as_many_are_trained_as_the_budget_has(
    tmp_path: Path, store: Store, trainings: int, trials: int, fuse: int
) -> None:
    plan = plan_of(tmp_path, FOUR)
    allowance = Allowance(store, "s", "a", Budget(trainings=trainings))
    queue = queue_with(plan, allowance, trials, fuse)
    assert trained(queue, plan, trials) == min(trainings, 16)
    assert (queue.spent, queue.unfinished) == (trainings < 16, trainings < 16)


def test_what_is_in_flight_when_hours_are_spent_is_finished(tmp_path: Path, store: Store) -> None:
    plan = plan_of(tmp_path, FOUR)
    hours = Allowance(store, "s", "a", Budget(hours=1.0))
    # Of 20 minutes each: the third spends it, while two others are at work.
    assert trained(queue_with(plan, hours, 3), plan, 3, seconds=1200.0) == 3 + 2
    # A quarter of a GPU each, as was that of the five.
    gpus = Allowance(store, "s", "b", Budget(gpu_hours=1.0))
    assert trained(queue_with(plan, gpus, 1), plan, 1, seconds=1200.0) == 7


def test_what_other_runs_have_spent_counts_once(store: Store) -> None:
    for run_, spent in (("a", Spent(3, 60.0)), ("b", Spent(2, 30.0, 15.0))):
        begin_run(store, "s", ["run"], run_, [])
        write_spending(store, "s", run_, spent)
    assert Allowance(store, "s", "c", Budget(trainings=8)).left(1) == 2
    assert Allowance(store, "s", "c", Budget(trainings=5)).left() == 0
    assert Allowance(store, "s", "c", Budget(hours=90 / 3600)).left() == 0
    assert Allowance(store, "s", "c", Budget(gpu_hours=16 / 3600)).left() > 0
    for _ in range(2):
        end_run(store, "s")
        assert read_spending(store, "s") == {"a": Spent(3, 60.0), "b": Spent(2, 30.0, 15.0)}
    # One that goes on has its own where it was, and is not counted with the others.
    allowance = Allowance(store, "s", "d", Budget(trainings=8))
    allowance.trained({"train_seconds": 1.0, "prune_seconds": 0.5}, 0.5)
    assert allowance.left() == 2
    assert read_spending(store, "s")["d"] == Spent(1, 1.5, 0.75)
    assert Allowance(store, "s", "e", Budget(trainings=8)).left() == 2


def test_a_budget_in_words() -> None:
    spent = Spent(7, 5400.0, 1800.0)
    assert budget_line(Budget(trainings=10), spent) == "7 of 10 trainings spent"
    line = budget_line(Budget(hours=3.0, gpu_hours=1.0), spent)
    assert line == "1.5 of 3 hours, 0.5 of 1 GPU-hours spent"


@pytest.mark.parametrize(("budget", "said"), [
    ({}, "budget: say of what: trainings, hours, gpu_hours or rank"),
    ({"trainings": 0}, "budget.trainings: 0 is out of range"),
    ({"training": 5}, 'unknown key "training"; did you mean "trainings"?'),
])  # fmt: skip
def test_what_is_no_budget_is_told(tmp_path: Path, budget: Any, said: str) -> None:
    assert said in refused(tmp_path, "plan", str(write(tmp_path, SWEEP | {"budget": budget})))


def test_a_run_that_finds_it_spent_trains_nothing_and_says_what_is_left(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "prunesweep-store"))
    write_spending(store, "cheap", "20260101T000000-00000000", Spent(4, 60.0))
    for _ in range(2):
        told = ask(tmp_path, "run", str(write(tmp_path, SWEEP)), expect=130)
        assert "budget: 4 of 4 trainings spent; 6 iterations of 2 lineages are left" in told
        assert commits(tmp_path) == set()
    told = json.loads(ask(tmp_path, "run", str(write(tmp_path, SWEEP)), "--json", expect=130))
    assert (told["interrupted"], told["spent"]["trainings"]) == (True, 4)


@pytest.mark.long
def test_a_run_ends_when_it_is_spent_and_says_what_is_left(tmp_path: Path) -> None:
    summary = run(tmp_path, SWEEP, *ONE_AT_A_TIME, expect=130)
    assert (summary["interrupted"], summary["spent"]["trainings"]) == (True, 4)
    assert len(commits(tmp_path)) == 4
    # Who asks again is told, and trains nothing.
    told = ask(tmp_path, "run", str(write(tmp_path, SWEEP)), expect=130)
    assert "budget: 4 of 4 trainings spent; 2 iterations of 1 lineage are left" in told
    assert len(commits(tmp_path)) == 4
    larger = planned(tmp_path, SWEEP | {"budget": {"trainings": 6}})
    assert (larger["to_train"], larger["spent"]["trainings"]) == (2, 4)
    assert "4 of 4 trainings spent" in ask(tmp_path, "plan", str(write(tmp_path, SWEEP)))
    assert json.loads(ask(tmp_path, "status", "cheap", "--json"))["state"] == "incomplete"


@pytest.mark.long
def test_the_same_with_a_larger_budget_goes_on(tmp_path: Path) -> None:
    for trainings, code in ((1, 130), (4, 130), (6, 0), (6, 0)):
        sweep = SWEEP | {"budget": {"trainings": trainings}}
        summary = run(tmp_path, sweep, expect=code)
        assert len(commits(tmp_path)) == summary["spent"]["trainings"] == trainings
