"""The code of a plug-in: its modules as they were read, and what identifies what they compute."""

import ast
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from trainables.plugins.entry import PluginError

OURS = {"prunesweep", "orchestrator", "trainables"}
"""Packages that every node has; their plug-ins are not shipped, and say their version."""

INSTALLED = {"site-packages", "dist-packages"}
"""Folders whose packages have nothing to do with each other, and are on every node."""

DIGITS = 16


@dataclass(frozen=True)
class Module:
    """One module of a plug-in: its name as it is imported, and where it was read."""

    name: str
    path: str
    source: str
    is_package: bool = False

    def __reduce__(self) -> Any:
        # Without what is cached: a tree is many times its source.
        return Module, (self.name, self.path, self.source, self.is_package)

    @cached_property
    def tree(self) -> ast.Module:
        """The syntax tree. Raises PluginError."""
        try:
            return ast.parse(self.source, self.path)
        except (SyntaxError, ValueError) as error:
            line = getattr(error, "lineno", None) or 1
            reason = getattr(error, "msg", error)
            raise PluginError(f"{self.path}:{line}: this is not Python: {reason}") from error

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of what the module computes: formatting, comments and docstrings are no part
        of it."""
        return hashlib.sha256(json.dumps(_essence(self.tree)).encode()).hexdigest()

    @property
    def version(self) -> str | None:
        """`__version__`, if the module says it, as a plain string."""
        for statement in self.tree.body:
            match statement:
                case ast.Assign(
                    targets=[ast.Name("__version__")], value=ast.Constant(str(value))
                ) | ast.AnnAssign(ast.Name("__version__"), value=ast.Constant(str(value))):
                    return value
        return None


@dataclass(frozen=True)
class Plugin:
    """What a line of `plugins:` names: the module to import, and all modules of the same place
    that it is made of. One of prunesweep's own has none."""

    given: str
    name: str
    modules: tuple[Module, ...] = ()

    def code(self, module: str) -> str:
        """What identifies the code that `module` of this plug-in computes with: the version that
        it or its package says, else a hash of it and of what it imports from its own place."""
        found = {each.name: each for each in self.modules}
        version = found[module].version
        if version is None and _top(module) in found:
            version = found[_top(module)].version
        if version is not None:
            return f"{module}=={version}"
        digests = (found[name].digest for name in _closure(module, found))
        return hashlib.sha256("\n".join(digests).encode()).hexdigest()[:DIGITS]


def read_plugin(given: str, folder: Path) -> Plugin:
    """The plug-in that `given` names: a file or package in `folder`, or an importable module.

    Raises PluginError.
    """
    place = folder / given
    if given.endswith(".py") or "/" in given or place.is_dir():
        name, root = place.stem if given.endswith(".py") else place.name, place.parent
        if not (place.is_file() or (place / "__init__.py").is_file()):
            raise PluginError(
                f"plug-in {given}: there is no file {place}, nor a package (a folder with an "
                "__init__.py); the path is relative to the sweep file"
            )
    else:
        name, root = given, _root_of(given, folder)
    if not all(part.isidentifier() for part in name.split(".")):
        raise PluginError(f"plug-in {given}: {name} is no name of a Python module; rename it")
    if _top(name) in OURS:
        return Plugin(given, name)
    return Plugin(given, name, tuple(_modules(name, root.resolve())))


def _root_of(name: str, folder: Path) -> Path:
    """The folder that an importable module's top-level package is in."""
    top = _top(name)
    try:
        found = find_spec(top)
        # A package is found as a whole: its parts are looked for where it is.
        whole = find_spec(name) if top in OURS else found
    except (ImportError, ValueError):
        found = whole = None
    if found is None or whole is None or not found.origin:
        raise PluginError(
            f"plug-in {name}: there is neither {folder / name}.py nor a package of that name "
            f"beside the sweep file (write {name}.py for a file), nor an importable module"
        )
    path = Path(found.origin)
    return path.parent.parent if path.name == "__init__.py" else path.parent


