"""Axes: a list where one value is expected stands for each of its values, and axes multiply.

Whether a list is an axis or one value is read off the schema: for a field `int`, `[1, 2]` is an
axis; for a field `tuple[int, ...]` it is one value and `[[1, 2], [3]]` is an axis.
"""

import json
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain, product
from math import prod
from types import NoneType, UnionType
from typing import Annotated, Any, TypeAlias, Union, get_args, get_origin

from pydantic_core import PydanticCustomError

from trainables.config import Config
from trainables.plugins.entry import BUILT_IN, Catalogue, Named

Path: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True)
class Leaf:
    """One value, as written."""

    value: Any
    size = 1

    def values(self) -> Iterator[Any]:
        yield self.value

    def where(self, index: int, path: Path) -> Path:
        return path

    def chosen(self, index: int) -> Iterator[Path]:
        return iter(())


@dataclass(frozen=True)
class Choice:
    """An axis: any one of its options."""

    options: tuple["Grid", ...]

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(option.size for option in self.options))

    @property
    def size(self) -> int:
        return self._ends[-1]

    def values(self) -> Iterator[Any]:
        return chain.from_iterable(option.values() for option in self.options)

    def where(self, index: int, path: Path) -> Path:
        i, inner = self._split(index)
        return (i, *self.options[i].where(inner, path))

    def chosen(self, index: int) -> Iterator[Path]:
        i, inner = self._split(index)
        yield (i,)
        yield from ((i, *path) for path in self.options[i].chosen(inner))

    def _split(self, index: int) -> tuple[int, int]:
        """Which option the value at `index` is of, and its index there."""
        i = bisect_right(self._ends, index)
        return i, index - self._ends[i] + self.options[i].size


@dataclass(frozen=True)
class Record:
    """A mapping: every combination of its fields' values, the last field varying fastest."""

    fields: dict[str, "Grid"]

    @cached_property
    def size(self) -> int:
        return prod(field.size for field in self.fields.values())

    def values(self) -> Iterator[dict[str, Any]]:
        combinations = product(*(field.values() for field in self.fields.values()))
        return (dict(zip(self.fields, values, strict=True)) for values in combinations)

    def where(self, index: int, path: Path) -> Path:
        if not path:
            return ()
        head, rest = path[0], path[1:]
        if head not in self.fields:
            return path
        return (head, *self.fields[head].where(self._split(index)[head], rest))

    def chosen(self, index: int) -> Iterator[Path]:
        inner = self._split(index)
        for key, field in self.fields.items():
            yield from ((key, *path) for path in field.chosen(inner[key]))

    def _split(self, index: int) -> dict[str, int]:
        """The index in each field of the value at `index`."""
        inner = {}
        for key, field in reversed(self.fields.items()):
            index, inner[key] = divmod(index, field.size)
        return inner


Grid: TypeAlias = Leaf | Choice | Record
"""The values that a piece of YAML stands for.

`size` counts them without making them and `values()` makes them in order. Of the i-th value,
`where(i, path)` is where in the YAML its part at `path` was written, and `chosen(i)` gives the
paths of the axis entries that it takes.
"""


def grid(kind: Any, raw: Any, path: Path = (), catalogue: Catalogue = BUILT_IN) -> Grid:
    """The values that `raw` stands for where the annotation `kind` expects one; `catalogue` is what
    it can name.

    Raises PydanticCustomError "axis" for an empty axis and for a list of names inside a mapping,
    and "listed_twice"; its context's `path` says where in `raw`.
    """
    if _depth(raw) <= tuple_depth(kind):
        return _record(kind, raw, path, catalogue)
    if not raw:
        raise axis_error("an axis needs at least one value; the list is empty", path)
    _refuse_repeats(raw, path)
    return Choice(tuple(_record(kind, item, (*path, i), catalogue) for i, item in enumerate(raw)))


def axis_error(message: str, path: Path, at: Path = ()) -> PydanticCustomError:
    """An error about an axis, to raise: `path` is where in the YAML, `at` where in the values."""
    # pydantic formats the message with the context: braces in user text must not count
    return PydanticCustomError("axis", "{message}", {"message": message, "path": path, "at": at})


def _record(kind: Any, raw: Any, path: Path, catalogue: Catalogue) -> Grid:
    named = any(isinstance(member, Named) for member in members(kind))
    if isinstance(raw, str) and named:
        return Record({"name": Leaf(raw)})
    if not isinstance(raw, Mapping):
        return Leaf(raw)
    if named and isinstance(raw.get("name"), list):
        hint = "list whole entries instead, as in [{name: …}, {name: …}]"
        raise axis_error(f"a name cannot be an axis; {hint}", (*path, "name"))
    config = _config(kind, raw, catalogue)
    if config is None:
        return Leaf(raw)
    fields = {k: _field(config, k, value, path, catalogue) for k, value in raw.items()}
    return Record(fields)


def _field(config: type[Config], key: str, raw: Any, path: Path, catalogue: Catalogue) -> Grid:
    field = config.model_fields.get(key)
    if field is None:
        return Leaf(raw)
    kinds = [each for each in field.metadata if isinstance(each, Named)]
    annotation = Annotated[field.annotation, kinds[0]] if kinds else field.annotation
    return grid(annotation, raw, (*path, key), catalogue)


def _config(kind: Any, raw: Mapping[str, Any], catalogue: Catalogue) -> type[Config] | None:
    """The config that a mapping is of, None where it is of none."""
    for member in members(kind):
        if isinstance(member, Named):
            return catalogue.find(member.kind, raw.get("name", member.kind.default))
        if isinstance(member, type) and issubclass(member, Config):
            return member
    return None


def members(kind: Any) -> tuple[Any, ...]:
    """The alternatives of an annotation, None apart; entries of a kind as their `Named`."""
    if get_origin(kind) is Annotated:
        inner, *metadata = get_args(kind)
        named = [each for each in metadata if isinstance(each, Named)]
        return (named[0],) if named else members(inner)
    if get_origin(kind) in (Union, UnionType):
        return tuple(member for each in get_args(kind) for member in members(each))
    return () if kind is NoneType else (kind,)


def tuple_depth(kind: Any) -> int:
    tuples = [member for member in members(kind) if get_origin(member) is tuple]
    items = [item for member in tuples for item in get_args(member) if item is not ...]
    return 1 + max(map(tuple_depth, items), default=0) if tuples else 0


def _depth(raw: Any) -> int:
    return 1 + max(map(_depth, raw), default=0) if isinstance(raw, list | tuple) else 0


def _refuse_repeats(values: list[Any], path: Path) -> None:
    seen: dict[str, int] = {}
    for i, value in enumerate(values):
        # as JSON, since 1 == True in Python, and mappings have no hash
        text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=repr)
        first = seen.setdefault(text, i)
        if first != i:
            context = {"shown": text, "first": first, "path": (*path, i)}
            raise PydanticCustomError("listed_twice", "listed twice", context)
