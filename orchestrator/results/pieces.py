"""Pieces: which files a sweep's tables are in, and what each of them has to hold.

A sweep of many iterations has several files of each table, its pieces, so that a change is one of
few of them, and none is larger than memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from orchestrator.records.columns import identity_row
from orchestrator.records.sweep import LineageRecord, MeasurementRecord, SweepRecord
from orchestrator.results.tables import (
    FILES,
    MEASURED,
    SCHEMAS,
    TABLES,
    plain,
    swept_types,
    table_path,
)
from trainables.config import canonical_json
from trainables.store import Damaged, Store
from trainables.store.artifacts import SCORES

PIECE = 4_096
"""Iterations of which a table has one file."""

Committed = Mapping[str, Collection[str]]
"""The keys of iterations, each with the names of its commit's files."""
Row = tuple[LineageRecord, int, str]
"""A lineage, an iteration t of it, and its key."""
Measured = tuple[LineageRecord, MeasurementRecord]
"""A lineage, and a measurement of it."""


@dataclass(frozen=True)
class Piece:
    """Lineages of a sweep, in a row, of which every table has a file; `name` comes after the
    sweep's in the names of files."""

    name: str
    lineages: tuple[LineageRecord, ...]


def pieces(sweep: SweepRecord) -> list[Piece]:
    """The sweep in pieces of up to PIECE iterations, committed or not; the name of one is ""."""
    found: list[list[LineageRecord]] = [[]]
    rows = 0
    for line in sweep.lineages:
        if found[-1] and rows + len(line.keys) > PIECE:
            found.append([])
            rows = 0
        found[-1].append(line)
        rows += len(line.keys)
    if len(found) == 1:
        return [Piece("", sweep.lineages)]
    return [Piece(f"+{number:04d}", tuple(lines)) for number, lines in enumerate(found, start=1)]


@dataclass
class Manifest:
    """What the tables' files were when they were written, by their path: a digest of the `rows`,
    and the `sha256` of the file.

    `aside` has by key the commits of it that had been set aside: what came after is another one.
    """

    files: dict[str, dict[str, str]]
    aside: Mapping[str, Sequence[str]]

    @classmethod
    def read(cls, store: Store, sweep: str) -> Manifest:
        """What has no manifest was never made, or its making was broken off."""
        try:
            found = store.read_json(_manifest_path(sweep))
            return cls(
                {path: {"rows": each["rows"], "sha256": each["sha256"]}
                 for path, each in found["files"].items()},
                {key: [*names] for key, names in found["aside"].items()},
            )  # fmt: skip
        except (Damaged, KeyError, TypeError, AttributeError):
            return cls({}, {})

    def write(self, store: Store, sweep: str) -> None:
        store.write_json(_manifest_path(sweep), {"files": self.files, "aside": self.aside})


@dataclass(frozen=True)
class Wanted:
    """What the tables of `sweep` have to be when these iterations are `committed`, and `aside` were
    set aside before."""

    sweep: SweepRecord
    committed: Committed
    aside: Mapping[str, Sequence[str]]

    @cached_property
    def pieces(self) -> list[Piece]:
        return pieces(self.sweep)

    @cached_property
    def types(self) -> dict[str, pa.DataType]:
        """Of the columns of swept parameters."""
        return swept_types(self.sweep)

    @cached_property
    def digests(self) -> dict[str, str]:
        """By the name of every piece, a digest of the rows that it has."""
        # Swept parameters have the types of their values in the whole sweep.
        lines = self.sweep.lineages
        kinds = {
            name: sorted({type(plain(line.swept.get(name))).__name__ for line in lines})
            for name in self.sweep.swept
        }
        columns = [*(str(SCHEMAS[table]) for table in FILES), kinds]
        return {
            piece.name: hashlib.sha256(
                canonical_json([columns, *self._told(piece)]).encode()
            ).hexdigest()
            for piece in self.pieces
        }

    @cached_property
    def files(self) -> dict[str, dict[str, str]]:
        """By the name of every piece, the file that each table has of it."""
        return {
            piece.name: {
                table: table_path(table, self.sweep.name, piece.name)
                for table in self._tables(piece)
            }
            for piece in self.pieces
        }

    @cached_property
    def paths(self) -> set[str]:
        """All files."""
        return {path for files in self.files.values() for path in files.values()}

    def rows(self, piece: Piece) -> Iterator[Row]:
        """The iterations of a piece that are committed."""
        for line in piece.lineages:
            for t, key in zip(line.iterations, line.keys, strict=True):
                if key in self.committed:
                    yield line, t, key

    def measured(self, piece: Piece, table: str) -> list[Measured]:
        """The measurements of a piece that are committed and have rows of `table`."""
        return [
            (line, each)
            for line in piece.lineages
            for each in line.measurements or ()
            if each.table == table and each.key in self.committed
        ]

    def _tables(self, piece: Piece) -> list[str]:
        """Those that have a file of the piece."""
        of_iterations = FILES if self._is_scored(piece) else TABLES
        return [*of_iterations, *(table for table in MEASURED if self.measured(piece, table))]

    def _is_scored(self, piece: Piece) -> bool:
        return any(SCORES in self.committed[key] for _, _, key in self.rows(piece))

    def _told(self, piece: Piece) -> Iterator[Any]:
        for line in piece.lineages:
            yield identity_row(self.sweep.name, line), line.swept, line.stopped
        for line, t, key in self.rows(piece):
            yield line.id, t, key, SCORES in self.committed[key], self.aside.get(key, ())
        for table, schema in MEASURED.items():
            for line, each in self.measured(piece, table):
                aside = self.aside.get(each.key, ())
                yield line.id, each.iteration, each.key, each.with_, str(schema), aside


def wanted(store: Store, sweep: SweepRecord, committed: Committed) -> Wanted:
    """What the tables of `sweep` have to be."""
    keys = {key for line in sweep.lineages for key in line.committed_keys}
    aside = {key: names for key, names in set_aside(store).items() if key in keys}
    return Wanted(sweep, committed, aside)


def set_aside(store: Store) -> dict[str, list[str]]:
    """The commits that were set aside, by the keys of their iterations."""
    aside: dict[str, list[str]] = {}
    for name in store.names("quarantine"):
        key = name.removeprefix("iterations-").rsplit("-", 2)[0]
        aside.setdefault(key, []).append(name)
    return aside


def _manifest_path(sweep: str) -> str:
    return f"tables/manifest-{sweep}.json"
