"""The pruned weights trained on, without rewinding anything."""

from typing import Literal

from trainables.pruning.ablation import Ablation, ablation
from trainables.training.recipe import Recipe
from trainables.training.schedules import Constant


@ablation
class Finetune(Ablation):
    """The trained weights that were pruned, trained on at the recipe's last learning rate, for as
    many epochs (Renda et al. 2020)."""

    start = "trained"

    name: Literal["finetune"]

    def recipe(self, recipe: Recipe) -> Recipe:
        optimizer = recipe.optimizer.model_copy(update={"lr": recipe.rate(recipe.epochs - 1)})
        schedule = Constant(name="constant")
        return recipe.model_copy(update={"optimizer": optimizer, "lr_schedule": schedule})
