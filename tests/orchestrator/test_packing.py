"""How lineages are laid on devices: slots, floors of GPUs, bundles; one run through Ray."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ray_nodes import loopback_environment
from test_scheduling import planned, planned_sweep, queue_of

from orchestrator.records.probes import Probe
from orchestrator.run.capacity import Room, Slot, idle, slots
from orchestrator.run.cluster import _cpus
from orchestrator.run.estimates import work
from orchestrator.run.machines import Cluster, Node, this_machine
from orchestrator.run.nodes import Nodes
from orchestrator.run.packing import CONTEXT_BYTES, pack
from orchestrator.run.placing import Placing
from orchestrator.run.queue import Cause
from orchestrator.run.ready import kind_of
from orchestrator.run.tuning import _request, _Search
from orchestrator.sweepfile.resources import Resources

AUTO = Resources()
MANY = 1000


def cluster(*nodes: tuple[int, int]) -> Cluster:
    return Cluster(sum(cpus for cpus, _ in nodes), sum(gpus for _, gpus in nodes), nodes)


class BestFit:
    """GPUs of one node as Ray gives them to trials: the fullest that has room for a share."""

    def __init__(self, gpus: int) -> None:
        self.free = [10_000] * gpus
        self.on: dict[str, tuple[int, int]] = {}

    def put(self, trial: str, slot: Slot) -> None:
        units = round(slot.gpus * 10_000)
        fitting = [(free, gpu) for gpu, free in enumerate(self.free) if free >= units]
        assert fitting, f"{trial} would wait for {slot.gpus} of a GPU"
        gpu = min(fitting)[1]
        self.free[gpu] -= units
        self.on[trial] = gpu, units

    def end(self, trial: str) -> None:
        gpu, units = self.on.pop(trial)
        self.free[gpu] += units

    @property
    def loads(self) -> list[int]:
        counts = Counter(gpu for gpu, _ in self.on.values())
        return [counts[gpu] for gpu in range(len(self.free))]


@pytest.mark.parametrize("gpus", [1, 2, 4, 8])
@pytest.mark.parametrize("largest", [1, 2, 3, 4])
def test_trials_have_a_gpu_each_before_any_two_share_one(gpus: int, largest: int) -> None:
    for trials in range(1, gpus * largest + 1):
        node, found = BestFit(gpus), slots(AUTO, cluster((64, gpus)), trials, largest)
        room = Room(found)
        assert len(found) == trials
        for number in range(trials):
            node.put(str(number), room.take(str(number)))
            assert max(node.loads) - min(node.loads) <= 1
            assert sum(slot.memory for slot in found[: max(node.loads)]) <= 1 + 1e-9


@given(st.integers(1, 6), st.integers(1, 4), st.lists(st.integers(0, 100), min_size=1, max_size=60))
@settings(deadline=None)
def test_whatever_ends_leaves_room_for_what_comes_next(
    gpus: int, largest: int, endings: list[int]
) -> None:
    node, room = BestFit(gpus), Room(slots(AUTO, cluster((64, gpus)), MANY, largest))
    running = [f"first {number}" for number in range(len(room.slots))]
    for trial in running:
        node.put(trial, room.take(trial))
    for number, ending in enumerate(endings):
        gone = [running.pop(ending % len(running)) for _ in range(1 + ending % len(running))]
        for trial in gone:
            node.end(trial)
            room.leave(trial)
        for each in range(len(gone)):
            running.append(f"{number} {each}")
            node.put(running[-1], room.take(running[-1]))
        assert node.loads == [largest] * gpus


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([(16, 4)], {1: 4, 2: 4, 3: 4, 4: 4}),
        ([(6, 4)], {1: 4, 2: 2}),
        ([(3, 4)], {1: 3}),
        ([(64, 0), (4, 4)], {1: 4}),
        ([(4, 4), (64, 1)], {1: 5, 2: 1, 3: 1, 4: 1}),
        ([(8, 2), (0, 2)], {1: 2, 2: 2, 3: 2, 4: 2}),
    ],
)
def test_nodes_are_counted_one_by_one_and_their_cpus_bound_them(
    nodes: list[tuple[int, int]], expected: dict[int, int]
) -> None:
    found = slots(AUTO, cluster(*nodes), MANY)
    assert [*Counter(slot.gpus for slot in found).values()] == [*expected.values()]
    assert {slot.memory for slot in found} == {1 / len(expected)}


@pytest.mark.parametrize(
    ("asked", "more", "given"),
    [
        ("auto", 0.5, Slot(1.0, 1.0)),  # with another it would have less than it is known to need
        (0.25, 0.5, Slot(0.5, 0.5)),
        (0.25, 0.25, Slot(0.25, 0.25)),
    ],
)
def test_who_ran_out_of_memory_is_given_more(asked: Any, more: float, given: Slot) -> None:
    found = slots(Resources(gpus_per_lineage=asked), cluster((8, 2)), MANY)
    assert found[0].for_more(more) == given


def test_a_second_attempt_is_made_without_mps_and_after_running_out_alone(tmp_path: Path) -> None:
    queue, _ = queue_of(planned(tmp_path, "methods: [one_shot]"), retries=1, gpus=0.25)
    there = Node("one", "here", 16, 1, True, ("127.0.0.1", 1))
    room = Room(slots(AUTO, cluster((16, 1)), MANY))
    search = _Search(queue, Placing(queue, Nodes(lambda: [there]), room, lambda _: room.slots))
    first = search.suggest("first")
    assert (first["gpus"], first["memory"], first["mps"]) == (0.5001, 0.25, True)
    queue.failed("first", Cause.of("no room", torch.OutOfMemoryError("CUDA")))
    search.on_trial_complete("first", error=True)
    second = search.suggest("second")
    assert (second["gpus"], second["memory"], second["mps"]) == (1.0, 1.0, False)


def test_a_worker_with_mps_is_given_to_no_attempt_without() -> None:
    config = {"gpus": 0.5001, "memory": 0.5, "mps": True, "not_on": []}
    assert _request(1, config) == _request(1, config)
    assert _request(1, config) != _request(1, config | {"mps": False})


def test_what_is_left_idle_is_told() -> None:
    (told,) = idle(AUTO, cluster((64, 0), (4, 4)))
    assert "1 of 2 nodes have no GPU, and their 64 CPUs are left idle" in told
    (told,) = idle(Resources(cpus_per_lineage=2), cluster((4, 4)))
    assert "2 of 4 GPUs are left idle" in told
    for nothing in (cluster((8, 2)), cluster((8, 0), (4, 0))):
        assert list(idle(AUTO, nothing)) == []
    assert list(idle(Resources(gpus_per_lineage=0), cluster((64, 0), (4, 4)))) == []


def test_a_run_has_the_cpus_that_its_process_may_use() -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert this_machine().cpus == 1
        assert _cpus() == (1 if (os.cpu_count() or 1) > 1 else None)
    finally:
        os.sched_setaffinity(0, before)


class TestBundles:
    SEEDS = "seeds: [0, 1, 2, 3, 4, 5, 6, 7]\nmethods: [one_shot]"

    @pytest.mark.parametrize(
        ("fuse", "gpus", "trials"), [(8, 1, 1), (4, 1, 2), (8, 4, 4), ("off", 4, 8), (2, 16, 8)]
    )
    def test_as_few_trials_as_fill_the_gpus(
        self, tmp_path: Path, fuse: Any, gpus: int, trials: int
    ) -> None:
        sweep = planned_sweep(tmp_path, self.SEEDS)
        resources = Resources(fuse=fuse)
        found = pack(sweep.plan.tasks, sweep.datasets, resources, cluster((64, gpus)))
        assert len(found.slots) == trials

    def test_what_a_probe_has_measured_decides(self, tmp_path: Path) -> None:
        sweep = planned_sweep(tmp_path, self.SEEDS)
        of_it = work(sweep.plan.tasks[0].lineage.config())
        # Two networks at once are the fastest, and two such trials fill the memory.
        probes = [probe(of_it, 1, 1.0, 10**9), probe(of_it, 2, 0.5, 3 * 10**9),
                  probe(of_it, 4, 0.6, 9 * 10**9)]  # fmt: skip
        found = pack(sweep.plan.tasks, sweep.datasets, Resources(fuse="auto"),
                     cluster((64, 1)), probes)  # fmt: skip
        assert found.bundles == {kind_of(sweep.plan.tasks[0]): 2}
        assert [slot.memory for slot in found.slots] == [0.5, 0.5]
        assert "as probes have measured" in found.line
        guessed = pack(sweep.plan.tasks, sweep.datasets, Resources(fuse="auto"),
                       cluster((64, 1)))  # fmt: skip
        assert found.bundles != guessed.bundles


def probe(of_it: dict[str, Any], fused: int, seconds: float, peak: int) -> Probe:
    memory = 2 * (3 * 10**9 + CONTEXT_BYTES)
    when = "2026-01-01T00:00:00+00:00"
    return Probe(of_it, fused, "a GPU", "here", "2", seconds, seconds, peak, memory, when)


TRIALS = """
import gc, json, os, sys, time
from pathlib import Path
import ray
from ray import tune
from ray.tune.experiment import Trial
from ray.cluster_utils import Cluster as Raylets
from test_scheduling import Listener, planned_sweep
from orchestrator.run.capacity import Room
from orchestrator.run.cluster import QUIET, nodes as nodes_now
from orchestrator.run.ending import Ending
from orchestrator.run.packing import pack
from orchestrator.run.machines import Cluster
from orchestrator.run.nodes import Nodes
from orchestrator.run.placing import Placing
from orchestrator.run.queue import Queue
from orchestrator.run.tuning import _Notices, _tuner
from orchestrator.sweepfile.resources import Resources
from trainables.lineage.bench import StoreOptions
from trainables.lineage.trainable import Work
from trainables.plugins.loading import Luggage
from trainables.store import Store

