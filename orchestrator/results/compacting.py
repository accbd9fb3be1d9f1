"""Compacting: a sweep's tables brought up to date with its commits.

Only pieces of which something has changed are written, and only what is new in them is read from
commits. Who is killed in the middle has done a part: the next one goes on from there.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.records.columns import identity_row
from orchestrator.records.damage import note_damage
from orchestrator.records.sweep import MeasurementRecord, SweepRecord
from orchestrator.results.earlier import EarlierRows
from orchestrator.results.pieces import (
    Committed,
    Manifest,
    Measured,
    Piece,
    Row,
    Wanted,
    set_aside,
    wanted,
)
from orchestrator.results.tables import (
    FILE_SCHEMAS,
    FILES,
    IDENTITY_SCHEMA,
    ITERATIONS_COLUMNS,
    MEASURED,
    SCHEMAS,
    TABLES,
    piece_paths,
    read_parquet,
    table_path,
    table_paths,
    with_swept,
)
from trainables.lineage.metrics import METRICS_SCHEMA, Metrics
from trainables.store import Damaged, Store, iteration_path
from trainables.store.artifacts import SCORES, measured_file, read_table, read_tables

READERS = 8
AT_ONCE = 64
"""Iterations whose rows are put together at a time."""
ROWS = 200_000
"""About as many rows of a table are a row group."""

Tables = dict[str, pa.Table]
NO_METRICS: Metrics = dict.fromkeys(METRICS_SCHEMA.names)


def compact(store: Store, sweep: SweepRecord, committed: Committed) -> list[Damaged]:
    """Bring the tables of `sweep` up to date with its commits, of the iterations that are
    `committed`; returns the damage that was met.

    A damaged iteration is left out; the commit itself is not touched. A piece is in their manifest,
    without which it counts as out of date, only when all of it is written.
    """
    manifest, want = Manifest.read(store, sweep.name), wanted(store, sweep, committed)
    sound = _sound(store, manifest)
    stale = [piece for piece in want.pieces if not _is_there(piece, want, manifest, sound)]
    extra = manifest.files.keys() - want.paths
    if not stale and not extra:
        return []
    with ThreadPoolExecutor(READERS) as pool:
        making = _Making(store, want, manifest, _earlier(store, sweep.name, sound), pool)
        # From the last to the first: as a sweep grows, its rows move to later pieces.
        for piece in reversed(stale):
            making.write(piece)
    manifest = Manifest({p: manifest.files[p] for p in manifest.files.keys() - extra}, want.aside)
    manifest.write(store, sweep.name)
    for table in (*FILES, *MEASURED):
        there = {table_path(table, sweep.name), *piece_paths(store, table, sweep.name)}
        for path in there - want.paths:
            store.delete_file(path)
    note_damage(store, [damage.path for damage in making.damage.values()])
    return list(making.damage.values())


def is_current(store: Store, sweep: SweepRecord, committed: Committed) -> bool:
    """Whether the tables of `sweep` are whole, those of its record and of what is committed."""
    manifest, want = Manifest.read(store, sweep.name), wanted(store, sweep, committed)
    sound = _sound(store, manifest)
    return all(_is_there(piece, want, manifest, sound) for piece in want.pieces)


def rows_by_key(store: Store, sweep: str) -> dict[str, Metrics]:
    """What the tables of a sweep have of its iterations, by key: what their commits have, as far as
    the tables are sound, and but for what was set aside since. Far faster to read than those."""
    manifest, aside = Manifest.read(store, sweep), set_aside(store)
    paths = set(table_paths(store, "iterations", sweep)) & manifest.files.keys()
    of_it = Manifest({path: manifest.files[path] for path in sorted(paths)}, {})
    found: dict[str, Metrics] = {}
    for path in sorted(_sound(store, of_it)):
        table = read_parquet(store, path)
        columns = [name for name in METRICS_SCHEMA.names if name in table.column_names]
        found |= {row["key"]: NO_METRICS | row for row in table.select(columns).to_pylist()}
    changed = {key for key, names in aside.items() if [*manifest.aside.get(key, ())] != names}
    return {key: row for key, row in found.items() if key not in changed}


def table_damage(store: Store, sweep: str) -> list[Damaged]:
    """The tables that are not what was written, page checksums and footers included."""
    found = _checked(store, Manifest.read(store, sweep))
    return [damage for damage in found.values() if damage is not None]


def _checked(store: Store, manifest: Manifest) -> dict[str, Damaged | None]:
    """The files of the manifest, each with what is wrong with it."""

    def damage(path: str) -> Damaged | None:
        data = store.peek(path)
        if data is None:
            return Damaged(path, "it is missing")
        if hashlib.sha256(data).hexdigest() != manifest.files[path]["sha256"]:
            return Damaged(path, "it does not have the SHA-256 it was written with")
        return None

    with ThreadPoolExecutor(READERS) as pool:
        return dict(zip(manifest.files, pool.map(damage, manifest.files), strict=True))


def _sound(store: Store, manifest: Manifest) -> set[str]:
    return {path for path, damage in _checked(store, manifest).items() if damage is None}


def _is_there(piece: Piece, want: Wanted, manifest: Manifest, sound: Collection[str]) -> bool:
    digest = want.digests[piece.name]
    paths = want.files[piece.name].values()
    return all(path in sound and manifest.files[path]["rows"] == digest for path in paths)


def _earlier(store: Store, sweep: str, sound: Collection[str]) -> EarlierRows:
    """The rows of the tables as they are, of the files that are `sound`."""
    columns = {table: tuple(FILE_SCHEMAS[file].names) for table, file in FILES.items()}
    earlier = EarlierRows(store, columns)
    begin = table_path("iterations", sweep).removesuffix(".parquet")
    for path in table_paths(store, "iterations", sweep):
        piece = path.removeprefix(begin).removesuffix(".parquet")
        files = {table: table_path(table, sweep, piece) for table in FILES}
        there = {table: path for table, path in files.items() if path in sound}
        if there.keys() >= {*TABLES}:
            earlier.know(piece, there, SCHEMAS)
    return earlier


@dataclass
class _Making:
    """The writing of pieces, from commits and from earlier tables."""

    store: Store
    want: Wanted
    manifest: Manifest
    earlier: EarlierRows
    pool: ThreadPoolExecutor
    damage: dict[str, Damaged] = field(default_factory=dict)

    def write(self, piece: Piece) -> None:
        """Write the files of a piece. Where something in it is damaged, it stays out of date."""
        paths, before = self.want.files[piece.name], len(self.damage)
        files = self._made(piece)
        self.earlier.forget(piece.name)
        for path in paths.values():
            self.manifest.files.pop(path, None)
        self.manifest.write(self.store, self.want.sweep.name)
        for table, path in paths.items():
            self.store.write(path, files[table])
        if len(self.damage) == before:
            rows = self.want.digests[piece.name]
            for table, path in paths.items():
                sha256 = hashlib.sha256(files[table]).hexdigest()
                self.manifest.files[path] = {"rows": rows, "sha256": sha256}

    def _made(self, piece: Piece) -> dict[str, bytes]:
        """The file of every table."""
        schemas = SCHEMAS | {"iterations": self._iterations([], []).schema}
        files = {table: _Written(schemas[table]) for table in self.want.files[piece.name]}
        rows = self.want.rows(piece)
        while some := list(islice(rows, AT_ONCE)):
            found = [each for each in self._read(some) if each[1] is not None]
            for table, file in files.items():
                there = [(row, each[table]) for row, each in found if each and table in each]
                if there:
                    make = self._iterations if table == "iterations" else _details
                    file.add(make([row for row, _ in there], [part for _, part in there]))
        for table in MEASURED.keys() & files.keys():
            self._add_measured(files[table], table, self.want.measured(piece, table))
        return {table: file.data() for table, file in files.items()}

    def _add_measured(self, file: _Written, table: str, measured: Sequence[Measured]) -> None:
        """Add what measurements have; they are few, and read anew each time."""
        for start in range(0, len(measured), AT_ONCE):
            some = measured[start : start + AT_ONCE]
            parts = self.pool.map(lambda each: self._of_measurement(table, each[1]), some)
            there = [
                ((line, each.iteration, each.key), part)
                for (line, each), part in zip(some, parts, strict=True)
                if part is not None
            ]
            if there:
                file.add(_details([row for row, _ in there], [part for _, part in there]))

    def _of_measurement(self, table: str, of: MeasurementRecord) -> pa.Table | None:
        path, file = iteration_path(of.key), measured_file(table)
        try:
            found = read_table(self.store, path, file, MEASURED[table])
        except Damaged as error:
            self.damage[of.key] = error
            return None
        if of.with_ is None:
            return found
        # It is not in the commit, which lineages share that have the ticket in common.
        at, whose = found.schema.get_field_index("with_lineage"), [of.with_[0]] * len(found)
        return found.set_column(at, "with_lineage", pa.array(whose, pa.string()))

    def _read(self, rows: Sequence[Row]) -> Iterator[tuple[Row, Tables | None]]:
        """What iterations have in each table; None where it is damaged."""
        new = {key: None for line, t, key in rows if not self._is_known((line, t, key))}
        commits = dict(zip(new, self.pool.map(self._of_commit, new), strict=True))
        for row in rows:
            yield row, commits[row[2]] if row[2] in commits else self._of_earlier(row)

    def _is_known(self, row: Row) -> bool:
        line, t, key = row
        # What was set aside since then was trained again.
        same = self.manifest.aside.get(key, ()) == self.want.aside.get(key, ())
        return same and self.earlier.has((line.id, t), key, self._tables(key))

    def _of_earlier(self, row: Row) -> Tables:
        line, t, key = row
        found = {table: self.earlier.rows(table, (line.id, t)) for table in self._tables(key)}
        return {table: rows for table, rows in found.items() if rows is not None}

    def _of_commit(self, key: str) -> Tables | None:
        tables = {FILES[table]: table for table in self._tables(key)}
        schemas = {file: FILE_SCHEMAS[file] for file in tables}
        try:
            found = read_tables(self.store, iteration_path(key), schemas)
        except Damaged as error:
            self.damage[key] = error
            return None
        return {tables[file]: rows for file, rows in found.items()}

    def _tables(self, key: str) -> Collection[str]:
        """Those that have rows of the commit."""
        return FILES if SCORES in self.want.committed[key] else TABLES

    def _iterations(self, rows: Sequence[Row], parts: Sequence[pa.Table]) -> pa.Table:
        measured = pa.concat_tables([_empty(METRICS_SCHEMA), *parts])
        sweep, lines = self.want.sweep.name, [line for line, _, _ in rows]
        identity = pa.Table.from_pylist(
            [identity_row(sweep, line) for line in lines], IDENTITY_SCHEMA
        )
        columns = dict(zip(identity.column_names, identity.columns, strict=True))
        columns |= dict(zip(measured.column_names, measured.columns, strict=True))
        ends = [line.stopped if t == line.iterations[-1] else None for line, t, _ in rows]
        columns["stopped"] = pa.chunked_array([pa.array(ends, pa.string())])
        whole = pa.table({n: columns[n] for n in ITERATIONS_COLUMNS}, SCHEMAS["iterations"])
        return with_swept(whole, self.want.types, lines)


def _details(rows: Sequence[Row], parts: Sequence[pa.Table]) -> pa.Table:
    """`parts`, with whose they are in front."""
    lengths = [len(part) for part in parts]
    whose = pa.array([line.id for line, _, _ in rows], pa.string())
    lineage = whose.take(pa.array(np.repeat(np.arange(len(rows)), lengths)))
    iteration = pa.array(np.repeat([t for _, t, _ in rows], lengths), pa.int64())
    return pa.concat_tables(parts).add_column(0, "lineage", lineage).add_column(
        1, "iteration", iteration
    )  # fmt: skip


class _Written:
    """A Parquet file with page checksums, in the making: few large row groups, in which the rows of
    an iteration stay together."""

    def __init__(self, schema: pa.Schema) -> None:
        self._waiting = [_empty(schema)]
        self._rows = self._groups = 0
        self._sink = io.BytesIO()
        # Of numbers that are all different, a dictionary takes ten times as long, and more room.
        repeated = [each.name for each in schema if not _is_measure(each)]
        self._writer = pq.ParquetWriter(
            self._sink,
            schema,
            compression="zstd",
            use_dictionary=repeated,  # pyright: ignore[reportArgumentType]
            write_page_checksum=True,
        )

    def add(self, table: pa.Table) -> None:
        self._waiting.append(table)
        self._rows += len(table)
        if self._rows >= ROWS:
            self._flush()

    def data(self) -> bytes:
        if self._rows or not self._groups:
            self._flush()
        self._writer.close()
        return self._sink.getvalue()

    def _flush(self) -> None:
        self._writer.write_table(pa.concat_tables(self._waiting), max(1, self._rows))
        self._waiting, self._rows = self._waiting[:1], 0
        self._groups += 1


def _is_measure(field: pa.Field) -> bool:
    return pa.types.is_floating(field.type) and field.name not in ("p", "q")


def _empty(schema: pa.Schema) -> pa.Table:
    # `Schema.empty_table` would import pandas.
    return pa.Table.from_batches([], schema)
