"""Labels: what lineages are called by what tells them apart in their sweep."""

from collections import Counter
from collections.abc import Container, Sequence
from typing import Any

from orchestrator.records.sweep import LineageRecord, SweepRecord


def labels(record: SweepRecord) -> dict[str, str]:
    """For each lineage id, its method with what tells it from the sweep's other methods, such as
    `sap p=0.5 q=1.0`. Lineages that differ in nothing but their seed have one label."""
    sections = [name for name in ("dataset", "model") if varies(name, record)]
    return {line.id: _label(line, record, sections) for line in record.lineages}


def method_label(line: LineageRecord, record: SweepRecord, without: Container[str] = ()) -> str:
    """The method of `line` with its swept parameters, those named in `without` left out."""
    return " ".join([line.config["method"]["name"], *options(line, record, without)])


def options(line: LineageRecord, record: SweepRecord, without: Container[str] = ()) -> list[str]:
    """What tells `line` from others of its dataset, model or method, such as `p=0.5`; the swept
    parameters in `without` are left out."""
    short = _short_names(record.swept)
    return [
        f"{short[name]}={_shown(line.swept[name])}"
        for name in record.swept
        if (name, line.section_name(name)) in record.telling
        and line.swept[name] is not None
        and name not in without
    ]


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
    return str(value).lower() if isinstance(value, bool) else str(value)
