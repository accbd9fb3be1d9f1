"""Planning: a sweep and what the store has → the tree of iterations to run. Pure."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from types import MappingProxyType
from typing import Any

from orchestrator.run.datasets import ResolvedDataset
from orchestrator.run.ranking import Rung
from orchestrator.run.refusals import ablation_mistakes, check_cells, check_lineages, same_twice
from orchestrator.sweepfile.spec import SweepSpec, cells
from trainables.lineage.ending import End, until
from trainables.lineage.identity import trunk_key
from trainables.lineage.keys import (
    Cell,
    Lineage,
    Measurement,
    ablated,
    lineage_id,
    lineage_keys,
    lineage_measurements,
    trunk_config,
)
from trainables.lineage.pairs import measurable, with_pairs
from trainables.lineage.stored import FilesOf, missing_iterations, missing_measurements
from trainables.pruning import Step
from trainables.store.artifacts import WEIGHTS


@dataclass(frozen=True)
class Task:
    """A lineage with something to train, or to measure.

    It trains what is missing from iteration `first` on, but not before `after`, the last of its
    missing iterations that another lineage trains, is committed; then it measures.
    """

    lineage: Lineage
    first: int
    after: str | None


@dataclass(frozen=True)
class Plan:
    """What a run has to do.

    Of the `rows` iterations that all lineages have of their own, `shared` are the same as one of
    another lineage; of the rest, `stored` are in the store and `to_train` are not. `left` are the
    lineages that are not complete and are not trained, of those that were to be left, `leaving`.
    Those of `ends`, by their ids, have ended; others may end as well before all that is `to_train`
    is trained: by stop rules, or at the `rung` that is next.
    `to_measure` are the keys of the measurements to be made, and `alone` are those that would be of
    pairs of which one ticket is neither stored nor trained.
    """

    lineages: tuple[Lineage, ...]
    tasks: tuple[Task, ...]
    to_train: frozenset[str]
    stored: int
    shared: int
    left: tuple[str, ...] = ()
    leaving: frozenset[str] = frozenset()
    ends: Mapping[str, End] = field(default_factory=dict)
    rung: Rung | None = None
    to_measure: frozenset[str] = frozenset()
    alone: frozenset[str] = frozenset()

    @property
    def complete(self) -> int:
        """How many lineages have nothing left to train."""
        return len(self.lineages) - len(self.tasks) - len(self.left)

    @property
    def rows(self) -> int:
        return sum(len(lineage.own_keys) for lineage in self.so_far)

    @cached_property
    def so_far(self) -> tuple[Lineage, ...]:
        """The lineages, each up to where it ends."""
        return tuple(until(lineage, self.ends.get(lineage.id)) for lineage in self.lineages)

    @property
    def trained_on(self) -> frozenset[str]:
        """The identities, as JSON, of the datasets that something is left to train on."""
        return frozenset(key for task in self.tasks for key in task.lineage.trained_on)

    @cached_property
    def may_end(self) -> frozenset[str]:
        """The ids of the lineages that may end before all of them is trained."""
        ruled = {t.lineage.id for t in self.tasks if t.lineage.cell.prune.stop}
        return frozenset(ruled | (self.rung.ids if self.rung else frozenset()))


def sweep_lineages(spec: SweepSpec, datasets: Sequence[ResolvedDataset]) -> tuple[Lineage, ...]:
    """The lineages of a sweep, one a cell; `datasets` are those of `spec.datasets`, in order.

    Raises PlanError when a lineage could not run: rewinding past the end of training, a scope or
    a held-out part it does not have, more scoring examples than there are, an ablation that means
    nothing; when two are the same, or there are too many iterations.
    """
    check_cells(spec, datasets)
    by_config = {dataset.config: dataset.identity for dataset in datasets}
    trunks: dict[tuple[Any, ...], str] = {}
    methods: dict[tuple[Any, ...], tuple[tuple[Step, ...], str]] = {}
    known: dict[tuple[str, ...], Cell] = {}
    lineages = []
    for cell in cells(spec):
        identity = by_config[cell.dataset]
        trunk_of = (id(cell.dataset), id(cell.model), id(cell.train), cell.seed)
        if trunk_of not in trunks:
            trunks[trunk_of] = trunk_key(trunk_config(cell, identity))
        method_of = (id(cell.method), id(cell.prune))
        if method_of not in methods:
            method, prune = cell.method, cell.prune
            methods[method_of] = method.steps(prune), method.identity(prune)
        trunk, (steps, adds) = trunks[trunk_of], methods[method_of]
        what, elsewhere = (trunk, adds), None
        if cell.ablation is not None:
            there = cell.ablation.elsewhere
            elsewhere = None if there is None else by_config[there]
            with ablation_mistakes(spec, cell):
                steps, adds = ablated(cell, steps, adds, elsewhere)
        keys = lineage_keys(trunk, steps)
        if cell.ablation is not None:
            # Where it branches off may be said in two ways.
            what = (*what, keys[-1])
        if (first := known.setdefault(what, cell)) is not cell:
            raise same_twice(spec, first, cell)
        id_ = lineage_id(cell, trunk, adds)
        # What an ablation branches off is measured where it is trained.
        measures = spec.measures if cell.ablation is None else ()
        measured = lineage_measurements(measures, steps, keys)
        lineages.append(Lineage(id_, cell, identity, trunk, steps, keys, elsewhere, measured))
    check_lineages(spec, lineages)
    return with_pairs(lineages, spec.measures)


def make_plan(
    lineages: Sequence[Lineage],
    files_of: FilesOf,
    leaving: Collection[str] = (),
    urgency: Mapping[str, int] = MappingProxyType({}),
    ends: Mapping[str, End] = MappingProxyType({}),
    rung: Rung | None = None,
) -> Plan:
    """Divide the missing iterations among the lineages, each to the first that needs it, the most
    urgent first, as `urgency` has them; but train nothing for those whose ids are in `leaving`, and
    of those that have come to one of the `ends` nothing behind that.

    `files_of(key)` are the files of an iteration's commit, None when it is not stored.
    """
    owner: dict[str, int] = {}
    tasks, left = [], []
    so_far = [until(lineage, ends.get(lineage.id)) for lineage in lineages]
    wanted = {each.key for lineage in so_far for each in lineage.measurements}
    so_far = _with_both_tickets(so_far, files_of, leaving)
    alone = wanted - {each.key for lineage in so_far for each in lineage.measurements}
    to_measure: set[str] = set()
    urgent_first = sorted(
        enumerate(so_far), key=lambda numbered: urgency.get(numbered[1].id, len(urgency))
    )
    for number, lineage in urgent_first:
        missing = missing_iterations(lineage, files_of)
        unmeasured = missing_measurements(lineage, files_of)
        # What is compared with a ticket that is to be trained is measured where that is.
        ready = [each for each in unmeasured if each.is_ready(files_of)]
        if not (missing or ready):
            continue
        if lineage.id in leaving:
            # What it is compared in, the other lineage of the pair measures as well.
            if missing or any(_is_of_those(leaving, each) for each in ready):
                left.append(lineage)
            continue
        to_measure.update(each.key for each in unmeasured)
        keys = (lineage.keys[t] for t in missing)
        others = [key for key in keys if owner.setdefault(key, number) != number]
        first = missing[0] if missing else len(lineage.keys)
        tasks.append(Task(lineage, first, others[-1] if others else None))
    every = {key for lineage in so_far for key in lineage.keys}
    not_trained = {key for lineage in left for key in lineage.keys if files_of(key) is None}
    return Plan(
        lineages=tuple(lineages),
        tasks=tuple(tasks),
        to_train=frozenset(owner),
        stored=len(every) - len(owner) - len(not_trained - owner.keys()),
        left=tuple(lineage.id for lineage in left),
        leaving=frozenset(leaving),
        shared=sum(len(lineage.own_keys) for lineage in so_far) - len(every),
        ends=ends,
        rung=rung,
        to_measure=frozenset(to_measure),
        alone=frozenset(key for key in alone if files_of(key) is None),
    )


def _with_both_tickets(
    lineages: Sequence[Lineage], files_of: FilesOf, leaving: Collection[str]
) -> list[Lineage]:
    """`lineages` without what is to be measured of pairs of which one ticket is not to come."""
    if not any(each.pair for lineage in lineages for each in lineage.measurements):
        return [*lineages]
    to_come = {key for line in lineages if line.id not in leaving for key in line.keys}
    return measurable(lineages, lambda key: key in to_come or WEIGHTS in (files_of(key) or ()))


def _is_of_those(leaving: Collection[str], measurement: Measurement) -> bool:
    """Whether nobody but lineages that are `leaving` has a measurement that one of them has."""
    return all(ticket.lineage in leaving for ticket in measurement.pair or ())


def wanted_snapshots(lineages: Iterable[Lineage]) -> dict[str, frozenset[int]]:
    """For each trunk key, the steps whose weights its lineages rewind to, or are measured from."""
    steps: dict[str, set[int]] = {}
    for lineage in lineages:
        method = lineage.cell.method
        step = method.rewind_step if method.rewinds == "weights" else 0
        for trunk in {lineage.trunk, lineage.keys[0]}:
            steps.setdefault(trunk, set()).add(step)
        for each in lineage.measurements:
            measured = lineage.steps[each.index]
            wanted = steps.setdefault(lineage.trunk_on(measured.inputs), set())
            wanted.update(each.measure.snapshots)
            if each.measure.starts_rewound and measured.kind != "train":
                wanted.add(method.rewind_step)
    return {trunk: frozenset(found) for trunk, found in steps.items()}


def branch_points(lineages: Iterable[Lineage]) -> frozenset[str]:
    """The keys that lineages go on from in different ways, or whose weights ablations read."""
    children: dict[str, set[str]] = {}
    read: set[str] = set()
    for lineage in lineages:
        for parent, child in pairwise(lineage.keys):
            children.setdefault(parent, set()).add(child)
        if lineage.cell.ablation is not None:
            at = lineage.weights_read(lineage.first_own)
            read |= {lineage.keys[index] for index in at}
    return frozenset(read | {parent for parent, found in children.items() if len(found) > 1})
