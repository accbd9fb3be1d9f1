"""Criteria: what a weight is worth. One file each; a criterion maps a scoring to scores."""

from collections.abc import Callable

from torch import Tensor

from trainables.pruning.criteria.grasp import grasp
from trainables.pruning.criteria.magnitude import magnitude
from trainables.pruning.criteria.random import random
from trainables.pruning.criteria.scoring import Batch, Scoring
from trainables.pruning.criteria.snip import snip
from trainables.pruning.criteria.synflow import synflow

Criterion = Callable[[Scoring], dict[str, Tensor]]

CRITERIA: dict[str, Criterion] = {
    "random": random,
    "magnitude": magnitude,
    "snip": snip,
    "grasp": grasp,
    "synflow": synflow,
}

__all__ = ["CRITERIA", "Batch", "Criterion", "Scoring", "magnitude"]
