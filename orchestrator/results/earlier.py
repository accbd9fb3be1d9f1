"""Earlier rows: those of tables as they are, for the making of newer ones.

What an iteration has in a table never changes, so only what is new has to be read from commits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainables.store import Store

Iteration = tuple[str, int]
"""The id of a lineage, and t."""


@dataclass
class EarlierRows:
    """The rows of some pieces of tables, each piece a mapping from a table's name to its file.

    Whoever writes over a piece forgets it first. Of each table, the rows that were last read lie
    in memory: rows are asked for in an order much like their own.
    """

    store: Store
    columns: Mapping[str, tuple[str, ...]]
    """Those that are asked for, of every table."""
    _keys: dict[Iteration, tuple[str, str]] = field(default_factory=dict)
    _pieces: dict[str, dict[str, _File]] = field(default_factory=dict)

    def know(self, name: str, files: Mapping[str, str], schemas: Mapping[str, pa.Schema]) -> None:
        """A piece called `name`; of no use when its columns are others than those of `schemas`."""
        found = {table: _File(self.store, path) for table, path in files.items()}
        for table, file in found.items():
            there = {each.name: each.type for each in file.open().schema_arrow}
            if any(there.get(n) != schemas[table].field(n).type for n in self.columns[table]):
                return
        whose = found["iterations"].open().read(["lineage", "iteration", "key"])
        for id, t, key in zip(*(column.to_pylist() for column in whose.columns), strict=True):
            self._keys[id, t] = key, name
        self._pieces[name] = found

    def has(self, iteration: Iteration, key: str, tables: Collection[str]) -> bool:
        """Whether the rows of the commit `key` are there, in all of `tables`."""
        known, piece = self._keys.get(iteration, ("", ""))
        return known == key and self._pieces.get(piece, {}).keys() >= {*tables}

    def rows(self, table: str, iteration: Iteration) -> pa.Table | None:
        """The rows of an iteration that is there; None where the table has none."""
        _, piece = self._keys[iteration]
        found = self._pieces[piece][table].rows(iteration)
        return None if found is None else found.select(self.columns[table])

    def forget(self, name: str) -> None:
        """A piece is about to be written over."""
        self._pieces.pop(name, None)


@dataclass
class _File:
    """A Parquet file, in which the rows of an iteration are in one row group."""

    store: Store
    path: str
    _opened: pq.ParquetFile | None = None
    _places: dict[Iteration, tuple[int, int, int]] | None = None
    _group: tuple[int, pa.Table] | None = None

    def open(self) -> pq.ParquetFile:
        if self._opened is None:
            self._opened = pq.ParquetFile(self.store.open(self.path))
        return self._opened

    def rows(self, iteration: Iteration) -> pa.Table | None:
        if self._places is None:
            self._places = dict(self._found())
        if iteration not in self._places:
            return None
        number, first, count = self._places[iteration]
        if self._group is None or self._group[0] != number:
            self._group = number, self.open().read_row_group(number)
        return self._group[1].slice(first, count)

    def _found(self) -> Iterator[tuple[Iteration, tuple[int, int, int]]]:
        """The row group of every iteration, and where its rows begin there, and how many."""
        for number in range(self.open().num_row_groups):
            group = self.open().read_row_group(number, ["lineage", "iteration"])
            if not len(group):
                continue
            lineages = group["lineage"].combine_chunks().dictionary_encode()
            codes, ts = lineages.indices.to_numpy(), group["iteration"].to_numpy()
            changes = (np.diff(codes) != 0) | (np.diff(ts) != 0)
            starts = np.concatenate([[0], np.flatnonzero(changes) + 1, [len(group)]])
            names = lineages.dictionary.to_pylist()
            for first, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
                yield (names[codes[first]], int(ts[first])), (number, first, end - first)
