"""Opening a sweep's results: its tables as Arrow, pandas, Polars or DuckDB."""

from collections import Counter
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.records.failures import read_failures
from orchestrator.records.published import PublishedValue, recorded_published
from orchestrator.records.sweep import LineageRecord, SweepRecord, existing_sweep
from orchestrator.results.statistics import Comparison, cell_statistics, compare_cells
from orchestrator.results.tables import compact, is_current, open_tables, table_path
from trainables.errors import UserError
from trainables.store import Store

if TYPE_CHECKING:
    import pandas
    import polars

    from orchestrator.results.paper_tables import LayoutName, PaperTable


class QueryError(UserError, ValueError):
    """The SQL is wrong; the text is DuckDB's."""


@dataclass(frozen=True)
class Results:
    """The tables of one sweep, as they were when it was opened. docs/results.md has the columns."""

    store: Store
    record: SweepRecord

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
    def labels(self) -> dict[str, str]:
        """For each lineage id, its method with what tells it from the sweep's other methods, such
        as `sap p=0.5 q=1.0`. Lineages that differ in nothing but their seed have one label."""
        sections = [name for name in ("dataset", "model") if varies(name, self.record)]
        return {line.id: _label(line, self.record, sections) for line in self.record.lineages}

    @cached_property
    def failed(self) -> frozenset[str]:
        """The ids of the lineages that failed in the sweep's last run. Raises Damaged."""
        return frozenset(each.lineage for each in read_failures(self.store, self.record.name))

    @cached_property
    def published(self) -> tuple[PublishedValue, ...]:
        """What the sweep's `published:` file had for its cells when it was last run."""
        return recorded_published(self.store, self.record.name)

    def table(self, name: str) -> pa.Table:
        """`iterations`, `layers`, `epochs` or `sparsity`."""
        return pq.read_table(
            self.store.absolute(table_path(name, self.record.name)),
            filesystem=self.store.filesystem,
            page_checksum_verification=True,
        )

    def pandas(self, name: str = "iterations") -> "pandas.DataFrame":
        return self.table(name).to_pandas()

    def polars(self, name: str = "iterations") -> "polars.DataFrame":
        """Needs Polars, which prunesweep does not install."""
        import polars

        frame = polars.from_arrow(self.table(name))
        assert isinstance(frame, polars.DataFrame)
        return frame

    def duckdb(self) -> duckdb.DuckDBPyConnection:
        """A connection with the four tables as views, and `labels`: for each lineage its label,
        its label without dataset and model (`variant`) and the position of its cell."""
        connection = open_tables(self.store, [self.record.name])
        lines = self.record.lineages
        positions = {label: i for i, label in enumerate(dict.fromkeys(self.labels.values()))}
        columns = {
            "lineage": [line.id for line in lines],
            "label": [self.labels[line.id] for line in lines],
            "variant": [method_label(line, self.record) for line in lines],
            "position": [positions[self.labels[line.id]] for line in lines],
        }
        connection.register("labels", pa.table(columns))
        return connection

    def statistics(self, metric: str = "test_accuracy") -> pa.Table:
        """Mean, standard deviation, number of seeds and bootstrap interval of `metric` for every
        label and iteration. Raises ValueError when `metric` is no column of numbers."""
        return cell_statistics(self.iterations, self.labels, metric)

    def compare(
        self, one: str, other: str, *, metric: str = "test_accuracy", iteration: int | None = None
    ) -> Comparison:
        """Whether the cells with the labels `one` and `other` differ by more than noise, at
        `iteration` or else at the last one of each. Raises ValueError for what is not there."""
        return compare_cells(self.iterations, self.labels, metric, one, other, iteration)

    def paper_table(
        self,
        *,
        metric: str = "test_accuracy",
        layout: "LayoutName" = "paper",
        where: str | None = None,
    ) -> "PaperTable":
        """The results laid out as a paper's table, see `paper_tables.paper_table`."""
        from orchestrator.results.paper_tables import paper_table

        return paper_table(self, metric=metric, layout=layout, where=where)

    def sql(self, query: str) -> pa.Table:
        """The rows of `query` over the four tables; raises QueryError."""
        with query_errors():
            relation = self.duckdb().sql(query)
            if relation is None:
                raise QueryError("the SQL returns no rows to show; give a SELECT")
            return relation.to_arrow_table()


@contextmanager
def query_errors() -> Iterator[None]:
    """Makes what DuckDB finds wrong a QueryError."""
    try:
        yield
    except duckdb.Error as error:
        raise QueryError(str(error)) from error


def open_results(storage: "str | PathLike[str] | Store", sweep: str) -> Results:
    """The results of `sweep` in `storage`, a folder or a URI such as `s3://bucket/folder`.

    Tables that lag behind the commits are rebuilt first. Raises StoreError, NoSuchSweep, Damaged.
    """
    store = storage if isinstance(storage, Store) else Store(str(storage))
    record = existing_sweep(store, sweep)
    if not is_current(store, record):
        compact(store, record)
    return Results(store, record)


def method_label(line: LineageRecord, record: SweepRecord, without: Container[str] = ()) -> str:
    """The method of `line` with its swept parameters, those named in `without` left out."""
    return " ".join([line.config["method"]["name"], *options(line, record, without)])


def options(line: LineageRecord, record: SweepRecord, without: Container[str] = ()) -> list[str]:
    """What tells `line` from others of its dataset, model or method, such as `p=0.5`; the swept
    parameters in `without` are left out."""
    short = _short_names(record.swept)
    return [
        f"{short[name]}={_shown(line.swept[name])}"
        for name in record.swept
        if (name, line.section_name(name)) in record.telling
        and line.swept[name] is not None
        and name not in without
    ]


def varies(section: str, record: SweepRecord) -> bool:
    """Whether lineages differ in the name of their `dataset` or `model`."""
    return len({line.config[section]["name"] for line in record.lineages}) > 1


def _label(line: LineageRecord, record: SweepRecord, sections: Sequence[str]) -> str:
    names = [line.config[section]["name"] for section in sections]
    return " ".join([*names, method_label(line, record)])


def _short_names(swept: Sequence[str]) -> dict[str, str]:
    """The shortest ends of dotted names that tell them apart: `lr` of `train.optimizer.lr`, and
    `optimizer` of `train.optimizer.name`."""
    parts = {name: name.removesuffix(".name").split(".") for name in swept}
    ends = {
        name: [".".join(path[-length:]) for length in range(1, len(path) + 1)]
        for name, path in parts.items()
    }
    counts = Counter(end for each in ends.values() for end in each)
    return {name: next((e for e in each if counts[e] == 1), name) for name, each in ends.items()}


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
