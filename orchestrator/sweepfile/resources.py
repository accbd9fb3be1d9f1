"""Resources: what one lineage may use."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from trainables.config import Config
from trainables.training.execution import Execution


def _gpus(value: Any) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value != "auto" and not (number and 0 <= value <= 1):
        raise PydanticCustomError(
            "gpus", "must be auto, or a share of one GPU from 0 (the CPU) to 1, such as 0.25"
        )
    return value


def _fuse(value: Any) -> Any:
    number = isinstance(value, int) and not isinstance(value, bool)
    if value not in ("off", "auto") and not (number and 1 <= value <= 1024):
        raise PydanticCustomError(
            "fuse", "must be off, auto, or the most lineages to train as one computation, such as 8"
        )
    return value


class Resources(Config):
    """What one lineage may use, or `fuse` lineages that are trained as one computation; outside
    the identity of results."""

    gpus_per_lineage: Annotated[Literal["auto"] | float, BeforeValidator(_gpus)] = "auto"
    cpus_per_lineage: Annotated[int, Field(ge=1)] = 1
    max_concurrent: Annotated[int, Field(ge=1)] | None = None
    retries: Annotated[int, Field(ge=0)] = 1
    fuse: Annotated[Literal["off", "auto"] | int, BeforeValidator(_fuse)] = "off"
    compile: Literal["off", "on"] = "off"
    graphs: Literal["auto", "off", "on"] = "auto"
    timeout_minutes: Annotated[float, Field(gt=0)] | None = None
    pin_cores: bool = True
    mps: Literal["auto", "off"] = "off"

    @model_validator(mode="after")
    def _no_mps_without_end(self) -> Self:
        if self.mps == "auto" and self.timeout_minutes is None:
            raise PydanticCustomError(
                "no_timeout",
                "mps: auto needs timeout_minutes, since a process that dies can let the others that"
                " share its GPU wait for ever; set it to more than an iteration takes",
            )
        return self

    @property
    def execution(self) -> Execution:
        """By what means steps are computed."""
        return Execution(compile=self.compile == "on", graphs=self.graphs)
