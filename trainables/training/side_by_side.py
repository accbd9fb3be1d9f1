"""Steps of several networks at once, each computed by itself."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache

import torch
from torch import Tensor, nn

from trainables.training.progress import OptimizerState, State
from trainables.training.steps import Steps

STREAMS = 8
"""On which networks take their steps: more find no room on a device beside each other, and each
has memory of its own in torch's libraries."""


def has_convolutions(model: nn.Module) -> bool:
    """Whether several such networks are faster side by side than as one computation: on a device
    grouped convolutions are slow, while products of matrices are better batched."""
    return any(isinstance(layer, nn.modules.conv._ConvNd) for layer in model.modules())


class SideBySide:
    """The steps of K networks, each as it is alone, on streams of a CUDA device that fill it
    together. In a graph they are branches, which cost nothing to launch.

    Each of `steps` is one network's; what is drawn is that of all, see `Batches`.
    """

    def __init__(self, steps: Sequence[Steps]) -> None:
        self._steps = tuple(steps)

    def states(self) -> list[OptimizerState]:
        """What the optimizer remembers of each network."""
        return [state for steps in self._steps for state in steps.states()]

    def averages(self) -> list[State]:
        """The average of each network, see `Steps`."""
        return [average for steps in self._steps for average in steps.averages()]

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within, the networks are what their training comes to, see `Steps`."""
        with ExitStack() as stack:
            for steps in self._steps:
                stack.enter_context(steps.averaged())
            yield

    def at_rate(self, rate: float) -> None:
        """Go on with another learning rate."""
        for steps in self._steps:
            steps.at_rate(rate)

    def make_capturable(self) -> None:
        """Have all that changes between steps on the device, so that a step can be replayed."""
        for steps in self._steps:
            steps.make_capturable()

    def take(self, *drawn: Tensor) -> tuple[Tensor, Tensor]:
        """One step of each; the losses before it, and how many examples each classified
        correctly, [K]."""
        # No stream may reuse the memory of what another still needs: all of them begin after the
        # current one, and it goes on after them.
        current = torch.cuda.current_stream()
        streams = _streams()[: len(self._steps)]
        for stream in streams:
            stream.wait_stream(current)
        taken = []
        for number, steps in enumerate(self._steps):
            with torch.cuda.stream(streams[number % len(streams)]):
                taken.append(steps.take(*of_one(drawn, number)))
        for stream in streams:
            current.wait_stream(stream)
        losses, correct = zip(*taken, strict=True)
        return torch.stack(losses), torch.stack(correct)


def of_one(drawn: Sequence[Tensor], number: int) -> list[Tensor]:
    """What was drawn for one of K networks: the first tensor is [B, K], others may be [B·K, …]."""
    rows, networks = drawn[0].shape[:2]
    return [
        each.reshape(rows, networks, *each.shape[2 if each.shape[:2] == (rows, networks) else 1 :])[
            :, number
        ]
        for each in drawn
    ]


@cache
def _streams() -> list[torch.cuda.Stream]:
    # Libraries keep memory for each stream that they have seen.
    return [torch.cuda.Stream() for _ in range(STREAMS)]
