"""A paper's table as text for people, and as rows for programs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from orchestrator.results.paper_tables import PaperCell, PaperColumn, PaperTable
from orchestrator.results.rendering import TextTable, decimals
from orchestrator.results.tables import DENSITIES, Weights
from orchestrator.sweepfile.published import PublishedValue


@dataclass(frozen=True)
class _Part:
    """One of the columns of text that a column of the table becomes."""

    column: int
    heading: str
    text: Callable[[PaperCell], str]
    marked: bool = False


def paper_text(table: PaperTable) -> TextTable:
    """The table as people read it: beside what aims at no density the weights that remain, and
    beside a column with published values those, with the difference in points and in standard
    errors."""
    parts = [part for j in range(len(table.columns)) for part in _parts(table, j)]
    lines = [
        [table.columns[part.column].names[k] for part in parts] for k in range(len(table.levels))
    ]
    if len(parts) > len(table.columns):
        lines.append([part.heading for part in parts])
    firsts = [*[""] * (len(lines) - 1), table.row_heading]
    found = [[row[part.column] for part in parts] for row in table.cells]
    texts = [
        ["" if cell is None else part.text(cell) for cell, part in zip(row, parts, strict=True)]
        for row in found
    ]
    return TextTable(
        headings=tuple((first, *line) for first, line in zip(firsts, lines, strict=True)),
        rows=tuple((name, *row) for name, row in zip(table.rows, texts, strict=True)),
        right=frozenset(range(1, len(parts) + 1)),
        bold=frozenset(
            (i, j + 1)
            for i, row in enumerate(found)
            for j, cell in enumerate(row)
            if cell is not None and cell.best and parts[j].marked
        ),
        title=table.title,
        notes=(*table.notes, *(f"[{n}] {text}." for n, text in enumerate(table.remarks, 1))),
    )


def paper_rows(table: PaperTable) -> pa.Table:
    """The table with one row for each cell, for programs; accuracies, also published ones, and
    densities are fractions of 1."""
    # The heading "density" gives way to the density itself; `density_target` has what it says.
    levels = [name for name in table.levels if name != "density"]
    by_iteration = table.row_heading == "t"
    first = pa.field("iteration", pa.int64()) if by_iteration else pa.field("method", pa.string())
    names = [int(name) if by_iteration else name for name in table.rows]
    rows = [
        dict(zip(table.levels, column.names, strict=True))
        | {first.name: name}
        | _figures(cell, column)
        for name, row in zip(names, table.cells, strict=True)
        for column, cell in zip(table.columns, row, strict=True)
        if cell is not None
    ]
    headings = [first, *(pa.field(name, pa.string()) for name in levels)]
    found = pa.Table.from_pylist(rows, pa.schema([*headings, *FIGURES_SCHEMA]))
    density = DENSITIES[table.weights]
    return found.rename_columns([density if n == "density" else n for n in found.column_names])


REMAINING: dict[Weights, str] = {"kept": "remaining %", "effective": "effective %"}

FIGURES_SCHEMA = pa.schema(
    [
        ("density_target", pa.float64()),
        ("density", pa.float64()),
        ("mean", pa.float64()),
        ("std", pa.float64()),
        ("seeds", pa.int64()),
        ("seeds_planned", pa.int64()),
        ("best", pa.bool_()),
        ("note", pa.string()),
        ("published_mean", pa.float64()),
        ("published_std", pa.float64()),
        ("difference", pa.float64()),
        ("z", pa.float64()),
    ]
)


def _figures(cell: PaperCell, column: PaperColumn) -> dict[str, Any]:
    published = cell.published
    return {
        "density_target": column.density,
        "density": cell.density,
        "mean": cell.mean,
        "std": cell.std,
        "seeds": cell.n,
        "seeds_planned": cell.seeds,
        "best": cell.best,
        "note": cell.note,
        "published_mean": None if published is None else published.mean / 100,
        "published_std": None
        if published is None or published.std is None
        else published.std / 100,
        "difference": cell.difference,
        "z": cell.z,
    }


def _parts(table: PaperTable, j: int) -> list[_Part]:
    percent = table.metric.endswith("_accuracy")
    heading = "accuracy %" if percent else "loss"
    cells = [cell for row in table.cells if (cell := row[j]) is not None]
    value = _Part(j, heading, lambda cell: _value_text(cell, percent), marked=True)
    left = _Part(j, REMAINING[table.weights], _remaining_text)
    # How many weights are effective is no method's aim.
    aims = table.weights == "kept" and table.columns[j].density is not None
    remaining = [] if aims else [left]
    if all(cell.published is None for cell in cells):
        return [*remaining, value]
    errors = [] if all(cell.z is None for cell in cells) else [_Part(j, "z", _z_text)]
    return [
        *remaining,
        replace(value, heading="ours"),
        _Part(j, "published", lambda cell: _published_text(cell.published, table.remarks)),
        _Part(j, "difference", _difference_text),
        *errors,
    ]


def _value_text(cell: PaperCell, percent: bool) -> str:
    if cell.mean is None:
        return f"— ({cell.note})"
    shown = [cell.mean] if cell.std is None else [cell.mean, cell.std]
    texts = [decimals(100 * each, 2) if percent else decimals(each, 4) for each in shown]
    return " ± ".join(texts) + ("" if cell.note is None else f" ({cell.note})")


def _remaining_text(cell: PaperCell) -> str:
    if cell.density is None:
        return ""
    return decimals(100 * cell.density, 1, significant=3)


def _published_text(value: PublishedValue | None, remarks: Sequence[str]) -> str:
    if value is None:
        return ""
    spread = "" if value.std is None else f" ± {decimals(value.std, 2)}"
    remark = f" [{remarks.index(value.note) + 1}]" if value.note else ""
    return f"{decimals(value.mean, 2)}{spread}{remark}"


def _difference_text(cell: PaperCell) -> str:
    if cell.difference is None:
        return ""
    return decimals(100 * cell.difference, 2, sign="+").replace("-", "−", 1)


def _z_text(cell: PaperCell) -> str:
    if cell.z is None:
        return ""
    verdict = "within 2σ" if abs(cell.z) <= 2 else "outside 2σ"
    return f"{cell.z:+.1f}".replace("-", "−") + f", {verdict}"
