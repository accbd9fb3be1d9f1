"""What a criterion is given to score a network, and the gradients that criteria share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from trainables.lazy_torch import F, Tensor, nn, torch
from trainables.models import prunable
from trainables.sparsity.masks import Masks

Batch = tuple[Tensor, Tensor]
Named = dict[str, Tensor]


@dataclass(frozen=True)
class Scoring:
    """`model` with its prunable weights masked, and what it is scored with.

    `batches` are chunks of inputs [B, C, H, W] and labels [B], of the model's type and on its
    device; criteria that need no data leave them alone. `generator` (CPU) is for criteria that
    draw. Criteria never change the model: they call it, in the mode it is in, with copies of its
    weights.
    """

    model: nn.Module
    masks: Masks
    batches: tuple[Batch, ...] = ()
    generator: torch.Generator = field(default_factory=lambda: torch.Generator())

    @property
    def weights(self) -> Named:
        """The prunable weights, in module order, without gradients."""
        return {name: weight.detach() for name, weight in prunable(self.model).items()}

    @property
    def leaves(self) -> Named:
        """The prunable weights as new leaves that require gradients; they share the storage."""
        return {name: weight.requires_grad_() for name, weight in self.weights.items()}


def loss(scoring: Scoring, weights: Named, batch: Batch, temperature: float = 1.0) -> Tensor:
    """Cross-entropy of the model with `weights`, logits divided by `temperature`, summed over the
    batch's examples."""
    inputs, labels = batch
    # The other kernels of attention have no second derivative.
    with nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
        logits = torch.func.functional_call(scoring.model, weights, (inputs,)) / temperature
    return F.cross_entropy(logits, labels, reduction="sum")


def gradient(
    of: Tensor | Named, weights: Named, along: Named | None = None, *, create_graph: bool = False
) -> Named:
    """The gradient of a scalar, or of tensors' inner products with those of `along`; zero where it
    does not depend on a weight."""
    parts = torch.autograd.grad(
        [of] if isinstance(of, torch.Tensor) else [*of.values()],
        [*weights.values()],
        None if along is None else [*along.values()],
        create_graph=create_graph,
        materialize_grads=True,
    )
    return dict(zip(weights, parts, strict=True))


def summed(chunks: Iterable[Named]) -> Named:
    """The sum over chunks, which are consumed one by one, for each name."""
    total: Named = {}
    for chunk in chunks:
        for name, part in chunk.items():
            total[name] = total[name].add_(part) if name in total else part.clone()
    return total
