"""Labels: what lineages are called by what tells them apart in their sweep."""

from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from orchestrator.records.sweep import LineageRecord, NoSuchLineage, SweepRecord
from trainables.config import CODE, RAISED, default
from trainables.plugins.entry import built_in
from trainables.pruning import METHOD, Pruning

CONTENT, SHOWN_DIGITS = "sha256:", 12
"""Of the content of a file, so many digits are shown."""
SHOWN_NAMES = 5


def labels(record: SweepRecord) -> dict[str, str]:
    """For each lineage id, its method with what tells it from the sweep's other methods, such as
    `sap p=0.5 q=1.0`. Lineages that differ in nothing but their seed have one label."""
    sections = [name for name in ("dataset", "model") if varies(name, record)]
    return {line.id: _label(line, record, sections) for line in record.lineages}


def lineage_labels(record: SweepRecord) -> dict[str, str]:
    """For each lineage id, its label, with its seed last where the sweep has several, such as
    `sap p=0.5 q=1.0 seed 0`. No two lineages have one."""
    several = len({line.config["seed"] for line in record.lineages}) > 1
    names = labels(record)
    return {
        line.id: f"{names[line.id]} seed {line.config['seed']}" if several else names[line.id]
        for line in record.lineages
    }


def find_lineages(record: SweepRecord, named: str) -> list[LineageRecord]:
    """The lineages that `named` means: those of a label, of every seed where it says none, or else
    the one whose id has it as a part. Raises NoSuchLineage."""
    seeds, cells = lineage_labels(record), labels(record)
    found = [line for line in record.lineages if named in (seeds[line.id], cells[line.id])]
    if found:
        return found
    parts = [line for line in record.lineages if named in line.id]
    found = [line for line in parts if line.id == named] or parts
    if len(found) == 1:
        return found
    many = f"{len(found)} lineages of {record.name} match" if found else ""
    near = get_close_matches(named, seeds.values(), n=SHOWN_NAMES)
    names = [seeds[line.id] for line in found] or near or [*seeds.values()]
    raise NoSuchLineage(
        f"{many or f'no lineage of {record.name} matches'} {named!r}; it has, for example, "
        f"{', '.join(map(repr, names[:SHOWN_NAMES]))}"
    )


def method_label(line: LineageRecord, record: SweepRecord, without: Container[str] = ()) -> str:
    """The method of `line` with its swept parameters, those named in `without` left out; of an
    ablation, its own after those of what it is of, as in `sap p=0.5 transport seed=3`."""
    own: dict[bool, list[str]] = {False: [line.config["method"]["name"]], True: []}
    if "ablation" in line.config:
        own[True].append(line.config["ablation"]["name"])
    for name, option in _options(line, record, without).items():
        own[name.startswith("ablation.")].append(option)
    return " ".join([*own[False], *own[True]])


def label_beside(line: LineageRecord, record: SweepRecord, without: Container[str] = ()) -> str:
    """`method_label` where `test_set` is told beside it: of an ablation that goes to another, also
    whose mask it has, where there are several datasets."""
    label, own = method_label(line, record, without), _own_dataset(line, record)
    several = varies("dataset", record) or own != line.config["dataset"]["name"]
    return f"{label} from {own}" if line.elsewhere and several else label


def test_set(line: LineageRecord, record: SweepRecord) -> str:
    """The dataset whose test set accuracies of `line` are of, with what tells it from others."""
    if line.elsewhere is None:
        return _own_dataset(line, record)
    known = {n for n in record.swept if not n.startswith("ablation.dataset.")}
    return " ".join([line.elsewhere, *options(line, record, known | {"ablation.dataset.name"})])


def _own_dataset(line: LineageRecord, record: SweepRecord) -> str:
    others = {name for name in record.swept if not name.startswith("dataset.")}
    return " ".join([line.config["dataset"]["name"], *options(line, record, others)])


def options(line: LineageRecord, record: SweepRecord, without: Container[str] = ()) -> list[str]:
    """What tells `line` from others of its dataset, model or method, such as `p=0.5`; the swept
    parameters in `without` are left out."""
    return [*_options(line, record, without).values()]


def _options(line: LineageRecord, record: SweepRecord, without: Container[str]) -> dict[str, str]:
    """The same by dotted names."""
    short = _short_names(record.swept)
    return {
        name: f"{short[name]}={_shown(line.swept[name])}"
        for name in record.swept
        if line.among(name) in record.telling
        and line.swept[name] is not None
        and name not in without
    }


def common_options(record: SweepRecord) -> list[str]:
    """For each method, what labels leave out because all of its lineages have it: options without a
    default, or with another value, such as `snip data=sparse selection=sampled`."""
    firsts: dict[str, LineageRecord] = {}
    for line in record.lineages:
        firsts.setdefault(line.config["method"]["name"], line)
    found = []
    for name, line in firsts.items():
        method = built_in(METHOD).get(name)
        # Of plug-ins, what has its default is in no config.
        usual = {} if method is None else {n: default(method, n) for n in method.model_fields}
        pruning = {n: default(Pruning, n) for n in Pruning.model_fields}
        given = [
            *_unusual("method", line.config["method"], usual),
            *_unusual("prune", line.config["prune"], pruning),
        ]
        shown = [
            f"{at.partition('.')[2].removesuffix('.name')}={_shown(value)}"
            for at, value in given
            if at not in HEADINGS and not line.is_idle(at) and line.among(at) not in record.telling
        ]
        found += [" ".join([name, *shown])] if shown else []
    return found


HEADINGS = ("method.name", "method.density", f"method.{CODE}", "prune.iterations", "prune.stop")
"""What is a heading anyway, or nothing for people."""


def _unusual(name: str, value: Any, usual: Mapping[str, Any] | Any) -> Iterator[tuple[str, Any]]:
    """The dotted names from `name` on under which `value` is not `usual`, with their values."""
    if isinstance(value, dict):
        of = usual if isinstance(usual, dict) else {}
        told = [(key, each) for key, each in value.items() if key != RAISED]
        for key, each in sorted(told, key=lambda item: item[0] != "name"):
            yield from _unusual(f"{name}.{key}", each, of.get(key))
    elif value != usual:
        yield name, value


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
    if isinstance(value, str) and value.startswith(CONTENT):
        return value[: len(CONTENT) + SHOWN_DIGITS]
    return str(value).lower() if isinstance(value, bool) else str(value)
