"""What a criterion is: a function that says what each weight is worth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, overload

from trainables.lazy_torch import Tensor
from trainables.plugins.entry import Entry, Kind, PluginError, location
from trainables.pruning.at_init import AtInit
from trainables.pruning.method import METHOD
from trainables.pruning.scoring import Scoring
from trainables.pruning.scoring_data import ScoringData


class Criterion(ScoringData, Entry):
    """A criterion by name; called with a `Scoring`, it gives a score in the weight's shape for each
    prunable weight. The highest are to be kept."""

    def __call__(self, scoring: Scoring) -> dict[str, Tensor]:
        return self.call(scoring)


CRITERION = Kind(
    "criterion", Criterion, ("scoring",), ("trainables.pruning.criteria",), "magnitude"
)

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
    those of its options, as in `rounds=100`, and of its data. Raises PluginError.
    """

    def register(score: Score) -> Score:
        of_method = _defaults(score, data, defaults)
        of_data = {name: each for name, each in of_method.items() if name in data.model_fields}
        config = CRITERION.made_of(score, score.__name__, data, **of_data)
        method = METHOD.made_of(
            score, score.__name__, data, AtInit, attribute="at_init", **of_method
        )
        config.companions = (method,)
        return score

    return register if score is None else register(score)


def _defaults(score: Any, data: type[ScoringData], defaults: dict[str, Any]) -> dict[str, Any]:
    fields = AtInit.model_fields | data.model_fields
    for name in defaults.keys() - fields.keys():
        raise PluginError(f"{location(score)}: there is no option {name} to have a default")
    return {n: (fields[n].rebuild_annotation(), default) for n, default in defaults.items()}