def _modules(name: str, root: Path) -> Iterator[Module]:
    """The module `name`, and what it imports, directly or not, from the folder `root`."""
    found: dict[str, Module] = {}
    waiting, alone = [name], root.name in INSTALLED
    while waiting:
        each = waiting.pop()
        if each in found or (alone and _top(each) != _top(name)):
            continue
        module = _module(each, root)
        if module is None:
            if each == name:
                raise PluginError(f"plug-in {name}: there is no module {name} in {root}")
            continue
        _refuse_shadowing(module, root)
        found[each] = module
        waiting += [*_parents(each), *_imported(module)]
    first = found.pop(name)
    yield first
    yield from (found[each] for each in sorted(found))


def _module(name: str, root: Path) -> Module | None:
    place = root.joinpath(*name.split("."))
    for path in (place / "__init__.py", place.with_name(f"{place.name}.py")):
        if path.is_file():
            try:
                text = path.read_text(encoding="utf-8-sig")
            except (OSError, UnicodeDecodeError) as error:
                raise PluginError(f"{path}:1: cannot be read: {error}") from error
            return Module(name, str(path), text, path.name == "__init__.py")
    return None


def _refuse_shadowing(module: Module, root: Path) -> None:
    """A module must mean the same wherever it is imported."""
    top = _top(module.name)
    elsewhere = PathFinder.find_spec(top)
    origin = elsewhere.origin if elsewhere else None
    here = (root / top / "__init__.py", root / f"{top}.py")
    same = origin is not None and Path(origin).resolve() in here
    if top in sys.stdlib_module_names or (origin is not None and not same):
        where = origin or "Python's own library"
        raise PluginError(
            f"{module.path}:1: there is another module {top}, {where}; rename this one"
        )


def _imported(module: Module) -> Iterator[str]:
    """The names of the modules that a module may import, its own kin among them."""
    package = module.name if module.is_package else module.name.rpartition(".")[0]
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if _may_be_local(alias.name))
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = parts[: len(parts) - node.level + 1] if node.level else []
            whole = ".".join([*filter(None, base), *filter(None, [node.module])])
            if whole and _may_be_local(whole):
                yield whole
            for alias in node.names:
                name = f"{whole}.{alias.name}" if whole else alias.name
                if _may_be_local(name):
                    yield name


def _may_be_local(name: str) -> bool:
    return _top(name) not in OURS and _top(name) not in sys.stdlib_module_names


def _top(name: str) -> str:
    return name.partition(".")[0]


def _parents(name: str) -> Iterator[str]:
    parts = name.split(".")
    return (".".join(parts[:length]) for length in range(1, len(parts)))


def _closure(name: str, found: dict[str, Module]) -> Iterable[str]:
    """`name` and what it imports of `found`, in an order that the code alone decides."""
    seen: dict[str, None] = {}
    waiting = [name]
    while waiting:
        each = waiting.pop()
        if each in found and each not in seen:
            seen[each] = None
            waiting += [*_parents(each), *_imported(found[each])]
    return seen


def _essence(node: Any) -> Any:
    """A syntax tree as JSON values, alike in all versions of Python: without places, what computes
    nothing, and what is empty."""
    if isinstance(node, list):
        return [_essence(each) for each in node if not _computes_nothing(each)]
    if not isinstance(node, ast.AST):
        return [type(node).__name__, ascii(node)]
    if isinstance(node, ast.expr_context):
        return None
    fields = {name: value for name, value in ast.iter_fields(node) if value not in (None, [])}
    fields.pop("type_comment", None)
    fields.pop("kind", None)
    return [type(node).__name__, {name: _essence(value) for name, value in fields.items()}]


def _computes_nothing(node: Any) -> bool:
    """Whether it is a docstring, whatever it is of, or `pass`."""
    match node:
        case ast.Pass() | ast.Expr(ast.Constant(str())):
            return True
    return False
