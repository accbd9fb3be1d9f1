"""Outcome: how a run ended."""

from dataclasses import dataclass

from orchestrator.records.failures import Failure


@dataclass(frozen=True)
class Outcome:
    """How a run ended: its failures, and whether it was interrupted; `left`, when it was told to go
    and had no time for anything else; `spent`, when the sweep's budget was."""

    failures: tuple[Failure, ...]
    interrupted: bool
    left: bool = False
    spent: bool = False

    @property
    def state(self) -> str:
        """In a word."""
        if self.interrupted:
            return "interrupted"
        return "failed" if self.failures else "finished"
