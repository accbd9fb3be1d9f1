"""A network that is as sparse as was wanted."""

from __future__ import annotations

from trainables.pruning.parts import Density
from trainables.pruning.stopping import Rows, stop_rule


@stop_rule
def density_below(rows: Rows, *, value: Density) -> str | None:
    """The density, the share of the prunable weights that is kept, is below a value."""
    density = rows[-1]["density"]
    return f"the density {density:.6g} is below {value:g}" if density < value else None
