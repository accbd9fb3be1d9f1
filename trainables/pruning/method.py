"""What a method is: its iterations, and the masks of each. Everything else asks it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from trainables.config import canonical, canonical_json
from trainables.lazy_torch import Tensor, nn, torch
from trainables.models import prunable
from trainables.plugins.entry import Entry, Kind, PluginError, described
from trainables.pruning.config import LENGTH, Pruning
from trainables.pruning.parts import PARTS, Rewound
from trainables.pruning.scope import Scope
from trainables.pruning.score_sample import ScoreSample
from trainables.pruning.scoring import Scoring
from trainables.pruning.scoring_data import Inputs
from trainables.sparsity.masks import Masks, apply_masks
from trainables.training.randomness import stream

if TYPE_CHECKING:
    from trainables.training.batches import DeviceData
    from trainables.training.batches import Inputs as TrainingInputs
    from trainables.training.mask_schedule import MaskSchedule
    from trainables.training.recipe import Recipe

Scored = Literal["init", "dense", "parent"]
"""Whose weights are scored: w_init, the trunk's trained w_0, or w_{t−1}."""


@dataclass(frozen=True)
class Step:
    """One iteration of a lineage.

    *train*: the dense trunk; *prune*: prune what its `scored` says, rewind, train; *retrain*: train
    the parent's mask again; *ablate*: train what an ablation makes of its parent. `identity` is the
    canonical JSON of what its key adds to its parent's, empty for the trunk. `inputs` is what it
    trains on, `density` the density it has to reach, where it has one.
    """

    iteration: int
    kind: Literal["train", "prune", "retrain", "ablate"]
    identity: str = ""
    inputs: TrainingInputs = "real"
    density: float | None = None
    scored: Scored = "parent"

    @property
    def has_parent(self) -> bool:
        """Whether it goes on from the masks of the iteration before."""
        return self.kind == "retrain" or (self.kind == "prune" and self.scored != "init")

    @property
    def pruned(self) -> Scored | None:
        """Whose weights its pruned model has; None where those were trained on noise or never
        pruned before."""
        return self.scored if self.kind == "prune" and self.inputs == "real" else None


@dataclass(frozen=True)
class Network:
    """A network as a method finds it when it has to prune.

    `model` has the weights that the method scores, and `masks` are what is kept of them so far, in
    the order of its layers. `density` is to be met exactly, where there is one. Who scores at
    initialization tells the `sample` of it, where some scores are to be kept.
    """

    model: nn.Module
    masks: Masks
    data: DeviceData
    seed: int
    iteration: int
    scope: Scope = "global"
    density: float | None = None
    sample: ScoreSample | None = None

    @property
    def weights(self) -> dict[str, Tensor]:
        """The prunable weights, in module order, without gradients."""
        return {name: weight.detach() for name, weight in prunable(self.model).items()}

    def to_score(self) -> nn.Module:
        """A copy of the model, in float64 and eval mode."""
        return _copied(self.model).to(torch.float64).eval()

    def stream(self, *labels: str | int) -> torch.Generator:
        """The generator (CPU) of this seed for what `labels` name."""
        return stream(self.seed, *labels)


@dataclass
class Scorer:
    """Scores a network, round by round: a copy of it."""

    model: nn.Module
    inputs: Inputs
    noise: torch.Generator

    @classmethod
    def of(cls, network: Network, inputs: Inputs, noise: torch.Generator) -> Scorer:
        return cls(network.to_score(), inputs, noise)

    def scores(self, criterion: Any, name: str, masks: Masks) -> dict[str, Tensor]:
        """What `criterion`, called `name`, gives for the network with `masks`.

        Raises PluginError unless that is a score in the weight's shape for each weight, and
        ValueError when one is no finite number.
        """
        apply_masks(self.model, masks)
        found = criterion(Scoring(self.model, masks, self.inputs(), self.noise))
        if not isinstance(found, dict) or found.keys() != masks.keys():
            given = ", ".join(map(str, found)) if isinstance(found, dict) else type(found).__name__
            raise PluginError(f"{name} scores {given or 'nothing'}, not {', '.join(masks)}")
        for layer, score in found.items():
            if not isinstance(score, torch.Tensor) or score.shape != masks[layer].shape:
                raise PluginError(
                    f"{name}: the scores of {layer} are {described(score)}; they must be a tensor "
                    f"of the weight's shape, {tuple(masks[layer].shape)}"
                )
            # A sum is quicker, and only a sum of finite numbers can be finite.
            if not (bool(score.sum().isfinite()) or bool(score.isfinite().all())):
                raise ValueError(f"{name}: not all scores of {layer} are finite numbers")
        return {layer: found[layer] for layer in masks}


