"""Cause: why a lineage failed."""

from dataclasses import dataclass

from trainables.errors import Diverged, Hopeless, Interrupted
from trainables.lazy_torch import torch


@dataclass(frozen=True)
class Cause:
    """Why a lineage, or a trial, failed; trying again is no use where it is `hopeless`, and no
    failure where it was `interrupted`."""

    text: str
    hopeless: bool = False
    out_of_memory: bool = False
    diverged: bool = False
    interrupted: bool = False

    @classmethod
    def of(cls, text: str, error: BaseException | None) -> "Cause":
        """`text` says why; `error` is what was raised, where that is known."""
        return cls(
            text,
            isinstance(error, Hopeless),
            isinstance(error, torch.OutOfMemoryError),
            isinstance(error, Diverged),
            isinstance(error, Interrupted),
        )
