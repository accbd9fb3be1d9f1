"""The budget of a sweep: what its runs may train, and what of it is worth it."""

import re
from contextlib import suppress
from fractions import Fraction
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from trainables.config import Config


def _fraction(value: Any) -> Any:
    """A share such as 1/3, which YAML has as text, or 0.25."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    written = isinstance(value, str) and re.fullmatch(r"[0-9]{1,6}/[0-9]{1,6}", value)
    if not (number or written):
        raise PydanticCustomError("fraction", "must be a share such as 1/3 or 0.25")
    with suppress(ZeroDivisionError):
        if 0 < Fraction(str(value)) < 1:
            return value
    raise PydanticCustomError("fraction", "must be greater than 0 and less than 1")


class Rank(Config):
    """Successive halving: after each rung the best cells go on, and the rest has ended.

    The first rung is the iteration `after_iterations`; others follow `every` so many, if any do. At
    a rung cells are compared by their mean over seeds, of the iteration, or `at_density`, where
    lineages have come to it by then.
    """

    after_iterations: Annotated[int, Field(ge=1)]
    every: Annotated[int, Field(ge=1)] | None = None
    by: Literal["test_accuracy", "validation_accuracy"] = "test_accuracy"
    at_density: Annotated[float, Field(gt=0, lt=1)] | None = None
    keep: Annotated[float | str, BeforeValidator(_fraction)] = "1/2"

    def kept(self, cells: int) -> int:
        """How many of so many cells go on: at least one."""
        return max(1, int(cells * Fraction(str(self.keep))))

    @property
    def where(self) -> str:
        """Where values are compared, in words that follow them: nothing, or at which density."""
        return "" if self.at_density is None else f" at density {self.at_density:g}"

    @model_validator(mode="after")
    def _once_at_a_density(self) -> Self:
        if self.at_density is not None and self.every is not None:
            message = "at_density compares by the same at every rung; leave out every"
            raise PydanticCustomError("rungs_at_density", message)
        return self


class Budget(Config):
    """What all runs of a sweep together may train; outside the identity of results.

    `hours` are of training, one lineage's at a time, and `gpu_hours` of those the shares of GPUs.
    `rank` says which cells are worth it.
    """

    trainings: Annotated[int, Field(ge=1)] | None = None
    hours: Annotated[float, Field(gt=0)] | None = None
    gpu_hours: Annotated[float, Field(gt=0)] | None = None
    rank: Rank | None = None

    @property
    def limits(self) -> bool:
        """Whether there is an end to it."""
        return any(most is not None for most in (self.trainings, self.hours, self.gpu_hours))

    @model_validator(mode="after")
    def _of_something(self) -> Self:
        if not self.model_fields_set:
            message = "say of what: trainings, hours, gpu_hours or rank"
            raise PydanticCustomError("no_budget", message)
        return self
