"""YAML text as plain data with the place of every value and key, or one message that says what is
wrong with it where."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any, TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, StreamMark
from ruamel.yaml.events import (
    CollectionEndEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    NodeEvent,
)
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.resolver import VersionedResolver
from ruamel.yaml.tag import Tag

from orchestrator.sweepfile.axes import Path
from orchestrator.sweepfile.secrets import ADVICE, secret_key, secret_value
from trainables.errors import UserError

MAX_BYTES = 1_000_000
MAX_NODES = 100_000
MAX_DEPTH = 50
MAX_DIGITS = 1000


class SweepFileError(UserError):
    """A sweep file or an override is wrong; the text is a line for each mistake, which says where,
    what and why."""

    def __init__(self, *messages: str) -> None:
        lines = ("".join(c if c.isprintable() else _escaped(c) for c in m) for m in messages)
        super().__init__("\n".join(lines))


@dataclass(frozen=True, order=True)
class Place:
    """Where something was written: `text` for people, `line` and `column` to sort by."""

    line: int
    column: int
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Document:
    """Plain data, and the places of its values and keys by path."""

    data: Any
    values: dict[Path, Place] = field(default_factory=dict)
    keys: dict[Path, Place] = field(default_factory=dict)

    def place(self, path: Path) -> Place:
        """Where the value at `path`, or the nearest thing around it, was written."""
        path = self._as_written(path)
        while path not in self.values:
            path = path[:-1]
        return self.values[path]

    def at(self, path: Path) -> Any:
        """The value at `path`, None where there is none."""
        value = self.data
        for key in path:
            try:
                value = value[key]
            except (KeyError, IndexError, TypeError):
                return None
        return value

    def key_place(self, path: Path) -> Place:
        return self.keys.get(self._as_written(path)) or self.place(path)

    def _as_written(self, path: Path) -> Path:
        """`path` without the 0 of what alone stands for a list of it."""
        at: Path = ()
        for key in path:
            if not (key == 0 and isinstance(self.at(at), dict | str)):
                at = (*at, key)
        return at


Placer: TypeAlias = Callable[[int, int], Place]
"""The place of a line and column, which count from 0, as ruamel.yaml's marks do."""


def read_document(path: str | FilePath) -> Document:
    """The one YAML document in the file `path`. Raises SweepFileError."""
    return parsed(_text(FilePath(path)), lambda line, column: _place(path, line, column))


def _place(path: str | FilePath, line: int, column: int) -> Place:
    return Place(line + 1, column + 1, f"{path}:{line + 1}:{column + 1}")


# --- bytes -> text


def _text(path: FilePath) -> str:
    content = _content(path)
    if content.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise SweepFileError(
            f"{path}:1:1: the file starts with a byte order mark (BOM);"
            " save it as UTF-8 without BOM"
        )
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line, column = _line_and_column(content[: error.start].decode())
        raise SweepFileError(
            f"{_place(path, line, column)}: byte {error.start} (0x{content[error.start]:02x}) is"
            " not UTF-8; save the file as UTF-8"
        ) from None
    if "\0" in text:
        line, column = _line_and_column(text[: text.index("\0")])
        raise SweepFileError(f"{_place(path, line, column)}: NUL byte; this is not a text file")
    return text


def _content(path: FilePath) -> bytes:
    try:
        if path.is_dir():
            raise SweepFileError(f"{path}: is a folder; give the YAML file itself")
        # a pipe or device could block for ever, or never end
        if path.exists() and not path.is_file():
            raise SweepFileError(f"{path}: is not a regular file")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise SweepFileError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SweepFileError(f"{path}: cannot be read: {reason}") from None
    if len(content) > MAX_BYTES:
        raise SweepFileError(f"{path}: larger than {MAX_BYTES // 10**6} MB; is it a sweep file?")
    return content


def _line_and_column(before: str) -> tuple[int, int]:
    return before.count("\n"), len(before) - before.rfind("\n") - 1


# --- text -> data and places

CORE = {
    "null": "null|Null|NULL|~|",
    "bool": "true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
    "merge": "<<",  # no part of it, and refused where it is a key
}
"""What plain scalars are: YAML 1.2's core schema (§10.3.2); of what is none of these, text."""


def scalar_kind(text: str) -> str:
    """The tag of a plain scalar."""
    return next((kind for kind, form in CORE.items() if re.fullmatch(form, text)), "str")


