"""Rungs: which cells of a sweep go on after an iteration, and which have ended there; in
`rung-<iteration>-<digest>.json`, of those that were compared, by what.

Each is written once, by whichever run is first, and holds for all of them.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from pydantic import TypeAdapter

from orchestrator.records.files import RecordFile
from trainables.store import Damaged, Store


@dataclass(frozen=True)
class Ranked:
    """A cell: the ids of its lineages, the values of those that have one, their mean, and whether
    it goes on."""

    lineages: tuple[str, ...]
    values: tuple[float, ...]
    mean: float | None
    goes_on: bool


RUNG = RecordFile("rung.json", TypeAdapter(list[Ranked]))


def read_rung(store: Store, sweep: str, name: str) -> list[Ranked] | None:
    """The cells that were compared at a rung, the best first; None before that, and where it cannot
    be read."""
    with suppress(Damaged):
        return RUNG.of(name).read(store, sweep)
    return None


def write_rung(store: Store, sweep: str, name: str, cells: Sequence[Ranked]) -> list[Ranked]:
    """Write a rung down, unless some run has done so; what there is then. One that is damaged is
    set aside."""
    file, path = RUNG.of(name), RUNG.of(name).path(sweep)
    if read_rung(store, sweep, name) is None and store.exists(path):
        store.set_aside(path)
    store.create(path, file.encoded([*cells]))
    return file.read(store, sweep) or [*cells]
