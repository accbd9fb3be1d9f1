"""Random: the baseline that every criterion has to beat."""

import torch
from torch import Tensor

from trainables.pruning.criteria.scoring import Scoring


def random(scoring: Scoring) -> dict[str, Tensor]:
    """Standard normal scores, in the weight's shape, from the generator (CPU) of `scoring`."""
    return {
        name: torch.randn(weight.shape, generator=scoring.generator).to(weight)
        for name, weight in scoring.weights.items()
    }
