"""Nodes that come, go and are of no use, on clusters whose nodes are raylets on this machine."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import sweeping
from ray_nodes import Raylets, raylets
from sweeping import (
    COMMAND,
    assert_equal_results,
    claimed,
    commits,
    store_of,
    table,
    wait_for,
    write,
)
from test_scheduling import Listener, Stored, handed_out, planned, queue_of

from orchestrator.records.runs import runs_at_work
from orchestrator.records.status import sweep_status
from orchestrator.run import nodes as nodes_module
from orchestrator.run.capacity import Room, slots
from orchestrator.run.machines import Cluster, Node
from orchestrator.run.nodes import STRIKES, Nodes
from orchestrator.run.placing import Placing
from orchestrator.run.queue import EXCUSED, Queue
from orchestrator.sweepfile.resources import Resources
from trainables.errors import UnfitNode
from trainables.lineage.cause import Cause

DEAD = Cause("the actor died", died=True)
UNFIT = Cause.of("traceback\nUnfitNode: no storage", UnfitNode("no storage", True))
EIGHT = "seeds: [0, 1, 2, 3, 4, 5, 6, 7]\nmethods: [one_shot]"


class Fakes:
    """A cluster that is told what it has, each node of one CPU; nothing listens there but for
    those that answer."""

    def __init__(self, queue: Queue) -> None:
        self.there: dict[str, Node] = {}
        self.queue = queue

    def placing(self, *names: str) -> Placing:
        self.add(*names)
        nodes = Nodes(lambda: list(self.there.values()))
        room = Room(self.lay(nodes_cluster(self.there)))
        return Placing(self.queue, nodes, room, self.lay)

    def lay(self, cluster: Cluster) -> Any:
        return slots(Resources(), cluster, 1000)

    def add(self, *names: str) -> None:
        for name in names:
            self.there[name] = Node(name, name, 1, 0, True, ("127.0.0.1", 1))

    def lose(self, *names: str) -> None:
        for name in names:
            self.there[name] = replace(self.there[name], alive=False)


def nodes_cluster(there: dict[str, Node]) -> Cluster:
    return Cluster.of(there.values())


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Fakes, Queue, Listener]:
    monkeypatch.setattr(nodes_module, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr("orchestrator.run.placing.GRACE_SECONDS", -1.0)
    queue, listener = queue_of(planned(tmp_path, EIGHT), Stored(), retries=0)
    return Fakes(queue), queue, listener


def begin(placing: Placing, trial: str, node: str) -> str:
    """A trial that is handed out and gets its resources on `node`: its lineage."""
    bundle = placing.queue.hand_out(trial)
    placing.place(trial, bundle)
    placing.started(trial, node)
    return bundle[0].task.lineage.id


def fail(placing: Placing, trial: str, cause: Cause) -> None:
    placing.room.leave(trial)
    placing.failed(trial, cause, {}, None)


def test_who_loses_its_node_is_not_blamed(fakes: tuple[Fakes, Queue, Listener]) -> None:
    cluster, queue, listener = fakes
    placing = cluster.placing("a", "b")
    lineage = begin(placing, "1", "a")
    fail(placing, "1", DEAD)  # nobody knows yet why
    assert not listener.failures
    assert lineage in queue.lineages_of("1")
    cluster.lose("a")
    placing.look()
    assert listener.notices == ["node a was lost; 1 lineage goes back to the queue"]
    assert len(placing.room.slots) == 1
    assert handed_out(queue, "2") != lineage  # it is behind those that wait
    assert not listener.failures


def test_nodes_lost_at_once_are_each_told_of(fakes: tuple[Fakes, Queue, Listener]) -> None:
    cluster, queue, listener = fakes
    placing = cluster.placing("a", "b", "c")
    for trial, node in (("1", "a"), ("2", "b"), ("3", "c")):
        begin(placing, trial, node)
    cluster.lose("a", "b")
    placing.look()  # before Tune tells of any
    for trial in ("1", "2"):
        fail(placing, trial, DEAD)
    assert sorted(listener.notices) == [
        f"node {name} was lost; 1 lineage goes back to the queue" for name in ("a", "b")
    ]
    assert not listener.failures
    assert queue.lineages_of("3")


def test_who_ends_node_after_node_is_blamed_in_the_end(
    fakes: tuple[Fakes, Queue, Listener],
) -> None:
    cluster, queue, listener = fakes
    placing = cluster.placing("last")
    deadly = queue.tasks[0].lineage.id
    queue.drop([task.lineage.id for task in queue.tasks[1:]])
    for number in range(EXCUSED + 1):
        assert not listener.failures
        cluster.add(str(number))
        placing.look()
        assert begin(placing, str(number), str(number)) == deadly
        cluster.lose(str(number))
        placing.look()
        fail(placing, str(number), DEAD)
    assert listener.gave_up == [deadly]


def test_a_worker_that_dies_on_a_node_that_lives_is_a_failure(
    fakes: tuple[Fakes, Queue, Listener],
) -> None:
    cluster, _, listener = fakes
    placing = cluster.placing("a")
    with subprocess.Popen([sys.executable, "-m", "http.server", "0", "--bind", "127.0.0.1"],
                          stdout=subprocess.PIPE, text=True,
                          env=os.environ | {"PYTHONUNBUFFERED": "1"}) as raylet:  # fmt: skip
        assert raylet.stdout
        port = int(raylet.stdout.readline().split("port ")[1].split()[0])
        cluster.there["a"] = replace(cluster.there["a"], listens=("127.0.0.1", port))
        placing.look()
        lineage = begin(placing, "1", "a")
        fail(placing, "1", DEAD)
        raylet.kill()
    assert listener.gave_up == [lineage]


def test_a_node_of_no_use_is_left_out_and_no_retries_are_spent_there(
    fakes: tuple[Fakes, Queue, Listener], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Nodes, "is_lost", lambda self, id: False)
    cluster, queue, listener = fakes
    placing = cluster.placing("good", "bad")
    placing.reported("nobody's", {"reports": {}})
    for number in range(STRIKES):
        assert not placing.nodes.left_out
        bundle = queue.hand_out(str(number))
        placing.place(str(number), bundle)
        placing.started(str(number), "bad")
        fail(placing, str(number), UNFIT)
        again = next(a for a in queue._ready.remove([bundle[0].task.lineage.id]))
        assert again.avoided == {"bad"}
        assert placing.nodes.without(again.avoided) == {"bad"}
        queue._ready.add(again)
    assert listener.notices == ["node bad is left out of this run: UnfitNode: no storage"]
    assert len(placing.room.slots) == 1
    assert not listener.failures
    # The last one is blamed on nobody else.
    lineage = begin(placing, "last", "good")
    fail(placing, "last", UNFIT)
    fail_until_blamed = 0
    while not listener.failures and fail_until_blamed < STRIKES:
        fail_until_blamed += 1
        lineage = begin(placing, f"l{fail_until_blamed}", "good")
        fail(placing, f"l{fail_until_blamed}", UNFIT)
    assert listener.gave_up == [lineage]


def test_a_run_without_a_node_waits_and_not_for_ever(
    fakes: tuple[Fakes, Queue, Listener],
) -> None:
    cluster, queue, listener = fakes
    placing = cluster.placing("a")
    placing.wait_seconds = 0.0
    cluster.lose("a")
    placing.look()
    assert "waiting for one" in listener.notices[-1]
    assert not queue.stopping
    placing.look()
    assert queue.stopping
    assert queue.unfinished


# Through Ray

SWEEP = {
    "name": "s",
    "dataset": {"name": "digits", "subset": 100},
    "model": {"name": "mlp", "hidden": [8]},
    "seeds": [0, 1, 2],
    "train": {"epochs": 400, "batch_size": 50},
    "prune": {"iterations": 2},
    "methods": ["one_shot"],
    "resources": {"retries": 0},
    "wandb": {"mode": "disabled"},
}


class Run:
    """A run on a cluster, from a host of another name if need be, and what it says."""

    def __init__(self, folder: Path, cluster: Raylets, sweep: dict[str, Any],
                 host: str | None = None) -> None:  # fmt: skip
        self.folder, self.said = folder, folder / f"said-{host}.txt"
        command = [COMMAND, "run", str(write(folder, sweep)), "--address", cluster.address]
        if host is not None:
            named = f"hostname {host} && exec {shlex.join(command)}"
            command = ["unshare", "--map-root-user", "--uts", "sh", "-c", named]
        with self.said.open("w") as said:
            self.process = subprocess.Popen(
                command, cwd=folder, env=cluster.environment, stdout=said, stderr=said
            )

    @property
    def text(self) -> str:
        return self.said.read_text()

    @property
    def at_work(self) -> int:
        runs = runs_at_work(store_of(self.folder), "s")
        return sum(len(beat.running) for beat in runs.values())

    @property
    def nodes_at_work(self) -> set[str | None]:
        runs = runs_at_work(store_of(self.folder), "s")
        return {line.node for beat in runs.values() for line in beat.running.values()}

    def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 900
        while not condition():
            assert self.process.poll() is None, self.text
            assert time.monotonic() < deadline, self.text
            time.sleep(0.1)

    def until_said(self, text: str) -> None:
        self.until(lambda: text in self.text)

    def wait(self) -> int:
        try:
            return self.process.wait(timeout=900)
        except subprocess.TimeoutExpired:
            pytest.fail(self.text)


HELD = """
import time
from pathlib import Path

