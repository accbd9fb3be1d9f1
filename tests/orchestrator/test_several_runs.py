"""Several runs of one sweep: what each writes, what is read of all, and what is kept of them."""

import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from asking import ask, refused
from measured import SOME_METRICS, committed_files, measured, sweep_file
from rich.console import Console
from stored import store_sweep
from sweeping import wait_for

from orchestrator.records.failures import Failure, read_failures, write_failures
from orchestrator.records.heartbeat import Counts, Heartbeat, Process, write_heartbeat
from orchestrator.records.provenance import read_provenance
from orchestrator.records.runs import begin_run, end_run, new_run, runs_at_work
from orchestrator.records.status import sweep_status
from orchestrator.records.stops import STOPS, ask_to_stop
from orchestrator.records.sweep import LineageRecord
from orchestrator.results.opening import Results, open_results
from orchestrator.results.report import report_payload
from orchestrator.run import dividing
from orchestrator.run.datasets import resolve_datasets
from orchestrator.run.dividing import begun_at, place_among_runs
from orchestrator.run.machines import usable_cpus
from orchestrator.run.planning import Plan, make_plan, sweep_lineages
from orchestrator.run.progress import RunProgress
from orchestrator.storage.merging import merge
from orchestrator.sweepfile.yaml_source import load_sweep
from trainables.data import data_roots
from trainables.store import Store, iteration_path
from trainables.store.processes import this_process

COMMAND = ["prunesweep", "run"]
SECTIONS: dict[str, Any] = {
    "seeds": [0, 1],
    "prune": {"iterations": 2},
    "methods": ["one_shot", "lottery_ticket", "sap"],
}


def beat(state: str = "running", pid: int = 1, **more: Any) -> Heartbeat:
    """The sign of life of a run that is this process."""
    said: dict[str, Any] = {
        "state": state, "host": "here", "pid": pid, "process": Process(**this_process()),
        "heartbeat": datetime.now(UTC).isoformat(), "counts": Counts(), "running": {},
        "eta_seconds": None,
    }  # fmt: skip
    return Heartbeat(**(said | more))


def of_a_machine_that_is_gone() -> dict[str, Any]:
    silent = datetime.now(UTC) - timedelta(hours=1)
    process = Process.model_validate(this_process() | {"host": "elsewhere"})
    return {"host": "elsewhere", "process": process, "heartbeat": silent.isoformat()}


