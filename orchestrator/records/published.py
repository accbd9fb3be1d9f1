"""The published values about cells of a sweep; kept in `published.json`."""

from collections.abc import Iterable

from pydantic import TypeAdapter

from orchestrator.records.columns import identity_row
from orchestrator.records.files import RecordFile
from orchestrator.records.sweep import LineageRecord, SweepRecord
from orchestrator.sweepfile.published import PublishedCell, PublishedValue, cell_of
from trainables.store import Store

PUBLISHED = RecordFile("published.json", TypeAdapter(list[PublishedValue]))


def published_cell(line: LineageRecord) -> PublishedCell | None:
    """The cell of a lineage; None when its method aims at no density, or does what no published
    value is of."""
    method = line.config["method"]
    density = method.get("density")
    told = {*method, *(method.get("rewind") or {})}
    other = told & {"layer_densities", "criterion", "rewound"}
    if density is None or other or "ablation" in line.config:
        return None
    cell = identity_row("", line) | {"density": density}
    return PublishedCell(**{name: cell[name] for name in PublishedCell._fields})


def record_published(store: Store, record: SweepRecord, values: Iterable[PublishedValue]) -> None:
    """Write those of `values` that are about cells of the sweep into its records."""
    cells = {published_cell(line) for line in record.lineages}
    PUBLISHED.write(store, record.name, [value for value in values if cell_of(value) in cells])


def recorded_published(store: Store, sweep: str) -> tuple[PublishedValue, ...]:
    """The published values in the records of `sweep`; raises Damaged."""
    return tuple(PUBLISHED.read(store, sweep) or ())
