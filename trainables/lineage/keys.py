"""Keys: a lineage, its steps, and the key of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trainables.config import canonical, canonical_json
from trainables.lineage.identity import next_key, trunk_key
from trainables.models import ModelConfig
from trainables.pruning import MethodConfig, Pruning, Step, lineage_steps
from trainables.training.recipe import Recipe


@dataclass(frozen=True)
class Lineage:
    """One cell of a sweep's grid: its steps, and the key of each.

    `dataset` is the dataset's identity as JSON values; where its files lie is no part of it.
    `trunk` is key_0 of dense training on real data, whose snapshots the final weights start from.
    """

    id: str
    dataset: dict[str, Any]
    model: ModelConfig
    recipe: Recipe
    pruning: Pruning
    method: MethodConfig
    seed: int
    trunk: str
    steps: tuple[Step, ...]
    keys: tuple[str, ...]

    def config(self) -> dict[str, Any]:
        """Everything that decides this lineage's numbers, and its number of iterations."""
        return {
            "dataset": self.dataset,
            "model": canonical(self.model),
            "train": canonical(self.recipe),
            "prune": canonical(self.pruning),
            "method": canonical(self.method),
            "seed": self.seed,
        }


def trunk_config(
    dataset: dict[str, Any], model: ModelConfig, recipe: Recipe, seed: int
) -> dict[str, Any]:
    """What key_0 covers."""
    return {
        "dataset": dataset,
        "model": canonical(model),
        "recipe": canonical(recipe),
        "seed": seed,
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


def random_trunk_key(trunk: str) -> str:
    """key_0 of the same training on random inputs and labels."""
    return next_key(trunk, canonical_json({"inputs": "random"}))


def make_lineage(
    dataset: dict[str, Any],
    model: ModelConfig,
    recipe: Recipe,
    pruning: Pruning,
    method: MethodConfig,
    seed: int,
) -> Lineage:
    """The lineage of one cell, with its keys and its readable id."""
    trunk = trunk_key(trunk_config(dataset, model, recipe, seed))
    steps = lineage_steps(method, pruning)
    return Lineage(
        lineage_id(method, pruning, seed, trunk),
        dataset, model, recipe, pruning, method, seed, trunk, steps, lineage_keys(trunk, steps),
    )  # fmt: skip


def lineage_id(method: MethodConfig, pruning: Pruning, seed: int, trunk: str) -> str:
    """A readable name that stays the same when the lineage is made longer."""
    pruned = {name: value for name, value in canonical(pruning).items() if name != "iterations"}
    digest = next_key(trunk, canonical_json({"method": canonical(method), "prune": pruned}))
    return f"{method.name}-{pruning.scope}-s{seed}-{digest[:10]}"
