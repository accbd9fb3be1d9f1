"""Records of a sweep: its resolved file (`sweep.json`) and its lineages (`lineages.json`)."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    SerializerFunctionWrapHandler,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_serializer,
    model_validator,
)

from orchestrator.records.files import RecordFile
from trainables.config import CODE, RAISED
from trainables.errors import UserError
from trainables.store import Store
from trainables.store.storage_format import require_ours

if TYPE_CHECKING:
    from trainables.pruning import Step


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


Among: TypeAlias = tuple[str, str, bool]

IDLE: Mapping[str, Callable[[Mapping[str, Any]], bool]] = {
    "method.sampled_rounds": lambda method: method.get("selection") != "sampled",
    "method.schedule": lambda method: method.get("rounds", 1) == 1,
}
"""By dotted parameter, whether it means nothing in a method's config."""

NO_OPTIONS = (CODE, RAISED, "fingerprint", "initial_weights")
"""What an identity has besides options, or in the place of a file's path."""

LATER = ("pruned", "noise", "stopped", "measurements")
"""What earlier records lack, or all."""


# Of names and keys, paths in the store are made.
PlainName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Scored = Literal["init", "dense", "parent"]
"""As `trainables.pruning.method` has it."""
Key = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+$")]


@dataclass(frozen=True)
class MeasurementRecord:
    """What was measured of an iteration of a lineage, and the table that has it; `snapshots` are
    the training steps whose weights it starts from. Of a pair of tickets it is the second one's,
    and compares it `with_` the iteration of another lineage."""

    measure: str
    iteration: int
    table: PlainName
    key: Key
    snapshots: tuple[int, ...] = ()
    with_: tuple[PlainName, int] | None = None


SAME_TEST_SET = ("subset", "holdout", "overlap", "normalize")
"""Options of datasets that leave the test examples as they are."""


def _tested_on(dataset: Mapping[str, Any]) -> dict[str, Any]:
    return {name: each for name, each in dataset.items() if name not in SAME_TEST_SET}


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
    noise: tuple[int, ...] | None = None
    """The iterations trained on random data; None in a record from before it said so."""
    measurements: tuple[MeasurementRecord, ...] | None = None
    """None where nothing is measured."""
    stopped: str | None = None
    """Why it was ended with the last of its iterations, where it was; in no file."""

    @model_serializer(mode="wrap")
    def _as_it_was(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values = written(self)
        return {k: v for k, v in values.items() if k not in LATER or v is not None}

    @cached_property
    def scored(self) -> Mapping[int, Scored | None]:
        """By iteration, whose weights its pruned model has."""
        pruned: Sequence[Scored | None] | None = self.pruned
        if pruned is None:  # a record from before there were plug-ins
            pruned = tuple(step.pruned for step in self._steps())
        return dict(zip(self.iterations, pruned, strict=True))

    @cached_property
    def on_data(self) -> frozenset[int]:
        """The iterations trained on real data: those that a result can be chosen from. Others find
        a mask on noise, and their accuracies say nothing."""
        noise = self.noise
        if noise is None:  # a record from before it said so; no plug-in's method is known here
            with suppress(ValidationError):
                noise = noisy_iterations(self._steps())
        return frozenset(self.iterations) - {*(noise or ())}

    def _steps(self) -> "Sequence[Step]":
        # Here, as only records from before they said so need to know the methods.
        from trainables.pruning import Method, MethodConfig, Pruning

        method: Method = TypeAdapter(MethodConfig).validate_python(self.config["method"])
        return method.steps(Pruning.model_validate(self.config["prune"]))

    @property
    def elsewhere(self) -> str | None:
        """The dataset that an ablation goes to, where its accuracies are of another test set than
        those of what it is of."""
        own, there = self.config["dataset"], self.config.get("ablation", {}).get("dataset")
        if there is None or _tested_on(there) == _tested_on(own):
            return None
        return f"another {own['name']}" if there["name"] == own["name"] else str(there["name"])

    @property
    def committed_keys(self) -> tuple[str, ...]:
        """All keys that are stored when it is complete: of its iterations, and of what is measured
        of them."""
        return (*self.keys, *(each.key for each in self.measurements or ()))

    def section_name(self, parameter: str) -> str:
        """The name of the dataset, model or method that has a dotted parameter, else \"\"."""
        return self.config.get(parameter.partition(".")[0], {}).get("name", "")

    def is_idle(self, parameter: str) -> bool:
        """Whether another option of the method makes a dotted parameter mean nothing."""
        return parameter in IDLE and IDLE[parameter](self.config["method"])

    def among(self, parameter: str) -> "Among":
        """The lineages that a dotted parameter may tell this one from: those of the same dataset,
        model or method; where it means nothing, those of them for which it means nothing too."""
        return parameter, self.section_name(parameter), self.is_idle(parameter)


def noisy_iterations(steps: "Sequence[Step]") -> tuple[int, ...]:
    """The iterations trained on anything but real data."""
    return tuple(step.iteration for step in steps if step.inputs != "real")


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
    def telling(self) -> frozenset["Among"]:
        """The swept parameters that tell lineages apart, each with those among which it differs."""
        found: dict[Among, set[str]] = {}
        for line in self.lineages:
            for name in self.swept:
                for among in {(*line.among(name)[:2], False), line.among(name)}:
                    found.setdefault(among, set()).add(repr(line.swept[name]))
        return frozenset(at for at, values in found.items() if len(values) > 1)


def write_sweep(store: Store, record: SweepRecord) -> None:
    SPEC.write_if_other(store, record.name, record.spec)
    lineages = Lineages(swept=record.swept, lineages=record.lineages)
    LINEAGES.write_if_other(store, record.name, lineages)


def read_sweep(store: Store, name: str) -> SweepRecord | None:
    """The sweep `name` as last run; None when this storage has none. Raises Damaged."""
    spec = SPEC.read(store, name)
    found = LINEAGES.read(store, name)
    if spec is None or found is None:
        return None
    return SweepRecord(name, spec, found.swept, found.lineages)


class NoSuchLineage(UserError):
    """No lineage is meant, or more than one."""


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
    names = store.folders("sweeps")
    close = get_close_matches(name, names, n=1)
    guess = f"; did you mean {close[0]!r}? It" if close else "; it"
    return NoSuchSweep(
        f"storage {store.location} has no sweep {name!r}{guess} has: "
        f"{', '.join(names) or 'none'}. "
        "Choose another --storage, or run the sweep first"
    )
