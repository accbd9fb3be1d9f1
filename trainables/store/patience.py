"""Patience: a storage that does not answer is waited for, and spoken of once."""

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import TypeVar

from trainables.store.errors import StoreSilent

T = TypeVar("T")

SHORT_MINUTES = 1 / 6
"""For commands that somebody waits for."""

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
TOLD_AFTER = 3.0
"""Seconds of silence: what is over sooner is not worth a line."""

log = logging.getLogger("prunesweep.store")


@dataclass
class Patience:
    """How long to wait for a storage that does not answer, and what was seen of its silence.

    `answering_since` is since when it has answered, in seconds of the monotonic clock.
    """

    location: str = ""
    minutes: float = SHORT_MINUTES
    answering_since: float = float("-inf")
    _waited: float = 0.0
    _silent_since: float | None = None
    _told: bool = False
    _lock: Lock = field(default_factory=Lock)

    def waited(self) -> float:
        """Seconds that it has been waited for in all."""
        with self._lock:
            now = 0.0 if self._silent_since is None else time.monotonic() - self._silent_since
            return self._waited + now

    def ask(self, question: Callable[[], T], reason: Callable[[Exception], str | None]) -> T:
        """The answer to a question that may be asked again; `reason` is why an error is none.

        Raises StoreSilent when patience is at an end.
        """
        began, pause = time.monotonic(), FIRST_PAUSE
        while True:
            try:
                answer = question()
            except Exception as error:
                why = reason(error)
                if why is None:
                    self._heard()
                    raise
                if self._is_over(began, why):
                    raise StoreSilent(
                        f"storage {self.location} does not answer ({why}); everything committed is "
                        "safe, run again when it is back"
                    ) from error
                # Those who wait do not come back all at once.
                time.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                self._heard()
                return answer

    def _is_over(self, began: float, why: str) -> bool:
        with self._lock:
            now = time.monotonic()
            since = self._silent_since = self._silent_since or began
            # Others may have been answered meanwhile: this question has a limit of its own.
            over = now - min(began, since) >= self.minutes * 60
            long = self.minutes > SHORT_MINUTES
            if long and not over and not self._told and now - since >= TOLD_AFTER:
                self._told = True
                log.warning(
                    "storage %s does not answer (%s); waiting for up to %g minutes",
                    self.location, why, self.minutes,
                )  # fmt: skip
            return over

    def _heard(self) -> None:
        if self._silent_since is None:
            return
        with self._lock:
            if self._silent_since is None:
                return
            self.answering_since = time.monotonic()
            self._waited += self.answering_since - self._silent_since
            self._silent_since = None
            if self._told:
                self._told = False
                log.warning("storage %s answers again", self.location)
