"""Eager optimizers: torch's own, which do not import its compiler."""

from __future__ import annotations

from functools import cache
from inspect import unwrap
from typing import Any

from trainables.lazy_torch import torch

KEPT_FROM_COMPILING = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")


@cache
def eager(kind: type[Any]) -> type[Any]:
    """The class of optimizers `kind`, which computes what it does, without what torch wraps its
    methods in for `torch.compile`: whoever calls one of those imports the compiler, for a second.
    """
    methods = {name: unwrap(getattr(kind, name)) for name in KEPT_FROM_COMPILING}
    step = torch.no_grad()(unwrap(kind.step))
    return type(kind.__name__, (kind,), {**methods, "step": step, "__doc__": kind.__doc__})
