"""From a YAML file to a SweepSpec; every mistake becomes one message that says where and what."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from math import isfinite
from pathlib import Path as FilePath
from typing import Any, TypeAlias

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, StreamMark
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent, NodeEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from orchestrator.axes import Grid, Path
from orchestrator.published import PublishedError, read_published
from orchestrator.secrets import ADVICE, secret_key, secret_value
from orchestrator.spec import SweepSpec, section_grids

MAX_BYTES = 1_000_000
MAX_NODES = 100_000
MAX_DEPTH = 50


class SweepFileError(Exception):
    """A sweep file or an override is wrong; the text is one line that says where, what and why."""

    def __init__(self, message: str) -> None:
        super().__init__("".join(c if c.isprintable() else _escaped(c) for c in message))


def load_sweep(path: str | FilePath, overrides: Sequence[str] = ()) -> SweepSpec:
    """The sweep in the YAML file `path`, with overrides such as `train.epochs=2` applied.

    The file that `published` names is checked, and its path made absolute. Raises SweepFileError
    for a file that cannot be read and for anything wrong in it or in an override: the first
    mistake, and how many more there are.
    """
    document = _document(path, overrides)
    try:
        spec = SweepSpec.model_validate(document.data)
    except ValidationError as error:
        raise SweepFileError(_first_mistake(error, document)) from None
    return spec if spec.published is None else _with_published(spec, FilePath(path), document)


def _with_published(spec: SweepSpec, path: FilePath, document: "Document") -> SweepSpec:
    published = path.absolute().parent / str(spec.published)
    try:
        read_published(published)
    except PublishedError as error:
        raise SweepFileError(f"{document.place(('published',))}: published: {error}") from None
    return spec.model_copy(update={"published": str(published)})


def locate(path: str | FilePath, overrides: Sequence[str], field: Path) -> str:
    """Where `field`, a path into the spec of this sweep, was written: `file:line:column: field`.

    Of what was not written, and has its default, the nearest thing around it. Raises
    SweepFileError when the file cannot be read any more.
    """
    document = _document(path, overrides)
    written = _written(field, _grids(document.data))
    return f"{document.place(written)}: {_dotted(written)}"


def _document(path: str | FilePath, overrides: Sequence[str]) -> "Document":
    document = _parsed(_text(FilePath(path)), lambda line, column: _place(path, line, column))
    if not isinstance(document.data, dict):
        raise SweepFileError(
            f"{document.place(())}: a sweep is a mapping with name, dataset, model and methods;"
            f" this is {_shown(document.data)}"
        )
    for override in overrides:
        document = _overridden(document, override)
    return document


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
        while path not in self.values:
            path = path[:-1]
        return self.values[path]

    def key_place(self, path: Path) -> Place:
        return self.keys.get(path) or self.place(path)


Placer: TypeAlias = Callable[[int, int], Place]


def _place(path: str | FilePath, line: int, column: int) -> Place:
    """A place in a file; `line` and `column` count from 0, as ruamel.yaml's marks do."""
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


