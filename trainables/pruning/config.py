"""How a lineage is pruned, whatever its method: the section `prune` of a sweep file."""

from typing import Annotated

from pydantic import Field

from trainables.config import Choice, Config
from trainables.pruning.scope import Scope

MAX_ITERATIONS = 1000
"""Of one lineage, the trunk and a retraining apart."""


class Pruning(Config):
    """How a lineage is pruned, whatever its method.

    With `rewind_batchnorm: false`, BatchNorm statistics stay as trained when the weights rewind.
    """

    iterations: Annotated[int, Field(ge=0, le=MAX_ITERATIONS)] = 30
    scope: Annotated[Scope, Choice("scope")] = "global"
    rewind_batchnorm: bool = True
