"""A pruning that hardly prunes any more."""

from __future__ import annotations

from trainables.pruning.parts import Ratio
from trainables.pruning.stopping import Rows, stop_rule


@stop_rule
def ratio_below(rows: Rows, *, value: Ratio) -> str | None:
    """The iteration pruned less than a share of the weights that the one before it had kept."""
    if len(rows) < 2:
        return None
    before, kept = rows[-2]["params_kept"], rows[-1]["params_kept"]
    ratio = (before - kept) / before if before else 0.0
    return f"the ratio pruned, {ratio:.6g}, is below {value:g}" if ratio < value else None
