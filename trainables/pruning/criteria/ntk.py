"""The sketching probability of the linearized network (sketching paper §7, NTK pruning)."""

from __future__ import annotations

from trainables.lazy_torch import Tensor
from trainables.pruning.criterion import criterion
from trainables.pruning.linearized import jacobian_rows
from trainables.pruning.scoring import Scoring, summed
from trainables.pruning.scoring_data import Examples


@criterion(data=Examples)
def ntk(scoring: Scoring) -> dict[str, Tensor]:
    """‖J^(i)(θ)‖·|θ_i|, in the weight's shape: equation 2 with the rows of the Jacobian for X.

    J has a column for each example and class, whatever the labels; `sampled` draws by it.
    """
    weights = scoring.leaves
    squares = summed(
        {name: part.square().sum(dim=0) for name, part in chunk.items()}
        for inputs, _ in scoring.batches
        for chunk in jacobian_rows(scoring.model, weights, inputs)
    )
    return {name: squares[name].sqrt() * weight.detach().abs() for name, weight in weights.items()}
