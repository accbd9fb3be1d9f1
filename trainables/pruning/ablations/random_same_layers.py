"""A random mask that keeps as many weights of each layer."""

from trainables.lazy_torch import torch
from trainables.pruning.ablation import Branch, ablation
from trainables.pruning.selection import keep_highest
from trainables.sparsity.masks import Masks


@ablation
def random_same_layers(branch: Branch) -> Masks:
    """A random mask that keeps as many weights of each layer (Su et al. 2020)."""
    drawn: Masks = {}
    for name, mask in branch.masks.items():
        scores = torch.rand(mask.shape, generator=branch.stream(name), dtype=torch.float64)
        every = torch.ones_like(mask)
        drawn |= keep_highest({name: scores.to(mask.device)}, {name: every}, int(mask.sum()))
    return drawn
