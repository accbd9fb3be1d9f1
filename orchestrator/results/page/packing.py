"""Tables as compact JSON: columns instead of rows, and repeated values once."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

Packed = dict[str, Any]

DIGITS = 6
"""Significant digits of a float: more than any figure shows, and half the bytes."""


def pack(columns: Mapping[str, Sequence[Any]], rows: int) -> Packed:
    """`columns`, each of `rows` values, for the page's `unpack`.

    A column is its list of numbers, or `constant`, or `values` with one code a row.
    """
    return {"rows": rows, "columns": {name: _column(list(of)) for name, of in columns.items()}}


def _column(values: list[Any]) -> Any:
    if any(isinstance(value, dict | list) for value in values):
        return {"plain": [_plain(value) for value in values]}
    codes: dict[Any, int] = {}
    for value in values:
        codes.setdefault(value, len(codes))
    special = any(isinstance(value, float) and not math.isfinite(value) for value in codes)
    if len(codes) == 1 and not special:
        return {"constant": _plain(values[0])}
    if any(isinstance(value, str) for value in codes):
        return {"values": [_plain(v) for v in codes], "codes": [codes[value] for value in values]}
    return [_plain(value) for value in values]


def _plain(value: Any) -> Any:
    """`value` without what JSON lacks: NaN and infinities become strings."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else str(value)
    return value
