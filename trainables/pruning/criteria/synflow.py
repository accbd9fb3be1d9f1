"""SynFlow (Tanaka et al., 2020): the synaptic flow through a weight, without data."""

from itertools import chain

from torch import Tensor
from torch.func import functional_call

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
    state = chain(scoring.model.named_parameters(), scoring.model.named_buffers())
    absolute = {name: tensor.detach().abs() for name, tensor in state}
    weights = {name: absolute[name].requires_grad_() for name in scoring.masks}
    flow = functional_call(scoring.model, absolute, (inputs,)).sum()
    slopes = gradient(flow, weights)
    return {name: (weight.detach() * slopes[name]).abs() for name, weight in weights.items()}
