"""Pace: how long a run has to go, by what its iterations have taken so far."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass
class Pace:
    """Counts from when the first iteration began: what a run takes to start happens once.

    Times are in seconds, of one clock.
    """

    done: int = 0
    seconds: float = 0.0
    began: float = float("inf")

    def committed(self, now: float, seconds: float) -> None:
        """An iteration that took so many seconds is committed."""
        self.done += 1
        self.seconds += seconds
        self.began = min(self.began, now - seconds)

    def per_second(self, now: float) -> float | None:
        """Iterations a second so far; None before the first one."""
        return self.done / (now - self.began) if now > self.began else None

    def left(
        self,
        now: float,
        to_train: int,
        concurrent: int,
        at_work: Iterable[tuple[float, int]],
        elsewhere: float = 0.0,
    ) -> float | None:
        """Seconds until `to_train` iterations are done, when as many as `elsewhere` a second come
        from others; None before the first one, here or there.

        `at_work` has, for each lineage, since when it is at its iteration, and how many it has to
        go with that one. Iterations in flight count for the share of a mean one that they have
        behind them. It takes no less than the longest of the lineages at work.
        """
        if self.done == 0:
            return to_train / elsewhere if elsewhere else None
        mean = self.seconds / self.done
        spent = [(now - max(since, self.began), count) for since, count in at_work]
        shares = [min(1.0, each / mean) if mean > 0 else 0.0 for each, _ in spent]
        done = min(float(to_train), self.done + min(sum(shares), float(concurrent)))
        longest = max((count * mean - each for each, count in spent), default=0.0)
        so_far = now - self.began
        return max(0.0, longest, so_far / (done + elsewhere * so_far) * (to_train - done))
