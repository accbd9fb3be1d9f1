"""What ends a run, or some of its lineages, before everything is trained."""

import math
import time
from contextlib import suppress
from dataclasses import dataclass

from orchestrator.records.stops import EVERYTHING, STOPS
from orchestrator.run.queue import Queue
from trainables.store import Damaged, Store, StoreError

SECONDS = 5.0
"""Between two looks at what other terminals ask."""


@dataclass
class Ending:
    """Ends the run of `sweep` with the id `run` after `seconds`, and what `prunesweep stop` asks to
    end. All ends between iterations."""

    store: Store
    sweep: str
    run: str
    seconds: float | None = None

    def __post_init__(self) -> None:
        self._began, self._looked = time.monotonic(), -math.inf

    def heed(self, queue: Queue) -> None:
        """Stop what is to stop by now; called often."""
        now = time.monotonic()
        if queue.stopping:
            return
        if self.seconds is not None and now - self._began >= self.seconds:
            queue.stop()
        elif now - self._looked >= SECONDS:
            self._looked = now
            self._heed_others(queue)

    def _heed_others(self, queue: Queue) -> None:
        asked: list[str] = []
        with suppress(OSError, StoreError, Damaged):
            asked = STOPS.of(self.run).read(self.store, self.sweep) or []
        if EVERYTHING in asked:
            queue.stop()
        elif asked:
            queue.drop(asked)
