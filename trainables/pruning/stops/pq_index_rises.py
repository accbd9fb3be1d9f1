"""A network whose weights get sparser by themselves, as they do before it underfits."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

from pydantic import Field

from trainables.pruning.stopping import Rows, stop_rule

Times = Annotated[int, Field(ge=1)]


@stop_rule
def pq_index_rises(rows: Rows, *, times: Times = 1) -> str | None:
    """The PQ Index of the retrained weights was higher than at the iteration before, so many times
    in a row."""
    last = [row["pq_index"] for row in rows[-times - 1 :]]
    if len(last) <= times or any(index is None for index in last):
        return None
    if not all(before < after for before, after in pairwise(last)):
        return None
    return f"the PQ Index rose {' to '.join(f'{index:.6g}' for index in last)}"