def _parsed(text: str, placer: Placer) -> Document:
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
        node: Node | None = YAML(typ="safe", pure=True).compose(text)
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
    for event in YAML(typ="safe", pure=True).parse(text):
        count += isinstance(event, NodeEvent)
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if count > MAX_NODES or depth > MAX_DEPTH:
            place = placer(event.start_mark.line, event.start_mark.column)
            what = "there are more than" if count > MAX_NODES else "nested deeper than"
            much = f"{MAX_NODES:,} values" if count > MAX_NODES else f"{MAX_DEPTH} levels"
            raise SweepFileError(f"{place}: {what} {much} up to here; is it a sweep file?")


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
            raise SweepFileError(f"{place}: {_dotted(path)}: this looks like {kind}; {ADVICE}")
        if not isinstance(node, ScalarNode) or tag not in _SCALARS:
            shown = f"!!{tag}" if tag != node.tag else tag
            raise SweepFileError(f"{place}: tag {shown} is not allowed here; write plain values")
        try:
            return _SCALARS[tag](node.value)
        except (ValueError, KeyError):
            shown = _json(node.value)
            raise SweepFileError(f"{place}: {shown} cannot be read as {_KINDS[tag]}") from None

    def _mapping(self, node: MappingNode, path: Path) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node)
            below = (*path, key)
            self._refuse_secret(key, key_node, path)
            if key in mapping:
                raise SweepFileError(
                    f"{self._place(key_node)}: {_dotted(below)}: this key is already at"
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
                f"{self._place(node)}: a key of {_dotted(path)} looks like {kind}; {ADVICE}"
            )
        if secret_key(key):
            raise SweepFileError(
                f"{self._place(node)}: {_dotted((*path, key))}: this key names a secret; {ADVICE}"
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
            raise SweepFileError(f"{self._place(node)}: a key must be Unicode text") from None

    def _place(self, node: Node) -> Place:
        return _node_place(node, self.placer)


def _tag(node: Node) -> str:
    return str(node.tag).removeprefix("tag:yaml.org,2002:")


def _unicode(text: str) -> str:
    text.encode()  # an escape such as "\\ud800" is half a character, which no encoding has
    return text


def _integer(text: str) -> int:
    digits = text.replace("_", "")
    base = {"0b": 2, "0o": 8, "0x": 16}.get(digits.lstrip("+-")[:2].lower(), 10)
    return int(digits, base)


def _number(text: str) -> float:
    digits = text.replace("_", "").lower()
    return float(digits.replace(".inf", "inf").replace(".nan", "nan"))


_SCALARS: dict[str, Callable[[str], Any]] = {
    "str": _unicode,
    "timestamp": str,  # only text in a sweep: `name: 2026-01-31`
    "value": str,  # a lone `=`
    "int": _integer,
    "float": _number,
    "bool": lambda text: {"true": True, "false": False}[text.lower()],
    "null": lambda text: None,
}
_KINDS = {
    "str": "Unicode text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
}


# --- overrides


def _overridden(document: Document, override: str) -> Document:
    """`document` with KEY=VALUE applied; KEY is dotted, list entries are numbered from 0."""
    name, equals, text = override.partition("=")
    if kind := secret_value(name):
        raise SweepFileError(f"--set: what is set looks like {kind}; {ADVICE}")
    keys = name.strip().split(".")
    label = f"--set {name.strip() or override}"
    if any(map(secret_key, keys)):
        raise SweepFileError(f"{label}: this key names a secret; {ADVICE}")
    if not equals or not all(keys):
        raise SweepFileError(f"{label}: write --set KEY=VALUE, as in --set train.epochs=2")
    place = Place(0, 0, label)
    value = _parsed(text, lambda line, column: place).data
    data, path = _with(document.data, keys, value, (), label)

    def outside(places: dict[Path, Place]) -> dict[Path, Place]:
        return {at: each for at, each in places.items() if at[: len(path)] != path}

    # the mappings around it that are not in the file were written by the override too
    above = (path[:length] for length in range(1, len(path)))
    made = {at: place for at in (*above, path) if at == path or at not in document.values}
    return Document(data, outside(document.values) | made, outside(document.keys) | made)


def _with(data: Any, keys: list[str], value: Any, path: Path, label: str) -> tuple[Any, Path]:
    """`data` with `value` at `keys`, and the path that `keys` turned out to be."""
    if not keys:
        return value, path
    head, *rest = keys
    if isinstance(data, list):
        i = _entry(data, head, path, label)
        item, whole = _with(data[i], rest, value, (*path, i), label)
        return [*data[:i], item, *data[i + 1 :]], whole
    if data is not None and not isinstance(data, dict):
        raise SweepFileError(
            f"{label}: {_dotted(path)} is {_json(data)}, which has no keys; set it to a mapping"
        )
    item, whole = _with((data or {}).get(head), rest, value, (*path, head), label)
    return {**(data or {}), head: item}, whole


def _entry(data: list[Any], key: str, path: Path, label: str) -> int:
    if re.fullmatch(r"[0-9]{1,9}", key) and int(key) < len(data):
        return int(key)
    raise SweepFileError(
        f"{label}: {_dotted(path)} is a list of {len(data)}; address an entry by its number,"
        f" counted from 0, as in {_dotted((*path, 0))}"
    )


# --- validation errors -> one message


def _first_mistake(error: ValidationError, document: Document) -> str:
    grids = _grids(document.data)
    mistakes: dict[Path, tuple[Place, str]] = {}
    for details in error.errors(include_url=False):
        path, place, reason = _mistake(details, grids, document)
        # an axis repeats the mistakes of what stands beside it: one for each path is enough
        mistakes.setdefault(path, (place, f"{place}: {_dotted(path)}: {reason}"))
    (_, first), *others = sorted(mistakes.values())
    return f"{first} (and {len(others)} more)" if others else first


def _grids(data: dict[str, Any]) -> dict[str, Grid]:
    try:
        return section_grids(data)
    except ValueError:  # what the axes have wrong is itself the error to report
        return {}


def _mistake(
    details: ErrorDetails, grids: dict[str, Grid], document: Document
) -> tuple[Path, Place, str]:
    context = details.get("ctx", {})
    path: Path = (*details["loc"], *context.get("at", ()))
    if details["type"] == "repeated":
        return _repetition(path, context["first"], context["second"], grids, document)
    path = (*_written(path, grids), *context.get("path", ()))
    if details["type"] == "unknown_key":
        path = (*path, context["key"])
        return path, document.key_place(path), _unknown(context["key"], context["known"], "key")
    return path, document.place(path), _reason(details, path)


def _written(path: Path, grids: dict[str, Grid]) -> Path:
    """The path in the YAML of what is at `path` in the spec."""
    match path:
        case (str(section), int(index), *inner) if section in grids:
            return (section, *grids[section].where(index, tuple(inner)))
    return path


def _repetition(
    section: Path, first: int, second: int, grids: dict[str, Grid], document: Document
) -> tuple[Path, Place, str]:
    """Values that differ as written and are the same once defaults are filled in."""
    choices = grids[str(section[0])].chosen
    pairs = zip(choices(first), choices(second), strict=False)
    one, other = next((one, other) for one, other in pairs if one != other)
    path = (*section, *other)
    return path, document.place(path), f"means the same as {_dotted((*section, *one))}; remove one"


def _reason(details: ErrorDetails, path: Path) -> str:
    context, value = details.get("ctx", {}), details["input"]
    kind = details["type"]
    if kind == "missing":
        return f"is missing; add {path[-1]}: …"
    if kind == "axis":
        return str(context["message"])
    if value is None:
        return "a value is needed here, but there is none (null)"
    if kind == "union_tag_invalid":
        return _unknown(context["tag"], _quoted(context["expected_tags"]), _noun(path))
    if kind == "union_tag_not_found":
        return f"needs a name: which {_noun(path)}? Add name: …"
    if kind == "literal_error":
        return _unknown(value, _quoted(context["expected"]), "value")
    if kind == "float_type" and isinstance(value, int) and not isinstance(value, bool):
        return f"{_json(value)} is too large"
    if kind in _EXPECTED:
        return f"{_shown(value)}, not {_EXPECTED[kind]}{_hint(kind, value)}"
    if kind in _LIMITS:
        return f"{_json(value)} is out of range: it must be {_LIMITS[kind].format(**context)}"
    return details["msg"].removeprefix("Value error, ")


_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a name or a mapping",
    "finite_number": "a finite number",
}
_LIMITS = {
    "greater_than": "greater than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
}
_NOUNS = {"methods": "method"}


