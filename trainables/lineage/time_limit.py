"""Time limit: an iteration that takes too long."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from trainables.lineage.keys import Lineage


class TimeLimit:
    """A `Limit`: calls `end` with the thread that is at work, and the lineages that it works for,
    when a piece of work takes `seconds` for each of them."""

    def __init__(self, seconds: float, end: Callable[[int, Sequence[Lineage]], None]) -> None:
        self._seconds, self._end = seconds, end

    @contextmanager
    def __call__(self, lineages: Sequence[Lineage]) -> Iterator[None]:
        at_work = threading.get_ident()
        seconds = self._seconds * len(lineages)
        timer = threading.Timer(seconds, self._end, [at_work, lineages])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
