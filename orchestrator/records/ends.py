"""Ends: the lineages that stop rules or ranking have ended, and why. A run writes those that it
comes to see at once, in `ends-<its id>.json`; in `ends.json` are those of the runs that are over.

They follow from what is committed, and each run finds them anew when it begins. They are kept for
those who show a sweep, and have neither its plug-ins nor the time to read every commit.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from pydantic import TypeAdapter

from orchestrator.records.files import RecordFile
from orchestrator.records.sweep import LineageRecord, MeasurementRecord, SweepRecord
from trainables.config import canonical_json
from trainables.lineage.ending import End
from trainables.store import Store

ENDS = RecordFile("ends.json", TypeAdapter(list[End]))


def write_ends(store: Store, sweep: str, ends: Iterable[End], run: str) -> None:
    ENDS.of(run).write(store, sweep, [*ends])


def read_ends(store: Store, sweep: str) -> dict[str, End]:
    """The ends that runs of the sweep tell, by lineage; raises Damaged."""
    return by_lineage(file.read(store, sweep) or [] for file in ENDS.each(store, sweep))


def by_lineage(told: Iterable[Iterable[End]]) -> dict[str, End]:
    """Of what runs tell, the newest first, the newest of each lineage."""
    return {end.lineage: end for ends in reversed([*told]) for end in ends}


def so_far(store: Store, sweep: SweepRecord) -> SweepRecord:
    """`sweep` with each lineage up to where it ends, as far as that is known. Raises Damaged."""
    return until_ends(sweep, read_ends(store, sweep.name))


def until_ends(sweep: SweepRecord, ends: Mapping[str, End]) -> SweepRecord:
    """`sweep` with each lineage up to its end among `ends`, which are by lineage."""
    lines = {line.id: _until(line, ends.get(line.id)) for line in sweep.lineages}
    return replace(sweep, lineages=tuple(_with_both(line, lines) for line in lines.values()))


def _with_both(line: LineageRecord, lines: Mapping[str, LineageRecord]) -> LineageRecord:
    """`line` without measurements that compare it with what another lineage has ended before."""

    def can_be(each: MeasurementRecord) -> bool:
        # Of several sweeps as one, the other lineage may be in another part.
        other = None if each.with_ is None else lines.get(each.with_[0])
        return each.with_ is None or other is None or each.with_[1] in other.iterations

    measured = tuple(filter(can_be, line.measurements or ())) or None
    return line if measured == line.measurements else replace(line, measurements=measured)


def _until(line: LineageRecord, end: End | None) -> LineageRecord:
    # Of other rules, or other code, it says nothing.
    if end is None or end.key not in line.keys or end.rules != canonical_json(_rules(line)):
        return line
    length = line.keys.index(end.key) + 1
    return replace(
        line,
        iterations=line.iterations[:length],
        keys=line.keys[:length],
        pruned=line.pruned and line.pruned[:length],
        stopped=end.why,
        measurements=tuple(m for m in line.measurements or () if m.iteration <= end.iteration)
        or None,
    )


def _rules(line: LineageRecord) -> Collection[object]:
    return line.config["prune"].get("stop", [])
