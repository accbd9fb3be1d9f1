"""The plug-ins a sweep was run with: their sources, and what each entry was (`plugins.json`)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from orchestrator.records.files import RecordFile
from trainables.config import Config, default, differ
from trainables.plugins.entry import Entry
from trainables.plugins.loading import plugged_in
from trainables.plugins.source import Plugin
from trainables.store import Damaged, Store


@dataclass(frozen=True)
class ModuleRecord:
    """One module, as it was read."""

    name: str
    path: str
    source: str


@dataclass(frozen=True)
class EntryRecord:
    """One entry that a sweep used, the identity of its code, and its options' defaults."""

    kind: str
    name: str
    code: str
    defaults: dict[str, Any]


@dataclass(frozen=True)
class PluginRecord:
    """One plug-in, as its sweep named it."""

    given: str
    modules: tuple[ModuleRecord, ...]
    entries: tuple[EntryRecord, ...]


PLUGINS = RecordFile("plugins.json", TypeAdapter(tuple[PluginRecord, ...]))


def record_plugins(store: Store, sweep: str, configs: Iterable[Config]) -> None:
    """Write down the plug-ins that `configs` are of; a sweep without any has no such file."""
    records = [*_records(plugged_in(configs))]
    if records or store.exists(PLUGINS.path(sweep)):
        PLUGINS.write(store, sweep, tuple(records))


def _records(entries: Iterable[type[Entry]]) -> Iterator[PluginRecord]:
    by_plugin: dict[Plugin, list[EntryRecord]] = {}
    for entry in entries:
        record = EntryRecord(entry.kind.name, entry.entry_name, _code(entry), _defaults(entry))
        by_plugin.setdefault(entry.plugin, []).append(record)
    for plugin, found in by_plugin.items():
        modules = (ModuleRecord(each.name, each.path, each.source) for each in plugin.modules)
        yield PluginRecord(plugin.given, tuple(modules), tuple(found))


def changed_entries(store: Store, sweep: str, configs: Iterable[Config]) -> list[type[Entry]]:
    """The entries among `configs` whose code is another than when the sweep was last run."""
    before = {(e.kind, e.name): e.code for e in _stored(store, sweep)}
    return [
        entry
        for entry in plugged_in(configs)
        if before.get((entry.kind.name, entry.entry_name), entry.plugged_code) != entry.plugged_code
    ]


def changed_default(store: Store, configs: Iterable[Config]) -> tuple[type[Entry], str, Any] | None:
    """An entry, an option, and the default that it had in a stored sweep, where that is another
    now although the code is said to be the same; None where there is none.

    Keys leave out what has its default, so the old results would be taken for new ones.
    """
    versioned = [entry for entry in plugged_in(configs) if "==" in _code(entry)]
    stored = [each for name in store.names("sweeps") if versioned for each in _stored(store, name)]
    for entry in versioned:
        now = _defaults(entry)
        for before in stored:
            if (before.kind, before.name, before.code) == (*_named(entry), _code(entry)):
                for option in before.defaults.keys() & now.keys():
                    if differ(before.defaults[option], now[option]):
                        return entry, option, before.defaults[option]
    return None


def _stored(store: Store, sweep: str) -> list[EntryRecord]:
    try:
        return [each for plugin in PLUGINS.read(store, sweep) or () for each in plugin.entries]
    except Damaged:
        return []  # `verify` says so, and the run writes it anew


def _named(entry: type[Entry]) -> tuple[str, str]:
    return entry.kind.name, entry.entry_name


def _code(entry: type[Entry]) -> str:
    assert entry.plugged_code is not None
    return entry.plugged_code


def _defaults(entry: type[Entry]) -> dict[str, Any]:
    found = {name: default(entry, name) for name in entry.model_fields}
    return {name: value for name, value in found.items() if value is not ...}
