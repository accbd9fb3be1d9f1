"""Conditions on cells, as `exclude` and `priority` have them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from pydantic_core import PydanticCustomError

from orchestrator.sweepfile.axes import axis_error
from trainables.config import Config

SHOWN_VALUES = 8
"""Of what cells have, where none has what a condition wants."""

Rule: TypeAlias = list[tuple[int, set[int]]]
"""A cell meets it when, for every (section, allowed), its index in the section is allowed."""

_SHORT = {
    "dataset": "dataset.name",
    "model": "model.name",
    "method": "method.name",
    "ablation": "ablation.name",
    "scope": "prune.scope",
}


def rules_of(
    entries: Sequence[Mapping[str, Any]], sections: Mapping[str, Sequence[Any]], name: str
) -> list[Rule]:
    """The conditions `entries` of the field `name`, as indexes into the values that cells have of
    each of the `sections`: found once for each section, and not once for each cell.

    Raises PydanticCustomError "axis" and "unknown_key", with the whole path from the top.
    """
    if not entries:
        return []
    rows = [
        [dict(_flat(prefix, value)) if value is not None else {} for value in values]
        for prefix, values in sections.items()
    ]
    return [_rule(entry, rows, (name, i)) for i, entry in enumerate(entries)]


def meets(index: tuple[int, ...], rule: Rule) -> bool:
    """Whether a cell, by the places of its values in the sections, meets a condition."""
    return all(index[i] in allowed for i, allowed in rule)


def _rule(
    entry: Mapping[str, Any], sections: Sequence[list[dict[str, Any]]], path: tuple[Any, ...]
) -> Rule:
    if not entry:
        raise axis_error("this needs a condition, such as scope: layer", path)
    allowed: dict[int, set[int]] = {}
    for key, wanted in entry.items():
        section = _section_of(key, sections, path)
        matching = _matching(_SHORT.get(key, key), wanted, sections[section])
        if not matching:
            there = _shown_values(_SHORT.get(key, key), sections[section])
            message = f"no cell of the sweep has this: they have {there}; correct or remove it"
            raise axis_error(message, (*path, key))
        allowed[section] = allowed.get(section, matching) & matching
    if not all(allowed.values()):
        raise axis_error("this matches no cell; correct or remove it", path)
    return list(allowed.items())


def _section_of(key: str, sections: Sequence[list[dict[str, Any]]], path: tuple[Any, ...]) -> int:
    name = _SHORT.get(key, key)
    for i, rows in enumerate(sections):
        if any(name in row for row in rows):
            return i
    names = dict.fromkeys(name for rows in sections for row in rows for name in row)
    known = [*(short for short in _SHORT if _SHORT[short] in names), *names]
    context = {"key": key, "known": known, "path": path}
    raise PydanticCustomError("unknown_key", "unknown key", context)


def _matching(name: str, wanted: Any, rows: list[dict[str, Any]]) -> set[int]:
    """The rows whose `name` is `wanted`, or any of its items."""
    wanted = _frozen(wanted)
    options = {_exact(wanted), *(map(_exact, wanted) if isinstance(wanted, tuple) else ())}
    return {i for i, row in enumerate(rows) if name in row and _exact(row[name]) in options}


def _shown_values(name: str, rows: list[dict[str, Any]]) -> str:
    """What the rows have under `name`, for messages: the first of many values."""
    values = dict.fromkeys(json.dumps(row[name], default=str)[:40] for row in rows if name in row)
    return ", ".join([*values][:SHOWN_VALUES]) + (", …" if len(values) > SHOWN_VALUES else "")


def _exact(value: Any) -> tuple[bool, Any]:
    return isinstance(value, bool), value  # True == 1, yet `true` in YAML is no number


def _frozen(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(map(_frozen, value))
    # a mapping equals no parameter; as a string it can be hashed
    return repr(value) if isinstance(value, dict) else value


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Config):
        yield prefix, value
        return
    for key in type(value).model_fields:
        yield from _flat(f"{prefix}.{key}", getattr(value, key))
