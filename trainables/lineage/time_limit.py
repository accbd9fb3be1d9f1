"""Time limit: an iteration that takes too long."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from trainables.lineage.keys import Lineage


class TimeLimit:
    """A `Limit`: calls `end` with the thread that is at work, and the lineages that it works for,
    when a piece of work takes `seconds` for each of them. The seconds that were `waited` for a
    storage do not count."""

    def __init__(
        self,
        seconds: float,
        end: Callable[[int, Sequence[Lineage]], None],
        waited: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._seconds, self._end, self._waited = seconds, end, waited

    @contextmanager
    def __call__(self, lineages: Sequence[Lineage]) -> Iterator[None]:
        at_work = threading.get_ident()
        seconds = self._seconds * len(lineages)
        over = threading.Event()

        def watch() -> None:
            left, before = seconds, self._waited()
            while left > 0 and not over.wait(left):
                now = self._waited()
                left, before = now - before, now
            if not over.is_set():
                self._end(at_work, lineages)

        threading.Thread(target=watch, daemon=True).start()
        try:
            yield
        finally:
            over.set()
