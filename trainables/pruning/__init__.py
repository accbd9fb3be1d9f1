"""Pruning: criteria, amounts, scopes and selections, and the methods that put them together."""

from trainables.pruning.at_init import prune_at_init
from trainables.pruning.configs import MethodConfig, Pruning
from trainables.pruning.methods import METHODS, prune
from trainables.pruning.steps import Step, lineage_steps, needs_global_scope, rewind_step

__all__ = [
    "METHODS",
    "MethodConfig",
    "Pruning",
    "Step",
    "lineage_steps",
    "needs_global_scope",
    "prune",
    "prune_at_init",
    "rewind_step",
]
