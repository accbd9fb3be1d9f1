"""Keys: a cell, its lineage, and the key of each of its iterations."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from trainables.config import Config, canonical, canonical_json, raised
from trainables.data import DatasetOptions
from trainables.lineage.identity import next_key, trunk_key
from trainables.measurements import Measure
from trainables.models import Model
from trainables.pruning import Method, Pruning, Step
from trainables.pruning.ablation import Ablation, branched, pruning_index
from trainables.store.artifacts import WEIGHTS
from trainables.training.recipe import Recipe

if TYPE_CHECKING:
    from trainables.training.batches import Inputs


@dataclass(frozen=True)
class Cell:
    """One cell of a sweep's grid: what one lineage is made from, by the sections of its file.

    With an `ablation`, it is that of one iteration of the lineage without.
    """

    dataset: DatasetOptions
    model: Model
    train: Recipe
    prune: Pruning
    method: Method
    seed: int
    ablation: Ablation | None = None

    @property
    def configs(self) -> tuple[Config, ...]:
        """All of it but the seed."""
        ablations = () if self.ablation is None else (self.ablation,)
        return (self.dataset, self.model, self.train, self.prune, self.method, *ablations)


@dataclass(frozen=True)
class Ticket:
    """An iteration of a lineage, as others know it."""

    lineage: str
    seed: int
    iteration: int
    key: str


@dataclass(frozen=True)
class Measurement:
    """A measure of the step at `index` of a lineage, and its key.

    Of a `pair` of tickets both lineages have it, and the one that comes last makes it; its rows are
    those of the second.
    """

    measure: Measure
    index: int
    key: str
    pair: tuple[Ticket, Ticket] | None = None

    def is_ready(self, files_of: Callable[[str], Collection[str] | None]) -> bool:
        """Whether the weights of all that it compares are stored; `files_of` is that of
        `missing_iterations`."""
        return all(WEIGHTS in (files_of(ticket.key) or ()) for ticket in self.pair or ())

    def is_of(self, lineage: str) -> bool:
        """Whether its rows are those of the lineage with that id, which has it."""
        return self.pair is None or self.pair[1].lineage == lineage


@dataclass(frozen=True)
class Lineage:
    """A cell, its iterations, the key of each, and what is measured of them.

    `dataset` is the dataset's identity as JSON values; where its files lie is no part of it.
    `trunk` is key_0 of dense training on real data, whose snapshots the final weights start from.
    An ablation has the iterations of the lineage that it branches off before its own; `elsewhere`
    is the identity of the dataset that it trains on, where that is another.
    """

    id: str
    cell: Cell
    dataset: dict[str, Any]
    trunk: str
    steps: tuple[Step, ...]
    keys: tuple[str, ...]
    elsewhere: dict[str, Any] | None = None
    measurements: tuple[Measurement, ...] = ()

    @property
    def first_own(self) -> int:
        """The index of the first iteration that is its own, and no other lineage's by definition:
        those before have their rows there."""
        return 0 if self.cell.ablation is None else len(self.keys) - 1

    @property
    def own_steps(self) -> tuple[Step, ...]:
        return self.steps[self.first_own :]

    @property
    def own_keys(self) -> tuple[str, ...]:
        return self.keys[self.first_own :]

    @property
    def committed_keys(self) -> tuple[str, ...]:
        """The keys of all that is committed of it: its iterations and its measurements."""
        return (*self.keys, *(each.key for each in self.measurements))

    @property
    def pruned_at(self) -> int:
        """Of an ablation, the index of the step that found its mask."""
        return pruning_index(self.steps[: self.first_own])

    @property
    def goes_on(self) -> bool:
        """Whether its ablation trains the weights that its method has scored, or their buffers: as
        what it is of does, unless that trains a mask again."""
        ablation, rewinds = self.cell.ablation, self.cell.method.rewinds
        if ablation is None or ablation.start != "rewound":
            return False
        if self.steps[self.first_own - 1].kind != "prune":
            return False
        return rewinds != "weights" or not self.cell.prune.rewind_batchnorm

    @property
    def trained_on(self) -> tuple[str, ...]:
        """The identities of its datasets as JSON, that of an ablation that goes elsewhere last."""
        elsewhere = () if self.elsewhere is None else (self.elsewhere,)
        return tuple(map(canonical_json, (self.dataset, *elsewhere)))

    def upto(self, length: int) -> Lineage:
        """Its first iterations, so many, with what is measured of them."""
        measured = tuple(each for each in self.measurements if each.index < length)
        steps, keys = self.steps[:length], self.keys[:length]
        return replace(self, steps=steps, keys=keys, measurements=measured)

    def weights_read(self, index: int) -> set[int]:
        """The indexes of the steps whose final weights the step at `index` reads."""
        ablation = self.cell.ablation
        if self.steps[index].kind == "ablate" and ablation is not None:
            if not (ablation.reads_weights or self.goes_on):
                return set()
            index = self.pruned_at
        step = self.steps[index]
        if step.kind != "prune" or not step.has_parent:
            return set()
        return {index - 1, 0} if step.scored == "dense" else {index - 1}

    @property
    def configs(self) -> tuple[Config, ...]:
        """All that it, and what is measured of it, is made from but the seed."""
        return (*self.cell.configs, *dict.fromkeys(each.measure for each in self.measurements))

    def config(self) -> dict[str, Any]:
        """Everything that decides this lineage's numbers, and its number of iterations."""
        cell, ablation = self.cell, self.cell.ablation
        told = {} if ablation is None else {"ablation": ablation.identity(self.elsewhere)}
        return {
            "dataset": self.dataset,
            "model": canonical(cell.model),
            "train": canonical(cell.train),
            "prune": canonical(cell.prune),
            "method": canonical(cell.method),
            "seed": cell.seed,
        } | told

    def trunk_on(self, inputs: Inputs) -> str:
        """key_0 of the same dense training on other inputs."""
        return self.trunk if inputs == "real" else random_trunk_key(self.trunk)


