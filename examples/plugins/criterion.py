"""A criterion of one's own.

At initialization: `{name: scaled_magnitude, density: 0.1}`. Iteration by iteration:
`{name: lottery_ticket, criterion: {name: scaled_magnitude, power: 2.0}}`.
"""

from torch import Tensor

from prunesweep import Scoring, criterion


@criterion
def scaled_magnitude(scoring: Scoring, *, power: float = 1.0) -> dict[str, Tensor]:
    """|w| over the standard deviation of its layer, to a power."""
    return {name: (w.abs() / w.std()) ** power for name, w in scoring.weights.items()}
