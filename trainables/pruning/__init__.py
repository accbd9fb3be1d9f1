"""Pruning: criteria, amounts, scopes and selections, and the methods that put them together."""

from typing import Annotated

from trainables.plugins.entry import Named
from trainables.pruning.config import Pruning
from trainables.pruning.method import METHOD, Method, Network, Step

__all__ = ["METHOD", "Method", "MethodConfig", "Network", "Pruning", "Step"]

MethodConfig = Annotated[Method, Named(METHOD)]