folder = Path(sys.argv[1])

class Placed(tune.Trainable):
    # Says where it is, and stays until all are somewhere.
    def step(self):
        (lineage,) = self.config["attempts"]
        where = ray.get_runtime_context().get_node_id(), os.environ["CUDA_VISIBLE_DEVICES"]
        (folder / "placed" / lineage).write_text(json.dumps(where))
        while len(os.listdir(folder / "placed")) < 5:
            time.sleep(0.05)
        return {"reports": {lineage: {"complete": True}}, "done": True}

    def reset_config(self, new_config):
        return True

(folder / "placed").mkdir()
nodes = Raylets(initialize_head=True, head_node_args={"num_cpus": 8, "num_gpus": 0})
nodes.add_node(num_cpus=5, num_gpus=4)
ray.init(nodes.address, log_to_driver=False)
seeds = "seeds: [0, 1, 2, 3, 4]\\nmethods: [one_shot]"
planned = planned_sweep(folder, seeds)
packing = pack(planned.plan.tasks, planned.datasets, Resources(),
               Cluster.of(nodes_now()))
memory, trials = packing.slots[0].memory, len(packing.slots)
queue = Queue(planned.plan.tasks, {}.get, memory, 0, Listener(), trials)
work = Work(Luggage(()), {}, {}, {}, frozenset(), str(folder), StoreOptions(), 1, None, "r", None)
ending = Ending(Store(str(folder / "store")), "s", "a-run")
placing = Placing(queue, Nodes(nodes_now), Room(packing.slots), packing.lay)
_tuner(Placed, work, placing, ending, _Notices(queue, work), str(folder / "tune")).fit()
assert not queue.unfinished
# Tune has forgotten all but the last that ended, and one more.
gc.collect()
kept = sum(type(each) is Trial for each in gc.get_objects())
assert kept <= 2, kept
ray.shutdown()
nodes.shutdown()
"""


def in_ray(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    here = Path(__file__).parent
    environment = loopback_environment() | {
        "RAY_AUTH_MODE": "disabled", "PYTHONPATH": os.pathsep.join([str(here), *sys.path]),
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-c", script, str(folder)],
        env=environment, capture_output=True, text=True, timeout=240,
    )  # fmt: skip


@pytest.mark.cluster
def test_five_trials_on_four_gpus_lie_on_all_four(tmp_path: Path) -> None:
    """Beside a node without a GPU, whose CPUs are not counted; and none is kept when it ended."""
    done = in_ray(TRIALS, tmp_path)
    placed = [tuple(json.loads(file.read_text())) for file in (tmp_path / "placed").iterdir()]
    assert done.returncode == 0, done.stderr
    assert sorted(Counter(gpu for _, gpu in placed).values()) == [1, 1, 1, 2]
    assert {gpu for _, gpu in placed} == {"0", "1", "2", "3"}
    assert len({node for node, _ in placed}) == 1


WORKERS = (
    TRIALS[: TRIALS.index("class Placed")]
    + """
