"""SynFlow (Tanaka et al., 2020): the synaptic flow through a weight, without data."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from trainables.pruning.criteria.scoring import Scoring, leaving_gradients


def synflow(scoring: Scoring) -> dict[str, Tensor]:
    """|∂R/∂w · w| with R the sum of the logits of the net whose parameters and buffers are their
    absolute values, for the one input of `scoring`, [1, C, H, W]."""
    weights = scoring.weights
    ((inputs, _),) = scoring.batches
    with _absolute(scoring.model), leaving_gradients(weights):
        flow = scoring.model(inputs).sum()
        gradients = torch.autograd.grad(flow, list(weights.values()))
        return {
            name: (gradient * weight.detach()).abs()
            for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
        }


@contextmanager
def _absolute(model: nn.Module) -> Iterator[None]:
    """Parameters and buffers as absolute values in the block, and exactly as before after it."""
    state = model.state_dict()
    before = {name: tensor.clone() for name, tensor in state.items()}
    try:
        with torch.no_grad():
            for tensor in state.values():
                tensor.abs_()
        yield
    finally:
        with torch.no_grad():
            for name, tensor in state.items():
                tensor.copy_(before[name])
