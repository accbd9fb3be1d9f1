"""Ending: where stop rules end a lineage, by what is committed of it and by nothing else.

Rules are in no key, so that what a lineage has up to its end is what it would have without them.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

from trainables.config import canonical, canonical_json
from trainables.lineage.keys import Lineage
from trainables.lineage.metrics import METRICS_SCHEMA, Metrics
from trainables.pruning import Pruning
from trainables.store import Damaged, Store, iteration_path
from trainables.store.artifacts import METRICS, read_table

READERS = 8


@dataclass(frozen=True)
class End:
    """The lineage with the id `lineage` ends with `iteration`, whose key is `key`, as one of its
    `rules` says for the reason `why`."""

    lineage: str
    iteration: int
    key: str
    rules: str
    why: str


RowOf: TypeAlias = Callable[[str], Metrics | None]
"""What was measured of an iteration by its key; None where it is not committed."""


def end_of(lineage: Lineage, row_of: RowOf) -> End | None:
    """Where the lineage ends before its last iteration; None where nothing that is committed says
    so. Raises what `row_of` does, and PluginError."""
    rules = lineage.cell.prune.stop
    rows: list[Metrics] = []
    # After the last one there is nothing to be ended.
    for step, key in zip(lineage.steps[:-1] if rules else (), lineage.keys, strict=False):
        row = row_of(key)
        if row is None:
            return None
        if step.inputs != "real":
            continue  # measures of what is trained on noise say nothing
        rows.append(row)
        for rule in rules:
            why = rule(tuple(rows))
            if why is not None:
                told = f"{rule.name}: {why}"
                return End(lineage.id, step.iteration, key, rules_of(lineage.cell.prune), told)
    return None


def until(lineage: Lineage, end: End | None) -> Lineage:
    """The lineage as long as it is when it ends there."""
    return lineage if end is None else lineage.upto(lineage.keys.index(end.key) + 1)


def rules_of(prune: Pruning) -> str:
    """The stop rules, as text to be compared."""
    return canonical_json(canonical(prune).get("stop", []))


def ends_of(lineages: Iterable[Lineage], measured: "Measured") -> dict[str, End]:
    """The ends of those of `lineages` that have come to one, by their ids. What is damaged counts
    as not committed. Raises PluginError."""
    ruled = [lineage for lineage in lineages if lineage.cell.prune.stop]

    def sound(key: str) -> Metrics | None:
        try:
            return measured(key)
        except Damaged:
            return None

    with ThreadPoolExecutor(READERS) as pool:
        found: Iterator[End | None] = pool.map(lambda lineage: end_of(lineage, sound), ruled)
        return {end.lineage: end for end in found if end is not None}


class Measured:
    """What was measured of iterations, read from their commits once each, but for those that are
    `known` by their keys; a `RowOf`, which raises Damaged. `files_of` is that of
    `missing_iterations`."""

    def __init__(
        self,
        store: Store,
        files_of: Callable[[str], Collection[str] | None],
        known: Mapping[str, Metrics] = MappingProxyType({}),
    ) -> None:
        self._store, self._files_of = store, files_of
        self._rows = dict(known)

    def __call__(self, key: str) -> Metrics | None:
        if self._files_of(key) is None:
            return None
        if key not in self._rows:
            table = read_table(self._store, iteration_path(key), METRICS, METRICS_SCHEMA)
            self._rows[key] = table.to_pylist()[0]
        return self._rows[key]

    def forget(self) -> None:
        """Read everything once more."""
        self._rows.clear()
