"""Random: the baseline that every criterion has to beat."""

from __future__ import annotations

from trainables.lazy_torch import Tensor, torch
from trainables.pruning.criterion import criterion
from trainables.pruning.scoring import Scoring


@criterion
def random(scoring: Scoring) -> dict[str, Tensor]:
    """Standard normal scores, in the weight's shape, from the generator (CPU) of `scoring`."""
    return {
        name: torch.randn(w.shape, generator=scoring.generator, dtype=torch.float64).to(w.device)
        for name, w in scoring.weights.items()
    }
