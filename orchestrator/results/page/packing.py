"""Tables as compact JSON: columns instead of rows, and repeated values once."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

Packed = dict[str, Any]

DIGITS = 6
"""Significant digits of a float in a figure's rows: more than it shows, and half the bytes."""
EVERY = 17
"""Those of a float in tables, which can be saved."""

OWNER = "lineage"
"""Much of what a row says is about its lineage, and is the same in all rows of it."""


def pack(columns: Mapping[str, Sequence[Any]], rows: int, digits: int = DIGITS) -> Packed:
    """`columns`, each of `rows` values, floats with so many `digits`, for the page's `unpack`.

    A column is its list of numbers, or one `constant`, or `values` with one code a row, or values
    `by_owner`: one for each distinct value of the column `lineage`, in order of appearance.
    """
    owners = list(columns.get(OWNER, ()))
    packed = {
        name: _column(list(values), owners if name != OWNER else [], digits)
        for name, values in columns.items()
    }
    return {"rows": rows, "columns": packed}


def _column(values: list[Any], owners: list[Any], digits: int) -> Any:
    if any(isinstance(value, dict | list) for value in values):
        return {"plain": [_plain(value, digits) for value in values]}
    distinct = {_key(value): value for value in values}
    if len(distinct) == 1:
        return {"constant": _plain(next(iter(distinct.values())), digits)}
    of_owner = _by_owner(values, owners)
    if of_owner is not None:
        return {"by_owner": [_plain(value, digits) for value in of_owner]}
    if any(isinstance(value, str) for value in distinct.values()):
        codes = {key: code for code, key in enumerate(distinct)}
        coded = [codes[_key(value)] for value in values]
        return {"values": [_plain(value, digits) for value in distinct.values()], "codes": coded}
    return [_plain(value, digits) for value in values]


def _by_owner(values: list[Any], owners: list[Any]) -> list[Any] | None:
    """The value of each owner, None when one of them has several or all have one row."""
    found: dict[Any, Any] = {}
    for owner, value in zip(owners, values, strict=False):
        if _key(found.setdefault(owner, value)) != _key(value):
            return None
    return list(found.values()) if 0 < len(found) < len(values) else None


def _key(value: Any) -> Any:
    """Equal for values that are the same in JSON: `True == 1` in Python, and NaN is not NaN."""
    return (type(value), None if value != value else value)


def _plain(value: Any, digits: int) -> Any:
    """`value` without what JSON lacks: NaN and infinities become {"float": name}."""
    if isinstance(value, dict):
        return {str(key): _plain(each, digits) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each, digits) for each in value]
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else {"float": str(value)}
    return value