class _CoreSchema(VersionedResolver):
    """ruamel.yaml's own resolver is of both versions of YAML and of neither: `1_000`, `0b1` and
    `-0x1` are numbers there, and `.1e1` is none."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        if kind is ScalarNode and implicit[0]:
            return Tag(suffix=f"tag:yaml.org,2002:{scalar_kind(value)}")
        return super().resolve(kind, value, implicit)


def _yaml() -> YAML:
    yaml = YAML(typ="safe", pure=True)
    yaml.Resolver = _CoreSchema
    return yaml


def parsed(text: str, placer: Placer) -> Document:
    """The one YAML document in `text`. Raises SweepFileError."""
    node = _composed(text, placer)
    if node is None:
        raise SweepFileError(f"{placer(0, 0)}: there is nothing here; write at least one value")
    try:
        _refuse_bombs(node, placer)
    except RecursionError:
        raise SweepFileError(f"{placer(0, 0)}: nested too deeply") from None
    values: dict[Path, Place] = {}
    keys: dict[Path, Place] = {}
    return Document(_Constructor(placer, values, keys).value(node, ()), values, keys)


def _composed(text: str, placer: Placer) -> Node | None:
    try:
        _refuse_floods(text, placer)
        node: Node | None = _yaml().compose(text)
        return node
    except SweepFileError:
        raise
    except MarkedYAMLError as error:
        raise SweepFileError(_syntax_error(text, error, placer)) from None
    except ReaderError as error:
        place = placer(*_line_and_column(text[: error.position]))
        shown = _escaped(text[error.position])
        raise SweepFileError(f"{place}: character {shown} is not allowed in YAML") from None
    except RecursionError:
        raise SweepFileError(f"{placer(0, 0)}: nested too deeply") from None
    except Exception as error:
        # the parser lets plain Python errors out for some bad escapes and tags
        raise SweepFileError(f"{placer(0, 0)}: cannot be read as YAML: {error}") from None


def _syntax_error(text: str, error: MarkedYAMLError, placer: Placer) -> str:
    mark: StreamMark | None = error.problem_mark or error.context_mark
    place = placer(mark.line, mark.column) if mark else placer(0, 0)
    if mark and text[mark.index : mark.index + 1] == "\t":
        return f"{place}: a tab is not allowed in YAML indentation; use spaces"
    if "another document" in str(error.problem):
        return f"{place}: a second YAML document starts here; a sweep file holds one"
    while_ = f" ({error.context})" if error.context else ""
    return f"{place}: not valid YAML: {error.problem}{while_}"


def _refuse_floods(text: str, placer: Placer) -> None:
    """Refuse what is too much as written, before any of it is kept."""
    count = depth = 0
    for event in _yaml().parse(text):
        if isinstance(event, DocumentStartEvent):
            _refuse_other_versions(event, text, placer)
        count += isinstance(event, NodeEvent)
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if count > MAX_NODES or depth > MAX_DEPTH:
            place = placer(event.start_mark.line, event.start_mark.column)
            what = "there are more than" if count > MAX_NODES else "nested deeper than"
            much = f"{MAX_NODES:,} values" if count > MAX_NODES else f"{MAX_DEPTH} levels"
            raise SweepFileError(f"{place}: {what} {much} up to here; is it a sweep file?")


def _refuse_other_versions(event: DocumentStartEvent, text: str, placer: Placer) -> None:
    if event.version not in (None, (1, 2)):
        place = placer(*_line_and_column(text[: text.index("%YAML")]))
        raise SweepFileError(
            f"{place}: a sweep file is YAML 1.2, and other versions read some values differently, "
            "such as no and 010; remove this line"
        )


def _refuse_bombs(root: Node, placer: Placer) -> None:
    """Refuse what aliases would blow up, before anything is expanded."""
    measured: dict[int, tuple[int, int] | None] = {}

    def measure(node: Node) -> tuple[int, int]:
        """The size and height of a node with its aliases expanded, each node visited once."""
        if id(node) not in measured:
            measured[id(node)] = None
            inner = [measure(child) for child in _children(node)]
            size = 1 + sum(size for size, _ in inner)
            measured[id(node)] = size, 1 + max((height for _, height in inner), default=0)
        found = measured[id(node)]
        if found is None:
            raise SweepFileError(f"{_node_place(node, placer)}: contains an alias to itself")
        return found

    size, height = measure(root)
    if size > MAX_NODES:
        raise SweepFileError(
            f"{_node_place(root, placer)}: with its aliases expanded this has over {MAX_NODES:,}"
            " values; use fewer or smaller aliases and lists"
        )
    if height > MAX_DEPTH:
        raise SweepFileError(f"{_node_place(root, placer)}: nested deeper than {MAX_DEPTH} levels")


def _node_place(node: Node, placer: Placer) -> Place:
    return placer(node.start_mark.line, node.start_mark.column)


def _children(node: Node) -> Iterator[Node]:
    if isinstance(node, MappingNode):
        for key, value in node.value:
            yield key
            yield value
    elif isinstance(node, SequenceNode):
        yield from node.value


@dataclass(frozen=True)
class _Constructor:
    """Makes plain data of nodes, and notes where each value and key was written."""

    placer: Placer
    values: dict[Path, Place]
    keys: dict[Path, Place]

    def value(self, node: Node, path: Path) -> Any:
        place = self._place(node)
        self.values[path] = place
        tag = _tag(node)
        if isinstance(node, MappingNode) and tag == "map":
            return self._mapping(node, path)
        if isinstance(node, SequenceNode) and tag == "seq":
            return [self.value(item, (*path, i)) for i, item in enumerate(node.value)]
        if isinstance(node, ScalarNode) and (kind := secret_value(node.value)):
            raise SweepFileError(f"{place}: {dotted(path)}: this looks like {kind}; {ADVICE}")
        if not isinstance(node, ScalarNode) or tag not in _SCALARS:
            shown = f"!!{tag}" if tag != node.tag else tag
            raise SweepFileError(f"{place}: tag {shown} is not allowed here; write plain values")
        try:
            return _SCALARS[tag](node.value)
        except ValueError:
            shown = as_json(node.value)
            raise SweepFileError(f"{place}: {shown} cannot be read as {_KINDS[tag]}") from None

    def _mapping(self, node: MappingNode, path: Path) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node)
            below = (*path, key)
            self._refuse_secret(key, key_node, path)
            if key in mapping:
                raise SweepFileError(
                    f"{self._place(key_node)}: {dotted(below)}: this key is already at"
                    f" {self.keys[below]}; remove one"
                )
            self.keys[below] = self._place(key_node)
            mapping[key] = self.value(value_node, below)
            if value_node.start_mark.index == value_node.end_mark.index:
                # nothing was written: its mark is wherever the next thing stands
                self.values[below] = self.keys[below]
        return mapping

    def _refuse_secret(self, key: str, node: Node, path: Path) -> None:
        if kind := secret_value(key):
            raise SweepFileError(
                f"{self._place(node)}: a key of {dotted(path)} looks like {kind}; {ADVICE}"
            )
        if secret_key(key):
            raise SweepFileError(
                f"{self._place(node)}: {dotted((*path, key))}: this key names a secret; {ADVICE}"
            )

    def _key(self, node: Node) -> str:
        tag = _tag(node)
        if tag == "merge":
            raise SweepFileError(
                f"{self._place(node)}: merge keys (<<) are not part of YAML 1.2; write the keys out"
            )
        if not isinstance(node, ScalarNode) or tag != "str":
            raise SweepFileError(f"{self._place(node)}: a key must be text")
        try:
            return _unicode(node.value)
        except ValueError:
            kind = _KINDS["str"]
            raise SweepFileError(f"{self._place(node)}: a key must be {kind}") from None

    def _place(self, node: Node) -> Place:
        return _node_place(node, self.placer)


def _tag(node: Node) -> str:
    return str(node.tag).removeprefix("tag:yaml.org,2002:")


def _unicode(text: str) -> str:
    text.encode()  # an escape such as "\\ud800" is half a character, which no encoding has
    if "\0" in text:
        raise ValueError(text)  # an escape too; no path and no command can have it
    return text


def _null(text: str) -> None:
    _require("null", text)


def _truth(text: str) -> bool:
    return _require("bool", text).lower() == "true"


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(text)
    return int(_require("int", text), {"0o": 8, "0x": 16}.get(text[:2], 10))


def _number(text: str) -> float:
    digits = text if scalar_kind(text) == "int" else _require("float", text)
    number = float(re.sub(r"\.(?=inf|nan)", "", digits.lower()))
    if number == 0 and re.match(r"[^eE]*[1-9]", digits):
        raise ValueError(f"{text} is too close to zero")
    return number


def _require(kind: str, text: str) -> str:
    """`text`, which may have been given a tag: `!!int yes`. Raises ValueError."""
    if scalar_kind(text) != kind:
        raise ValueError(text)
    return text


_SCALARS: dict[str, Callable[[str], Any]] = {
    "str": _unicode,
    "int": _integer,
    "float": _number,
    "bool": _truth,
    "null": _null,
}
_KINDS = {
    "str": "Unicode text without NUL",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "null": "null",
}


# --- wording


def as_json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:59]}…"


def dotted(path: Path) -> str:
    return ".".join(map(str, path)) or "the sweep"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
