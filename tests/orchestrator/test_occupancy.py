"""What became of the time of slots, by a clock that is set by hand; and what a run tells of it."""

import io
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console
from test_nodes import DEAD, UNFIT, Fakes, begin, fail, fakes
from test_scheduling import Listener

from orchestrator.commands.printing_nodes import nodes_view
from orchestrator.records.heartbeat import (
    LAST_LOST,
    AlikeNodes,
    AtWork,
    Counts,
    Heartbeat,
    LostNode,
    Sight,
    SlotTime,
    joined,
)
from orchestrator.run.machines import Node
from orchestrator.run.nodes import Nodes
from orchestrator.run.occupancy import CLAIMED_SECONDS, Occupancy
from orchestrator.run.queue import Queue

__all__ = ["fakes"]


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def slots(clock: Clock) -> Occupancy:
    return Occupancy(clock)


def test_the_time_line_of_a_slot(clock: Clock, slots: Occupancy) -> None:
    slots.room(1, "starting")
    clock.now += 1
    slots.placed("trial")
    clock.now += 4
    slots.started("trial")
    assert slots.slots().now == {"training": 1}
    clock.now += 10
    slots.reported("trial", claimed=False, silent=3)
    clock.now += 1
    slots.reported("trial", claimed=True, silent=0)
    assert slots.slots().now == {"claimed": 1}
    clock.now += CLAIMED_SECONDS + 1
    assert slots.slots().now == {"training": 1}  # it would have said so again
    slots.reported("trial", claimed=False, silent=0)
    slots.room(1, "shared")
    assert slots.ended("trial") == 0
    clock.now += 20
    slots.room(1, "nothing")
    clock.now += 30
    told = slots.slots()
    assert told.now == {"nothing": 1}
    assert told.seconds == {
        "starting": 5, "training": 7 + CLAIMED_SECONDS + 1, "storage": 3, "claimed": 1,
        "shared": 20, "nothing": 30,
    }  # fmt: skip


def test_what_was_in_flight_where_a_worker_dies_is_lost(clock: Clock, slots: Occupancy) -> None:
    slots.room(2, "nothing")
    for trial in ("dies", "never starts"):
        slots.placed(trial)
    clock.now += 1
    slots.started("dies")
    clock.now += 7
    slots.reported("dies", claimed=False, silent=0)
    clock.now += 5
    assert slots.untold("dies") == 5
    assert slots.untold("never starts") == 0
    assert slots.ended("dies", "lost") == 5
    slots.ended("never starts", "lost")
    assert slots.slots().seconds == {"starting": 1 + 13, "training": 7, "lost": 5}


def test_every_second_of_every_slot_is_counted_once(clock: Clock, slots: Occupancy) -> None:
    """Slots come and go, also from under their trials."""
    expected = 0.0
    slots.room(3, "shared")
    for step, count in enumerate((3, 5, 1, 0, 2)):
        slots.room(count, "shared")
        if step < 2:
            slots.placed(str(step))
            slots.started(str(step))
        clock.now += 10
        expected += 10 * max(count, min(step + 1, 2))
    slots.close()
    clock.now += 100
    told = slots.slots()
    assert sum(told.seconds.values()) == expected
    assert told.now == {}


