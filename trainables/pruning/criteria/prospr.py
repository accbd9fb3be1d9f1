"""ProsPr (Alizadeh et al., 2022): how much the loss after some training depends on a weight."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from trainables.lazy_torch import Tensor, torch
from trainables.models import prunable
from trainables.pruning.criterion import criterion
from trainables.pruning.scoring import Batch, Named, Scoring, gradient, loss
from trainables.pruning.scoring_data import Examples


@criterion(data=Examples, examples=512)
def prospr(
    scoring: Scoring,
    *,
    inner_steps: Annotated[int, Field(ge=1, le=100)] = 3,
    inner_lr: Annotated[float, Field(gt=0)] = 0.1,
) -> dict[str, Tensor]:
    """|∂L/∂m| = |w·∂L/∂w|, in the weight's shape, L the loss after training from w for a few steps.

    These are `inner_steps` steps of plain gradient descent at the learning rate `inner_lr`.
    All parameters are trained, each step on another part of the examples, and L is that of one
    more; losses are means. Raises ValueError when there are too few examples for as many parts.
    """
    # Here, as it derives classes from torch's, which listing criteria does not import.
    from trainables.pruning.convolution import Convolutions, by_tap

    *batches, last = _parts(scoring, inner_steps + 1)
    weights = by_tap(scoring.weights)
    trained = _others(scoring) | weights
    with Convolutions():
        for batch in batches:
            slopes = gradient(_mean_loss(scoring, trained, batch), trained, create_graph=True)
            # Pruned weights are not trained.
            masked = slopes | {name: slopes[name] * mask for name, mask in scoring.masks.items()}
            trained = {name: value - inner_lr * masked[name] for name, value in trained.items()}
        slopes = gradient(_mean_loss(scoring, trained, last), weights)
    return {name: (weight * slopes[name]).abs() for name, weight in scoring.weights.items()}


def _parts(scoring: Scoring, count: int) -> list[Batch]:
    inputs, labels = (torch.cat(chunks) for chunks in zip(*scoring.batches, strict=True))
    if len(labels) < count:
        raise ValueError(f"examples: {len(labels)} is fewer than the {count} batches of prospr")
    return [*zip(inputs.tensor_split(count), labels.tensor_split(count), strict=True)]


def _others(scoring: Scoring) -> Named:
    """The parameters that cannot be pruned, as new leaves."""
    # A weight that layers share goes in under one name, which may not be the first that it has.
    ours = {id(weight) for weight in prunable(scoring.model).values()}
    named = scoring.model.named_parameters()
    return {n: p.detach().requires_grad_() for n, p in named if id(p) not in ours}


def _mean_loss(scoring: Scoring, parameters: Named, batch: Batch) -> Tensor:
    return loss(scoring, parameters, batch) / len(batch[1])
