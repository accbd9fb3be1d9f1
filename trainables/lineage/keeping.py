"""Keeping: what iterations leave in the store, outside their identity."""

from typing import Annotated, Literal

from pydantic import Field

from trainables.config import Config


class StoreOptions(Config):
    """What iterations keep, and how often a running one saves its state.

    `keep_scores` is of how many weights pruning at initialization keeps the scores. A storage that
    does not answer is waited for, for `patience_minutes`.
    """

    keep_weights: Literal["all", "last", "none"] = "all"
    checkpoint_minutes: Annotated[float, Field(gt=0)] | None = None
    patience_minutes: Annotated[float, Field(ge=0)] = 30
    keep_scores: Annotated[int, Field(ge=0)] = 0
