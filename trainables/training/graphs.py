"""Whole training steps as CUDA graphs: launched as one, whatever they consist of."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from trainables.training.execution import first_line, tell
from trainables.training.recipe import Recipe
from trainables.training.steps import Steps

WARM_UP = 3
"""Steps that are taken one operation after the other, before one is captured."""

Take = Callable[..., tuple[Tensor, Tensor]]


def graphed(steps: Steps, recipe: Recipe, device: torch.device) -> Take:
    """`steps.take`, replayed from a graph for batches of the recipe's size, where that can be."""
    reason = _why_not(recipe, device)
    if reason is not None:
        tell(f"graphs: on: steps are taken without graphs, since {reason}")
        return steps.take
    steps.make_capturable()
    return Graphed(steps.take, recipe.batch_size)


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


class Graphed:
    """`take` for batches whose first tensor has `rows`, from a graph; other batches, such as the
    last of an epoch, are taken as they come.

    The first batches are steps as well: they have the libraries and the optimizer make what they
    need, on the stream that is captured. A capture that fails has taken no step. What is returned
    is overwritten by the next batch.
    """

    def __init__(self, take: Take, rows: int) -> None:
        self._take, self._rows = take, rows
        self._stream = _side_stream()
        self._taken = 0
        self._failed = False
        self._graph: torch.cuda.CUDAGraph | None = None
        self._given: list[Tensor] = []
        self._made: tuple[Tensor, Tensor] | None = None

    def __call__(self, *drawn: Tensor) -> tuple[Tensor, Tensor]:
        if self._failed or len(drawn[0]) != self._rows:
            return self._take(*drawn)
        if self._taken < WARM_UP:
            self._taken += 1
            return self._taken_aside(drawn)
        if self._graph is None and not self._capture(drawn):
            return self._take(*drawn)
        assert self._graph is not None
        assert self._made is not None
        for given, now in zip(self._given, drawn, strict=True):
            given.copy_(now)
        self._graph.replay()
        return self._made

    def _taken_aside(self, drawn: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            made = self._take(*drawn)
        current.wait_stream(self._stream)
        return made

    def _capture(self, drawn: tuple[Tensor, ...]) -> bool:
        self._given = [each.clone() for each in drawn]
        graph = torch.cuda.CUDAGraph()
        # Other threads of the process may use the device meanwhile.
        capture = torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local")
        try:
            with capture:
                self._made = self._take(*self._given)
        except RuntimeError as error:
            self._failed, self._given, self._made = True, [], None
            tell(f"graphs: on: steps are taken without graphs, since {first_line(error)}")
            return False
        self._graph = graph
        return True
