"""Pairs: tickets of two lineages that a measure compares.

Nobody waits for a lineage that may never come. Both lineages of a pair have the measurement; who
has all of its own iterations looks whether the other's ticket is there, and leaves the measurement
to the other when it is not. Of two who have each committed before they looked, one has seen both.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from math import comb

from trainables.config import canonical, canonical_json
from trainables.lineage.identity import next_key
from trainables.lineage.keys import Cell, Lineage, Measurement, Ticket
from trainables.measurements import Measure
from trainables.measurements.measure import Across
from trainables.pruning import Step


def with_pairs(lineages: Sequence[Lineage], measures: Iterable[Measure]) -> tuple[Lineage, ...]:
    """`lineages` with what those of `measures` measure that compare two of them."""
    found: dict[str, dict[str, Measurement]] = {line.id: {} for line in lineages}
    for measure in measures:
        for line, measurement in compared(lineages, measure):
            found[line.id].setdefault(measurement.key, measurement)
    return tuple(
        replace(line, measurements=(*line.measurements, *found[line.id].values()))
        if found[line.id]
        else line
        for line in lineages
    )


def compared(
    lineages: Iterable[Lineage], measure: Measure
) -> Iterator[tuple[Lineage, Measurement]]:
    """What `measure` measures of pairs, with each of the two lineages that have it."""
    for group in _alike(lineages, measure):
        for one, other in combinations(sorted(group, key=_order), 2):
            yield from _of_two(measure, one, other)


def count_compared(lineages: Iterable[Lineage], measure: Measure) -> int:
    """How many pairs of tickets `measure` compares, those of one network among them; counted
    without making them, which is quadratic."""
    pairs = 0
    for group in _alike(lineages, measure):
        there = Counter(place for line in group for place in _places(measure, line))
        pairs += sum(comb(count, 2) for count in there.values())
    return pairs


def measurable(lineages: Sequence[Lineage], is_coming: Callable[[str], bool]) -> list[Lineage]:
    """`lineages` without the measurements of pairs of which a ticket, by its key, is not coming."""

    def can_be(measurement: Measurement) -> bool:
        return all(is_coming(ticket.key) for ticket in measurement.pair or ())

    return [
        replace(line, measurements=tuple(filter(can_be, line.measurements)))
        if not all(map(can_be, line.measurements))
        else line
        for line in lineages
    ]


def _alike(lineages: Iterable[Lineage], measure: Measure) -> Iterable[list[Lineage]]:
    """The groups of lineages of which `measure` compares each two."""
    alike: dict[Hashable, list[Lineage]] = {}
    for line in lineages:
        if measure.across is not None and line.cell.ablation is None:
            alike.setdefault(_in_common(line.cell, measure.across), []).append(line)
    return alike.values()


def _in_common(cell: Cell, across: Across) -> Hashable:
    rest = cell.method if across == "seed" else cell.seed
    return cell.dataset, cell.model, cell.train, cell.prune, rest


def _order(line: Lineage) -> tuple[int, str, str]:
    """Which of a pair is the first: whatever the order in the sweep's file, so that keys do not
    depend on it, and of two methods the same one whatever the seed."""
    method = line.cell.method
    return line.cell.seed, method.name, canonical_json(canonical(method))


def _of_two(
    measure: Measure, one: Lineage, other: Lineage
) -> Iterator[tuple[Lineage, Measurement]]:
    there = _places(measure, one)
    for index, step in enumerate(other.steps):
        at = there.get(_place(step))
        if at is None or not measure.measures(other.steps, index):
            continue
        pair = (_ticket(one, at), _ticket(other, index))
        if pair[0].key == pair[1].key:
            continue  # it is one network
        adds = canonical_json({"measure": measure.identity(), "with": pair[0].key})
        key = next_key(pair[1].key, adds)
        yield one, Measurement(measure, at, key, pair)
        yield other, Measurement(measure, index, key, pair)


def _places(measure: Measure, line: Lineage) -> dict[tuple[str, float], int]:
    """The indexes of the steps of `line` that are measured, by their places."""
    return {
        _place(step): index
        for index, step in enumerate(line.steps)
        if measure.measures(line.steps, index)
    }


def _place(step: Step) -> tuple[str, float]:
    """What tickets that are compared have in common."""
    if step.density is not None:
        return "density", step.density
    return "iteration", step.iteration


def _ticket(line: Lineage, index: int) -> Ticket:
    return Ticket(line.id, line.cell.seed, line.steps[index].iteration, line.keys[index])
