"""What a criterion is: a function that says what each weight is worth."""

from collections.abc import Callable
from typing import Any, TypeVar, overload

from torch import Tensor

from trainables.plugins.entry import Entry, Kind
from trainables.pruning.at_init import AtInit
from trainables.pruning.method import METHOD
from trainables.pruning.scoring import Scoring
from trainables.pruning.scoring_data import ScoringData


class Criterion(ScoringData, Entry):
    """A criterion by name; called with a `Scoring`, it gives a score in the weight's shape for each
    prunable weight. The highest are to be kept."""

    def __call__(self, scoring: Scoring) -> dict[str, Tensor]:
        return self.call(scoring)


CRITERION = Kind("criterion", Criterion, ("scoring",), ("trainables.pruning.criteria",))

Score = TypeVar("Score", bound=Callable[..., dict[str, Tensor]])


@overload
def criterion(score: Score, /) -> Score: ...
@overload
def criterion(*, data: type[ScoringData] = ..., **defaults: Any) -> Callable[[Score], Score]: ...
def criterion(
    score: Any = None, /, *, data: type[ScoringData] = ScoringData, **defaults: Any
) -> Any:
    """The decorator of a criterion: `@criterion`, or `@criterion(data=Examples)` when it scores
    with data, which gives it the options of that part.

    It is then also a method of the same name, which prunes at initialization, and `defaults` are
    those of its options, as in `rounds=100`. Raises PluginError.
    """

    def register(score: Score) -> Score:
        config = CRITERION.made_of(score, score.__name__, data)
        method = METHOD.made_of(
            score, score.__name__, data, AtInit, attribute="at_init", **_defaults(defaults)
        )
        config.companions = (method,)
        return score

    return register if score is None else register(score)


def _defaults(defaults: dict[str, Any]) -> dict[str, Any]:
    return {name: (AtInit.__annotations__[name], default) for name, default in defaults.items()}
