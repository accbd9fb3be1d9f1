"""prunesweep for plug-ins and notebooks: all that a file of one's own needs to import.

A plug-in is a Python file or package that a sweep names under `plugins:`. What it decorates can be
named in the sweep, with the options of its signature:

    from prunesweep import Shape, model
    from torch import nn

    @model
    def tiny(shape: Shape, classes: int, *, width: int = 32) -> nn.Module: ...

Decorators: `model`, `dataset`, `criterion`, `method`, `ablation`, and for the training recipe
`optimizer`, `lr_schedule`, `loss` and `augmentation`, and `stop_rule`. docs/plugins.md shows each.
"""

from typing import TYPE_CHECKING, Any

from trainables.config import Config, Listed
from trainables.data import (
    DataRoots,
    Dataset,
    DatasetInfo,
    DatasetNotFound,
    Split,
    dataset,
    described_by,
)
from trainables.data.dataset import channel_statistics
from trainables.data.fingerprint import fingerprint
from trainables.models import Shape, model
from trainables.plugins.entry import PluginError
from trainables.pruning import Method, Network, Pruning, Step
from trainables.pruning.ablation import Ablation, Branch, ablation
from trainables.pruning.amount import ratio_amount
from trainables.pruning.criterion import criterion
from trainables.pruning.decorator import method
from trainables.pruning.iterative import Iterative, Repeated
from trainables.pruning.parts import Density, Ratio, Rewinds, Selects, ToDensity
from trainables.pruning.scoring import Scoring, gradient, summed
from trainables.pruning.scoring import loss as scoring_loss
from trainables.pruning.scoring_data import Examples, FlowInput
from trainables.pruning.stopping import StopRule, stop_rule
from trainables.sparsity.masks import Masks
from trainables.training.augmentation import augmentation
from trainables.training.losses import loss
from trainables.training.optimizers import optimizer
from trainables.training.schedules import lr_schedule

if TYPE_CHECKING:
    from orchestrator.results.opening import open_results as open_results

__all__ = [
    "Ablation",
    "Branch",
    "Config",
    "DataRoots",
    "Dataset",
    "DatasetInfo",
    "DatasetNotFound",
    "Density",
    "Examples",
    "FlowInput",
    "Iterative",
    "Listed",
    "Masks",
    "Method",
    "Network",
    "PluginError",
    "Pruning",
    "Ratio",
    "Repeated",
    "Rewinds",
    "Scoring",
    "Selects",
    "Shape",
    "Split",
    "Step",
    "StopRule",
    "ToDensity",
    "ablation",
    "augmentation",
    "channel_statistics",
    "criterion",
    "dataset",
    "described_by",
    "fingerprint",
    "gradient",
    "loss",
    "lr_schedule",
    "method",
    "model",
    "open_results",
    "optimizer",
    "ratio_amount",
    "scoring_loss",
    "stop_rule",
    "summed",
]


def __getattr__(name: str) -> Any:
    # Imported when asked for: plug-ins have no use for it, and workers start faster.
    if name == "open_results":
        from orchestrator.results.opening import open_results

        return open_results
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
