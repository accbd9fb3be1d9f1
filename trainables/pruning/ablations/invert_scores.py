"""The lowest scores instead of the highest."""

from typing import Literal

from trainables.pruning.ablation import Ablation, Branch, ablation
from trainables.pruning.selection import keep_highest
from trainables.sparsity.masks import Masks


@ablation
class InvertScores(Ablation):
    """Of each layer, the weights with the lowest scores are kept instead of those with the highest,
    and as many (Frankle et al. 2021)."""

    scored = True

    name: Literal["invert_scores"]

    def __call__(self, branch: Branch) -> Masks:
        kept: Masks = {}
        for name, score in branch.scores().items():
            count = int(branch.masks[name].sum())
            kept |= keep_highest({name: -score}, {name: branch.before[name]}, count)
        return kept
