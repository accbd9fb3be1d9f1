"""Results tables: their columns, the files that they are in, and how they are read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.records.columns import identity_row
from orchestrator.records.sweep import LineageRecord, SweepRecord
from trainables.lineage.metrics import METRICS_SCHEMA
from trainables.lineage.schemas import EPOCH_SCHEMA, LAYER_SCHEMA, SCORE_SCHEMA
from trainables.measurements import MEASURE, Measure
from trainables.plugins.entry import built_in
from trainables.store import Store
from trainables.store.artifacts import EPOCHS, LAYERS, METRICS, SCORES, SPARSITY, measured_file

if TYPE_CHECKING:
    import pyarrow.compute as pc

Weights = Literal["kept", "effective"]
"""Whose density is shown."""
DENSITIES: Mapping[Weights, str] = {"kept": "density", "effective": "density_effective"}

TABLES = ("iterations", "layers", "epochs", "sparsity")
"""Those of every sweep; one whose commits have scores has `scores` too, and one in which something
is measured the tables of that, `MEASURED`."""

IDENTITY_SCHEMA = pa.schema(
    [
        ("sweep", pa.string()),
        ("lineage", pa.string()),
        ("dataset", pa.string()),
        ("model", pa.string()),
        ("method", pa.string()),
        ("scope", pa.string()),
        ("data", pa.string()),
        ("selection", pa.string()),
        ("ablation", pa.string()),
        ("seed", pa.int64()),
        ("config", pa.string()),
    ]
)
LINEAGE_SCHEMA = pa.schema([("lineage", pa.string()), ("iteration", pa.int64())])
SPARSITY_SCHEMA = pa.schema(
    [
        ("state", pa.string()),
        ("scope", pa.string()),
        ("layer", pa.string()),
        ("p", pa.float64()),
        ("q", pa.float64()),
        ("pq_index", pa.float64()),
    ]
)


def _joined(*schemas: pa.Schema) -> pa.Schema:
    return pa.schema([field for schema in schemas for field in schema])


MEASURED: dict[str, pa.Schema] = {
    entry.table: entry.columns()
    for entry in built_in(MEASURE).values()
    if issubclass(entry, Measure)
}
"""The tables of measures, each with the columns of a measurement's commit."""

FILE_SCHEMAS = {
    METRICS: METRICS_SCHEMA,
    LAYERS: LAYER_SCHEMA,
    EPOCHS: EPOCH_SCHEMA,
    SPARSITY: SPARSITY_SCHEMA,
    SCORES: SCORE_SCHEMA,
    **{measured_file(table): schema for table, schema in MEASURED.items()},
}
"""The columns of a commit's tables."""

STOPPED_SCHEMA = pa.schema([("stopped", pa.string())])
"""Of the last row of a lineage that stop rules have ended: why."""

FIRST, LAST = ("sweep", "lineage", "key"), ("config",)

ITERATIONS_COLUMNS = (
    *FIRST,
    *(name for name in IDENTITY_SCHEMA.names if name not in (*FIRST, *LAST)),
    *(name for name in METRICS_SCHEMA.names if name not in FIRST),
    *STOPPED_SCHEMA.names,
    *LAST,
)
"""Whose an iteration is, then what was measured of it, and whether its lineage ends there."""

SCHEMAS: dict[str, pa.Schema] = {
    "iterations": pa.schema(
        [
            _joined(IDENTITY_SCHEMA, METRICS_SCHEMA, STOPPED_SCHEMA).field(name)
            for name in ITERATIONS_COLUMNS
        ]
    ),
    "layers": _joined(LINEAGE_SCHEMA, LAYER_SCHEMA),
    "epochs": _joined(LINEAGE_SCHEMA, EPOCH_SCHEMA),
    "sparsity": _joined(LINEAGE_SCHEMA, SPARSITY_SCHEMA),
    "scores": _joined(LINEAGE_SCHEMA, SCORE_SCHEMA),
    **{table: _joined(LINEAGE_SCHEMA, schema) for table, schema in MEASURED.items()},
}
"""The columns of every table; `iterations` has one more for each swept parameter."""


FILES = {
    "iterations": METRICS,
    "layers": LAYERS,
    "epochs": EPOCHS,
    "sparsity": SPARSITY,
    "scores": SCORES,
}
"""Of every table, the file of an iteration's commit that it is made of."""


def table_path(table: str, sweep: str, piece: str = "") -> str:
    """The file of a table, or of a piece of it."""
    return f"tables/{table}-{sweep}{piece}.parquet"


def table_paths(store: Store, table: str, sweep: str) -> list[str]:
    """The files of a table, in the order of their rows; none where there is no such table."""
    whole = table_path(table, sweep)
    return [whole] if store.exists(whole) else piece_paths(store, table, sweep)


def piece_paths(store: Store, table: str, sweep: str) -> list[str]:
    """The files of the pieces of a table that has several."""
    # No sweep has a + in its name.
    begin = table_path(table, sweep).removesuffix(".parquet") + "+"
    names = (f"tables/{name}" for name in store.names("tables"))
    return [name for name in names if name.startswith(begin)]


def planned_iterations(sweep: SweepRecord) -> pa.Table:
    """What is known of every iteration of the sweep before it is measured: the columns of its
    cell, as `iterations` has them, `lineage` and `iteration`."""
    planned = [(line, t) for line in sweep.lineages for t in line.iterations]
    identity = {
        line.id: identity_row(part.name, line) for part in sweep.parts for line in part.lineages
    }
    rows = [identity[line.id] | {"iteration": t} for line, t in planned]
    schema = IDENTITY_SCHEMA.append(LINEAGE_SCHEMA.field("iteration"))
    whole = pa.Table.from_pylist(rows, schema)
    return with_swept(whole, swept_types(sweep), [line for line, _ in planned])


