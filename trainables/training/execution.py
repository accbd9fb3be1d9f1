"""Execution: by what means steps are computed. Numbers agree within rounding, whatever it is."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from trainables.lazy_torch import torch

LOG = logging.getLogger("prunesweep")


Graphs = Literal["auto", "on", "off"]


@dataclass(frozen=True)
class Execution:
    """`compile` has torch's compiler make forward and backward, `graphs` has whole steps replayed
    from a CUDA graph, with `auto` where that is sure to be the same. Where what is `on` cannot be,
    steps are as without, and `told` says so."""

    compile: bool = False
    graphs: Graphs = "auto"

    def without_graphs(self) -> Execution:
        """For a training whose steps are not alike, since its masks change."""
        if self.graphs == "on":
            tell("graphs: on: steps are taken without graphs, since masks change in the training")
        return replace(self, graphs="off")


PLAIN = Execution()


_told: dict[str, None] = {}


def tell(text: str) -> None:
    """A line in the log, once a process."""
    if text not in _told:
        _told[text] = None
        LOG.warning(text)


def told() -> list[str]:
    """All that this process was told, in order."""
    return [*_told]


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class Compiled:
    """`function` as torch compiles it, or as it is where torch cannot."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        # Torch counts what it compiled of a function, for other networks too, against a limit.
        torch.compiler.reset()
        # A shape is compiled for itself: of batches, an epoch has two.
        self._compiled: Any = torch.compile(
            function, dynamic=False, options={"fallback_random": True}
        )

    def __call__(self, *given: Any) -> Any:
        if self._compiled is None:
            return self._function(*given)
        try:
            return self._compiled(*given)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever the compiler, or what it calls, raises
            self._compiled = None
            tell(f"compile: on: not compiled, since {first_line(error)}")
            return self._function(*given)
