"""Opening the results of sweeps: their tables, and what is computed from them."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import pyarrow as pa

from orchestrator.records.ends import until_ends
from orchestrator.records.joined import join
from orchestrator.records.labels import find_lineages
from orchestrator.records.status import SweepStatus, signs_of, status_by
from orchestrator.records.sweep import SweepRecord, existing_sweep
from orchestrator.results.ablations import Ablated, ablated_cells, ablation_table
from orchestrator.results.compacting import compact
from orchestrator.results.paper_tables import LayoutName, Mark, PaperTable, paper_table
from orchestrator.results.pieces import Committed
from orchestrator.results.statistics import Comparison, cell_statistics, compare_cells
from orchestrator.results.sweep_tables import SweepTables
from orchestrator.results.tables import DENSITIES, Weights
from orchestrator.results.tickets import (
    Function,
    StoredLineage,
    evaluated,
    one_lineage,
    stored_lineages,
)
from trainables.errors import UserError
from trainables.plugins.entry import BUILT_IN, Catalogue
from trainables.plugins.loading import load_plugins
from trainables.plugins.source import read_plugin
from trainables.store import Store, StoreError


@dataclass(frozen=True, repr=False)
class Results(SweepTables):
    """The tables of one sweep, or of several as one, with the statistics, comparisons and paper's
    table made from them.

    `statuses` are those of the sweep's parts, and `committed` the keys of the storage's iterations,
    by the one reading that the tables are of; a reading that has not looked has none. `catalogue`
    is what networks and datasets are found in.
    """

    statuses: tuple[SweepStatus, ...] = ()
    committed: Collection[str] = ()
    catalogue: Catalogue = field(default=BUILT_IN, kw_only=True)

    def statistics(self, metric: str = "test_accuracy") -> pa.Table:
        """Mean, standard deviation, number of seeds and bootstrap interval of `metric` for every
        label and iteration. Raises ValueError when `metric` is no column of numbers."""
        return cell_statistics(self.iterations, self.labels, metric, self.density)

    def compare(
        self, one: str, other: str, *, metric: str = "test_accuracy", iteration: int | None = None
    ) -> Comparison:
        """Whether the cells with the labels `one` and `other` differ by more than noise, at
        `iteration` or else at the last one of each lineage on real data. Raises ValueError for what
        is not there."""
        on_data = {line.id: line.on_data for line in self.record.lineages}
        return compare_cells(self.iterations, self.labels, metric, one, other, iteration, on_data)

    def ablations(self, metric: str = "test_accuracy") -> pa.Table:
        """`metric` of every ablation beside that of the iteration that it is of, their difference
        and the test made of it. Raises ValueError when `metric` is no column of numbers."""
        return ablation_table(self.record, self.iterations, metric, density=self.density)

    def ablated_cells(self) -> list[Ablated]:
        """The test accuracies that `ablations` is made of, seed by seed."""
        return ablated_cells(self.record, self.iterations)

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

    def lineage(self, named: str | None = None, **columns: Any) -> StoredLineage:
        """The one lineage that `named`, its label or a part of its id, and values of `columns`,
        such as `method="sap", seed=0`, mean: with its networks. Raises NoSuchLineage."""
        found = [one_lineage(self.record, named, columns)]
        return stored_lineages(self.store, self.record, found, self.catalogue)[0]

    def evaluate(
        self,
        function: Function,
        *,
        on: Any = "test",
        lineages: str | Iterable[str] | None = None,
        device: str = "cpu",
        data_root: str | None = None,
    ) -> pa.Table:
        """What `function(network, data)` gives of every ticket whose weights are stored: the rows
        of `iterations` with a column `result` more, or with several where it gives a mapping.

        The network is in eval mode on `device`, without gradients. `data` is the split `on` of the
        lineage's dataset, `test`, `train` or `validation`, as an `Examples`: uint8 `images`
        [N, C, H, W], `labels` [N] and `normalized(images)`, what networks take. Anything but a
        string is handed on as it is. `lineages` are labels, of every seed where they say none, or
        parts of ids. A network that several lineages have is evaluated once. Raises NoTicket,
        NoSuchLineage, DatasetNotFound, Damaged, and ValueError for what is no split or no new
        column.
        """
        names = [lineages] if isinstance(lineages, str) else lineages
        chosen = self.record.lineages
        if names is not None:
            found = {line.id: line for name in names for line in find_lineages(self.record, name)}
            chosen = tuple(found.values())
        lines = stored_lineages(self.store, self.record, chosen, self.catalogue)
        return evaluated(lines, self.iterations, function, on, device, data_root)


def open_results(
    storage: "str | PathLike[str] | Store",
    sweep: str,
    *others: str,
    weights: Weights = "kept",
    plugins: Iterable[str] = (),
) -> Results:
    """The results of `sweep` in `storage`, a folder or a URI such as `s3://bucket/folder`; with
    `others`, those of all of these sweeps as one, in which a lineage that several have counts once.

    Summaries, paper's tables and figures show the density of the kept `weights`, or that of the
    effective ones. `plugins` are files or modules, as under `plugins:`, whose networks and datasets
    are to be had. Tables that lag behind the commits are rebuilt first. Raises StoreError,
    NoSuchSweep, Damaged, NotMeasured when no iteration has an effective density, and ValueError
    when `weights` are neither.
    """
    if weights not in DENSITIES:
        raise ValueError(f"no weights {weights!r}; choose one of {', '.join(DENSITIES)}")
    store = storage if isinstance(storage, Store) else Store(str(storage))
    records = [existing_sweep(store, name) for name in dict.fromkeys((sweep, *others))]
    # What a run says comes before what it has committed, so that none has ended without its last.
    signs = [signs_of(store, record.name) for record in records]
    committed = store.committed("iterations")
    ends = [each.ends for each in signs]
    records = [until_ends(*each) for each in zip(records, ends, strict=True)]
    for record in records:
        _bring_up_to_date(store, record, committed)
    joined = join(records)
    statuses = zip(joined.parts, signs, strict=True)
    found = tuple(status_by(*each, committed) for each in statuses)
    catalogue = load_plugins(read_plugin(each, Path.cwd()) for each in plugins)
    results = Results(store, joined, found, committed, weights=weights, catalogue=catalogue)
    if weights == "effective":
        _require_measured(results)
    return results


def _bring_up_to_date(store: Store, record: SweepRecord, committed: Committed) -> None:
    try:
        compact(store, record, committed)
    except OSError as error:
        raise StoreError(
            f"{store.location}: the tables of {record.name} lag behind its commits, and cannot be "
            f"written ({error.strerror or error}); where the storage can be written, `prunesweep "
            f"results {record.name}` brings them up to date"
        ) from error


class NotMeasured(UserError, ValueError):
    """No iteration has what is to be shown."""


def _require_measured(results: Results) -> None:
    measured = results.iterations[results.density]
    if measured.null_count == len(measured) > 0:
        raise NotMeasured(
            f"no iteration of {results.record.name} has a {results.density}: it is null for "
            "networks of which it is not known what they connect, and where another version "
            "trained them; show the kept weights"
        )
