"""Views: the tables of a sweep as DuckDB finds them, to be asked in SQL."""

from __future__ import annotations

from glob import escape

import duckdb
import pyarrow as pa

from orchestrator.records.sweep import SweepRecord
from orchestrator.results.tables import (
    FILES,
    MEASURED,
    SCHEMAS,
    TABLES,
    read_parquet,
    read_rows,
    table_path,
    table_paths,
)
from trainables.store import Damaged, Store


def open_tables(store: Store, sweep: SweepRecord) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection with the views `iterations`, `layers`, `epochs`, `sparsity`, `scores`,
    and those of measures.

    Raises Damaged when a table is missing.
    """
    connection = duckdb.connect()
    for table in (*FILES, *MEASURED):
        if not sweep.joined:
            _table(connection, store, table, sweep.name).create_view(table)
        elif table == "iterations" or table in MEASURED:
            connection.register(table, read_rows(store, sweep, table))
        else:
            _join(connection, store, table, sweep.joined)
    return connection


def _join(
    connection: duckdb.DuckDBPyConnection, store: Store, table: str, parts: tuple[SweepRecord, ...]
) -> None:
    """A view of a table's rows of the lineages of all parts."""
    selects = []
    for part in parts:
        rows, lines = f"{table} of {part.name}", f"lineages of {part.name} in {table}"
        _table(connection, store, table, part.name).create_view(rows)
        ids = pa.array([line.id for line in part.lineages], pa.string())
        connection.register(lines, pa.table({"lineage": ids}))
        selects.append(f'FROM "{rows}" SEMI JOIN "{lines}" USING (lineage)')
    connection.sql(" UNION ALL ".join(selects)).create_view(table)


def _table(
    connection: duckdb.DuckDBPyConnection, store: Store, table: str, sweep: str
) -> duckdb.DuckDBPyRelation:
    paths = table_paths(store, table, sweep)
    if not paths:
        if table not in TABLES:
            # `Schema.empty_table` would import pandas.
            return connection.from_arrow(pa.Table.from_batches([], SCHEMAS[table]))
        path = table_path(table, sweep)
        raise Damaged(path, "the table is missing; run the sweep again to rebuild it")
    if store.local_root is not None:
        # Opening the results has compared its hash.
        places = [escape(store.absolute(path)) for path in paths]
        return connection.read_parquet(places, hive_partitioning=False)
    return connection.from_arrow(pa.concat_tables(read_parquet(store, path) for path in paths))
