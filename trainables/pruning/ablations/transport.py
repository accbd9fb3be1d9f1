"""The mask on another seed's network, or another dataset's."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from trainables.data import DATASET, DatasetOptions
from trainables.plugins.entry import Named
from trainables.pruning.ablation import Ablation, ablation
from trainables.pruning.method import Method, Step


@ablation
class Transport(Ablation):
    """The mask on the weights and the order of the data of another `seed`, on another `dataset`
    whose networks have the same shapes, or both."""

    name: Literal["transport"]
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    dataset: Annotated[DatasetOptions, Named(DATASET)] | None = None

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        if self.seed is None and self.dataset is None:
            raise PydanticCustomError("nowhere", "transport needs a seed, a dataset, or both")
        return self

    def require_fit(self, method: Method, pruned: Step, dataset: DatasetOptions, seed: int) -> None:
        if self.seed in (None, seed) and self.dataset in (None, dataset):
            raise ValueError(
                f"seed {seed} on {dataset.name} is where the mask was found; name another seed "
                "or dataset"
            )

        if method.rewinds != "weights" and pruned.scored != "init":
            raise ValueError(
                f"{method.name} goes on from trained weights (rewound: {method.rewinds}), which "
                "are of one seed and dataset"
            )

    @property
    def elsewhere(self) -> DatasetOptions | None:
        return self.dataset

    def training_seed(self, seed: int) -> int:
        return seed if self.seed is None else self.seed
