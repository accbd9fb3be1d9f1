"""Records of a sweep: its resolved file (`sweep.json`) and its lineages (`lineages.json`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    SerializerFunctionWrapHandler,
    StringConstraints,
    TypeAdapter,
    model_serializer,
    model_validator,
)

from orchestrator.records.files import RecordFile
from orchestrator.sweepfile.spec import SweepSpec, parameter, swept_parameters
from trainables.errors import UserError
from trainables.lineage.keys import Lineage
from trainables.pruning import Method, MethodConfig, Pruning
from trainables.pruning.method import Scored
from trainables.store import Store
from trainables.store.storage_format import require_ours


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


# Of names and keys, paths in the store are made.
PlainName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Key = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+$")]


@dataclass(frozen=True)
class LineageRecord:
    """One lineage as a reader of results needs it."""

    id: PlainName
    config: Annotated[dict[str, Any], AfterValidator(_cell)]
    swept: dict[str, Any]
    iterations: tuple[int, ...]
    keys: tuple[Key, ...]
    pruned: tuple[Scored | None, ...] | None = None
    """Whose weights each iteration's pruned model has; None in a record from before it said so."""

    @model_serializer(mode="wrap")
    def _as_it_was(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values = written(self)
        return {k: v for k, v in values.items() if k != "pruned" or v is not None}

    @cached_property
    def scored(self) -> Mapping[int, Scored | None]:
        """By iteration, whose weights its pruned model has."""
        pruned: Sequence[Scored | None] | None = self.pruned
        if pruned is None:  # a record from before there were plug-ins
            method: Method = TypeAdapter(MethodConfig).validate_python(self.config["method"])
            steps = method.steps(Pruning.model_validate(self.config["prune"]))
            pruned = tuple(step.pruned for step in steps)
        return dict(zip(self.iterations, pruned, strict=True))

    def section_name(self, parameter: str) -> str:
        """The name of the dataset, model or method that has a dotted parameter, else \"\"."""
        return self.config.get(parameter.partition(".")[0], {}).get("name", "")


class Lineages(BaseModel):
    """What `lineages.json` holds."""

    swept: tuple[str, ...]
    lineages: tuple[LineageRecord, ...]

    @model_validator(mode="after")
    def _complete(self) -> Self:
        for line in self.lineages:
            pruned = line.keys if line.pruned is None else line.pruned
            if {len(line.iterations), len(pruned)} != {len(line.keys)} or not line.keys:
                raise ValueError(f"{line.id} has not one key for each iteration")
            if not set(self.swept) <= set(line.swept):
                raise ValueError(f"{line.id} lacks a swept parameter")
        return self


# A storage outlives the keys of sweep files, so any mapping may be the spec of an older sweep.
SPEC = RecordFile("sweep.json", TypeAdapter(dict[str, Any]))
LINEAGES = RecordFile("lineages.json", TypeAdapter(Lineages))


@dataclass(frozen=True)
class SweepRecord:
    """A sweep as it was last run: its resolved file and its lineages.

    One `joined` from several has neither a file nor records of its own, and these as its parts.
    """

    name: str
    spec: dict[str, Any]
    swept: tuple[str, ...]
    lineages: tuple[LineageRecord, ...]
    joined: tuple["SweepRecord", ...] = ()

    @property
    def parts(self) -> tuple["SweepRecord", ...]:
        """The sweeps that the storage knows, each with the lineages that are taken from it."""
        return self.joined or (self,)

    @cached_property
    def telling(self) -> frozenset[tuple[str, str]]:
        """The swept parameters that tell lineages apart, each with the name (of a dataset, model
        or method) among whose lineages it differs; recipes and pruning have the name \"\"."""
        found: dict[tuple[str, str], set[str]] = {}
        for line in self.lineages:
            for name in self.swept:
                values = found.setdefault((name, line.section_name(name)), set())
                values.add(repr(line.swept[name]))
        return frozenset(at for at, values in found.items() if len(values) > 1)


def record_sweep(spec: SweepSpec, lineages: Sequence[Lineage]) -> SweepRecord:
    """The record of a sweep with its lineages."""
    swept = swept_parameters(spec)
    return SweepRecord(
        name=spec.name,
        spec=spec.model_dump(mode="json"),
        swept=swept,
        lineages=tuple(
            LineageRecord(
                line.id,
                line.config(),
                {name: parameter(line.cell, name) for name in swept},
                tuple(step.iteration for step in line.steps),
                line.keys,
                tuple(step.pruned for step in line.steps),
            )
            for line in lineages
        ),
    )


def write_sweep(store: Store, record: SweepRecord) -> None:
    SPEC.write(store, record.name, record.spec)
    lineages = Lineages(swept=record.swept, lineages=record.lineages)
    LINEAGES.write(store, record.name, lineages)


def read_sweep(store: Store, name: str) -> SweepRecord | None:
    """The sweep `name` as last run; None when this storage has none. Raises Damaged."""
    spec = SPEC.read(store, name)
    found = LINEAGES.read(store, name)
    if spec is None or found is None:
        return None
    return SweepRecord(name, spec, found.swept, found.lineages)


class NoSuchSweep(UserError, ValueError):
    """The storage has no sweep of that name."""


def existing_sweep(store: Store, name: str) -> SweepRecord:
    """The sweep `name` as last run; raises NoSuchSweep, naming those there are, or Damaged."""
    require_ours(store)
    record = read_sweep(store, name) if name in store.names("sweeps") else None
    if record is None:
        raise no_such_sweep(store, name)
    return record


def no_such_sweep(store: Store, name: str) -> NoSuchSweep:
    """The error that `store` has no sweep `name`; it names those there are."""
    names = store.names("sweeps")
    close = get_close_matches(name, names, n=1)
    guess = f"; did you mean {close[0]!r}? It" if close else "; it"
    return NoSuchSweep(
        f"storage {store.location} has no sweep {name!r}{guess} has: "
        f"{', '.join(names) or 'none'}. "
        "Choose another --storage, or run the sweep first"
    )
