"""Evaluation: loss and accuracy of a network on examples."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainables.training.batches import Examples
from trainables.training.graphs import capture
from trainables.training.losses import CROSS_ENTROPY, Loss
from trainables.training.precision import Precision, arithmetic, logits_in

EVALUATION_BATCH = 1000
EVALUATION_NUMBERS = 2**24
"""In the images of a batch on a CUDA device, which is the faster for being larger."""


@dataclass(frozen=True)
class Evaluation:
    loss: float
    accuracy: float


def evaluate(
    model: nn.Module,
    examples: Examples,
    loss: Loss = CROSS_ENTROPY,
    precision: Precision = "float32",
) -> Evaluation:
    """Mean loss and accuracy (0…1) over all examples, in eval mode."""
    (found,) = _means(_sums(model, examples, loss, precision)[None], examples)
    return found


class Evaluations:
    """Networks that are evaluated after each epoch: all of them, before anyone waits for the
    device. With `captured`, from the second time on they are replayed from a graph."""

    def __init__(
        self, models: Sequence[nn.Module], loss: Loss, precision: Precision, captured: bool
    ) -> None:
        self._models, self._loss = tuple(models), loss
        self._precision: Precision = precision
        self._captured = captured
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self._seen: set[int] = set()

    def of(self, examples: Examples) -> list[Evaluation]:
        """Of each network, as `evaluate` has it."""
        graph, sums = self._graphs.get(id(examples)) or self._graph(examples)
        if graph is None:
            sums = self._sums(examples)
        else:
            graph.replay()
        return _means(sums, examples)

    def _graph(self, examples: Examples) -> tuple[torch.cuda.CUDAGraph, Tensor] | tuple[None, Any]:
        if not self._captured or id(examples) not in self._seen:
            self._seen.add(id(examples))
            return None, None
        found = capture("networks are evaluated", lambda: self._sums(examples))
        self._captured = found is not None
        if found is None:
            return None, None
        return self._graphs.setdefault(id(examples), found)

    def _sums(self, examples: Examples) -> Tensor:
        each = (_sums(model, examples, self._loss, self._precision) for model in self._models)
        return torch.stack([*each])


def _means(sums: Tensor, examples: Examples) -> list[Evaluation]:
    count = len(examples)
    return [Evaluation(loss / count, correct / count) for loss, correct in sums.tolist()]


def _sums(model: nn.Module, examples: Examples, loss: Loss, precision: Precision) -> Tensor:
    """Over all examples: the sum of losses, and how many are classified correctly."""
    size = _batch_size(examples)
    try:
        return _sums_in(size, model, examples, loss, precision)
    except torch.OutOfMemoryError:
        if size == EVALUATION_BATCH:
            raise
    return _sums_in(EVALUATION_BATCH, model, examples, loss, precision)


def _batch_size(examples: Examples) -> int:
    if examples.images.device.type != "cuda":
        return EVALUATION_BATCH
    return max(EVALUATION_BATCH, EVALUATION_NUMBERS // examples.images[0].numel())


@torch.inference_mode()
def _sums_in(
    size: int, model: nn.Module, examples: Examples, loss: Loss, precision: Precision
) -> Tensor:
    model.eval()
    total = torch.zeros((), dtype=torch.float64, device=examples.labels.device)
    correct = torch.zeros((), dtype=torch.int64, device=examples.labels.device)
    with arithmetic(precision):
        for start in range(0, len(examples), size):
            chosen = slice(start, start + size)
            labels = examples.labels[chosen]
            logits = logits_in(precision, model, examples.normalized(examples.images[chosen]))
            total += loss.total(logits, labels)
            correct += (logits.argmax(dim=1) == labels).sum()
    return torch.stack([total, correct.double()])
