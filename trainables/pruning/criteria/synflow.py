"""SynFlow (Tanaka et al., 2020): the synaptic flow through a weight, without data."""

from __future__ import annotations

from itertools import chain

from trainables.lazy_torch import Tensor, torch
from trainables.models import prunable
from trainables.pruning.criterion import criterion
from trainables.pruning.scoring import Scoring, gradient
from trainables.pruning.scoring_data import FlowInput


@criterion(data=FlowInput, rounds=100)
def synflow(scoring: Scoring) -> dict[str, Tensor]:
    """|∂R/∂w · w| in the weight's shape (sketching paper equation 3).

    R is the sum of the logits of the net whose parameters and buffers are their absolute values,
    for the one input of `scoring`, [1, C, H, W]. It over- and underflows float32 in deep nets.
    """
    ((inputs, _),) = scoring.batches
    model = scoring.model
    weights = {name: weight.abs().requires_grad_() for name, weight in scoring.weights.items()}
    # A weight that layers share goes in under one name, which may not be the first that it has.
    ours = {id(weight) for weight in prunable(model).values()}
    state = chain(model.named_parameters(), model.named_buffers())
    rest = {name: _absolute(tensor.detach()) for name, tensor in state if id(tensor) not in ours}
    flow = torch.func.functional_call(model, rest | weights, (inputs,)).sum()
    slopes = gradient(flow, weights)
    # In place: in a large network, new memory takes longer than the arithmetic.
    return {n: weight.detach().mul_(slopes[n]).abs_() for n, weight in weights.items()}


def _absolute(tensor: Tensor) -> Tensor:
    """|t|, but what masks attention, False or −∞, as it is."""
    return tensor if tensor.dtype == torch.bool else tensor.abs().where(tensor.isfinite(), tensor)
