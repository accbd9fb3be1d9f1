"""Mirrors: what shows a lineage's commits elsewhere while it runs."""

from collections.abc import Callable
from typing import Protocol, TypeAlias

from trainables.lineage.keys import Lineage


class Mirror(Protocol):
    """Follows one lineage's commits. No call raises, and none but `wait` takes time."""

    def committed(self) -> None:
        """The store may have more of the lineage than before."""
        ...

    def ended(self, key: str) -> None:
        """The lineage ends with the iteration that has this key."""
        ...

    def close(self) -> None:
        """Nothing more is coming; calls after the first do nothing."""
        ...

    def wait(self) -> None:
        """Wait, for a limited time, until everything told so far has been dealt with."""
        ...


Mirrors: TypeAlias = Callable[[Lineage], Mirror]
"""Begins to follow a lineage, with what the store has of it already."""
