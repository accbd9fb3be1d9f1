"""Steps: which iterations a method makes of a lineage, and what each adds to its key."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from trainables.config import canonical, canonical_json
from trainables.pruning.configs import (
    IMP,
    IterativePruning,
    LotteryTicket,
    MethodConfig,
    Pruning,
    PruningAtInit,
)
from trainables.training.batches import Inputs


@dataclass(frozen=True)
class Step:
    """One iteration of a lineage.

    *train*: the dense trunk; *prune*: prune the parent, rewind, retrain; *prune_at_init*: prune
    the initialization and train; *retrain*: train the parent's mask again, on real data.
    `identity` is the canonical JSON of what its key adds to its parent's, empty for the trunk.
    `inputs` is what it trains on, `density` the density it has to reach, where it has one.
    """

    iteration: int
    kind: Literal["train", "prune", "prune_at_init", "retrain"]
    identity: str = ""
    inputs: Inputs = "real"
    density: float | None = None


def lineage_steps(method: MethodConfig, pruning: Pruning) -> tuple[Step, ...]:
    """The iterations of a lineage, in order.

    A method at initialization has one, which needs no trunk. IMP's steps above its density carry
    no density in their identity, so that its densities share them.
    """
    if isinstance(method, PruningAtInit):
        identity = canonical_json({"method": canonical(method)})
        return (Step(1, "prune_at_init", identity, density=method.density),)
    if isinstance(method, IMP):
        return _imp_steps(method, pruning)
    identity = _identity(canonical(method), pruning)
    pruned = (Step(t, "prune", identity) for t in range(1, pruning.iterations + 1))
    return (Step(0, "train"), *pruned)


def _imp_steps(method: IMP, pruning: Pruning) -> tuple[Step, ...]:
    last = imp_iterations(method)
    on_the_way = _identity(_without_density(method), pruning)
    arriving = _identity(canonical(method), pruning)
    steps = [Step(0, "train", inputs=method.data)]
    for t in range(1, last):
        steps.append(Step(t, "prune", on_the_way, method.data))
    steps.append(Step(last, "prune", arriving, method.data, method.density))
    if method.data == "random":
        retrain = canonical_json({"retrain": "real"})
        steps.append(Step(last + 1, "retrain", retrain, "real", method.density))
    return tuple(steps)


def imp_iterations(method: IMP) -> int:
    """How many prunings of a ratio P bring the density to ρ: ⌈log ρ / log(1−P)⌉, at least one."""
    rounds = math.log(method.density) / math.log(1 - method.ratio)
    return max(1, math.ceil(rounds - 1e-9))


def rewind_step(method: MethodConfig) -> int:
    """The training step that retraining starts from (0: the initialization)."""
    return method.rewind.step if isinstance(method, LotteryTicket | IMP) else 0


def needs_global_scope(method: MethodConfig) -> bool:
    """Whether the method compares all weights with each other by definition."""
    return not isinstance(method, IterativePruning) or isinstance(method, IMP)


def _identity(method: dict[str, Any], pruning: Pruning) -> str:
    pruned = canonical(pruning)
    del pruned["iterations"]
    return canonical_json({"method": method, "prune": pruned})


def _without_density(method: IMP) -> dict[str, Any]:
    return {name: value for name, value in canonical(method).items() if name != "density"}
