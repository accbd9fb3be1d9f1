"""Which lineages share a trial: the queue forms bundles, and forms them anew when it helps."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import pytest

from orchestrator.run.datasets import resolve_datasets
from orchestrator.run.fusing import fusing_notices, largest_bundles
from orchestrator.run.planning import Plan, make_plan, sweep_lineages
from orchestrator.run.queue import Queue
from orchestrator.run.ready import Attempt, kind_of
from orchestrator.sweepfile.resources import Resources
from orchestrator.sweepfile.yaml_source import load_sweep
from trainables.data import data_roots
from trainables.lineage.cause import Cause

OOM = {"failed": Cause("no room", out_of_memory=True)}
BROKEN = {"failed": Cause("it broke")}


class Nobody:
    """An observer that counts what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def __getattr__(self, event: str) -> Any:
        return lambda *arguments: self.told.append((event, *arguments))


def planned(folder: Path, text: str) -> Plan:
    file = folder / "s.yaml"
    head = "name: s\ndataset: {name: digits, subset: 100}\nmodel: mlp\n"
    file.write_text(f"{head}prune: {{iterations: 2}}\n{text}")
    spec, roots = load_sweep(file), data_roots(None, {})
    return make_plan(sweep_lineages(spec, resolve_datasets(spec, roots)), {}.get)


def queue_of(plan: Plan, largest: int, trials: int = 2, retries: int = 1) -> Queue:
    sizes = {kind_of(task): largest for task in plan.tasks}
    return Queue(plan.tasks, {}.get, 0.25, retries, cast(Any, Nobody()), trials, sizes)


def ids(attempts: Iterable[Attempt]) -> list[str]:
    return [attempt.task.lineage.id for attempt in attempts]


def committed(attempts: Iterable[Attempt], step: int) -> dict[str, dict[str, Any]]:
    lineages = [attempt.task.lineage for attempt in attempts]
    return {
        each.id: {"key": each.keys[step], "complete": step == len(each.keys) - 1}
        for each in lineages
    }


SEEDS = "seeds: [0, 1, 2, 3, 4, 5]\nmethods: [one_shot, lottery_ticket]\n"


def test_what_is_ready_is_divided_among_the_free_trials(tmp_path: Path) -> None:
    plan = planned(tmp_path, SEEDS)
    queue = queue_of(plan, largest=16)
    first, second = queue.hand_out("a"), queue.hand_out("b")
    assert (len(first), len(second)) == (3, 3)
    assert {*ids(first), *ids(second)} == {t.lineage.id for t in plan.tasks if t.after is None}
    assert not queue.hand_out("c")


def test_no_bundle_is_larger_than_asked(tmp_path: Path) -> None:
    queue = queue_of(planned(tmp_path, SEEDS), largest=2)
    assert len(queue.hand_out("a")) == 2
    alone = queue_of(planned(tmp_path, SEEDS), largest=1)
    assert len(alone.hand_out("a")) == 1


def test_a_bundle_takes_in_what_its_commits_release(tmp_path: Path) -> None:
    queue = queue_of(planned(tmp_path, SEEDS), largest=16, trials=1)
    trunks = queue.hand_out("a")
    assert len(trunks) == 6
    assert queue.reported("a", committed(trunks, 0))  # it is to end: more can be in it now
    queue.ended("a")
    assert len(queue.hand_out("b")) == 12


def test_a_full_bundle_is_left_alone(tmp_path: Path) -> None:
    queue = queue_of(planned(tmp_path, SEEDS), largest=6, trials=1)
    trunks = queue.hand_out("a")
    assert not queue.reported("a", committed(trunks, 0))
    assert not queue.reported("a", committed(trunks, 1))
    assert not queue.reported("a", committed(trunks, 2))
    queue.ended("a")
    rest = queue.hand_out("b")
    assert len(rest) == 6
    assert all(attempt.number == 1 for attempt in rest)


def test_only_one_kind_is_in_a_bundle_and_the_longest_goes_first(tmp_path: Path) -> None:
    plan = planned(
        tmp_path,
        "train: {epochs: [1, 2]}\nseeds: [0, 1]\n"
        "methods: [{name: snip, density: 0.5, examples: 50}, {name: imp, density: 0.1}]\n",
    )
    queue = queue_of(plan, largest=8, trials=1)
    bundle = queue.hand_out("a")
    assert len({kind_of(attempt.task) for attempt in bundle}) == 1
    assert all(id.startswith("imp") for id in ids(bundle)[:2])


def test_a_lineage_that_fails_leaves_its_bundle_and_is_tried_again(tmp_path: Path) -> None:
    queue = queue_of(planned(tmp_path, SEEDS), largest=3, trials=1)
    bundle = queue.hand_out("a")
    bad, *good = bundle
    reports = {**committed(good, 0), bad.task.lineage.id: BROKEN | {"fused": 3}}
    queue.reported("a", reports)
    queue.ended("a")
    handed = [each for trial in "bcdef" for each in queue.hand_out(trial)]
    (again,) = [each for each in handed if each.task is bad.task]
    assert (again.number, again.failures, again.gpus) == (2, 1, 0.25)
    assert not queue.failures


