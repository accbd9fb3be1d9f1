"""Results tables: compacted Parquet, derived from a sweep's commits."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.records.columns import identity_row
from orchestrator.records.sweep import LineageRecord, SweepRecord
from trainables.config import canonical_json
from trainables.lineage.metrics import METRICS_SCHEMA
from trainables.lineage.schemas import EPOCH_SCHEMA, LAYER_SCHEMA, SCORE_SCHEMA
from trainables.store import Damaged, Store, iteration_path
from trainables.store.artifacts import EPOCHS, LAYERS, METRICS, SCORES, SPARSITY, read_table

if TYPE_CHECKING:
    import pyarrow.compute as pc

TABLES = ("iterations", "layers", "epochs", "sparsity")
"""Those of every sweep; one whose commits have scores has `scores` too."""
READERS = 8

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


FILE_SCHEMAS = {
    METRICS: METRICS_SCHEMA,
    LAYERS: LAYER_SCHEMA,
    EPOCHS: EPOCH_SCHEMA,
    SPARSITY: SPARSITY_SCHEMA,
    SCORES: SCORE_SCHEMA,
}
"""The columns of a commit's tables."""

FIRST, LAST = ("sweep", "lineage", "key"), ("config",)

ITERATIONS_COLUMNS = (
    *FIRST,
    *(name for name in IDENTITY_SCHEMA.names if name not in (*FIRST, *LAST)),
    *(name for name in METRICS_SCHEMA.names if name not in FIRST),
    *LAST,
)
"""Whose an iteration is, then what was measured of it."""

SCHEMAS: dict[str, pa.Schema] = {
    "iterations": pa.schema(
        [_joined(IDENTITY_SCHEMA, METRICS_SCHEMA).field(name) for name in ITERATIONS_COLUMNS]
    ),
    "layers": _joined(LINEAGE_SCHEMA, LAYER_SCHEMA),
    "epochs": _joined(LINEAGE_SCHEMA, EPOCH_SCHEMA),
    "sparsity": _joined(LINEAGE_SCHEMA, SPARSITY_SCHEMA),
    "scores": _joined(LINEAGE_SCHEMA, SCORE_SCHEMA),
}
"""The columns of every table; `iterations` has one more for each swept parameter."""


FILES = {
    "iterations": METRICS,
    "layers": LAYERS,
    "epochs": EPOCHS,
    "sparsity": SPARSITY,
    "scores": SCORES,
}
"""Of every table, the file of a commit that it is made of."""

Committed = Mapping[str, Collection[str]]
"""The keys of iterations, each with the names of its commit's files."""


def table_path(table: str, sweep: str) -> str:
    return f"tables/{table}-{sweep}.parquet"


def compact(store: Store, sweep: SweepRecord, committed: Committed) -> list[Damaged]:
    """Rebuild the tables of `sweep` from its commits, of the iterations that are `committed`;
    returns the damage that was met.

    A damaged iteration is left out; the commit itself is not touched. Their manifest, without
    which they count as out of date, goes first and comes last.
    """
    rows = _rows(sweep, committed)
    keys = list(dict.fromkeys(k for line in sweep.lineages for k in line.keys if k in committed))
    scored = [key for key in keys if SCORES in committed[key]]
    damage: dict[str, Damaged] = {}
    written: dict[str, str] = {}
    store.delete_file(_manifest_path(sweep.name))
    for table, file in FILES.items():
        if table not in TABLES and not scored:
            store.delete_file(table_path(table, sweep.name))
            continue
        parts = _read_parts(store, keys if table in TABLES else scored, file, damage)
        present = [
            (line, t, parts[key])
            for line in sweep.lineages
            for t, key in zip(line.iterations, line.keys, strict=True)
            if key in parts
        ]
        build = _iterations if table == "iterations" else _details
        data = build(table, sweep, present)
        store.write(table_path(table, sweep.name), data)
        written[table] = hashlib.sha256(data).hexdigest()
    if not damage:
        store.write_json(_manifest_path(sweep.name), {"rows": rows, "sha256": written})
    return list(damage.values())


def is_current(store: Store, sweep: SweepRecord, committed: Committed) -> bool:
    """Whether the tables of `sweep` are whole, those of its record and of what is committed."""
    manifest = _table_manifest(store, sweep.name)
    if manifest is None or manifest.get("rows") != _rows(sweep, committed):
        return False
    return next(table_damage(store, sweep.name), None) is None


def table_damage(store: Store, sweep: str) -> Iterator[Damaged]:
    """The tables that are not what was written, page checksums and footers included."""
    manifest = _table_manifest(store, sweep)
    if manifest is None:
        return  # never made, or their making was broken off
    for table in (each for each in FILES if each in TABLES or each in manifest["sha256"]):
        path = table_path(table, sweep)
        data = store.peek(path)
        if data is None:
            yield Damaged(path, "it is missing")
        elif hashlib.sha256(data).hexdigest() != manifest["sha256"].get(table):
            yield Damaged(path, "it does not have the SHA-256 it was written with")


