"""Published values: what a paper reports for cells of a sweep, to be shown beside its own."""

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, Field, ValidationError

from trainables.config import Config
from trainables.errors import UserError

Filled = Annotated[str, Field(min_length=1)]
EmptyIsNone = BeforeValidator(lambda value: None if value == "" else value)


class PublishedError(UserError):
    """A file of published values is wrong; the text says where and what."""


class PublishedValue(Config):
    """A value that a paper reports, in percent, and the cell of a sweep that it is about.

    `std` is the sample standard deviation over `seeds` runs, where the paper says how many.
    """

    source: str
    table: str
    row: str
    dataset: Filled
    model: Filled
    method: Filled
    data: Annotated[str | None, EmptyIsNone]
    selection: Filled
    density: Annotated[float, Field(gt=0, le=1)]
    mean: Annotated[float, Field(ge=0, le=100)]
    std: Annotated[Annotated[float, Field(ge=0)] | None, EmptyIsNone]
    note: str
    # Records of before there was such a column are written again as they were.
    seeds: Annotated[
        Annotated[int, Field(gt=0)] | None, EmptyIsNone, Field(exclude_if=lambda n: n is None)
    ] = None


class PublishedCell(NamedTuple):
    """What decides whether a published value is about a cell."""

    dataset: str
    model: str
    method: str
    data: str | None
    selection: str
    density: float


COLUMNS = tuple(PublishedValue.model_fields)
OPTIONAL = ("seeds",)


def read_published(path: Path) -> tuple[PublishedValue, ...]:
    """The values in a CSV file with the columns `COLUMNS`, in order; raises PublishedError."""
    reader = csv.DictReader(io.StringIO(_text(path)), strict=True)
    lines: dict[int, PublishedValue] = {}
    try:
        _check_columns(path, reader.fieldnames or ())
        for row in reader:
            lines[reader.line_num] = _value(row, path, reader.line_num)
    except csv.Error as error:
        # `reader.line_num` is that of the last row that could be read
        raise PublishedError(f"{path}:{reader.reader.line_num}: is not CSV: {error}") from None
    if not lines:
        raise PublishedError(f"{path}: has no values below its header")
    _refuse_repeats(path, lines)
    return tuple(lines.values())


def cell_of(value: PublishedValue) -> PublishedCell:
    return PublishedCell(*(getattr(value, name) for name in PublishedCell._fields))


def _text(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():
            raise PublishedError(f"{path}: is not a file")
        # utf-8-sig: spreadsheets put a byte order mark first
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise PublishedError(f"{path}: no such file") from None
    except OSError as error:
        raise PublishedError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError:
        raise PublishedError(f"{path}: is not UTF-8 text; save the file as UTF-8") from None


def _check_columns(path: Path, found: Iterable[str]) -> None:
    names = [*found]
    for name in COLUMNS:
        if names.count(name) != 1 and not (name in OPTIONAL and name not in names):
            state = "is missing" if name not in names else "is there twice"
            raise PublishedError(f"{path}:1: column {name} {state}; needed: {','.join(COLUMNS)}")
    unknown = [name for name in names if name not in COLUMNS]
    if unknown:
        shown = f'unknown column "{unknown[0]}"'
        raise PublishedError(f"{path}:1: {shown}; known: {','.join(COLUMNS)}")


def _value(row: Mapping[str | None, Any], path: Path, line: int) -> PublishedValue:
    if None in row or None in row.values():
        raise PublishedError(f"{path}:{line}: has another number of values than the header")
    try:
        return PublishedValue.model_validate(row, strict=False)
    except ValidationError as error:
        first = error.errors()[0]
        name = first["loc"][0]
        raise PublishedError(
            f'{path}:{line}: {name} is "{first["input"]}": {_reason(first["msg"])}'
        ) from None


def _reason(message: str) -> str:
    return message.replace("Input should be", "must be").partition(",")[0]


def _refuse_repeats(path: Path, values: Mapping[int, PublishedValue]) -> None:
    lines: dict[tuple[Any, ...], int] = {}
    for line, value in values.items():
        first = lines.setdefault((value.source, value.table, *cell_of(value)), line)
        if first != line:
            raise PublishedError(
                f"{path}:{line}: the same source, table and cell as in line {first}; remove one"
            )
