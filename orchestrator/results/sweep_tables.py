"""The tables of a sweep as Arrow, pandas, Polars or DuckDB, with what its records say of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import pyarrow as pa

from orchestrator.records.failures import read_failures
from orchestrator.records.labels import labels, method_label
from orchestrator.records.published import recorded_published
from orchestrator.records.sweep import LineageRecord, SweepRecord
from orchestrator.results.tables import DENSITIES, SCHEMAS, Weights, read_rows
from orchestrator.sweepfile.published import PublishedValue
from trainables.errors import UserError
from trainables.store import Store

if TYPE_CHECKING:
    import duckdb
    import pandas
    import polars
    import pyarrow.compute as pc


LABELS = """
CREATE TABLE labels AS SELECT
    unnest(?::VARCHAR[]) AS lineage, unnest(?::VARCHAR[]) AS label,
    unnest(?::VARCHAR[]) AS variant, unnest(?::BIGINT[]) AS position
"""
INPUTS = """
CREATE TABLE inputs AS SELECT
    unnest(?::VARCHAR[]) AS lineage, unnest(?::BIGINT[]) AS iteration,
    unnest(?::VARCHAR[]) AS inputs
"""
"""Not from Arrow, whose conversion of lists imports pandas."""


class QueryError(UserError, ValueError):
    """The SQL is wrong; the text is DuckDB's."""


@dataclass(frozen=True, repr=False)
class SweepTables:
    """The tables of one sweep, or of several that are joined, as they were when it was opened.

    docs/results.md has the columns. `weights` are those whose density is shown.
    """

    store: Store
    record: SweepRecord
    weights: Weights = field(default="kept", kw_only=True)

    def __repr__(self) -> str:
        """Short: a record is as long as its sweep."""
        lineages = len(self.record.lineages)
        where = f"{lineages} lineages of {self.record.name!r} in {self.store.location!r}"
        return f"<{type(self).__name__}: {where}>"

    @property
    def density(self) -> str:
        """The column of `iterations` that is shown as the density."""
        return DENSITIES[self.weights]

    @cached_property
    def iterations(self) -> pa.Table:
        """One row for each iteration of each lineage."""
        return self.table("iterations")

    @cached_property
    def layers(self) -> pa.Table:
        """One row for each prunable layer of each iteration."""
        return self.table("layers")

    @cached_property
    def epochs(self) -> pa.Table:
        """One row for each epoch of each iteration."""
        return self.table("epochs")

    @cached_property
    def sparsity(self) -> pa.Table:
        """The PQ Index on the paper's grid of p and q."""
        return self.table("sparsity")

    @cached_property
    def scores(self) -> pa.Table:
        """Scores of some weights at initialization; empty unless `store.keep_scores` kept them."""
        return self.table("scores")

    @cached_property
    def connectivity(self) -> pa.Table:
        """Error and loss along lines between networks; empty unless the sweep `measures` it."""
        return self.table("connectivity")

    @cached_property
    def labels(self) -> dict[str, str]:
        """For each lineage id, its method with what tells it from the sweep's other methods, such
        as `sap p=0.5 q=1.0`. Lineages that differ in nothing but their seed have one label."""
        return labels(self.record)

    @cached_property
    def failed(self) -> frozenset[str]:
        """The ids of the lineages that failed in the sweep's last run. Raises Damaged."""
        found = (read_failures(self.store, part.name) for part in self.record.parts)
        return frozenset(failure.lineage for failures in found for failure in failures)

    @cached_property
    def published(self) -> tuple[PublishedValue, ...]:
        """What the sweep's `published:` file had for its cells when it was last run."""
        found = (recorded_published(self.store, part.name) for part in self.record.parts)
        return tuple(value for values in found for value in values)

    def table(
        self,
        name: str,
        columns: Sequence[str] | None = None,
        where: pc.Expression | None = None,
    ) -> pa.Table:
        """`iterations`, `layers`, `epochs`, `sparsity`, `scores`, or one of a measure, such as
        `connectivity`.

        Of a large one, `columns` and `where` read a part: these columns, of which `lineage` is one,
        and the rows for which an expression of them holds. Raises ValueError when `name` is no
        table.
        """
        if name not in SCHEMAS:
            raise ValueError(f"no table {name!r}; choose one of: {', '.join(SCHEMAS)}")
        return read_rows(self.store, self.record, name, columns, where)

    def pandas(self, name: str = "iterations") -> pandas.DataFrame:
        return self.table(name).to_pandas()

    def polars(self, name: str = "iterations") -> polars.DataFrame:
        """Needs Polars, which prunesweep does not install."""
        import polars

        frame = polars.from_arrow(self.table(name))
        assert isinstance(frame, polars.DataFrame)
        return frame

    def duckdb(self) -> duckdb.DuckDBPyConnection:
        """A connection with the tables as views, and two more. `labels`: for each lineage its
        label, its label without dataset and model (`variant`) and the position of its cell.
        `inputs`: for each of its iterations what it is trained on, `real` data or `random`."""
        from orchestrator.results.views import open_tables

        connection = open_tables(self.store, self.record)
        lines = self.record.lineages
        positions = {label: i for i, label in enumerate(dict.fromkeys(self.labels.values()))}
        columns = (
            [line.id for line in lines],
            [self.labels[line.id] for line in lines],
            [method_label(line, self.record) for line in lines],
            [positions[self.labels[line.id]] for line in lines],
        )
        connection.execute(LABELS, columns)
        connection.execute(INPUTS, _inputs(lines))
        return connection

    def sql(self, query: str) -> pa.Table:
        """The rows of `query` over the tables; raises QueryError."""
        with query_errors():
            relation = self.duckdb().sql(query)
            if relation is None:
                raise QueryError("the SQL returns no rows to show; give a SELECT")
            return relation.to_arrow_table()


def _inputs(lines: Sequence[LineageRecord]) -> tuple[list[str], list[int], list[str]]:
    rows = [(line.id, t, t in line.on_data) for line in lines for t in line.iterations]
    return (
        [id for id, _, _ in rows],
        [t for _, t, _ in rows],
        ["real" if real else "random" for *_, real in rows],
    )


@contextmanager
def query_errors() -> Iterator[None]:
    """Makes what DuckDB finds wrong a QueryError."""
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        raise QueryError(str(error)) from error
