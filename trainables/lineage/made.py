"""What an iteration has made, besides the trained model."""

from dataclasses import dataclass, field

from trainables.pruning.score_sample import ScoreSample
from trainables.sparsity.masks import Masks
from trainables.sparsity.weights import Sparsity
from trainables.training.evaluation import Evaluation
from trainables.training.progress import Progress


@dataclass
class Made:
    """The masks of an iteration, the measures of the model as it was pruned, its training, and the
    scores that are kept."""

    masks: Masks
    prune_seconds: float = 0.0
    pruned: Evaluation | None = None
    pruned_sparsity: Sparsity | None = None
    progress: Progress = field(default_factory=Progress)
    scores: ScoreSample | None = None