def swept_types(sweep: SweepRecord) -> dict[str, pa.DataType]:
    """The types of the columns of swept parameters: those of the whole sweep, whatever of it is
    committed, so that all pieces have the same."""
    return {
        name: _common_type([plain(line.swept.get(name)) for line in sweep.lineages])
        for name in sweep.swept
    }


def _common_type(values: Sequence[Any]) -> pa.DataType:
    """Of numbers and words together, as an option of a plug-in may have them, that of text."""
    try:
        return pa.array(values).type
    except (pa.ArrowException, OverflowError):
        return pa.string()


def with_swept(
    table: pa.Table, types: Mapping[str, pa.DataType], lines: Sequence[LineageRecord]
) -> pa.Table:
    """`table`, whose rows are of `lines`, with one more column for each swept parameter."""
    for name, kind in types.items():
        column = name.replace(".", "_")
        if column not in table.column_names:
            values = [plain(line.swept.get(name)) for line in lines]
            if pa.types.is_string(kind):
                values = [v if v is None or isinstance(v, str) else json.dumps(v) for v in values]
            table = table.append_column(column, pa.array(values, kind))
    return table


def plain(value: Any) -> Any:
    """The value of a swept parameter as a column has it."""
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def read_rows(
    store: Store,
    sweep: SweepRecord,
    table: str,
    columns: Sequence[str] | None = None,
    where: pc.Expression | None = None,
) -> pa.Table:
    """The rows of a table of `sweep`; of one that is joined, those of its parts' lineages, with a
    column for each parameter that is swept in the whole, and all that any part has measured of one.

    With `columns`, these alone, of which `lineage` has to be one; and of all rows those for which
    `where` holds, an expression of these columns. The others are not in memory all at once.
    """
    if not sweep.joined:
        return _checked(store, table, sweep.name, columns, where)
    # Sweeps that share a lineage may measure other things of it, or the same.
    measured = table in MEASURED
    names = SCHEMAS[table].names if measured or columns is None else columns
    whole = pa.concat_tables(
        _checked(store, table, part.name, names, _of(sweep if measured else part, where))
        for part in sweep.joined
    )
    if measured:
        whole = whole.group_by(names, use_threads=False).aggregate([])
        return whole if columns is None else whole.select([*columns])
    if table != "iterations":
        return whole
    lines = {line.id: line for line in sweep.lineages}
    found = [lines[id] for id in whole["lineage"].to_pylist()]
    return with_swept(whole, swept_types(sweep), found)


def _checked(
    store: Store,
    table: str,
    sweep: str,
    columns: Sequence[str] | None,
    where: pc.Expression | None,
) -> pa.Table:
    paths = table_paths(store, table, sweep)
    if not paths and table not in TABLES:
        nothing = pa.Table.from_batches([], SCHEMAS[table])
        return nothing if columns is None else nothing.select([*columns])
    return pa.concat_tables(
        read_parquet(store, path, columns, where) for path in paths or [table_path(table, sweep)]
    )


def read_parquet(
    store: Store,
    path: str,
    columns: Sequence[str] | None = None,
    where: pc.Expression | None = None,
) -> pa.Table:
    """The table in a file that is no commit's; raises OSError and ArrowException."""
    # `pq.read_table` makes a data set of the one file, and importing those imports pandas.
    with store.open(path) as file:
        whole = pq.ParquetFile(file, page_checksum_verification=True)
        names = None if columns is None else [*columns]
        if where is None or whole.num_row_groups == 0:
            return whole.read(names)
        return pa.concat_tables(
            whole.read_row_group(i, names).filter(where) for i in range(whole.num_row_groups)
        )


def _of(sweep: SweepRecord, where: pc.Expression | None) -> pc.Expression:
    """Whether a row is of a lineage of `sweep`, and what `where` says of it."""
    import pyarrow.compute as pc

    ids = pa.array([line.id for line in sweep.lineages], pa.string())
    mine = pc.field("lineage").isin(ids)
    return mine if where is None else mine & where


def recorded_seconds(store: Store, group: Callable[[Mapping[str, Any]], str]) -> dict[str, float]:
    """Mean seconds of an iteration by training group, from all tables in the store.

    `group` maps a lineage's config (the `config` column) to its group.
    """
    totals: dict[str, tuple[float, int]] = {}
    for name in store.names("tables"):
        if not name.startswith("iterations-"):
            continue
        columns = ["config", "train_seconds", "prune_seconds"]
        try:
            table = read_parquet(store, f"tables/{name}", columns)
        except (OSError, pa.ArrowException):
            continue  # a damaged table is rebuilt by the next run; here it only costs an estimate
        grouped = table.group_by("config").aggregate(
            [("train_seconds", "sum"), ("prune_seconds", "sum"), ("train_seconds", "count")]
        )
        for row in grouped.to_pylist():
            key = group(json.loads(row["config"]))
            seconds, count = totals.get(key, (0.0, 0))
            spent = row["train_seconds_sum"] + row["prune_seconds_sum"]
            totals[key] = (seconds + spent, count + row["train_seconds_count"])
    return {key: seconds / count for key, (seconds, count) in totals.items() if count}
