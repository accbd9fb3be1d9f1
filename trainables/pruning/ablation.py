"""What an ablation is: an iteration again, with its mask or its training changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import Field

from trainables.config import canonical
from trainables.data import DatasetOptions
from trainables.lazy_torch import Tensor, torch
from trainables.plugins.entry import Entry, Kind, Named, PluginError
from trainables.pruning.method import Method, Step, checked_masks
from trainables.sparsity.masks import Masks
from trainables.training.randomness import stream
from trainables.training.recipe import Recipe

Start = Literal["rewound", "initial", "trained"]
"""The weights that are trained: those that the iteration itself was rewound to, initial ones, or
the trained ones that it pruned."""


@dataclass(frozen=True)
class Branch:
    """What an ablation finds of the iteration that it branches off.

    `masks` are those of the iteration, and `before` those of the weights that it chose among, both
    in the order of the model's layers. `scores()` computes what its method scored them with; it is
    for ablations that are `scored`.
    """

    masks: Masks
    before: Masks
    scores: Callable[[], dict[str, Tensor]]
    ablation: str
    seed: int
    iteration: int

    def stream(self, *labels: str | int) -> torch.Generator:
        """The generator (CPU) of this ablation of this iteration for what `labels` name, such as a
        layer."""
        return stream(self.seed, "ablation", self.ablation, self.iteration, *labels)


class Ablation(Entry):
    """An ablation by name; called with a `Branch`, it gives the masks that are trained.

    `at` is the iteration of the lineage that it branches off, by default the last one. What is not
    said here is as in that iteration: the order of the data, the recipe, the inputs.
    """

    start: ClassVar[Start] = "rewound"
    scored: ClassVar[bool] = False
    """Whether it needs scores, and so the weights that they are of."""

    at: Annotated[int, Field(ge=1)] | None = None

    def __call__(self, branch: Branch) -> Masks:
        return branch.masks

    @property
    def reads_weights(self) -> bool:
        """Whether it reads the weights that the iteration scored."""
        return self.scored or self.start == "trained"

    @property
    def elsewhere(self) -> DatasetOptions | None:
        """The dataset that it trains on, where it is not the lineage's."""
        return None

    def initial_seed(self, seed: int) -> int:
        """What initial weights are drawn from, for the lineage's seed. Another than the training's
        is for those that start from `initial` ones."""
        return self.training_seed(seed)

    def training_seed(self, seed: int) -> int:
        """The seed of the order of the data and of all else that training draws."""
        return seed

    def recipe(self, recipe: Recipe) -> Recipe:
        """What it trains by, where the iteration trained by `recipe`."""
        return recipe

    def first_step(self, rewound: int) -> int:
        """The training step that it starts from, where the iteration started from `rewound`."""
        return rewound if self.start == "rewound" else 0

    def require_fit(self, method: Method, pruned: Step, dataset: DatasetOptions, seed: int) -> None:
        """Raises ValueError when it means nothing for a lineage of `method`, whose step `pruned`
        found the mask, on `dataset` with `seed`."""
        if self.start == "trained" and pruned.scored == "init":
            raise ValueError(
                f"{method.name} prunes initial weights, so there are no trained ones to go on from"
            )
        if self.start == "trained" and pruned.inputs != "real":
            raise ValueError(f"{method.name} prunes weights that were trained on noise there")
        if self.scored and not method.has_scores:
            raise ValueError(f"{method.name} tells no scores")

    def identity(self, elsewhere: dict[str, Any] | None) -> dict[str, Any]:
        """What decides its numbers, and `at`; `elsewhere` is the identity of its dataset."""
        found = canonical(self)
        return found if elsewhere is None else found | {"dataset": elsewhere}


class OfMasks(Ablation):
    """The base of ablations that are functions: each gives other masks."""

    def __call__(self, branch: Branch) -> Masks:
        return checked_masks(self.call(branch), branch.masks, f"{self.where()}: {self.name}")


ABLATION = Kind("ablation", Ablation, ("branch",), ("trainables.pruning.ablations",))

AblationConfig = Annotated[Ablation, Named(ABLATION)]

Thing = TypeVar("Thing", bound=Any)


def ablation(thing: Thing) -> Thing:
    """Makes a config class that derives from `Ablation`, or a function, an ablation.

    A function is called with the `Branch`, its options as keywords, and gives the masks that are
    trained. Raises PluginError.
    """
    given: Any = thing
    if isinstance(given, type):
        ABLATION.register(given)
    else:
        ABLATION.made_of(given, given.__name__, OfMasks)
    return thing


def branched(
    steps: tuple[Step, ...], ablation: Ablation, identity: str
) -> tuple[tuple[Step, ...], Step]:
    """Of the steps of a lineage, those up to the one that `ablation` branches off, with its own at
    the end; and the step that found the mask. `identity` is what its key adds.

    Raises ValueError when there is no such iteration.
    """
    there = {step.iteration: i for i, step in enumerate(steps) if step.kind != "train"}
    at = max(there, default=1) if ablation.at is None else ablation.at
    if at not in there:
        has = f"{min(there)} to {max(there)}" if there else "none that prunes"
        raise ValueError(f"there is no iteration {at} to branch off: it has {has}")
    chain = steps[: there[at] + 1]
    last = chain[-1]
    own = Step(last.iteration, "ablate", identity, last.inputs, last.density)
    return (*chain, own), chain[pruning_index(chain)]


def pruning_index(steps: tuple[Step, ...]) -> int:
    """The index of the last of `steps` that prunes. Raises PluginError when none does."""
    for index in reversed(range(len(steps))):
        if steps[index].kind == "prune":
            return index
    raise PluginError("an iteration is trained whose mask no step of its method has found")
