"""Allowance: how much of a sweep's budget is left to a run, which spends it iteration by iteration.

What is in flight when it is spent is finished, so hours may be exceeded by what that takes.
Trainings are exceeded by none, but where several runs begin one in the same seconds.
"""

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from orchestrator.records.spending import Spent, read_spending, write_spending
from orchestrator.run.ready import UNLIMITED
from orchestrator.sweepfile.budget import Budget
from trainables.store import Store, StoreError

SECONDS = 5.0
"""Between two looks at what other runs have spent."""


@dataclass
class Allowance:
    """What the `run` of a `sweep` may spend of the `budget` that all its runs have together; all it
    wants without one."""

    store: Store
    sweep: str
    run: str
    budget: Budget | None = None
    _mine: Spent = field(default_factory=Spent)
    _others: Spent = field(default_factory=Spent)
    _looked: float | None = None

    def trained(self, result: Mapping[str, Any], gpus: float) -> None:
        """An iteration was committed here, with that share of a GPU; `result` has its seconds."""
        if self.budget is None:
            return
        seconds = result["train_seconds"] + result["prune_seconds"]
        self._mine += Spent(1, seconds, seconds * gpus)
        with suppress(OSError, StoreError):  # what is not written now, is with the next
            write_spending(self.store, self.sweep, self.run, self._mine)

    def left(self, begun: int = 0) -> int:
        """How many more iterations may begin beside those that have `begun`; none, or less, when
        the budget is spent."""
        if self.budget is None:
            return UNLIMITED
        spent = self.spent
        hours, gpu_hours = self.budget.hours, self.budget.gpu_hours
        if hours is not None and spent.seconds >= hours * 3600:
            return 0
        if gpu_hours is not None and spent.gpu_seconds >= gpu_hours * 3600:
            return 0
        if self.budget.trainings is None:
            return UNLIMITED
        return self.budget.trainings - spent.trainings - begun

    @property
    def spent(self) -> Spent:
        """What all runs have spent so far."""
        now = time.monotonic()
        if self._looked is None or now - self._looked >= SECONDS:
            self._looked = now
            with suppress(OSError, StoreError):
                told = read_spending(self.store, self.sweep)
                self._others = sum((told[run] for run in told if run != self.run), Spent())
        return self._others + self._mine


def budget_line(budget: Budget, spent: Spent) -> str:
    """How much of the budget is spent, in words."""
    amounts = (
        (spent.trainings, budget.trainings, "trainings"),
        (spent.seconds / 3600, budget.hours, "hours"),
        (spent.gpu_seconds / 3600, budget.gpu_hours, "GPU-hours"),
    )
    told = [f"{done:.3g} of {most:g} {what}" if what != "trainings" else f"{done} of {most} {what}"
            for done, most, what in amounts if most is not None]  # fmt: skip
    return f"{', '.join(told)} spent"
