"""Whole training steps as CUDA graphs: launched as one, whatever they consist of."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor

from trainables.models import Model
from trainables.plugins.loading import plugged_in
from trainables.training.execution import Graphs, first_line, tell
from trainables.training.recipe import Recipe

WARM_UP = 3
"""Steps that are taken one operation after the other, before one is captured."""

Take = Callable[..., tuple[Tensor, Tensor]]
T = TypeVar("T")


def are_captured(
    wanted: Graphs, architecture: Model | None, recipe: Recipe, device: torch.device
) -> bool:
    """Whether steps are to be replayed from graphs. `on` where they cannot be is told; `auto` has
    them where nothing is plugged in that might do something else in Python at every step."""
    if wanted == "off":
        return False
    reason = _why_not(recipe, device)
    if reason is not None and wanted == "on":
        tell(f"graphs: on: steps are taken without graphs, since {reason}")
    if wanted == "auto" and (architecture is None or plugged_in([architecture, recipe.loss])):
        return False
    return reason is None


def _why_not(recipe: Recipe, device: torch.device) -> str | None:
    if device.type != "cuda":
        return "only a CUDA device has them"
    if not recipe.optimizer.capturable:
        return f"what the optimizer {recipe.optimizer.name} does in Python would not be replayed"
    return None


@cache
def _side_stream() -> torch.cuda.Stream:
    # Libraries keep memory for each stream that they have seen.
    return torch.cuda.Stream()


def capture(
    what: str, function: Callable[[], T], pool: Any = None
) -> tuple[torch.cuda.CUDAGraph, T] | None:
    """What `function` does on the device as a graph, and what it gave, which each replay writes
    anew. None where it cannot be captured, which is told as of `what`; then it has done nothing."""
    graph = torch.cuda.CUDAGraph()
    # Other threads of the process may use the device meanwhile.
    capturing = torch.cuda.graph(graph, pool, _side_stream(), capture_error_mode="thread_local")
    try:
        with capturing:
            made = function()
    except RuntimeError as error:
        tell(f"graphs: {what} without graphs, since {first_line(error)}")
        return None
    return graph, made


@dataclass(frozen=True)
class _Captured:
    """A step as a graph: of the batch in `given`, whose losses and correct answers are `made`."""

    graph: torch.cuda.CUDAGraph
    given: list[Tensor]
    made: tuple[Tensor, Tensor]

    def replay(self, drawn: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        for given, now in zip(self.given, drawn, strict=True):
            given.copy_(now)
        self.graph.replay()
        return self.made


class Graphed:
    """`take` from a graph for each size of batches, of which an epoch has one or two.

    The first batches are steps as well: they have the libraries and the optimizer make what they
    need, on the stream that is captured. A capture that fails has taken no step. What is returned
    is overwritten by the next batch.
    """

    def __init__(self, take: Take) -> None:
        self._take = take
        self._stream = _side_stream()
        self._taken = 0
        self._failed = False
        self._captured: dict[int, _Captured] = {}

    def __call__(self, *drawn: Tensor) -> tuple[Tensor, Tensor]:
        if self._failed:
            return self._take(*drawn)
        if self._taken < WARM_UP:
            self._taken += 1
            return self._taken_aside(drawn)
        rows = len(drawn[0])
        if rows not in self._captured:
            captured = self._capture(drawn)
            if captured is None:
                return self._take(*drawn)
            self._captured[rows] = captured
        return self._captured[rows].replay(drawn)

    def _taken_aside(self, drawn: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            made = self._take(*drawn)
        current.wait_stream(self._stream)
        return made

    def _capture(self, drawn: tuple[Tensor, ...]) -> _Captured | None:
        given = [each.clone() for each in drawn]
        # No graph needs what another has left in its memory.
        pool = next((each.graph.pool() for each in self._captured.values()), None)
        found = capture("steps are taken", lambda: self._take(*given), pool)
        if found is None:
            self._failed = True
            self._captured.clear()
            return None
        graph, made = found
        return _Captured(graph, given, made)