def _table_manifest(store: Store, sweep: str) -> dict[str, Any] | None:
    try:
        manifest = store.read_json(_manifest_path(sweep))
    except Damaged:
        return None
    valid = isinstance(manifest, dict) and isinstance(manifest.get("sha256"), dict)
    return manifest if valid else None


def _rows(sweep: SweepRecord, committed: Committed) -> str:
    """A digest of the rows that the tables have to hold."""
    rows = [
        (line.id, t, key, *({SCORES} & {*committed[key]}))
        for line in sweep.lineages
        for t, key in zip(line.iterations, line.keys, strict=True)
        if key in committed
    ]
    return hashlib.sha256(canonical_json(rows).encode()).hexdigest()


def _manifest_path(sweep: str) -> str:
    return f"tables/manifest-{sweep}.json"


def _read_parts(
    store: Store, keys: Sequence[str], file: str, damage: dict[str, Damaged]
) -> dict[str, pa.Table]:
    def read(key: str) -> pa.Table | None:
        try:
            return read_table(store, iteration_path(key), file, FILE_SCHEMAS[file])
        except Damaged as error:
            damage[key] = error
            return None

    with ThreadPoolExecutor(READERS) as pool:
        tables = zip(keys, pool.map(read, keys), strict=True)
        return {key: table for key, table in tables if table is not None}


Part = tuple[LineageRecord, int, pa.Table]


def _iterations(table: str, sweep: SweepRecord, parts: Sequence[Part]) -> bytes:
    measured = pa.concat_tables([part for _, _, part in parts] or [METRICS_SCHEMA.empty_table()])
    identity = pa.Table.from_pylist(
        [identity_row(sweep.name, line) for line, _, _ in parts], IDENTITY_SCHEMA
    )
    columns = dict(zip(identity.column_names, identity.columns, strict=True))
    columns |= dict(zip(measured.column_names, measured.columns, strict=True))
    whole = pa.table({name: columns[name] for name in ITERATIONS_COLUMNS}, SCHEMAS[table])
    whole = _with_swept(whole, sweep, [line for line, _, _ in parts])
    return _parquet(whole.schema, [whole])


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
    return _with_swept(whole, sweep, [line for line, _ in planned])


def _with_swept(table: pa.Table, sweep: SweepRecord, lines: Sequence[LineageRecord]) -> pa.Table:
    """`table`, whose rows are of `lines`, with one more column for each swept parameter."""
    for name in sweep.swept:
        column = name.replace(".", "_")
        if column not in table.column_names:
            values = pa.array([_plain(line.swept.get(name)) for line in lines])
            table = table.append_column(column, values)
    return table


def _details(table: str, sweep: SweepRecord, parts: Iterable[Part]) -> bytes:
    def batches() -> Iterable[pa.Table]:
        for line, t, part in parts:
            rows = len(part)
            lineage = pa.array([line.id] * rows, pa.string())
            iteration = pa.array([t] * rows, pa.int64())
            yield pa.table([lineage, iteration, *part.columns], SCHEMAS[table])

    return _parquet(SCHEMAS[table], batches())


def _parquet(schema: pa.Schema, tables: Iterable[pa.Table], rows_at_once: int = 200_000) -> bytes:
    """One file with page checksums; many small tables become few large row groups."""
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, schema, compression="zstd", write_page_checksum=True) as writer:
        waiting: list[pa.Table] = []
        rows = 0
        for table in tables:
            waiting.append(table)
            rows += len(table)
            if rows >= rows_at_once:
                writer.write_table(pa.concat_tables(waiting))
                waiting, rows = [], 0
        writer.write_table(pa.concat_tables(waiting or [schema.empty_table()]))
    return sink.getvalue()


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def read_rows(store: Store, sweep: SweepRecord, table: str) -> pa.Table:
    """The rows of a table of `sweep`; of one that is joined, those of its parts' lineages, with a
    column for each parameter that is swept in the whole."""
    if not sweep.joined:
        return _checked(store, table, sweep.name)
    schema = SCHEMAS[table]
    whole = pa.concat_tables(
        _checked(store, table, part.name).select(schema.names).filter(_of(part))
        for part in sweep.joined
    )
    if table != "iterations":
        return whole
    lines = {line.id: line for line in sweep.lineages}
    return _with_swept(whole, sweep, [lines[id] for id in whole["lineage"].to_pylist()])


def _checked(store: Store, table: str, sweep: str) -> pa.Table:
    if table not in TABLES and not store.exists(table_path(table, sweep)):
        return pa.Table.from_batches([], SCHEMAS[table])
    return read_parquet(store, table_path(table, sweep))


def read_parquet(store: Store, path: str, columns: list[str] | None = None) -> pa.Table:
    """The table in a file that is no commit's; raises OSError and ArrowException."""
    # `pq.read_table` makes a data set of the one file, and importing those imports pandas.
    with store.open(path) as file:
        return pq.ParquetFile(file, page_checksum_verification=True).read(columns)


def _of(part: SweepRecord) -> pc.Expression:
    """Whether a row is of a lineage of `part`."""
    import pyarrow.compute as pc

    return pc.field("lineage").isin(pa.array([line.id for line in part.lineages], pa.string()))


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
