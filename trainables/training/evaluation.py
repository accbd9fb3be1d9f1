"""Evaluation: loss and accuracy of a network on examples."""

from dataclasses import dataclass

import torch
from torch import nn

from trainables.training.batches import Examples
from trainables.training.losses import CROSS_ENTROPY, Loss

EVALUATION_BATCH = 1000


@dataclass(frozen=True)
class Evaluation:
    loss: float
    accuracy: float


@torch.inference_mode()
def evaluate(model: nn.Module, examples: Examples, loss: Loss = CROSS_ENTROPY) -> Evaluation:
    """Mean loss and accuracy (0…1) over all examples, in eval mode."""
    model.eval()
    total = torch.zeros((), dtype=torch.float64, device=examples.labels.device)
    correct = torch.zeros((), dtype=torch.int64, device=examples.labels.device)
    for start in range(0, len(examples), EVALUATION_BATCH):
        chosen = slice(start, start + EVALUATION_BATCH)
        labels = examples.labels[chosen]
        logits = model(examples.normalized(examples.images[chosen]))
        total += loss.total(logits, labels)
        correct += (logits.argmax(dim=1) == labels).sum()
    return Evaluation(total.item() / len(examples), correct.item() / len(examples))