def test_a_run_tells_of_its_nodes_and_what_was_lost_with_one(
    fakes: tuple[Fakes, Queue, Listener], monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    monkeypatch.setattr("orchestrator.run.placing.LOOK_SECONDS", 0.0)
    cluster, _, listener = fakes
    placing = cluster.placing("a", "b", "c")
    placing.occupancy = Occupancy(clock)
    lineages = [begin(placing, trial, node) for trial, node in (("1", "a"), ("2", "b"))]
    clock.now += 3
    placing.reported("1", {"reports": {lineages[0]: {"claimed_elsewhere": True}}})
    clock.now += 60
    placing.look()
    assert listener.at == dict(zip(lineages, "ab", strict=True))
    assert listener.sight
    one_each = AlikeNodes(cpus=1, gpus=0, slots=1, names=dict.fromkeys("abc", "127.0.0.1"))
    assert listener.sight.nodes == [one_each]
    assert listener.sight.slots.now == {"training": 2, "starting": 1}  # six lineages are ready
    assert listener.sight.slots.seconds == {"claimed": 3, "training": 60 + 63}
    cluster.lose("b")
    placing.look()
    (lost,) = listener.sight.lost
    assert (lost.name, lost.lineages, lost.seconds) == ("b", 1, 63)
    assert datetime.fromisoformat(lost.at) <= datetime.now(UTC)
    fail(placing, "2", DEAD)
    placing.look()
    assert listener.at == {lineages[0]: "a"}
    assert listener.sight.slots.seconds["lost"] == 63
    placing.close()
    assert listener.sight.slots.now == listener.at == {}


def test_a_node_that_is_left_out_has_no_slots(
    fakes: tuple[Fakes, Queue, Listener], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Nodes, "is_lost", lambda self, id: False)
    cluster, _, listener = fakes
    placing = cluster.placing("good", "bad")
    while not placing.nodes.left_out:
        begin(placing, "t", "bad")
        fail(placing, "t", UNFIT)
    placing.close()
    assert listener.sight
    assert [(*each.names, each.slots) for each in listener.sight.nodes] == [("good", 1), ("bad", 0)]
    assert "lost" not in listener.sight.slots.seconds


def test_what_a_free_slot_waits_for(fakes: tuple[Fakes, Queue, Listener]) -> None:
    _, queue, _ = fakes
    assert queue.lacks == "starting"
    handed = {str(n): queue.hand_out(str(n))[0].task.lineage.id for n in range(8)}
    assert queue.lacks == "nothing"
    queue.reported("0", {handed["0"]: {"claimed_elsewhere": True}})
    queue.ended("0")
    assert queue.lacks == "claimed"
    queue.stop()
    assert queue.lacks == "nothing"


def test_a_slot_may_wait_for_what_lineages_share(tmp_path: Path) -> None:
    from test_scheduling import METHODS, Stored, planned, queue_of

    queue, _ = queue_of(planned(tmp_path, METHODS), Stored())
    queue.hand_out("trunk")
    assert queue.lacks == "shared"


def test_nodes_of_one_name_are_told_apart() -> None:
    there = [Node(f"{n}{n}{n}-1234567", "host", 1, 0, True, (f"10.0.0.{n}", 1)) for n in range(2)]
    nodes = Nodes(lambda: there)
    nodes.refresh()
    (alike,) = nodes.alike(lambda node: 1)
    assert alike.names == {"host (000-1234)": "10.0.0.0", "host (111-1234)": "10.0.0.1"}


def sight(*names: str, lost: int = 0, **seconds: float) -> Sight:
    told = [LostNode(name=f"l{n}", at=f"2026-01-01T00:00:{n:02}+00:00", lineages=1, seconds=2.0)
            for n in range(lost)]  # fmt: skip
    alike = AlikeNodes(cpus=8, gpus=1, slots=4, names=dict.fromkeys(names, "10.11.12.13"))
    slots = SlotTime(now={"training": len(names)}, seconds=seconds)
    return Sight(nodes=[alike], slots=slots, lost=told[-LAST_LOST:], lost_in_all=lost)


def heartbeat(seen: Sight | None) -> Heartbeat:
    return Heartbeat(
        state="running", host="h", pid=1, heartbeat="2026-01-01T00:00:00+00:00", counts=Counts(),
        running={}, eta_seconds=None, sight=seen,
    )  # fmt: skip


def test_runs_tell_each_their_own_and_are_read_together() -> None:
    one, other = sight("a", lost=2, training=5.0), sight("b", lost=1, training=1.0, shared=2.0)
    together = joined([heartbeat(one), heartbeat(other), heartbeat(None)]).sight
    assert together
    assert [name for alike in together.nodes for name in alike.names] == ["a", "b"]
    assert together.slots.now == {"training": 2}
    assert together.slots.seconds == {"training": 6.0, "shared": 2.0}
    assert [each.name for each in together.lost] == ["l0", "l0", "l1"]
    assert together.lost_in_all == 3
    assert joined([heartbeat(None), heartbeat(None)]).sight is None


def test_a_thousand_nodes_are_few_bytes() -> None:
    occupancy = Occupancy()
    for n in range(1000):
        occupancy.lost(f"lost-{n:04}", 4, 1234.5)
    names = {f"gpu-node-{n:04}": f"10.11.{n // 250}.{n % 250}" for n in range(1000)}
    seen = occupancy.sight([AlikeNodes(cpus=8, gpus=1, slots=4, names=names)])
    assert len(heartbeat(seen).model_dump_json()) < 40_000
    assert seen.lost_in_all == 1000


def shown(run: Heartbeat) -> list[str]:
    view = Console(file=io.StringIO(), width=100)
    for part in nodes_view(run):
        view.print(part, soft_wrap=True)
    return [line.rstrip() for line in view.file.getvalue().splitlines()]  # pyright: ignore


def test_the_view_of_a_run_names_its_nodes() -> None:
    run = heartbeat(sight("a", "b", lost=7, training=60.0, shared=39.9, nothing=0.1))
    run.running = {"l": AtWork(iteration=1, accuracy=None, attempt=1, node="b")}
    assert shown(run) == [
        "2 of 2 slots at work; of the slots' time 60% in training, 40% idle: 40% waiting for an "
        "iteration that lineages share, <1% with nothing left to do",
        "node  address      slots  GPUs  lineages",
        "a     10.11.12.13      4     1         –",
        "b     10.11.12.13      4     1         1",
        *(f"lost: l{n} at 2026-01-01 00:00:0{n} UTC, with 2s of work on 1 lineage"
          for n in range(2, 7)),
        "7 nodes were lost in all",
    ]  # fmt: skip


def test_the_view_of_many_nodes_is_short() -> None:
    assert shown(heartbeat(sight(*map(str, range(1000)))))[-1] == (
        "and 980 more with 3920 slots, 980 of them without a lineage"
    )
    # A run on its own machine is named there already.
    assert shown(heartbeat(sight("h", training=1.0))) == [
        "1 of 1 slots at work; of the slots' time 100% in training"
    ]
    assert shown(heartbeat(None)) == []


def test_a_heartbeat_without_any_is_what_it_was() -> None:
    told = heartbeat(None).model_dump(mode="json")
    assert "sight" not in told
    assert "node" not in AtWork(iteration=None, accuracy=None, attempt=1).model_dump(mode="json")
