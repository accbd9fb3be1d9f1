"""Views: the tables of a sweep as DuckDB finds them, to be asked in SQL."""

from collections.abc import Sequence

import duckdb
import pyarrow.dataset as ds
import pyarrow.fs as fs

from orchestrator.records.sweep import SweepRecord
from orchestrator.results.tables import FILES, SCHEMAS, TABLES, read_rows, rows_of, table_path
from trainables.store import Damaged, Store


def open_tables(store: Store, sweep: SweepRecord) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection with the views `iterations`, `layers`, `epochs`, `sparsity`, `scores`.

    Raises Damaged when a table is missing.
    """
    connection = duckdb.connect()
    for table in FILES:
        found = [(part, _dataset(store, table, part.name)) for part in sweep.parts]
        if not sweep.joined:
            connection.register(table, found[0][1])
        elif table == "iterations":
            connection.register(table, read_rows(store, sweep, table))
        else:
            _register_joined(connection, table, found)
    return connection


def _register_joined(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    found: Sequence[tuple[SweepRecord, ds.Dataset]],
) -> None:
    """A view of the rows of each part, and one of them all: Arrow has no union of filtered data."""
    names = [f"{table} of {part.name}" for part, _ in found]
    for name, (part, rows) in zip(names, found, strict=True):
        connection.register(name, rows.filter(rows_of(part)))
    connection.sql(" UNION ALL ".join(f'FROM "{name}"' for name in names)).create_view(table)


def _dataset(store: Store, table: str, sweep: str) -> ds.Dataset:
    path = table_path(table, sweep)
    if store.filesystem.get_file_info(store.absolute(path)).type != fs.FileType.File:
        if table not in TABLES:
            return ds.dataset(SCHEMAS[table].empty_table())
        raise Damaged(path, "the table is missing; run the sweep again to rebuild it")
    checked = ds.ParquetFileFormat(
        default_fragment_scan_options=ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    )
    return ds.dataset(store.absolute(path), filesystem=store.filesystem, format=checked)