from prunesweep import augmentation


@augmentation
def held(images, generator):
    while Path("{hold}").exists():
        time.sleep(0.05)
    return images
"""


@pytest.mark.timeout(1200)
def test_nodes_come_and_go(tmp_path: Path) -> None:
    """A run begins where there is nothing to run on, goes on with what joins, and loses a node."""
    hold = tmp_path / "hold"
    (tmp_path / "held.py").write_text(HELD.format(hold=hold))
    held = {"train": {"epochs": 100, "batch_size": 50, "augment": "held"}, "plugins": ["held.py"]}
    with raylets() as cluster:
        run = Run(tmp_path, cluster, SWEEP | held)
        run.until_said("waiting for a node with 1 CPU, for up to 30 minutes")
        cluster.add("first")
        run.until_said("iteration 0/2")
        hold.touch()
        cluster.add("second")
        run.until_said("node second has joined: 2 trials at a time")
        run.until(lambda: run.nodes_at_work == {"first", "second"})
        orphans = cluster.workers("first")
        assert orphans
        cluster.kill("first")
        assert psutil.wait_procs(orphans, timeout=120)[1] == []
        run.until_said("node first was lost; 1 lineage goes back to the queue")
        hold.unlink()
        assert run.wait() == 0, run.text
    assert "state-dump" not in run.text
    assert "tried again" not in run.text
    rows = table(tmp_path, "s", "iterations").to_pylist()
    assert len(rows) == len(commits(tmp_path)) == 9
    assert {row["host"] for row in rows} == {"first", "second"}
    assert sorted({row["attempt"] for row in rows}) == [1, 2]
    last = sweep_status(store_of(tmp_path), "s").run
    assert last
    assert last.sight
    assert [(lost.name, lost.lineages) for lost in last.sight.lost] == [("first", 1)]
    there = {name: kind.slots for kind in last.sight.nodes for name in kind.names}
    assert there == {"head": 0, "second": 1}
    assert {"training", "lost", "starting"} <= last.sight.slots.seconds.keys()


@pytest.mark.cluster
@pytest.mark.timeout(1800)
def test_batches_of_nodes_are_lost_again_and_again(tmp_path: Path) -> None:
    # While a pair of nodes joins, the first of it trains: there has to be enough for six to join.
    sweep = SWEEP | {
        "seeds": [*range(20)],
        "train": {"epochs": 1500, "batch_size": 50},
        "prune": {"iterations": 1},
    }
    with raylets() as cluster:
        for name in ("a0", "b0"):
            cluster.add(name)
        run = Run(tmp_path, cluster, sweep)
        for number in range(3):
            pair = (f"a{number}", f"b{number}")
            run.until(lambda pair=pair: all(map(cluster.at_work, pair)) and run.at_work == 2)
            before = len(commits(tmp_path))
            run.until(lambda before=before: len(commits(tmp_path)) > before)
            orphans = [each for name in pair for each in cluster.workers(name)]
            cluster.kill(*pair)
            for each in orphans:  # as when the machine is gone
                each.kill()
            run.until_said(f"node b{number} was lost")
            for name in "ab":
                cluster.add(f"{name}{number + 1}")
        assert run.wait() == 0, run.text
    rows = table(tmp_path, "s", "iterations").to_pylist()
    assert len(rows) == len(commits(tmp_path)) == 40
    assert "failed" not in run.text
    assert "tried again" not in run.text


@pytest.mark.cluster
@pytest.mark.timeout(1800)
def test_a_run_whose_driver_is_lost_with_its_node_goes_on_from_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = SWEEP | {
        "seeds": [0, 1, 2, 3],
        "train": {"epochs": 1500, "batch_size": 50},
        "prune": {"iterations": 1},
    }
    with raylets() as cluster:
        for name in ("stays", "goes"):
            cluster.add(name)
        first = Run(tmp_path, cluster, sweep, "goes")
        first.until(lambda: commits(tmp_path) and first.nodes_at_work == {"stays", "goes"})
        first.until(lambda: {*holders(tmp_path).values()} == {"stays", "goes"})
        workers = cluster.workers("goes")
        first.process.kill()
        cluster.kill("goes")
        for each in workers:
            each.kill()
        before = holders(tmp_path)
        second = Run(tmp_path, cluster, sweep, "stays")
        # It does not begin with waiting for what it cannot know to be dead.
        second.until(lambda: holders(tmp_path).keys() - before.keys())
        assert all(ticket.exists() for ticket, host in before.items() if host == "goes")
        assert second.wait() == 0, second.text
        wait_for(lambda: sweep_status(store_of(tmp_path), "s").state == "finished")
    assert "tried again" not in second.text
    assert claimed(tmp_path) == []
    (tmp_path / "alone").mkdir()
    sweeping.run(tmp_path / "alone", sweep)
    monkeypatch.setattr(sweeping, "TIMES", sweeping.TIMES | {"host"})
    assert_equal_results(tmp_path, tmp_path / "alone", "s")


def holders(folder: Path) -> dict[Path, str]:
    """The tickets of what is being trained, and on which host."""
    found: dict[Path, str] = {}
    for ticket in claimed(folder):
        with suppress(OSError, ValueError):  # it is just being written, or given back
            found[ticket] = json.loads(ticket.read_text())["process"]["host"]
    return found


@pytest.mark.cluster
@pytest.mark.timeout(1800)
def test_nodes_of_no_use_are_left_out(tmp_path: Path) -> None:
    """One has another code, one not the storage, one lacks a package."""
    other, broken = tmp_path / "other", tmp_path / "broken"
    root = Path(__file__).parents[2]
    for package in ("orchestrator", "trainables", "prunesweep"):
        shutil.copytree(root / package, other / package)
    with (other / "trainables/sparsity/sparsity.py").open("a") as file:
        file.write("\nCHANGED = True\n")
    broken.mkdir()
    (broken / "safetensors.py").write_text("raise ImportError('no safetensors here')")
    storage = tmp_path / "prunesweep-store"
    storage.mkdir()
    path = os.environ.get("PYTHONPATH", "")
    # Long enough for the good node not to be done before the others have shown what they are.
    sweep = SWEEP | {
        "seeds": [*range(6)],
        "train": {"epochs": 3000, "batch_size": 50},
        "prune": {"iterations": 1},
    }
    with raylets() as cluster:
        cluster.add("other", environment={"PYTHONPATH": os.pathsep.join([str(other), path])})
        cluster.add("broken", environment={"PYTHONPATH": os.pathsep.join([str(broken), path])})
        cluster.add("hidden", before=f"mount -t tmpfs none {storage}")
        cluster.add("good")
        run = Run(tmp_path, cluster, sweep)
        for name in ("other", "broken", "hidden"):
            run.until_said(f"node {name} is left out of this run")
        assert run.wait() == 0, run.text
    rows = table(tmp_path, "s", "iterations").to_pylist()
    assert {row["host"] for row in rows} == {"good"}
    assert len(rows) == 12
    for name in ("other", "broken", "hidden"):
        assert run.text.count(f"node {name} is left out of this run") == 1, run.text
    assert "has another prunesweep" in run.text
    assert "no safetensors here" in run.text


@pytest.mark.cluster
def test_what_fits_on_no_node_is_refused(tmp_path: Path) -> None:
    with raylets(cpus=1) as cluster:
        run = Run(tmp_path, cluster, SWEEP | {"resources": {"cpus_per_lineage": 8}})
        assert run.wait() == 2
    assert "one needs 8 CPUs" in run.text
    assert "the cluster has 1 CPUs" in run.text


@pytest.mark.cluster
def test_a_run_that_waits_for_a_node_can_be_interrupted(tmp_path: Path) -> None:
    with raylets() as cluster:
        run = Run(tmp_path, cluster, SWEEP)
        run.until_said("waiting for a node")
        run.process.send_signal(signal.SIGINT)
        assert run.wait() == 130
