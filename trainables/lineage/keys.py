"""Keys: a cell, its lineage, and the key of each of its iterations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainables.config import Config, canonical, canonical_json, raised
from trainables.data import DatasetOptions
from trainables.lineage.identity import next_key, trunk_key
from trainables.measurements import Measure
from trainables.models import Model
from trainables.pruning import Method, Pruning, Step
from trainables.training.recipe import Recipe

if TYPE_CHECKING:
    from trainables.training.batches import Inputs


@dataclass(frozen=True)
class Cell:
    """One cell of a sweep's grid: what one lineage is made from, by the sections of its file."""

    dataset: DatasetOptions
    model: Model
    train: Recipe
    prune: Pruning
    method: Method
    seed: int

    @property
    def configs(self) -> tuple[Config, ...]:
        """All of it but the seed."""
        return (self.dataset, self.model, self.train, self.prune, self.method)


@dataclass(frozen=True)
class Measurement:
    """A measure of the step at `index` of a lineage, and its key."""

    measure: Measure
    index: int
    key: str


@dataclass(frozen=True)
class Lineage:
    """A cell, its iterations, the key of each, and what is measured of them.

    `dataset` is the dataset's identity as JSON values; where its files lie is no part of it.
    `trunk` is key_0 of dense training on real data, whose snapshots the final weights start from.
    """

    id: str
    cell: Cell
    dataset: dict[str, Any]
    trunk: str
    steps: tuple[Step, ...]
    keys: tuple[str, ...]
    measurements: tuple[Measurement, ...] = ()

    @property
    def configs(self) -> tuple[Config, ...]:
        """All that it, and what is measured of it, is made from but the seed."""
        return (*self.cell.configs, *dict.fromkeys(each.measure for each in self.measurements))

    def config(self) -> dict[str, Any]:
        """Everything that decides this lineage's numbers, and its number of iterations."""
        cell = self.cell
        return {
            "dataset": self.dataset,
            "model": canonical(cell.model),
            "train": canonical(cell.train),
            "prune": canonical(cell.prune),
            "method": canonical(cell.method),
            "seed": cell.seed,
        }

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
    """What `measures` measure of a lineage of these steps, each once. A key follows from that of
    the iteration and from what decides the measure's numbers."""
    found: dict[str, Measurement] = {}
    for measure in measures:
        adds = canonical_json({"measure": measure.identity()})
        for index, key in enumerate(keys):
            if measure.measures(steps, index):
                mine = next_key(key, adds)
                found.setdefault(mine, Measurement(measure, index, mine))
    return tuple(found.values())


def random_trunk_key(trunk: str) -> str:
    """key_0 of the same training on random inputs and labels."""
    return next_key(trunk, canonical_json({"inputs": "random"} | raised("inputs/random")))


def make_lineage(cell: Cell, dataset: dict[str, Any], measures: Sequence[Measure] = ()) -> Lineage:
    """The lineage of one cell, with its keys and its readable id; `dataset` is the dataset's
    identity."""
    trunk = trunk_key(trunk_config(cell, dataset))
    steps = cell.method.steps(cell.prune)
    id = lineage_id(cell, trunk, cell.method.identity(cell.prune))
    keys = lineage_keys(trunk, steps)
    measured = lineage_measurements(measures, steps, keys)
    return Lineage(id, cell, dataset, trunk, steps, keys, measured)


def lineage_id(cell: Cell, trunk: str, identity: str) -> str:
    """A readable name that stays the same when the lineage is made longer; `identity` is that of
    the cell's method with the cell's pruning."""
    digest = next_key(trunk, identity)
    return f"{cell.method.name}-{cell.prune.scope}-s{cell.seed}-{digest[:10]}"