def _hint(kind: str, value: Any) -> str:
    if isinstance(value, str) and kind in ("int_type", "float_type") and _is_number(value):
        return f"; write {value.strip()} without quotes"
    if isinstance(value, str) and value.lower() in ("yes", "no", "on", "off"):
        return "; YAML's only truth values are true and false" if kind == "bool_type" else ""
    if isinstance(value, float) and value.is_integer():
        return f"; write {int(value)}" if kind in ("int_type", "int_from_float") else ""
    if isinstance(value, int | float) and kind == "string_type":
        return "; put it in quotes"
    if isinstance(value, list):
        return "; this cannot be an axis, give one value"
    return ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _noun(path: Path) -> str:
    """What a name at `path` names: "methods.0" names a method."""
    name = next(str(part) for part in reversed(path) if isinstance(part, str))
    return _NOUNS.get(name, name)


def _unknown(value: Any, known: Sequence[str], noun: str) -> str:
    close = get_close_matches(str(value).lower(), known, n=1, cutoff=0.65)
    if close:
        return f"unknown {noun} {_json(value)}; did you mean {_json(close[0])}?"
    return f"unknown {noun} {_json(value)}; known: {', '.join(known)}"


def _quoted(text: str) -> list[str]:
    """The words between single quotes, in which pydantic lists alternatives."""
    return re.findall(r"'([^']*)'", text)


def _shown(value: Any) -> str:
    kinds = {bool: "a truth value", str: "text", list: "a list", dict: "a mapping"}
    if value is None:
        return "nothing (null)"
    if isinstance(value, float) and not isfinite(value):
        return f"{value} is not finite"
    return f"{_json(value)} is {kinds.get(type(value), 'a number')}"


def _json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _dotted(path: Path) -> str:
    return ".".join(map(str, path)) or "the sweep"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
