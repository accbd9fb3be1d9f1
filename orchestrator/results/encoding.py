"""Encoding a table as bytes: CSV, JSON and Parquet for programs."""

import io
import json
from collections import Counter
from decimal import Decimal
from math import isfinite
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from orchestrator.results.sweep_tables import QueryError


def as_csv(table: pa.Table) -> bytes:
    """Lists, structs and bytes are JSON inside their field."""
    sink = io.BytesIO()
    pyarrow.csv.write_csv(_with_text(table, lambda kind: not _is_plain(kind)), sink)
    return sink.getvalue()


def as_json(table: pa.Table) -> bytes:
    """A list with an object for each row; what JSON has no number for, such as NaN, is null.

    Raises QueryError when two columns have one name.
    """
    _require_distinct(table)
    rows = [{name: _json_value(value) for name, value in row.items()} for row in table.to_pylist()]
    return (json.dumps(rows, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode()


def as_parquet(table: pa.Table) -> bytes:
    """With page checksums. Raises QueryError when two columns have one name."""
    _require_distinct(table)
    sink = io.BytesIO()
    table = _with_text(table, lambda kind: pa.types.is_interval(kind) or pa.types.is_union(kind))
    pq.write_table(table, sink, write_page_checksum=True)
    return sink.getvalue()


def _require_distinct(table: pa.Table) -> None:
    name, count = Counter(table.column_names).most_common(1)[0]
    if count > 1:
        raise QueryError(f'{count} columns are named "{name}"; give them other names with AS')


def _with_text(table: pa.Table, needed: Any) -> pa.Table:
    """`table` with the columns whose type is `needed` as text as JSON."""
    columns = [
        pa.array([_text(value) for value in column.to_pylist()], pa.string())
        if needed(column.type)
        else column
        for column in table.columns
    ]
    return pa.table(columns, table.column_names)


def _is_plain(kind: pa.DataType) -> bool:
    checks = (
        pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal,
        pa.types.is_string, pa.types.is_temporal, pa.types.is_null,
    )  # fmt: skip
    return any(check(kind) for check in checks) and not pa.types.is_interval(kind)


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(_json_value(value), allow_nan=False, ensure_ascii=False)


def _json_value(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _json_value(item) for key, item in value.items()}
    # an interval is a named tuple, and reads better as text
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return [_json_value(item) for item in value]
    return value.hex() if isinstance(value, bytes) else str(value)
