"""Loading plug-ins: in the process that read them, and in workers that never saw the files."""

import importlib
import linecache
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from itertools import chain
from types import CodeType, ModuleType
from typing import Any

from trainables.config import Config
from trainables.plugins.entry import Catalogue, Entry, PluginError, built_in, entries
from trainables.plugins.source import Module, Plugin


class _Sources(MetaPathFinder, InspectLoader):
    """Imports the modules of plug-ins from their sources, wherever their files are."""

    def __init__(self) -> None:
        self.modules: dict[str, Module] = {}

    def take(self, taken: Mapping[str, Module]) -> None:
        """From now on import these; what was imported of others of the same names is forgotten."""
        if any(self.modules.get(name, module) != module for name, module in taken.items()):
            for name in self.modules:
                sys.modules.pop(name, None)
            self.modules.clear()
        for name in taken.keys() - self.modules.keys():
            sys.modules.pop(name, None)
        self.modules |= taken
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        module = self.modules.get(fullname)
        if module is None:
            return None
        spec = spec_from_loader(fullname, self, origin=module.path, is_package=module.is_package)
        if spec is not None:
            spec.has_location = True
        return spec

    def is_package(self, fullname: str) -> bool:
        return self.modules[fullname].is_package

    def get_source(self, fullname: str) -> str:
        return self.modules[fullname].source

    def get_code(self, fullname: str) -> CodeType:
        module = self.modules[fullname]
        # Tracebacks show the lines as they were read, also where the file is not there.
        lines = module.source.splitlines(keepends=True)
        linecache.cache[module.path] = (len(module.source), None, lines, module.path)
        return compile(module.tree, module.path, "exec", dont_inherit=True)


_SOURCES = _Sources()


def load_plugins(plugins: Iterable[Plugin]) -> Catalogue:
    """What a sweep file can name with these plug-ins. Raises PluginError when one cannot be
    imported, has nothing to offer, or has a name that is there already."""
    plugins = tuple(dict.fromkeys(plugins))
    _SOURCES.take(_together(plugins))
    plugged: dict[str, dict[str, type[Entry]]] = {}
    for plugin in plugins:
        found = [*_entries(plugin)]
        if not found:
            raise PluginError(
                f"{_path(plugin)}:1: it has nothing to offer; decorate a function or a config "
                "class, as in @model from prunesweep"
            )
        for entry in found:
            others = plugged.setdefault(entry.kind.name, {})
            there = built_in(entry.kind).get(entry.entry_name) or others.get(entry.entry_name)
            if there is not None and there is not entry:
                raise PluginError(
                    f"{entry.where()}: there is a {entry.kind.name} {entry.entry_name} already, "
                    f"at {there.where()}; choose another name"
                )
            others[entry.entry_name] = entry
    return Catalogue(plugged)


def _together(plugins: Iterable[Plugin]) -> dict[str, Module]:
    """The modules of all by name. Raises PluginError when a name stands for two."""
    found: dict[str, Module] = {}
    for module in (module for plugin in plugins for module in plugin.modules):
        other = found.setdefault(module.name, module)
        if other != module:
            raise PluginError(
                f"{module.path}:1: another plug-in has a module {module.name} too, {other.path}; "
                "rename one"
            )
    return found


def _entries(plugin: Plugin) -> Iterable[type[Entry]]:
    """The entries of all modules that the plug-in has imported, each knowing its code."""
    module = _imported(plugin)
    names = [each.name for each in plugin.modules] or [plugin.name]
    loaded = (sys.modules[name] for name in names if name in sys.modules)
    for each in loaded:
        for entry in entries(each):
            entry.plugged_code = _code(plugin, entry, module)
            entry.plugin = plugin
            yield entry


def _code(plugin: Plugin, entry: type[Entry], module: ModuleType) -> str:
    if plugin.modules:
        return plugin.code(entry.__module__)
    if not hasattr(module, "__version__"):
        raise PluginError(f"plug-in {plugin.given}: it is built in already; remove it")
    return f"{plugin.name}=={module.__version__}"


def _imported(plugin: Plugin) -> ModuleType:
    try:
        return importlib.import_module(plugin.name)
    except PluginError:
        raise
    except (Exception, SystemExit) as error:  # a script exits where it is run, and it is run here
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise PluginError(
            f"{_line(plugin, error)}: importing this plug-in failed: {type(error).__name__}: "
            f"{reason}"
        ) from error


def _line(plugin: Plugin, error: BaseException) -> str:
    """`file:line` in the plug-in where it happened."""
    paths = {module.path for module in plugin.modules}
    frames = [each for each in traceback.extract_tb(error.__traceback__) if each.filename in paths]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else f"{_path(plugin)}:1"


def _path(plugin: Plugin) -> str:
    return plugin.modules[0].path if plugin.modules else plugin.name


def plugged_in(configs: Iterable[Config]) -> tuple[type[Entry], ...]:
    """The plugged-in entries among these configs and the configs in them, each once."""
    found: dict[type[Entry], None] = {}
    for config in configs:
        if isinstance(config, Entry) and config.plugin is not None:
            found[type(config)] = None
        inner = (getattr(config, name) for name in type(config).model_fields)
        each_in = chain.from_iterable(
            each if isinstance(each, tuple) else (each,) for each in inner
        )
        found |= dict.fromkeys(plugged_in(each for each in each_in if isinstance(each, Config)))
    return tuple(found)


@dataclass(frozen=True)
class Luggage:
    """Plug-ins that load themselves where they are unpickled.

    What is pickled after them may hold objects of their classes.
    """

    plugins: tuple[Plugin, ...] = ()

    def __reduce__(self) -> Any:
        return _unpacked, (self.plugins,)


def _unpacked(plugins: tuple[Plugin, ...]) -> Luggage:
    load_plugins(plugins)
    return Luggage(plugins)