def test_what_is_too_much_together_is_halved_and_costs_no_retry(tmp_path: Path) -> None:
    queue = queue_of(planned(tmp_path, SEEDS), largest=6, trials=1, retries=0)
    bundle = queue.hand_out("a")
    queue.reported("a", {id: OOM | {"fused": 6} for id in ids(bundle)})
    queue.ended("a")
    halves = [queue.hand_out("b"), queue.hand_out("c")]
    assert [len(half) for half in halves] == [3, 3]
    queue.reported("b", {id: OOM | {"fused": 3} for id in ids(halves[0])})
    queue.ended("b")
    (alone,) = queue.hand_out("d")
    assert (alone.together, alone.failures, alone.gpus) == (1, 0, 0.25)
    queue.reported("d", {id: OOM | {"fused": 1} for id in ids([alone])})
    assert [failure.lineage for failure in queue.failures][:1] == ids([alone])


def test_one_that_is_alone_too_large_gets_more_of_the_gpu(tmp_path: Path) -> None:
    queue = queue_of(planned(tmp_path, "methods: [one_shot]"), largest=4, trials=1)
    (attempt,) = queue.hand_out("a")
    queue.reported("a", {attempt.task.lineage.id: OOM | {"fused": 1}})
    queue.ended("a")
    (again,) = queue.hand_out("b")
    assert (again.gpus, again.failures) == (0.5, 1)


def test_of_a_bundle_whose_worker_dies_each_goes_on_alone(tmp_path: Path) -> None:
    """Any of them may have been the one, and none is blamed for it before it dies alone."""
    queue = queue_of(planned(tmp_path, SEEDS), largest=3, trials=1, retries=0)
    bundle = queue.hand_out("a")
    assert len(bundle) == 3
    queue.failed("a", Cause("its worker died"))
    assert not queue.failures
    alone: dict[str, Attempt] = {}
    for trial in "bcdefg":
        for attempt in queue.hand_out(trial):
            alone[trial] = attempt
    again = {trial: each for trial, each in alone.items() if each.number == 2}
    assert ids(again.values()) == ids(bundle)
    assert all(len(queue._running[trial]) == 1 for trial in again)
    trial, attempt = next(iter(again.items()))
    queue.failed(trial, Cause("its worker died"))
    assert queue.failures[0].lineage == attempt.task.lineage.id


def test_of_a_bundle_one_of_which_is_stuck_the_others_are_innocent(tmp_path: Path) -> None:
    queue = queue_of(planned(tmp_path, SEEDS), largest=3, trials=1, retries=0)
    bundle = queue.hand_out("a")
    stuck, *others = ids(bundle)
    queue.failed("a", Cause("it took too long"), [stuck])
    assert queue.failures[0].lineage == stuck
    left = [each for trial in "bcd" for each in queue.hand_out(trial)]
    again = [each for each in left if each.number == 2]
    assert ids(again) == others
    assert all(each.failures == 0 for each in again)


def test_what_waits_for_another_run_gives_its_place_to_a_larger_bundle(tmp_path: Path) -> None:
    queue = queue_of(planned(tmp_path, SEEDS), largest=16, trials=1)
    trunks = queue.hand_out("a")
    elsewhere, *mine = trunks
    reports = committed(mine, 0) | {elsewhere.task.lineage.id: {"claimed_elsewhere": True}}
    assert queue.reported("a", reports)
    queue.ended("a")
    assert len(queue.hand_out("b")) == 10
    assert ids(queue.hand_out("c")) == ids([elsewhere])


def test_a_stopped_run_hands_out_nothing_and_says_that_it_is_unfinished(tmp_path: Path) -> None:
    queue = queue_of(planned(tmp_path, SEEDS), largest=4, trials=1)
    bundle = queue.hand_out("a")
    queue.stop()
    assert queue.reported("a", committed(bundle, 0))
    queue.ended("a")
    assert not queue.hand_out("b")
    assert queue.exhausted
    assert queue.unfinished


@pytest.mark.parametrize(
    ("fuse", "gpu", "size"),
    [("off", True, None), ("auto", False, None), ("auto", True, 64), (8, False, 8), (8, True, 8)],
)
def test_how_many_go_together(tmp_path: Path, fuse: Any, gpu: bool, size: int | None) -> None:
    plan = planned(tmp_path, "methods: [one_shot]")
    spec = load_sweep(tmp_path / "s.yaml")
    datasets = resolve_datasets(spec, data_roots(None, {}))
    resources = Resources(fuse=fuse)
    sizes = largest_bundles(plan.tasks, datasets, resources, gpu)
    assert list(sizes.values()) == ([] if size is None else [size])
    notices = list(fusing_notices(plan.tasks, datasets, resources))
    assert [("bit-identical" in notice) for notice in notices] == ([True] if fuse == 8 else [])


