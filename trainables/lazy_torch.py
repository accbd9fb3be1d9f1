"""torch, imported where it is first used: most commands only read configs, and never do.

`from trainables.lazy_torch import Tensor, nn, torch` instead of `from torch import …` is for the
modules that a sweep file's entries are found in, and for what those import; they evaluate no
annotation (`from __future__ import annotations`), and derive no class from torch's.
"""

from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch as torch
    from torch import Tensor as Tensor
    from torch import nn as nn
    from torch.nn import functional as F
else:

    class _Module:
        """A module that is imported when one of its attributes is asked for."""

        def __init__(self, name: str) -> None:
            self._name = name

        @cached_property
        def _module(self) -> Any:
            return import_module(self._name)

        def __getattr__(self, attribute: str) -> Any:
            return getattr(self._module, attribute)

    torch, nn, F = _Module("torch"), _Module("torch.nn"), _Module("torch.nn.functional")
    Tensor = "Tensor"
    """For annotations; a tensor is told by `torch.Tensor`."""

__all__ = ["F", "Tensor", "nn", "torch"]
