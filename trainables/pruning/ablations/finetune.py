"""The pruned weights trained on, without rewinding anything."""

from typing import Literal

from trainables.pruning.ablation import Ablation, ablation
from trainables.training.recipe import Recipe


@ablation
class Finetune(Ablation):
    """The trained weights that were pruned, trained on at the recipe's last learning rate, for as
    many epochs (Renda et al. 2020)."""

    start = "trained"

    name: Literal["finetune"]

    def recipe(self, recipe: Recipe) -> Recipe:
        return recipe.at_last_rate()