def trunk_config(cell: Cell, dataset: dict[str, Any]) -> dict[str, Any]:
    """What key_0 covers; `dataset` is the dataset's identity."""
    return {
        "dataset": dataset,
        "model": canonical(cell.model),
        "recipe": canonical(cell.train),
        "seed": cell.seed,
    }


def lineage_keys(trunk: str, steps: Sequence[Step]) -> tuple[str, ...]:
    """The key of each step, from key_0 of dense training on real data."""
    keys: list[str] = []
    for step in steps:
        if step.kind == "train":
            keys.append(trunk if step.inputs == "real" else random_trunk_key(trunk))
        else:
            keys.append(next_key(keys[-1] if keys else trunk, step.identity))
    return tuple(keys)


def lineage_measurements(
    measures: Sequence[Measure], steps: Sequence[Step], keys: Sequence[str]
) -> tuple[Measurement, ...]:
    """What `measures` measure of a lineage of these steps by itself, each once. A key follows from
    that of the iteration and from what decides the measure's numbers."""
    found: dict[str, Measurement] = {}
    for measure in (each for each in measures if each.across is None):
        adds = canonical_json({"measure": measure.identity()})
        for index, key in enumerate(keys):
            if measure.measures(steps, index):
                mine = next_key(key, adds)
                found.setdefault(mine, Measurement(measure, index, mine))
    return tuple(found.values())


def random_trunk_key(trunk: str) -> str:
    """key_0 of the same training on random inputs and labels."""
    return next_key(trunk, canonical_json({"inputs": "random"} | raised("inputs/random")))


def make_lineage(
    cell: Cell,
    dataset: dict[str, Any],
    elsewhere: dict[str, Any] | None = None,
    measures: Sequence[Measure] = (),
) -> Lineage:
    """The lineage of one cell, with its keys and its readable id; `dataset` is the dataset's
    identity, and `elsewhere` that of the one that its ablation trains on, where there is one.

    Raises ValueError when its ablation means nothing.
    """
    trunk = trunk_key(trunk_config(cell, dataset))
    steps, adds = cell.method.steps(cell.prune), cell.method.identity(cell.prune)
    if cell.ablation is not None:
        steps, adds = ablated(cell, steps, adds, elsewhere)
    id = lineage_id(cell, trunk, adds)
    keys = lineage_keys(trunk, steps)
    measured = lineage_measurements(measures, steps, keys)
    return Lineage(id, cell, dataset, trunk, steps, keys, elsewhere, measured)


def ablated(
    cell: Cell, steps: tuple[Step, ...], adds: str, elsewhere: dict[str, Any] | None
) -> tuple[tuple[Step, ...], str]:
    """The steps of the cell's ablation, of a lineage with `steps`, and what its id adds, where that
    of the lineage `adds`. What its key adds has not where it branches off: its parent says so.

    Raises ValueError when it means nothing there.
    """
    ablation = cell.ablation
    assert ablation is not None
    told = {n: each for n, each in ablation.identity(elsewhere).items() if n != "at"}
    steps, pruned = branched(steps, ablation, canonical_json({"ablation": told}))
    ablation.require_fit(cell.method, pruned, cell.dataset, cell.seed)
    at = {"at": steps[-1].iteration}
    return steps, f"{adds}\n{canonical_json({'ablation': told | at})}"


def lineage_id(cell: Cell, trunk: str, identity: str) -> str:
    """A readable name that stays the same when the lineage is made longer; `identity` is that of
    the cell's method with the cell's pruning, and with its ablation."""
    digest = next_key(trunk, identity)
    names = [cell.method.name, *([cell.ablation.name] if cell.ablation else [])]
    return f"{'-'.join(names)}-{cell.prune.scope}-s{cell.seed}-{digest[:10]}"
