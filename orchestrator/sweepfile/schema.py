"""The JSON Schema of sweep files, for editors: what is written, axes included.

It follows the types that sweeps are validated with. What they ask for beyond types, such as a crop
that is smaller than an image, `prunesweep plan` finds.
"""

import inspect
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, get_args, get_origin

from pydantic import TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic.fields import FieldInfo

from orchestrator.sweepfile.axes import members
from orchestrator.sweepfile.spec import AXES, SweepSpec
from trainables.config import Config
from trainables.plugins.entry import BUILT_IN, Catalogue, Entry, Kind, Named

Schema = dict[str, Any]

COUNTED: Schema = {
    "type": "object",
    "properties": {
        "count": {"type": "integer", "minimum": 1},
        "first": {"type": "integer", "minimum": 0},
    },
    "required": ["count"],
    "additionalProperties": False,
}
"""How many seeds, and the first of them."""

DRAFT = "https://json-schema.org/draft/2020-12/schema"


def sweep_schema(catalogue: Catalogue = BUILT_IN) -> Schema:
    """The schema of sweep files that can name what is in `catalogue`."""
    writer = _Writer(catalogue)
    properties = {
        name: writer.section(name, field) if name in AXES else writer.plain(field.annotation)
        for name, field in SweepSpec.model_fields.items()
    }
    return {
        "$schema": DRAFT,
        "title": "A prunesweep sweep",
        "type": "object",
        "properties": properties,
        "required": [n for n, field in SweepSpec.model_fields.items() if field.is_required()],
        "additionalProperties": False,
        "$defs": dict(sorted(writer.definitions.items())),
    }


class _Writer:
    """Writes schemas; those of configs and kinds once each, into `definitions`."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.definitions: dict[str, Schema] = {}

    def section(self, name: str, field: FieldInfo) -> Schema:
        """A section of the grid: one value or an axis of what its tuple holds."""
        schema = self.axis(get_args(field.annotation)[0])
        return {"anyOf": [*schema["anyOf"], COUNTED]} if name == "seeds" else schema

    def axis(self, kind: Any) -> Schema:
        """One value of an annotation, or a list of such."""
        one = self.value(kind)
        several = {"type": "array", "items": one, "minItems": 1, "uniqueItems": True}
        return {"anyOf": [one, several]}

    def value(self, kind: Any) -> Schema:
        """One value of an annotation; what it has inside may be axes."""
        found = [self.member(each) for each in members(kind)]
        configs = [each for each in found if each is not None]
        if not configs:
            return self.plain(kind)
        if _optional(kind):
            configs.append({"type": "null"})
        return configs[0] if len(configs) == 1 else {"anyOf": configs}

    def member(self, member: Any) -> Schema | None:
        if isinstance(member, Named):
            return self.kind(member.kind)
        if get_origin(member) is tuple and (named := members(get_args(member)[0])):
            one = self.member(named[0])
            # One alone stands for a list of it.
            return one and {"anyOf": [one, {"type": "array", "items": one}]}
        if isinstance(member, type) and issubclass(member, Config):
            return self.config(member.__name__, member)
        return None

    def plain(self, kind: Any) -> Schema:
        """What pydantic says of an annotation in which nothing is an axis; of what no file can
        have, such as the function that a plug-in's option is, nothing."""
        try:
            schema = TypeAdapter(kind).json_schema(ref_template="#/$defs/{model}")
        except PydanticInvalidForJsonSchema:
            return {}
        self.definitions |= schema.pop("$defs", {})
        return schema

    def kind(self, kind: Kind) -> Schema:
        """An entry of a kind: its name, or a mapping."""
        if kind.name not in self.definitions:
            self.definitions[kind.name] = {}  # in which it may be named itself
            self.definitions[kind.name] = {"anyOf": [*self.entries(kind)]}
        return {"$ref": f"#/$defs/{kind.name}"}

    def entries(self, kind: Kind) -> Iterator[Schema]:
        known: Mapping[str, type[Entry]] = self.catalogue.of(kind)
        alone = [name for name, entry in known.items() if not _needed(entry)]
        yield {"enum": [name for name in alone if not name.endswith(":")]}
        for name in alone:
            if name.endswith(":"):
                yield _beginning(name)
        for name, entry in known.items():
            says = _beginning(name) if name.endswith(":") else {"const": name}
            yield self.config(
                f"{kind.name}.{name.rstrip(':')}",
                entry,
                {kind.key: says},
                named=name != kind.default,
            )

    def config(
        self, name: str, config: type[Config], says: Schema | None = None, named: bool = False
    ) -> Schema:
        """A mapping of a config's fields, each of which may be an axis; what `says` its name, under
        the key that it has."""
        if name not in self.definitions:
            self.definitions[name] = {}
            fields: Schema = {}
            for key, field in config.model_fields.items():
                named_by = says if key == "name" else None
                fields |= named_by or {key: self.axis(_annotation(field))}
            required = [*(says or {} if named else ()), *_needed(config)]
            self.definitions[name] = {
                "type": "object",
                "description": inspect.cleandoc(config.__doc__ or "").split("\n\n")[0],
                "properties": fields,
                **({"required": required} if required else {}),
                "additionalProperties": False,
            }
        return {"$ref": f"#/$defs/{name}"}


def _needed(config: type[Config]) -> list[str]:
    fields = config.model_fields.items()
    return [name for name, field in fields if field.is_required() and name != "name"]


def _beginning(name: str) -> Schema:
    return {"type": "string", "pattern": f"^{name}."}


def _optional(kind: Any) -> bool:
    return type(None) in get_args(kind)


def _annotation(field: FieldInfo) -> Any:
    """The type of a field with what was said of it beside the type."""
    if not field.metadata:
        return field.annotation
    return Annotated[field.annotation, *field.metadata]
