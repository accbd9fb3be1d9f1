"""Pruning: criteria, amounts, scopes and selections, put together by the methods table."""

from trainables.pruning.methods import METHODS, MethodConfig, Pruning, prune, rewind_step

__all__ = ["METHODS", "MethodConfig", "Pruning", "prune", "rewind_step"]
