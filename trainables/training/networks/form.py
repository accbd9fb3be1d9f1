"""Which form of one computation fits several networks of an architecture."""

import copy
from collections.abc import Sequence
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from trainables.models import Shape, build_model
from trainables.training.networks.mapped import Mapped
from trainables.training.networks.stacking import by_name, shared
from trainables.training.networks.wide import Wide, is_wide

EXAMPLES, NETWORKS = 3, 2
"""With which a form is tried."""


class Unfusible(ValueError):
    """Networks of an architecture cannot be one computation; the message says why."""


class Form(Protocol):
    """K networks as one computation."""

    model: nn.Module

    def logits(self, images: Tensor) -> Tensor:
        """Logits [B, K, classes] of images [B, K, C, H, W]."""
        ...


@cache
def form_of(architecture: Any, shape: Shape, classes: int) -> type[Wide] | type[Mapped]:
    """The form in which networks made from `architecture`, a Model, give what they give alone, the
    faster one first.

    It depends on the architecture only, so that the same networks are always computed alike.
    Raises Unfusible.
    """
    models = [build_model(architecture, shape, classes, seed).double() for seed in range(NETWORKS)]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        # What starts at zero, or the same in all, would hide that a form does not fit.
        for weight in (weight for model in models for weight in model.parameters()):
            if weight.is_floating_point():
                weight.add_(0.1 * torch.randn(weight.shape, generator=generator).to(weight))
    images = torch.randn(EXAMPLES, NETWORKS, *shape, generator=generator, dtype=torch.float64)
    forms = [Wide, Mapped] if is_wide(models[0]) else [Mapped]
    reason = ""
    for form in forms:
        try:
            with torch.random.fork_rng(devices=[]):
                if _agrees(form, models, images):
                    return form
            reason = "it computes something else when several are one computation"
        except Exception as error:  # whatever a network, or torch on its way through it, raises
            reason = _short(error)
    raise Unfusible(reason)


def _agrees(form: type[Wide] | type[Mapped], models: Sequence[nn.Module], images: Tensor) -> bool:
    """Whether the networks give the same alone and in the form: in training, then in evaluation
    with the statistics that training has moved."""
    alone = [copy.deepcopy(model) for model in models]
    stacked = [copy.deepcopy(model) for model in models]
    weights = by_name([dict(model.named_parameters()) for model in stacked])
    buffers = by_name([dict(model.named_buffers()) for model in stacked])
    together = form(
        stacked[0],
        {name: nn.Parameter(shared(each)) for name, each in weights.items()},
        {name: shared(each) for name, each in buffers.items()},
    )
    return all(_same_logits(together, alone, images, training) for training in (True, False)) and (
        all(_same_state(*pair) for pair in zip(alone, stacked, strict=True))
    )


@torch.no_grad()
def _same_logits(
    together: Form, alone: Sequence[nn.Module], images: Tensor, training: bool
) -> bool:
    together.model.train(training)
    each = [model.train(training)(images[:, k]) for k, model in enumerate(alone)]
    logits = together.logits(images)
    expected = torch.stack(each, dim=1)
    return logits.shape == expected.shape and torch.allclose(logits, expected, 1e-9, 1e-9)


def _same_state(one: nn.Module, other: nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return all(torch.allclose(ours[name].double(), theirs[name].double()) for name in ours)


def _short(error: Exception) -> str:
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if "randomness" in text:
        return "it draws random numbers in training"
    return text