ALONE = {
    "dropping": (
        "from torch import nn\nfrom prunesweep import model\n\n@model\n"
        "def mine(shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, classes))\n",
        "model: mine",
        "fuse: mine is trained alone: it draws random numbers in training",
    ),
    "noisy": (
        "import torch\nfrom torch.nn import functional as F\nfrom prunesweep import loss\n\n@loss\n"
        "def mine(logits, labels):\n"
        "    return F.cross_entropy(logits, labels, reduction='none') + torch.rand(len(labels))\n",
        "model: {name: mlp, hidden: [8]}\ntrain: {loss: mine}",
        "fuse: mlp is trained alone: the loss mine may draw random numbers",
    ),
}


@pytest.mark.parametrize(("plugin", "sections", "told"), ALONE.values(), ids=ALONE)
def test_what_cannot_be_fused_is_trained_alone_and_said(
    tmp_path: Path, plugin: str, sections: str, told: str
) -> None:
    (tmp_path / "mine.py").write_text(plugin)
    file = tmp_path / "s.yaml"
    file.write_text(
        f"name: s\ndataset: {{name: digits, subset: 100}}\n{sections}\nplugins: [mine.py]\n"
        "methods: [one_shot]\nresources: {fuse: 4}\n"
    )
    spec, roots = load_sweep(file), data_roots(None, {})
    datasets = resolve_datasets(spec, roots)
    plan = make_plan(sweep_lineages(spec, datasets), {}.get)
    assert largest_bundles(plan.tasks, datasets, spec.resources, gpu=False) == {}
    first, _ = fusing_notices(plan.tasks, datasets, spec.resources)
    assert first == told


def test_lineages_whose_masks_change_in_training_share_no_trial(tmp_path: Path) -> None:
    plan = planned(tmp_path, "methods: [one_shot, {name: set, density: 0.5, every: 1}]\n")
    spec = load_sweep(tmp_path / "s.yaml")
    datasets, resources = resolve_datasets(spec, data_roots(None, {})), Resources(fuse=4)
    kinds = {kind_of(task): task.lineage.cell.method.name for task in plan.tasks}
    sizes = largest_bundles(plan.tasks, datasets, resources, gpu=False)
    assert {kinds[kind]: size for kind, size in sizes.items()} == {"one_shot": 4}
    first, _ = fusing_notices(plan.tasks, datasets, resources)
    assert first.startswith("fuse: set is trained alone: it changes the masks")


def test_the_most_urgent_come_first_then_the_longest(tmp_path: Path) -> None:
    plan = planned(
        tmp_path,
        "seeds: [0, 1]\nmethods: [{name: snip, density: 0.5, examples: 50},"
        " {name: synflow, density: 0.5}, {name: imp, density: 0.1}]\n",
    )
    urgent = [task.lineage.id for task in plan.tasks if task.lineage.id.startswith("synflow")]
    rank = dict.fromkeys(urgent, 0)
    queue = Queue(plan.tasks, {}.get, 0, 0, cast(Any, Nobody()), 1, {}, rank)
    order = [id for trial in "abcdef" for id in ids(queue.hand_out(trial))]
    assert set(order[:2]) == set(urgent)
    assert [id.split("-")[0] for id in order[2:]] == ["imp", "imp", "snip", "snip"]


def test_a_lineage_that_is_dropped_ends_after_its_iteration_and_the_rest_goes_on(
    tmp_path: Path,
) -> None:
    queue = queue_of(planned(tmp_path, SEEDS), largest=3, trials=1)
    bundle = queue.hand_out("a")
    dropped, *others = ids(bundle)
    queue.drop([dropped])
    assert queue.reported("a", committed(bundle, 0))
    queue.ended("a")
    handed = [id for trial in "bcdef" for id in ids(queue.hand_out(trial))]
    assert set(others) < set(handed)
    assert dropped not in handed
    assert queue.unfinished


def test_a_lineage_that_is_dropped_is_not_tried_again_and_holds_nobody_up(tmp_path: Path) -> None:
    queue = queue_of(planned(tmp_path, SEEDS), largest=1, trials=2, retries=3)
    (first,) = queue.hand_out("a")
    queue.hand_out("b")
    queue.drop(ids([first]))
    queue.failed("a", Cause("its worker died"))
    # Its trunk is for the other lineage of its seed to train now.
    handed = [id for trial in "cdefghijklm" for id in ids(queue.hand_out(trial))]
    assert first.task.lineage.id not in handed
    heirs = [task.lineage.id for task in queue.tasks if task.after == first.task.lineage.keys[0]]
    assert heirs
    assert set(heirs) <= set(handed)


def test_a_lineage_that_is_dropped_while_another_run_is_at_it_is_not_begun_again(
    tmp_path: Path,
) -> None:
    queue = queue_of(planned(tmp_path, SEEDS), largest=1, trials=2)
    (first,) = queue.hand_out("a")
    assert queue.reported("a", {id: {"claimed_elsewhere": True} for id in ids([first])})
    queue.ended("a")
    queue.drop(ids([first]))
    handed = [id for trial in "bcdefghijklm" for id in ids(queue.hand_out(trial))]
    assert first.task.lineage.id not in handed
    heirs = [task.lineage.id for task in queue.tasks if task.after == first.task.lineage.keys[0]]
    assert heirs
    assert set(heirs) <= set(handed)
