"""Outcome: how a run ended."""

from dataclasses import dataclass

from orchestrator.records.failures import Failure


@dataclass(frozen=True)
class Outcome:
    """How a run ended: its failures, and whether it was interrupted."""

    failures: tuple[Failure, ...]
    interrupted: bool

    @property
    def state(self) -> str:
        """In a word."""
        if self.interrupted:
            return "interrupted"
        return "failed" if self.failures else "finished"
