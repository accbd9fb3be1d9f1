"""What the JSON files of a sweep's records hold. A file that holds anything else is damaged."""

from datetime import datetime
from typing import Annotated, Any, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    FiniteFloat,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from trainables.store import Damaged, Store


def _cell(config: dict[str, Any]) -> dict[str, Any]:
    for section in ("dataset", "model", "train", "prune", "method"):
        if not isinstance(config.get(section), dict):
            raise ValueError(f"no {section}")
    for section in ("dataset", "model", "method"):
        if not isinstance(config[section].get("name"), str):
            raise ValueError(f"{section} has no name")
    if not isinstance(config.get("seed"), int) or not isinstance(config["prune"].get("scope"), str):
        raise ValueError("no seed or no prune.scope")
    return config


def _zoned(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("a time without its zone")
    return text


# Of names and keys, paths in the store are made.
PlainName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Key = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+$")]
Time = Annotated[str, AfterValidator(_zoned)]
"""ISO 8601."""


class WrittenLineage(BaseModel):
    id: PlainName
    config: Annotated[dict[str, Any], AfterValidator(_cell)]
    swept: dict[str, Any]
    iterations: tuple[int, ...]
    keys: tuple[Key, ...]


class WrittenLineages(BaseModel):
    """`lineages.json`"""

    swept: tuple[str, ...]
    lineages: tuple[WrittenLineage, ...]

    @model_validator(mode="after")
    def _complete(self) -> Self:
        for line in self.lineages:
            if len(line.iterations) != len(line.keys) or not line.keys:
                raise ValueError(f"{line.id} has not one key for each iteration")
            if not set(self.swept) <= set(line.swept):
                raise ValueError(f"{line.id} lacks a swept parameter")
        return self


class Process(BaseModel):
    """What `trainables.store.processes.this_process` gives."""

    pid: int
    started: str
    host: str
    boot: str | None
    namespace: str | None


class AtWork(BaseModel):
    """A lineage at work: its last committed iteration and that one's test accuracy."""

    iteration: int | None
    accuracy: float | None
    attempt: int

    @model_validator(mode="after")
    def _both(self) -> Self:
        if (self.iteration is None) != (self.accuracy is None):
            raise ValueError("an iteration without its accuracy, or the other way round")
        return self


class Heartbeat(BaseModel):
    """`run.json`: a run's last sign of life; `process` is newer than the rest."""

    model_config = ConfigDict(extra="allow")

    state: str
    host: str
    pid: int
    process: Process | None = None
    heartbeat: Time
    running: dict[str, AtWork]
    eta_seconds: FiniteFloat | None


class Provenance(BaseModel):
    """One run in `provenance.json`."""

    model_config = ConfigDict(extra="allow")

    started_at: Time
    command: list[str]


Read = TypeVar("Read")


def read_written(store: Store, path: str, kind: type[Read]) -> Read | None:
    """The JSON value in a file; None when there is no such file.

    Raises Damaged when it is not of its `kind`, a type that pydantic can validate."""
    found = store.read_json(path)
    try:
        return None if found is None else TypeAdapter(kind).validate_python(found)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise Damaged(path, f"not what prunesweep writes ({where}: {first['msg']})") from None
