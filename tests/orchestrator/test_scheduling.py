"""Who runs when, without Ray: the queue is asked and told as Tune does."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.cloudpickle import cloudpickle
from ray.exceptions import RayTaskError

from orchestrator.errors import PlanError
from orchestrator.records.failures import Failure
from orchestrator.records.heartbeat import Sight
from orchestrator.run.capacity import slots
from orchestrator.run.datasets import ResolvedDataset, resolve_datasets
from orchestrator.run.machines import Cluster
from orchestrator.run.planning import Plan, make_plan, sweep_lineages
from orchestrator.run.queue import Queue
from orchestrator.run.tuning import raised
from orchestrator.sweepfile.resources import Resources
from orchestrator.sweepfile.yaml_source import load_sweep
from trainables.data import data_roots
from trainables.errors import Diverged, Interrupted
from trainables.lineage.cause import Cause
from trainables.lineage.ending import End
from trainables.store import Damaged, StoreGone
from trainables.store.artifacts import WEIGHTS

METHODS = "methods: [one_shot, lottery_ticket]"
TWO = f"prune: {{iterations: 1}}\n{METHODS}"
FILES = frozenset({WEIGHTS})
IMP = "methods: [lottery_ticket, {name: imp, density: [0.5, 0.3, 0.2]}]"


class Listener:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.gave_up: list[str] = []
        self.failures: list[Failure] = []
        self.notices: list[str] = []
        self.told: list[str] = []
        self.sight: Sight | None = None
        self.at: Mapping[str, str] = {}

    def started(self, lineage: str, attempt: int) -> None: ...

    def committed(self, lineage: str, result: dict[str, Any]) -> None: ...

    def measured(self, lineage: str, measure: str, iteration: int) -> None:
        self.told.append(f"{measure} of iteration {iteration}")

    def gave_way(self, lineage: str) -> None: ...

    def dropped(self, lineage: str) -> None: ...

    def ended(self, end: End) -> None:
        self.told.append(f"ended {end.lineage}")

    def finished(self, lineage: str) -> None: ...

    def stopping(self) -> None: ...

    def leaving(self) -> None:
        self.told.append("leaving")

    def noticed(self, line: str) -> None:
        self.notices.append(line)

    def has_room(self, trials: int) -> None: ...

    def sees(self, sight: Sight, at: Mapping[str, str]) -> None:
        self.sight, self.at = sight, at

    def tell(self, notices: Iterable[str]) -> None: ...

    def failed(self, failure: Failure, retried: bool) -> None:
        self.failures.append(failure)
        if not retried:
            self.gave_up.append(failure.lineage)


@dataclass(frozen=True)
class Planned:
    plan: Plan
    datasets: tuple[ResolvedDataset, ...]


def planned_sweep(folder: Path, text: str) -> Planned:
    file = folder / "s.yaml"
    head = "name: s\ndataset: {name: digits, subset: 100}\nmodel: mlp\n"
    file.write_text(f"{head}train: {{epochs: 2, batch_size: 50}}\n{text}")
    spec = load_sweep(file)
    datasets = resolve_datasets(spec, data_roots(None, {}))
    return Planned(make_plan(sweep_lineages(spec, datasets), {}.get), datasets)


def planned(folder: Path, text: str) -> Plan:
    return planned_sweep(folder, text).plan


Stored = dict[str, Collection[str]]


def queue_of(
    plan: Plan, stored: Stored | None = None, retries: int = 0, gpus: float = 0
) -> tuple[Queue, Listener]:
    """A queue on a store whose iterations, by key, are `stored`."""
    listener = Listener()
    files_of = ({} if stored is None else stored).get
    return Queue(plan.tasks, files_of, gpus, retries, listener), listener


def handed_out(queue: Queue, trial: str) -> str | None:
    return next((attempt.task.lineage.id for attempt in queue.hand_out(trial)), None)


def test_what_shares_a_failed_iteration_is_given_up_with_it_and_so_on(tmp_path: Path) -> None:
    plan = planned(tmp_path, IMP)
    queue, listener = queue_of(plan)
    assert handed_out(queue, "first") == plan.lineages[0].id
    assert handed_out(queue, "second") is None
    assert not queue.exhausted
    queue.failed("first", Cause("it broke"))
    # IMP's densities wait for each other's iterations, not for the trunk that failed.
    assert listener.gave_up == [lineage.id for lineage in plan.lineages]
    assert handed_out(queue, "third") is None
    assert queue.exhausted


def test_what_shares_more_than_is_there_of_a_lineage_that_was_ended_trains_that(
    tmp_path: Path,
) -> None:
    plan = planned(tmp_path, IMP)
    queue, listener = queue_of(plan)
    assert handed_out(queue, "first") == plan.lineages[0].id
    first = plan.lineages[0]
    report = {"iteration": 0, "key": first.keys[0]}
    assert not queue.reported("first", {first.id: report})
    imp = [handed_out(queue, trial) for trial in ("second", "third", "fourth")]
    assert imp[0] is not None
    assert imp[1:] == [None, None]
    one = next(line for line in plan.lineages if line.id == imp[0])
    end = End(one.id, 1, one.keys[1], "[]", "enough")
    queue.reported("second", {one.id: {"complete": True, "end": end}})
    queue.ended("second")
    assert listener.told == [f"ended {one.id}"]
    # Whoever waited for what is behind its end does not wait for ever, nor is that there.
    assert handed_out(queue, "fifth") is not None
    queue.failed("fifth", Cause("it broke"))
    assert listener.failures[-1].iteration == 1


def test_a_worker_that_is_told_to_go_has_failed_at_nothing(tmp_path: Path) -> None:
    queue, listener = queue_of(planned(tmp_path, TWO))
    [attempt] = queue.hand_out("first")
    queue.failed("first", Cause.of("told to go", Interrupted()))
    assert queue.hand_out("second") == (attempt,)
    assert listener.failures == queue.failures == []


def test_a_run_that_leaves_takes_what_dies_meanwhile_for_left(tmp_path: Path) -> None:
    queue, listener = queue_of(planned(tmp_path, TWO))
    assert handed_out(queue, "first")
    queue.leave()
    queue.leave()
    assert listener.told == ["leaving"]
    assert handed_out(queue, "second") is None
    queue.failed("first", Cause("its worker was killed"))
    assert queue.exhausted
    assert queue.unfinished
    assert listener.failures == queue.failures == []


def test_a_lineage_is_released_by_the_commit_it_waits_for(tmp_path: Path) -> None:
    plan = planned(tmp_path, TWO)
    queue, _ = queue_of(plan)
    queue.hand_out("first")
    assert not queue.hand_out("second")
    trunk, last = plan.lineages[0].keys
    one, other = (lineage.id for lineage in plan.lineages)
    assert not queue.reported("first", {one: {"key": trunk}})
    assert handed_out(queue, "second") == other
    queue.reported("first", {one: {"key": last, "complete": True}})
    queue.ended("first")
    queue.reported("second", {other: {"complete": True}})
    queue.ended("second")
    assert not queue.hand_out("third")
    assert queue.exhausted
    assert not queue.unfinished


@pytest.mark.parametrize("last", ["goes on", "complete"])
def test_a_lineage_is_released_by_any_commit_after_the_one_it_waits_for(
    tmp_path: Path, last: str
) -> None:
    """As when another run trained the trunk: this one is told of what it trained itself."""
    plan = planned(tmp_path, f"prune: {{iterations: 2}}\n{METHODS}")
    queue, _ = queue_of(plan)
    queue.hand_out("first")
    told = {"key": plan.lineages[0].keys[1]} if last == "goes on" else {"complete": True}
    queue.reported("first", {plan.lineages[0].id: told})
    assert handed_out(queue, "second") == plan.lineages[1].id


def test_the_trunk_that_another_run_has_committed_is_noticed_while_it_is_waited_for(
    tmp_path: Path,
) -> None:
    plan = planned(tmp_path, f"prune: {{iterations: 2}}\n{METHODS}")
    stored: Stored = {}
    queue, _ = queue_of(plan, stored)
    one, other = plan.lineages
    queue.hand_out("first")
    elsewhere = {one.id: {"claimed_elsewhere": True}}
    assert not queue.reported("first", elsewhere)
    assert not queue.hand_out("second")
    stored[one.keys[0]] = FILES
    # It waits for the other run again, at the next iteration, and leaves its place to what it need
    # not wait for.
    assert queue.reported("first", elsewhere)
    queue.ended("first")
    assert handed_out(queue, "second") == other.id


def test_what_is_stored_when_a_worker_dies_is_no_failure(tmp_path: Path) -> None:
    """A worker that dies right after its commit tells nobody of it."""
    plan = planned(tmp_path, f"prune: {{iterations: 3}}\n{METHODS}")
    stored: Stored = {}
    queue, listener = queue_of(plan, stored, retries=1)
    owner, dependent = plan.lineages
    queue.hand_out("first")
    stored[owner.keys[0]] = FILES
    queue.failed("first", Cause("its worker died"))
    assert {handed_out(queue, "second"), handed_out(queue, "third")} == {owner.id, dependent.id}
    retried = "second" if owner.id in queue._running["second"] else "third"
    stored[owner.keys[1]] = FILES
    queue.failed(retried, Cause("its worker died"))
    assert [failure.iteration for failure in listener.failures] == [1, 2]
    assert listener.gave_up == [owner.id]


def test_what_another_run_has_stored_is_given_up_with_nobody(tmp_path: Path) -> None:
    plan = planned(tmp_path, IMP)
    stored: Stored = {}
    queue, listener = queue_of(plan, stored)
    queue.hand_out("first")
    trunk = plan.lineages[0].keys[0]
    stored[trunk] = FILES
    queue.failed("first", Cause("it broke"))
    given_up = set(listener.gave_up)
    waited_for_the_trunk = {t.lineage.id for t in plan.tasks if t.after == trunk}
    assert waited_for_the_trunk
    assert not waited_for_the_trunk & given_up
    assert all(failure.iteration > 0 for failure in listener.failures)


def test_what_was_told_is_no_failure_of_a_store_that_cannot_be_read(tmp_path: Path) -> None:
    plan = planned(tmp_path, f"prune: {{iterations: 2}}\n{METHODS}")

    def files_of(key: str) -> Collection[str]:
        raise StoreGone("it is gone")

    listener = Listener()
    queue = Queue(plan.tasks, files_of, 0, 0, listener)
    queue.hand_out("first")
    queue.reported("first", {plan.lineages[0].id: {"key": plan.lineages[0].keys[0]}})
    queue.failed("first", Cause("it is gone", hopeless=True))
    assert [failure.iteration for failure in listener.failures] == [1]


@pytest.mark.parametrize(
    ("error", "text", "again"),
    [
        (Diverged("at epoch 1"), "no longer finite", None),
        (StoreGone("it is gone"), "it is gone", None),
        (ValueError(), "in run.Diverged: and store.StoreGone:", 0.25),
        (ValueError(), "OutOfMemoryError", 0.25),
        (torch.OutOfMemoryError("CUDA"), "no room", 0.5),
        (None, "its worker died", 0.25),
    ],
)
def test_an_attempt_is_made_again_unless_its_error_is_hopeless(
    tmp_path: Path, error: Exception | None, text: str, again: float | None
) -> None:
    queue, _ = queue_of(planned(tmp_path, "methods: [one_shot]"), retries=1, gpus=0.25)
    queue.hand_out("first")
    queue.failed("first", Cause.of(text, error))
    attempts = queue.hand_out("second")
    assert [attempt.gpus for attempt in attempts] == ([] if again is None else [again])
    assert [failure.traceback for failure in queue.failures] == ([] if again else [text])


@pytest.mark.parametrize(
    "error",
    [
        Diverged("y"),
        Interrupted("w"),
        StoreGone("x"),
        Damaged("a/b", "short"),
        torch.OutOfMemoryError("z"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_was_raised_arrives_as_it_was(tmp_path: Path, error: Exception) -> None:
    """As Tune keeps it; that it does, test_a_failing_lineage_stops_nothing_else finds out."""
    file = tmp_path / "error.pkl"
    arrived = RayTaskError("train", "a traceback", error, "title", 1, "ip").as_instanceof_cause()
    file.write_bytes(cloudpickle.dumps(arrived))
    found = raised(str(file))
    assert type(found) is type(error)
    assert str(found) == str(error)
    assert raised(None) is None
    file.write_bytes(b"torn")
    assert raised(str(file)) is None


def at_a_time(resources: Resources, cluster: Cluster) -> int:
    return len(slots(resources, cluster, 1000))


def test_a_lineage_has_to_fit_on_one_node() -> None:
    nodes = Cluster(cpus=3, gpus=0, nodes=((2, 0), (1, 0)))
    assert at_a_time(Resources(cpus_per_lineage=3), nodes) == 0
    assert at_a_time(Resources(cpus_per_lineage=2), nodes) == 1
    assert at_a_time(Resources(), nodes) == 3
    two = Cluster(cpus=8, gpus=2, nodes=((4, 1), (4, 1)))
    assert at_a_time(Resources(gpus_per_lineage=1 / 3), two) == 6


@pytest.mark.parametrize(
    ("asked", "memory", "count"),
    [("auto", 0.25, 8), (0.0, 0.0, 16), (0.25, 0.25, 8), (0.5, 0.5, 4), (1.0, 1.0, 2)],
)
def test_shares_of_a_gpu_are_counted_and_zero_is_the_cpu(
    asked: Any, memory: float, count: int
) -> None:
    resources, cluster = Resources(gpus_per_lineage=asked), Cluster(cpus=16, gpus=2)
    found = slots(resources, cluster, 1000)
    assert {slot.memory for slot in found} == {memory}
    assert len(found) == count
    assert len(slots(Resources(gpus_per_lineage=asked, max_concurrent=1), cluster, 1000)) == 1


@pytest.mark.parametrize(
    ("text", "message", "field"),
    [
        (
            "methods: [{name: snip, density: 0.1}]",
            "examples: 256 .* 100",
            ("methods", 0, "examples"),
        ),
        (
            "methods: [one_shot]\nexclude: []",
            "best_validation needs a held-out part",
            ("train", 0, "keep"),
        ),
    ],
)
def test_what_could_not_run_is_refused_by_the_plan(
    tmp_path: Path, text: str, message: str, field: tuple[Any, ...]
) -> None:
    keep = "train.keep=best_validation" if field[0] == "train" else "train.keep=last"
    file = tmp_path / "s.yaml"
    file.write_text(f"name: s\ndataset: {{name: digits, subset: 100}}\nmodel: mlp\n{text}\n")
    spec, roots = load_sweep(file, [keep]), data_roots(None, {})
    with pytest.raises(PlanError, match=message) as error:
        sweep_lineages(spec, resolve_datasets(spec, roots))
    assert error.value.field == field


def test_an_excluded_cell_is_not_checked(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(
        "name: s\ndataset: [digits, {name: digits, subset: 100}]\nmodel: mlp\n"
        "methods: [{name: snip, density: 0.1}]\nexclude: [{dataset.subset: 100}]\n"
    )
    spec, roots = load_sweep(file), data_roots(None, {})
    assert len(sweep_lineages(spec, resolve_datasets(spec, roots))) == 1
