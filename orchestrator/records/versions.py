"""The versions of the parts that a sweep was last run with (`versions.json`)."""

from collections.abc import Iterable, Iterator

from pydantic import TypeAdapter

from orchestrator.records.files import RecordFile
from orchestrator.records.sweep import SPEC
from trainables.config import Config, parts
from trainables.store import Damaged, Store
from trainables.versions import VERSIONS

USED = RecordFile("versions.json", TypeAdapter(dict[str, int]))


def record_versions(store: Store, sweep: str, configs: Iterable[Config]) -> None:
    """Write down which parts `configs` are computed with, and their versions."""
    USED.write(store, sweep, {part: VERSIONS.get(part, 1) for part in _used(configs)})


def changed_parts(store: Store, sweep: str, configs: Iterable[Config]) -> list[str]:
    """The parts of `configs` whose version is another than when the sweep was last run."""
    used = _used(configs)
    if not store.exists(SPEC.path(sweep)):
        return []
    try:
        before = USED.read(store, sweep)
    except Damaged:
        return []  # the run writes it anew
    # There was no such record before a version was raised.
    before = dict.fromkeys(used, 1) if before is None else before
    return [part for part in used if part in before and before[part] != VERSIONS.get(part, 1)]


def _used(configs: Iterable[Config]) -> list[str]:
    """The parts of all configs and of the configs in them, each once."""
    return sorted({part for config in _nested(configs) for part in parts(config)})


def _nested(configs: Iterable[Config]) -> Iterator[Config]:
    for config in configs:
        yield config
        inner = (getattr(config, name) for name in type(config).model_fields)
        yield from _nested(each for each in inner if isinstance(each, Config))
