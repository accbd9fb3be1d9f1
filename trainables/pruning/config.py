"""How a lineage is pruned, whatever its method: the section `prune` of a sweep file."""

from typing import Annotated

from pydantic import Field

from trainables.config import Choice, Config
from trainables.plugins.entry import Named
from trainables.pruning.scope import Scope
from trainables.pruning.stopping import STOP, Rules, StopRule

MAX_ITERATIONS = 1000
"""Of one lineage, the trunk and a retraining apart."""

LENGTH = ("iterations", "stop")
"""What says how long a lineage is, and is in no key."""


class Pruning(Config):
    """How a lineage is pruned, whatever its method.

    With `rewind_batchnorm: false`, BatchNorm statistics stay as trained when the weights rewind.
    The first of the rules of `stop` that is met ends it before its `iterations` are done.
    """

    iterations: Annotated[int, Field(ge=0, le=MAX_ITERATIONS)] = 30
    scope: Annotated[Scope, Choice("scope")] = "global"
    rewind_batchnorm: bool = True
    stop: Annotated[tuple[Annotated[StopRule, Named(STOP)], ...], Rules] = ()
