"""Ranking: successive halving over the cells of a sweep.

At a rung, an iteration, cells wait for each other; when all are there, the best go on, and the
lineages of the others have ended. What was decided is written down once, as
`orchestrator.records.rungs` has it, so that runs that were killed, come later or are in flight at
once go on alike.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.records.rungs import Ranked, read_rung, write_rung
from orchestrator.sweepfile.budget import Rank
from trainables.config import canonical_json
from trainables.lineage.ending import End, RowOf, rules_of
from trainables.lineage.keys import Lineage
from trainables.store import Store

SAME_DENSITY = 1.005
"""A density of 20.01 % counts as 20 %: of whole weights, some more are left than a share says."""


@dataclass(frozen=True)
class Rung:
    """An iteration at which the `cells`, each its lineages by seed, are compared by `rank`; what
    stop rules have ended by then is among the `ends`."""

    iteration: int
    rank: Rank
    cells: tuple[tuple[Lineage, ...], ...]
    ends: Mapping[str, End]

    @property
    def name(self) -> str:
        """What a decision is called: of the same cells, compared in the same way."""
        ids = [[lineage.id for lineage in cell] for cell in self.cells]
        rank = self.rank.model_dump(mode="json")
        if self.rank.at_density is None:
            del rank["at_density"]  # decisions from before there was any keep their names
        told = canonical_json([self.iteration, rank, ids])
        return f"{self.iteration:04d}-{hashlib.sha256(told.encode()).hexdigest()[:16]}"

    @property
    def ids(self) -> frozenset[str]:
        """The lineages that wait at it for others."""
        return frozenset(lineage.id for cell in self.cells for lineage in cell)

    def until(self, lineage: Lineage) -> Lineage:
        """The lineage up to the rung, if it is one of those that wait there."""
        return _until(lineage, self.iteration) if lineage.id in self.ids else lineage

    def waits_for(self, files_of: Callable[[str], Collection[str] | None]) -> list[str]:
        """The ids of the lineages that are not there yet."""
        return [
            lineage.id
            for cell in self.cells
            for lineage in cell
            if not _has_ended(lineage, self.iteration, self.ends)
            and files_of(_until(lineage, self.iteration).keys[-1]) is None
        ]

    def decided(self, row_of: RowOf) -> list[Ranked]:
        """The cells, the best first, by the rows that there are. Of equal ones the earlier in the
        sweep is better, and one without a value is the worst."""
        values = [tuple(self._values(cell, row_of)) for cell in self.cells]
        means = [math.fsum(found) / len(found) if found else None for found in values]
        order = sorted(range(len(means)), key=lambda at: (means[at] is None, -(means[at] or 0.0)))
        kept = order[: self.rank.kept(len(order))]
        return [
            Ranked(
                tuple(lineage.id for lineage in self.cells[at]), values[at], means[at], at in kept
            )
            for at in order
        ]

    def dropped(self, cells: Sequence[Ranked]) -> Iterator[End]:
        """Where the lineages of the cells that do not go on have ended."""
        kept = sum(cell.goes_on for cell in cells)
        places = {id: place for place, cell in enumerate(cells, 1) for id in cell.lineages}
        for cell in self.cells:
            for lineage in cell:
                place = places[lineage.id]
                mean = cells[place - 1].mean
                if place <= kept or _has_ended(lineage, self.iteration, self.ends):
                    continue
                shown = "no value" if mean is None else f"{mean:.6g}"
                why = (
                    f"rank: {self.rank.by} {shown}{self.rank.where} is number {place} of "
                    f"{len(cells)} cells, of which {kept} {'goes' if kept == 1 else 'go'} on"
                )
                key = _until(lineage, self.iteration).keys[-1]
                rules = rules_of(lineage.cell.prune)
                yield End(lineage.id, self.iteration, key, rules, why)

    def _values(self, cell: Sequence[Lineage], row_of: RowOf) -> Iterator[float]:
        for lineage in cell:
            end = self.ends.get(lineage.id)
            ended = end is not None and end.iteration <= self.iteration
            at = _until(lineage, end.iteration if end is not None and ended else self.iteration)
            value = self._value(at, row_of)
            if value is not None and math.isfinite(value):
                yield value

    def _value(self, lineage: Lineage, row_of: RowOf) -> float | None:
        """That of a lineage up to its last iteration; None where that is not there, or is trained
        on noise."""
        last = row_of(lineage.keys[-1]) if lineage.steps[-1].inputs == "real" else None
        if last is None or self.rank.at_density is None:
            return None if last is None else last[self.rank.by]
        real = zip(lineage.steps, lineage.keys, strict=True)
        rows = [row_of(key) for step, key in real if step.inputs == "real"]
        measured = [(row["density"], row[self.rank.by]) for row in rows if row is not None]
        return at_density(measured, self.rank.at_density)


def at_density(measured: Sequence[tuple[float, float | None]], density: float) -> float | None:
    """The value at a density of a lineage with those densities and values by iteration: that of the
    first iteration that has come to it, or between that and the one before on the line through
    both, over the logarithm of the density, as figures draw it. None where none has come to it with
    any weights left."""
    reached = density * SAME_DENSITY
    there = next((i for i, (at, _) in enumerate(measured) if at <= reached), None)
    if there is None or measured[there][0] == 0:
        return None
    below, value = measured[there]
    if there == 0 or below >= density or value is None:
        return value
    above, before = measured[there - 1]
    if before is None:
        return None
    share = math.log(above / density) / math.log(above / below)
    return before + share * (value - before)


def ranked(
    rank: Rank | None,
    lineages: Sequence[Lineage],
    ends: Mapping[str, End],
    store: Store,
    sweep: str,
) -> tuple[dict[str, End], Rung | None]:
    """The `ends`, with those that rungs have decided, and the rung that is next; None where none
    is."""
    found = dict(ends)
    if rank is None:
        return found, None
    at: int | None = rank.after_iterations
    while at is not None:
        rung = Rung(at, rank, candidates(lineages, found, at), dict(found))
        if len(rung.cells) < 2:
            break
        cells = read_rung(store, sweep, rung.name)
        if cells is None:
            return found, rung
        found |= {end.lineage: end for end in rung.dropped(cells)}
        at = None if rank.every is None else at + rank.every
    return found, None


def decide(rung: Rung, store: Store, sweep: str, row_of: RowOf) -> dict[str, End]:
    """Decide a rung at which all that can be there is; the ends that follow, by lineage, as the
    first run has decided it. Raises Damaged."""
    cells = write_rung(store, sweep, rung.name, rung.decided(row_of))
    return {end.lineage: end for end in rung.dropped(cells)}


def candidates(
    lineages: Sequence[Lineage], ends: Mapping[str, End], iteration: int
) -> tuple[tuple[Lineage, ...], ...]:
    """The cells of which something goes on after an iteration."""
    cells: dict[tuple[int, ...], list[Lineage]] = {}
    for lineage in lineages:
        cells.setdefault(tuple(map(id, lineage.cell.configs)), []).append(lineage)
    going = [
        tuple(cell)
        for cell in cells.values()
        if any(_goes_beyond(lineage, iteration, ends) for lineage in cell)
    ]
    return tuple(going)


def _goes_beyond(lineage: Lineage, iteration: int, ends: Mapping[str, End]) -> bool:
    first, last = lineage.steps[0].iteration, lineage.steps[-1].iteration
    return first <= iteration < last and not _has_ended(lineage, iteration, ends)


def _has_ended(lineage: Lineage, iteration: int, ends: Mapping[str, End]) -> bool:
    end = ends.get(lineage.id)
    return end is not None and end.iteration <= iteration


def _until(lineage: Lineage, iteration: int) -> Lineage:
    length = sum(step.iteration <= iteration for step in lineage.steps)
    # What is to be measured is known when all rungs are decided.
    return replace(lineage.upto(length), measurements=())


def rung_line(rung: Rung) -> str:
    """What is decided next, in words."""
    cells, kept = len(rung.cells), rung.rank.kept(len(rung.cells))
    by = f"{rung.rank.by}{rung.rank.where}"
    return f"after iteration {rung.iteration} the best {kept} of {cells} cells by {by} go on"
