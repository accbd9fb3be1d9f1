"""Several sweeps as one: their lineages, each once, told apart by what differs among them all."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from orchestrator.records.labels import labels
from orchestrator.records.sweep import LineageRecord, SweepRecord
from trainables.config import canonical_json
from trainables.data import NO_CONTENT

SECTIONS = ("dataset", "model", "train", "prune", "method")
NAMES = frozenset(f"{section}.name" for section in SECTIONS)
"""Labels have these anyway."""

ITERATIONS, SWEEP = "prune.iterations", "sweep"
"""Told where labels would be the same without."""

UNTOLD = frozenset({*NAMES, ITERATIONS, "prune.stop", "ablation.name"})

Values = Mapping[str, Mapping[str, Any]]
"""By the dotted name of a parameter and the id of a lineage."""


def join(records: Sequence[SweepRecord]) -> SweepRecord:
    """The sweeps `records` as one, in their order; a single one as it is, unless it was recorded
    without all that tells its lineages apart.

    A lineage that several have is there once, at its longest. What differs between lineages of the
    same dataset, model or method counts as swept, whichever sweep they are of.
    """
    if len(records) > 1:
        return _as_one(records)
    (only,) = records
    return only if _are_told(only) else replace(_as_one(records), spec=only.spec)


def _as_one(records: Sequence[SweepRecord]) -> SweepRecord:
    parts = _without_repetitions(records)
    lines = [line for part in parts for line in part.lineages]
    swept = [name for part in parts for name in part.swept]
    differing = [n for each in (*SECTIONS, "ablation") for n in _differing(each, lines)]
    found = [_by_path(n, parts) for n in [*swept, *differing] if n not in UNTOLD]
    joined = _joined(parts, {name: _values(name, parts) for name in dict.fromkeys(found)})
    if lengths := _lengths(joined):
        # Their last iterations are not to be averaged.
        joined = _joined(joined.joined, {ITERATIONS: {n.id: lengths.get(n.id) for n in lines}})
    if not _are_told(joined):
        # One config has several keys where another version of prunesweep trained it.
        whose = {line.id: part.name for part in parts for line in part.lineages}
        joined = _joined(joined.joined, {SWEEP: whose})
    return joined


def _are_told(record: SweepRecord) -> bool:
    """Whether no two lineages of a seed have one label: values of one label are averaged."""
    seeds = Counter((label, line.config["seed"]) for label, line in _labelled(record))
    return max(seeds.values()) == 1


def _labelled(record: SweepRecord) -> Iterator[tuple[str, LineageRecord]]:
    found = labels(record)
    return ((found[line.id], line) for line in record.lineages)


def _lengths(record: SweepRecord) -> dict[str, int]:
    """`prune.iterations` by the ids of the lineages whose label has several of them, and several
    lengths: of methods that prune so often, and not once, or down to a density."""
    cells: dict[str, list[LineageRecord]] = {}
    for label, line in _labelled(record):
        cells.setdefault(label, []).append(line)
    found: dict[str, int] = {}
    for lines in cells.values():
        planned = {line.id: line.config["prune"].get("iterations") for line in lines}
        several = len({*planned.values()}) > 1 and len({len(line.keys) for line in lines}) > 1
        whole = [line for line in lines if line.stopped is None]
        if several and all(line.iterations[-1] == planned[line.id] for line in whole):
            found |= planned
    return found


def _without_repetitions(records: Sequence[SweepRecord]) -> list[SweepRecord]:
    """`records`, each lineage in one of them alone: where it is longest, where most is measured of
    it, else in the first."""
    longest: dict[str, LineageRecord] = {}
    for line in (line for record in records for line in record.lineages):
        if line.id not in longest or _extent(line) > _extent(longest[line.id]):
            longest[line.id] = line
    # What a method makes nothing of, such as the scope, is in ids and in no key. Where lineages
    # have ended, methods may differ in what did not come to be.
    once = {
        (line.keys, canonical_json(line.config["method"])): line
        for line in reversed(longest.values())
    }
    kept = {id(line) for line in once.values()}
    return [
        replace(record, lineages=tuple(line for line in record.lineages if id(line) in kept))
        for record in records
    ]


def _extent(line: LineageRecord) -> tuple[int, int]:
    return len(line.keys), len(line.measurements or ())


def _joined(parts: Sequence[SweepRecord], values: Values) -> SweepRecord:
    """`parts` as one sweep, in which their lineages have `values` besides those they have."""

    def swept(line: LineageRecord) -> dict[str, Any]:
        return line.swept | {name: found[line.id] for name, found in values.items()}

    names = tuple(dict.fromkeys([*(name for part in parts for name in part.swept), *values]))
    telling = tuple(
        replace(
            part,
            swept=names,
            lineages=tuple(replace(line, swept=swept(line)) for line in part.lineages),
        )
        for part in parts
    )
    return SweepRecord(
        name=" + ".join(part.name for part in parts),
        spec={},
        swept=names,
        lineages=tuple(line for part in telling for line in part.lineages),
        joined=telling,
    )


def _by_path(name: str, parts: Sequence[SweepRecord]) -> str:
    """The path of a dataset for its fingerprint, where no two of a path differ in that."""
    place = f"{name.rpartition('.')[0]}.path"
    if not _is_place(place) or not name.endswith(".fingerprint"):
        return name
    contents, paths = _values(name, parts), _values(place, parts)
    kinds = [
        (line.section_name(name), paths[line.id], contents[line.id])
        for part in parts
        for line in part.lineages
    ]
    return place if len({kind[:2] for kind in kinds}) == len({*kinds}) else name


def _values(name: str, parts: Sequence[SweepRecord]) -> dict[str, Any]:
    """The parameter `name` of each line, by its id: equal where configs have it equal, and as a
    sweep wrote it, since configs leave out some defaults. What sweeps wrote alike is as configs
    have it where those differ: a file whose content has changed."""
    known: dict[str, tuple[str, str]] = {}
    shown: dict[tuple[str, str], Any] = {}
    for part in parts:
        for line in part.lineages:
            decides = name.rpartition(".")[0] if _is_place(name) else name
            config = (line.section_name(name), canonical_json(_at(decides, line)))
            known[line.id] = config
            if shown.get(config) is None:
                shown[config] = _written(name, line, part)
    alike = Counter((section, repr(value)) for (section, _), value in shown.items())

    def value(line: LineageRecord) -> Any:
        config = known[line.id]
        found, content = shown[config], _at(name, line)
        return found if content is None or alike[config[0], repr(found)] == 1 else content

    return {line.id: value(line) for part in parts for line in part.lineages}


def _is_place(name: str) -> bool:
    """Whether configs have nothing of a parameter, but the content of the dataset that it leads
    to."""
    dataset, _, option = name.rpartition(".")
    return dataset in ("dataset", "ablation.dataset") and option in NO_CONTENT


def _written(name: str, line: LineageRecord, part: SweepRecord) -> Any:
    """The parameter `name` of a line as its sweep wrote it."""
    value = line.swept.get(name, _at(name, line))
    section, _, option = name.partition(".")
    if value is not None or not _is_place(name) or section != "dataset":
        return value
    # What is not swept is the same in all entries of a name.
    entries = [each for each in part.spec.get(section) or () if isinstance(each, dict)]
    named = [each for each in entries if each.get("name") == line.section_name(name)]
    return named[0].get(option) if named else None


def _at(name: str, line: LineageRecord) -> Any:
    """What the config of `line` has at a dotted name; None where it has nothing."""
    value: Any = line.config
    for key in name.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _differing(section: str, lines: Sequence[LineageRecord]) -> Iterator[str]:
    yield from _differing_in(
        section, [line.config[section] for line in lines if section in line.config]
    )


def _differing_in(name: str, values: Sequence[Any]) -> Iterator[str]:
    """The dotted names from `name` on under which `values` differ; mappings are compared with those
    of the same `name`, as in `swept_parameters`."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for value in values:
        if isinstance(value, dict):
            kinds.setdefault(value.get("name", ""), []).append(value)
    if len(kinds) > 1 or (kinds and not all(isinstance(value, dict) for value in values)):
        yield name if "" in kinds else f"{name}.name"
    for same in kinds.values():
        for key in dict.fromkeys(key for each in same for key in each):
            yield from _differing_in(f"{name}.{key}", [each.get(key) for each in same])
    if len({canonical_json(value) for value in values if not isinstance(value, dict)}) > 1:
        yield name
