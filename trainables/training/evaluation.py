"""Evaluation: loss and accuracy of a network on examples."""

from dataclasses import dataclass

import torch
from torch import nn

from trainables.training.batches import Examples
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
    size = _batch_size(examples)
    try:
        return _evaluated(model, examples, loss, precision, size)
    except torch.OutOfMemoryError:
        if size == EVALUATION_BATCH:
            raise
    return _evaluated(model, examples, loss, precision, EVALUATION_BATCH)


def _batch_size(examples: Examples) -> int:
    if examples.images.device.type != "cuda":
        return EVALUATION_BATCH
    return max(EVALUATION_BATCH, EVALUATION_NUMBERS // examples.images[0].numel())


@torch.inference_mode()
def _evaluated(
    model: nn.Module, examples: Examples, loss: Loss, precision: Precision, size: int
) -> Evaluation:
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
    summed = torch.stack([total, correct.double()]).tolist()
    return Evaluation(summed[0] / len(examples), summed[1] / len(examples))
