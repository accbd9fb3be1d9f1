"""Opening the results of sweeps: their tables, and what is computed from them."""

from collections.abc import Collection
from dataclasses import dataclass
from os import PathLike

import pyarrow as pa

from orchestrator.records.joined import join
from orchestrator.records.status import SweepStatus, signs_of, status_by
from orchestrator.records.sweep import existing_sweep
from orchestrator.results.ablations import ablation_table
from orchestrator.results.compacting import compact
from orchestrator.results.paper_tables import LayoutName, Mark, PaperTable, paper_table
from orchestrator.results.statistics import Comparison, cell_statistics, compare_cells
from orchestrator.results.sweep_tables import SweepTables
from trainables.store import Store


@dataclass(frozen=True, repr=False)
class Results(SweepTables):
    """The tables of one sweep, or of several as one, with the statistics, comparisons and paper's
    table made from them.

    `statuses` are those of the sweep's parts, and `committed` the keys of the storage's iterations,
    by the one reading that the tables are of; a reading that has not looked has none.
    """

    statuses: tuple[SweepStatus, ...] = ()
    committed: Collection[str] = ()

    def statistics(self, metric: str = "test_accuracy") -> pa.Table:
        """Mean, standard deviation, number of seeds and bootstrap interval of `metric` for every
        label and iteration. Raises ValueError when `metric` is no column of numbers."""
        return cell_statistics(self.iterations, self.labels, metric)

    def compare(
        self, one: str, other: str, *, metric: str = "test_accuracy", iteration: int | None = None
    ) -> Comparison:
        """Whether the cells with the labels `one` and `other` differ by more than noise, at
        `iteration` or else at the last one of each on real data. Raises ValueError for what is not
        there."""
        on_data = {line.id: line.on_data for line in self.record.lineages}
        return compare_cells(self.iterations, self.labels, metric, one, other, iteration, on_data)

    def ablations(self, metric: str = "test_accuracy") -> pa.Table:
        """`metric` of every ablation beside that of the iteration that it is of, their difference
        and the test made of it. Raises ValueError when `metric` is no column of numbers."""
        return ablation_table(self.record, self.iterations, metric)

    def paper_table(
        self,
        *,
        metric: str = "test_accuracy",
        layout: LayoutName = "paper",
        where: str | None = None,
        mark: Mark = "noise",
    ) -> PaperTable:
        """The results laid out as a paper's table, see `paper_tables.paper_table`."""
        return paper_table(self, metric=metric, layout=layout, where=where, mark=mark)


def open_results(storage: "str | PathLike[str] | Store", sweep: str, *others: str) -> Results:
    """The results of `sweep` in `storage`, a folder or a URI such as `s3://bucket/folder`; with
    `others`, those of all of these sweeps as one, in which a lineage that several have counts once.

    Tables that lag behind the commits are rebuilt first. Raises StoreError, NoSuchSweep, Damaged.
    """
    store = storage if isinstance(storage, Store) else Store(str(storage))
    records = [existing_sweep(store, name) for name in dict.fromkeys((sweep, *others))]
    # What a run says comes before what it has committed, so that none has ended without its last.
    signs = [signs_of(store, record.name) for record in records]
    committed = store.committed("iterations")
    for record in records:
        compact(store, record, committed)
    joined = join(records)
    statuses = zip(joined.parts, signs, strict=True)
    return Results(
        store, joined, tuple(status_by(*each, committed) for each in statuses), committed
    )
