"""Frozen configs, and what of a config is identity."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, GetCoreSchemaHandler, model_validator
from pydantic_core import PydanticCustomError, core_schema, to_jsonable_python

from trainables.versions import VERSIONS

LEDGER = "identity.json"
"""The fields of every built-in config that decide keys; see `canonical`."""

CODE = "code"
"""Where the identity of a plugged-in config has that of its code."""

RAISED = "part versions"
"""Where an identity has the versions above 1 of its parts. No option can be called so."""


class Config(BaseModel):
    """A frozen, strict config: unknown keys, NaN, infinity and implicit conversions are errors."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    plugged_code: ClassVar[str | None] = None
    """What identifies the code of a plugged-in config; None for what prunesweep ships."""

    @classmethod
    def ordered(cls) -> tuple[str, ...]:
        """The names of the fields, in the order in which labels have them."""
        return tuple(cls.model_fields)

    @classmethod
    def ledger_name(cls) -> str:
        """The name of this config in the ledger."""
        return cls.__name__

    @classmethod
    def ledger_parts(cls) -> tuple[str, ...]:
        """The parts that every config of this class is computed with, whatever its values: that of
        the class, and those of the classes that it derives from."""
        bases = (base for base in cls.__mro__ if issubclass(base, Config))
        return tuple(base.ledger_name() for base in bases)

    @model_validator(mode="before")
    @classmethod
    def _known_and_fixed(cls, data: Any) -> Any:
        """No key is unknown, and the lists in YAML are tuples, which stay as they are."""
        if not isinstance(data, Mapping):
            return data
        for key in data:
            if key not in cls.model_fields:
                known = list(cls.model_fields)
                context = {"key": key, "known": known, "of": getattr(cls, "entry_name", "")}
                raise PydanticCustomError("unknown_key", "unknown key", context)
        return {key: _tupled(value) for key, value in data.items()}


def _tupled(value: Any) -> Any:
    return tuple(map(_tupled, value)) if isinstance(value, list) else value


Listed = BeforeValidator(_tupled)
"""Marked a field as one whose value is a list in YAML, which a config sees by its type, a tuple;
plug-ins may still have it."""


@dataclass(frozen=True)
class Choice:
    """Annotates a field whose value names one of several formulas, each a part: `scope/layer`."""

    kind: str


class ContentFile(str):
    """A file as the value of a field: its path, as a sweep file has it. What decides numbers is its
    `content`, `sha256:` and the digest in hex, wherever it lies; that, and its `place`, it has once
    it was found.
    """

    place: Path | None = None
    content: str | None = None

    def found(self, folder: Path) -> Self:
        """The same with place and content; the path begins at `folder`. Raises OSError."""
        known = type(self)(self)
        known.place = folder / Path(self).expanduser()
        with known.place.open("rb") as file:
            known.content = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        return known

    def read(self) -> bytes:
        """Its content. Raises OSError, and ValueError where that is another by now."""
        assert self.place is not None, f"{self} was not looked for"
        data = self.place.read_bytes()
        if f"sha256:{hashlib.sha256(data).hexdigest()}" != self.content:
            raise ValueError("it changed while it was read; run again when all of it is there")
        return data

    @classmethod
    def of(cls, content: str) -> Self:
        """One of which only the content is known."""
        known = cls(content)
        known.content = content
        return known

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        path = core_schema.str_schema(min_length=1)
        return core_schema.no_info_after_validator_function(cls, path)


def parts(config: Config) -> Iterator[str]:
    """The parts that a config is computed with, but for those of the configs in it."""
    yield from type(config).ledger_parts()
    for name, field in type(config).model_fields.items():
        for choice in field.metadata:
            if isinstance(choice, Choice):
                yield f"{choice.kind}/{getattr(config, name)}"


def raised(*names: str) -> dict[str, dict[str, int]]:
    """What the versions of these parts add to an identity: nothing, while none is above 1."""
    versions = {name: VERSIONS[name] for name in names if name in VERSIONS}
    return {RAISED: versions} if versions else {}


def canonical(config: Config) -> dict[str, Any]:
    """The values that decide numbers, as plain JSON types: what keys are made of.

    A field that comes to be must not orphan what is stored, so it is left out where it has the
    value that stands for how things were without it. Which fields those are is not for authors to
    remember. Of built-in configs, the ledger `identity.json` knows: fields that a config had
    `first` are always there, unless they are None; those that came `later` are there when they
    differ from the default that they came with, whatever the default is now. The golden tests
    write new fields into it, and refuse any other change. Of a plugged-in config, every field is
    left out that has its default, and `code` stands for the defaults and all other code.

    What gives other numbers than it once did has a version, see `trainables.versions`.
    """
    versions = raised(*parts(config)) if VERSIONS else {}
    return _fields_of(config) | versions


def _fields_of(config: Config) -> dict[str, Any]:
    values = {name: _plain(getattr(config, name)) for name in type(config).model_fields}
    if config.plugged_code is not None:
        usual = {name: default(type(config), name) for name in values.keys() - {"name"}}
        given = {n: v for n, v in values.items() if n not in usual or differ(v, usual[n])}
        return given | {CODE: config.plugged_code}
    first, later = _fields(type(config))
    return {
        name: value
        for name, value in values.items()
        if (value is not None if name in first else value != later[name])
    }


def differ(one: Any, other: Any) -> bool:
    """Whether two values of an option are two: 1 is 1.0, and not `true`, as it is in Python."""
    return one != other or isinstance(one, bool) != isinstance(other, bool)


def _plain(value: Any) -> Any:
    if isinstance(value, ContentFile):
        assert value.content is not None, f"{value} was not looked for"
        return value.content
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Config):
        return canonical(value)
    if isinstance(value, tuple):
        return [*map(_plain, value)]
    return to_jsonable_python(value)


@cache
def _fields(config: type[Config]) -> tuple[frozenset[str], dict[str, Any]]:
    """The fields that a built-in config had first, and the defaults that later ones came with."""
    names = config.model_fields
    entry = ledger().get(config.ledger_name())
    if entry is None:
        return frozenset(names), {}
    first = frozenset(entry["first"])
    later = {name: default(config, name) for name in names if name not in first}
    return first, later | entry["later"]


@cache
def ledger() -> dict[str, dict[str, Any]]:
    """By the name of each built-in config, its `first` fields, and its `later` ones with the
    defaults they came with."""
    text = files("trainables").joinpath(LEDGER).read_text(encoding="utf-8")
    return json.loads(text)


def default(config: type[Config], name: str) -> Any:
    """The default of a field as plain JSON types, Ellipsis where it has none; without the versions
    of its parts, so that a value that has any is none that is left out."""
    field = config.model_fields[name]
    if field.is_required():
        return ...
    return _without_versions(_plain(field.get_default(call_default_factory=True)))


def _without_versions(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_versions(v) for name, v in value.items() if name != RAISED}
    return [*map(_without_versions, value)] if isinstance(value, list) else value


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text, whatever their order."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