def _copied(model: nn.Module) -> nn.Module:
    """A deep copy; what the network has computed and kept is copied without its graph, which
    `deepcopy` refuses."""
    attributes = (each for module in model.modules() for each in vars(module).values())
    tensors = (each for each in (*attributes, *model.buffers()) if isinstance(each, torch.Tensor))
    return copy.deepcopy(model, {id(t): t.detach().clone() for t in tensors if not t.is_leaf})


class Method(Entry):
    """A method by name; called with a `Network`, it gives the masks of what is to be kept.

    A method is put together from parts (`trainables.pruning.parts`): inheriting from one gives the
    config its field, and the method what that field means. What a part leaves open is here.
    """

    global_scope: ClassVar[bool] = False
    """Whether it decides itself which weights compete: all of them, or groups of its own."""
    changes_masks: ClassVar[bool] = False
    """Whether the mask changes within a training, which then has a schedule of it."""

    def steps(self, prune: Pruning) -> tuple[Step, ...]:
        """The iterations of a lineage, in order; the dense trunk, where there is one, is first."""
        raise NotImplementedError

    def require_fit(self, weights: Callable[[], Mapping[str, Tensor]]) -> None:
        """Raises Unfit when it cannot prune a network; `weights` gives its prunable weights, of
        which only the shapes are to be looked at."""

    def __call__(self, network: Network) -> Masks:
        return self.call(network)

    def require_time(self, recipe: Recipe, steps: int) -> None:
        """Raises Unfit when it cannot mean what it says in a training of so many `steps`."""

    def mask_schedule(self, network: Network, steps: int) -> MaskSchedule | None:
        """How the mask changes while `network` is trained for so many `steps`; None: it stays."""
        return None

    def weight_scores(self, network: Network) -> dict[str, Tensor]:
        """A score in the weight's shape for each weight, of which it keeps the highest; of one that
        has several rounds, those of the first. Not every method tells."""
        raise NotImplementedError

    @property
    def has_scores(self) -> bool:
        """Whether it tells `weight_scores`."""
        return type(self).weight_scores is not Method.weight_scores

    @property
    def rewind_step(self) -> int:
        """The training step that retraining starts from (0: the initialization)."""
        return 0

    @property
    def rewinds(self) -> Rewound:
        """What goes back to that step."""
        return "weights"

    @property
    def target(self) -> float | None:
        """The density that it aims at, where it does."""
        return None

    @property
    def samples(self) -> bool:
        """Whether masks are drawn."""
        return False

    @property
    def real_examples(self) -> int:
        """How many training examples it scores with."""
        return 0

    @property
    def needs_global_scope(self) -> bool:
        return self.global_scope or self.samples

    def identity(self, prune: Pruning, *without: str) -> str:
        """What the key of a pruning step adds: the method, but for the fields `without`, and the
        pruning, but for how long the lineage is."""
        method = {name: value for name, value in canonical(self).items() if name not in without}
        pruned = {n: value for n, value in canonical(prune).items() if n not in LENGTH}
        return canonical_json({"method": method, "prune": pruned})


def checked_masks(found: Any, like: Masks, who: str) -> Masks:
    """What a function `who` gave, when it is masks named and shaped as in `like`. Raises
    PluginError."""
    wanted = {name: described(mask) for name, mask in like.items()}
    if not isinstance(found, dict) or wanted != {n: described(m) for n, m in found.items()}:
        raise PluginError(
            f"{who} must give a mask for each weight of the network, bool and in the weight's "
            "shape, by its name"
        )
    return {name: found[name] for name in like}


def _made_of_parts(config: type[Entry]) -> None:
    """Raise PluginError when a field of a part would mean nothing."""
    for part, hook in PARTS.items():
        mine = set(part.model_fields) & set(config.model_fields)
        if mine and not issubclass(config, part):
            names = ", ".join(sorted(mine))
            raise PluginError(
                f"{config.where()}: {config.__name__} has {names} and does not derive from "
                f"{part.__name__}, which says what {names} means"
            )
        if issubclass(config, part) and getattr(config, hook) is getattr(Method, hook):
            raise PluginError(
                f"{config.where()}: {config.__name__} derives from {part.__name__} after its "
                f"method; write {part.__name__} first"
            )


METHOD = Kind(
    "method",
    Method,
    ("network",),
    ("trainables.pruning.methods", "trainables.pruning.criteria"),
    check=_made_of_parts,
)
