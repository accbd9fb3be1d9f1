"""The network linearized at its weights: its Jacobian (sketching paper §7)."""

from __future__ import annotations

from collections.abc import Iterator

from trainables.lazy_torch import Tensor, nn, torch
from trainables.models import prunable
from trainables.pruning.selection import sketch

NUMBERS = 2**25
"""How many numbers of the Jacobian are held at a time; one row at least."""


def jacobian_rows(
    model: nn.Module, weights: dict[str, Tensor], inputs: Tensor
) -> Iterator[dict[str, Tensor]]:
    """The Jacobian of the logits by `weights`, leaves of the model's prunable weights, in chunks.

    Each chunk has some rows, [rows, *shape] for each weight; all chunks together have one for each
    of `inputs` [N, C, H, W] and each class, in that order.
    """
    size = max(1, NUMBERS // sum(weight.numel() for weight in weights.values()))
    leaves = list(weights.values())
    for each in inputs.split(1):
        # The other kernels of attention have no rule for several gradients at a time.
        with nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
            (logits,) = torch.func.functional_call(model, weights, (each,))
        basis = torch.eye(len(logits), dtype=logits.dtype, device=logits.device)
        for rows in basis.split(size):
            parts = torch.autograd.grad(
                logits, leaves, rows, retain_graph=True, is_grads_batched=True,
                materialize_grads=True,
            )  # fmt: skip
            yield dict(zip(weights, parts, strict=True))


def jacobian(model: nn.Module, inputs: Tensor) -> Tensor:
    """J [N * classes, d] by the prunable weights, in module order: for networks that are small."""
    weights = {name: w.detach().requires_grad_() for name, w in prunable(model).items()}
    chunks = jacobian_rows(model, weights, inputs)
    return torch.cat([torch.cat([p.flatten(1) for p in c.values()], dim=1) for c in chunks])


def linearized_errors(
    features: Tensor, weights: Tensor, p: Tensor, size: int, draws: int, generator: torch.Generator
) -> Tensor:
    """‖Jθ − J(θ⊙m)‖² for `draws` masks of Algorithm 1, [draws]: the left side of Theorem 7.2.

    `features` J is [outputs, d], `weights` θ and the probabilities `p` are [d]; `size` is s.
    """
    masks = sketch(p.expand(draws, -1).contiguous(), size, generator)
    return ((weights - weights * masks) @ features.T).square().sum(dim=1)