class Slow(tune.Trainable):
    # The first is there at once; another takes as long to start as six lineages to train.
    def setup(self, config):
        self.me = str(os.getpid())
        (folder / "begun" / self.me).touch()
        try:
            (folder / "first").mkdir()
        except FileExistsError:
            while len(os.listdir(folder / "trained")) < 6:
                time.sleep(0.05)

    def step(self):
        (lineage,) = self.config["attempts"]
        while len(os.listdir(folder / "begun")) < 2:
            time.sleep(0.05)
        (folder / "trained" / lineage).write_text(self.me)
        return {"reports": {lineage: {"complete": True}}, "done": True}

    def reset_config(self, new_config):
        return True

for name in ("begun", "trained"):
    (folder / name).mkdir()
os.environ.update(QUIET)
ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
planned = planned_sweep(folder, "seeds: {count: 40}\\nmethods: [one_shot]")
packing = pack(planned.plan.tasks, planned.datasets, Resources(), Cluster.of(nodes_now()))
queue = Queue(planned.plan.tasks, {}.get, 0, 0, Listener(), len(packing.slots))
work = Work(Luggage(()), {}, {}, {}, frozenset(), str(folder), StoreOptions(), 1, None, "r", None)
ending = Ending(Store(str(folder / "store")), "s", "a-run")
placing = Placing(queue, Nodes(nodes_now), Room(packing.slots), packing.lay)
_tuner(Slow, work, placing, ending, _Notices(queue, work), str(folder / "tune")).fit()
assert not queue.unfinished
ray.shutdown()
"""
)


@pytest.mark.cluster
def test_a_worker_that_takes_longer_to_start_than_lineages_take_is_waited_for(
    tmp_path: Path,
) -> None:
    done = in_ray(WORKERS, tmp_path)
    assert done.returncode == 0, done.stderr
    begun = {file.name for file in (tmp_path / "begun").iterdir()}
    trained = [file.read_text() for file in (tmp_path / "trained").iterdir()]
    assert len(trained) == 40
    assert len(begun) == 2
    assert {*trained} == begun
