"""The mask, shuffled within each layer."""

from trainables.lazy_torch import Tensor, torch
from trainables.pruning.ablation import Branch, ablation
from trainables.sparsity.masks import Masks


@ablation
def shuffle_layers(branch: Branch) -> Masks:
    """The mask's entries permuted within each layer: how many stay, and not which (Frankle et al.
    2021, Su et al. 2020)."""
    return {name: _permuted(mask, branch.stream(name)) for name, mask in branch.masks.items()}


def _permuted(mask: Tensor, generator: torch.Generator) -> Tensor:
    order = torch.randperm(mask.numel(), generator=generator).to(mask.device)
    return mask.flatten()[order].view(mask.shape)
