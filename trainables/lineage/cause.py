"""Cause: why a lineage failed."""

from dataclasses import dataclass

from trainables.errors import Diverged, Hopeless, Interrupted, UnfitNode
from trainables.lazy_torch import torch


@dataclass(frozen=True)
class Cause:
    """Why a lineage, or a trial, failed; trying again is no use where it is `hopeless`, and no
    failure where it was `interrupted`. Where it is `unfit` the node can train nothing, and where
    its worker `died` nobody has said why."""

    text: str
    hopeless: bool = False
    out_of_memory: bool = False
    diverged: bool = False
    interrupted: bool = False
    unfit: bool = False
    died: bool = False

    @classmethod
    def of(cls, text: str, error: BaseException | None) -> "Cause":
        """`text` says why; `error` is what was raised, where that is known."""
        return cls(
            text,
            isinstance(error, Hopeless) or (isinstance(error, UnfitNode) and error.hopeless),
            isinstance(error, torch.OutOfMemoryError),
            isinstance(error, Diverged),
            isinstance(error, Interrupted),
            isinstance(error, UnfitNode),
        )
