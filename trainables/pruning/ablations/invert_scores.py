"""The lowest scores instead of the highest."""

from typing import Literal

from trainables.pruning.ablation import Ablation, Branch, ablation
from trainables.pruning.selection import keep_highest_of_each
from trainables.sparsity.masks import Masks, kept_counts


@ablation
class InvertScores(Ablation):
    """Of each layer, the weights with the lowest scores are kept instead of those with the highest,
    and as many (Frankle et al. 2021)."""

    scored = True

    name: Literal["invert_scores"]

    def __call__(self, branch: Branch) -> Masks:
        lowest = {name: -score.double() for name, score in branch.scores().items()}
        return keep_highest_of_each(lowest, branch.before, kept_counts(branch.masks))