def own_records(store: Store) -> list[str]:
    kinds = ("run-", "failures-", "provenance-", "stop-")
    return [name for name in store.names("sweeps/s") if name.startswith(kinds)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


# What is kept


def test_what_a_run_wrote_is_kept_when_it_is_over_and_nothing_piles_up(store: Store) -> None:
    runs = [f"{number:02}" for number in range(6)]
    for run in runs:
        begin_run(store, "s", COMMAND, run, [])
        write_heartbeat(store, "s", beat(), run)
        write_failures(store, "s", [Failure(f"lineage-{run}", 1, 2, "ValueError: no")], run)
        ask_to_stop(store, "s", ["x"], [run])
        write_heartbeat(store, "s", beat("ended", pid=int(run)), run)
        if run != "05":  # the last is killed as it has ended
            end_run(store, "s")
    kinds = ("failures", "provenance", "run", "stop")
    assert own_records(store) == [f"{kind}-05.json" for kind in kinds]
    assert [each.run for each in read_provenance(store, "s")] == runs
    assert [each.lineage for each in read_failures(store, "s")] == ["lineage-05"]
    begin_run(store, "s", COMMAND, "06", ["lineage-05"])
    assert own_records(store) == ["provenance-06.json"]
    assert [each.run for each in read_provenance(store, "s")] == [*runs, "06"]
    # What it leaves as it is, is told of on; what it trains again is not.
    assert [each.lineage for each in read_failures(store, "s")] == ["lineage-05"]
    begin_run(store, "s", COMMAND, "07", [])
    assert read_failures(store, "s") == []
    heard = {each.run: each.heard_at for each in read_provenance(store, "s")}
    assert None not in [heard[run] for run in runs]
    assert json.loads((Path(store.location) / "sweeps/s/run.json").read_text())["pid"] == 5


def test_a_run_that_begins_takes_nothing_from_those_in_flight(store: Store) -> None:
    for run, more in (("alive", {}), ("dead", of_a_machine_that_is_gone())):
        begin_run(store, "s", COMMAND, run, [])
        write_heartbeat(store, "s", beat(**more), run)
        write_failures(store, "s", [Failure(f"of-the-{run}", 1, 2, "ValueError: no")], run)
        ask_to_stop(store, "s", ["x"], [run])
    begin_run(store, "s", COMMAND, "new", [])
    assert {*own_records(store)} == {"provenance-new.json"} | {
        f"{kind}-alive.json" for kind in ("run", "failures", "provenance", "stop")
    }
    assert [each.lineage for each in read_failures(store, "s")] == ["of-the-alive"]
    assert STOPS.of("alive").read(store, "s") == ["x"]
    assert {*runs_at_work(store, "s")} == {"alive"}


def test_runs_that_begin_and_end_at_once_lose_nothing(store: Store) -> None:
    def live(number: int) -> str:
        run = new_run()
        begin_run(store, "s", COMMAND, run, [f"lineage-{each}" for each in range(8)])
        write_heartbeat(store, "s", beat(), run)
        write_failures(store, "s", [Failure(f"lineage-{number}", 1, 2, "ValueError: no")], run)
        write_heartbeat(store, "s", beat("ended"), run)
        end_run(store, "s")
        return run

    with ThreadPoolExecutor(8) as pool:
        runs = {*pool.map(live, range(8))}
    assert {each.run for each in read_provenance(store, "s")} == runs
    assert {each.lineage for each in read_failures(store, "s")} == {
        f"lineage-{number}" for number in range(8)
    }
    assert own_records(store) == store.names("claims") == []


def test_a_merge_takes_what_runs_were_and_not_what_they_are_at(tmp_path: Path) -> None:
    store, other = Store(str(tmp_path / "here")), Store(str(tmp_path / "there"))
    store_sweep(other, "s")
    (run,) = (each.run for each in read_provenance(other, "s"))
    assert run is not None
    write_heartbeat(other, "s", beat(), run)
    ask_to_stop(other, "s", ["x"], [run])
    for _ in range(2):
        merge(store, other)
        assert [each.run for each in read_provenance(store, "s")] == [run]
        assert runs_at_work(store, "s") == {}
    assert own_records(store) == [f"provenance-{run}.json"]


# What is told


@pytest.fixture
def begun(tmp_path: Path) -> Results:
    """A sweep of which nothing is there yet."""
    return measured(tmp_path, sweep_file(tmp_path, **SECTIONS), lambda line, t: None)


def commit_all(store: Store, line: LineageRecord) -> None:
    for t, key in zip(line.iterations, line.keys, strict=True):
        store.commit(iteration_path(key), committed_files(key, t, SOME_METRICS))


def plan_of(results: Results, folder: Path) -> Plan:
    spec = load_sweep(folder / "sweep.yaml")
    lineages = sweep_lineages(spec, resolve_datasets(spec, data_roots(None, {})))
    return make_plan(lineages, results.store.committed("iterations").get)


@contextmanager
def in_flight(results: Results, plan: Plan, *runs: str) -> Iterator[list[RunProgress]]:
    with ExitStack() as stack:
        shown = [
            RunProgress(results.store, "s", Console(file=io.StringIO()), run=run) for run in runs
        ]
        for each in shown:
            stack.enter_context(each.running(plan, {}))
        wait_for(lambda: len(runs_at_work(results.store, "s")) == len(runs))
        yield shown


def test_all_that_is_in_flight_is_shown_together(begun: Results, tmp_path: Path) -> None:
    store, plan = begun.store, plan_of(begun, tmp_path)
    lines = [line.id for line in begun.record.lineages]
    with in_flight(begun, plan, "a", "b") as runs:
        for number, run in enumerate(runs):
            run.started(lines[number], 1)
            run._write("running")
        status = json.loads(ask(tmp_path, "status", "s", "--storage", store.location, "--json"))
        assert [set(run["running"]) for run in status["runs"]] == [{lines[0]}, {lines[1]}]
        assert set(status["run"]["running"]) == {lines[0], lines[1]}
        assert status["run"]["together"] == 2
        shown = ask(tmp_path, "status", "s", "--storage", store.location)
        assert "2 runs in flight" in shown
        page = report_payload(open_results(store, "s"))
        assert (page["state"], page["run"]["together"]) == ("running", 2)
        assert "in flight" in refused(tmp_path, "rm", "s", "--yes", "--storage", store.location)
    assert sweep_status(store, "s").runs == ()


def test_what_another_run_has_completed_is_no_failure(begun: Results) -> None:
    store, (one, other, *_) = begun.store, begun.record.lineages
    for run in ("a", "b"):
        failed = [Failure(line.id, 1, 2, f"of {run}") for line in (one, other)]
        write_failures(store, "s", failed, run)
    assert len(read_failures(store, "s")) == 2
    commit_all(store, one)
    status = sweep_status(store, "s")
    assert [(each.lineage, each.traceback) for each in status.failures] == [(other.id, "of b")]
    assert sum(method.failed for method in status.methods) == 1


def test_the_time_that_is_left_counts_what_others_train(
    begun: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of fourteen iterations another trains eleven and this one one, both at one in two seconds."""
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    monkeypatch.setattr(dividing, "SECONDS", 0.0)
    monkeypatch.setattr(dividing, "REST", 0)
    store, plan = begun.store, plan_of(begun, tmp_path)
    assert len(plan.to_train) == 14
    write_heartbeat(store, "s", beat(per_second=0.5), "another")
    progress = RunProgress(store, "s", Console(file=io.StringIO()), run="mine")
    lines = begun.record.lineages
    progress._begin(plan)
    assert progress._others is not None
    progress.started(lines[0].id, 1)
    progress._pace.committed(100.0, 1.0)
    progress.counts.iterations = 1
    clock[0] = 101.0
    assert progress.eta_seconds() == pytest.approx(26.0)
    for line in lines[:5]:
        commit_all(store, line)
    progress._others.look(progress.counts.iterations)
    assert (progress._others.runs, progress._others.theirs) == (1, 11)
    assert progress.eta_seconds() == pytest.approx(2.0)


def test_runs_begin_at_different_lineages(tmp_path: Path, store: Store) -> None:
    file = sweep_file(tmp_path, **(SECTIONS | {"seeds": [0, 1, 2, 3]}))
    spec = load_sweep(file)
    plan = make_plan(sweep_lineages(spec, resolve_datasets(spec, data_roots(None, {}))), {}.get)
    runs = [new_run() for _ in range(4)]
    places = []
    for run in runs:
        write_heartbeat(store, "s", beat(), run)
    for run in sorted(runs):
        places.append(place_among_runs(store, "s", run))
    assert places == [0, 0.25, 0.5, 0.75]
    orders = [begun_at(plan.tasks, place) for place in places]
    assert [each for each in orders[0] if each.after is None] == [
        each for each in plan.tasks if each.after is None
    ]
    for order in orders:
        assert {id(task) for task in order} == {id(task) for task in plan.tasks}
    # At trunks of their own, and then at other lineages of the same trunk.
    assert len({next(t.lineage.id for t in order if t.after is None) for order in orders}) == 4
    trunk = plan.lineages[0].trunk
    assert len({next(t.lineage.id for t in order if t.after == trunk) for order in orders}) == 2
    assert place_among_runs(store, "another", "alone") == 0


def test_slurm_says_how_many_cpus_a_task_has(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):
        monkeypatch.delenv(name, raising=False)
    here = usable_cpus()
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", str(here + 1))
    assert usable_cpus() == here
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    assert usable_cpus() == 1
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "2(x3)")
    assert usable_cpus() == here


def test_a_heartbeat_that_cannot_be_written_costs_no_run(begun: Results, tmp_path: Path) -> None:
    store = begun.store
    (Path(store.location) / "sweeps/s/run-mine.json/x").mkdir(parents=True)
    progress = RunProgress(store, "s", Console(file=io.StringIO()), run="mine")
    with progress.running(plan_of(begun, tmp_path), {}):
        pass
    end_run(store, "s")
