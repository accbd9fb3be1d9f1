"""Mistakes: what pydantic has against a sweep, a message for each that says where, what and why."""

import copy
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from difflib import get_close_matches
from math import isfinite
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from orchestrator.sweepfile.axes import Grid, Path
from orchestrator.sweepfile.spec import SweepSpec, section_grids
from orchestrator.sweepfile.yaml_document import Document, Place, as_json, dotted, scalar_kind
from trainables.plugins.entry import Catalogue

CONDITIONS = (("exclude",), ("priority",))
"""What is about cells, and fits or not once these are known."""
MOST = 20
"""As many mistakes are told; who has more has made one of them often."""


def mistakes(error: ValidationError, document: Document, catalogue: Catalogue) -> list[str]:
    """The mistakes in the file, which can name what is in `catalogue`, in their order there."""
    found: dict[Path, tuple[Place, str]] = {}
    data, other = document.data, error
    while other is not None:
        grids = _grids(data, catalogue)
        hiding: list[Path] = []
        for details in other.errors(include_url=False):
            path, place, reason = _mistake(details, grids, document)
            if data is document.data or not _is_made(details, path, document):
                # an axis repeats the mistakes of what stands beside it: one for each path is enough
                found.setdefault(path, (place, f"{place}: {dotted(path)}: {reason}"))
            if details["type"] in _HIDING and path[:1] not in CONDITIONS:
                hiding.append(path)
        rest = _without(data, hiding)
        other = _error(rest, catalogue) if rest != data else None
        data = rest
    texts = [text for _, text in sorted(found.values())]
    more = [f"and {len(texts) - MOST} more"] if len(texts) > MOST else []
    return [*texts[:MOST], *more]


_HIDING = ("unknown_key", "axis", "listed_twice")
"""What is found before values are looked at, and hides what is wrong with those."""


def _without(data: dict[str, Any], paths: Iterable[Path]) -> dict[str, Any]:
    """`data` without the keys at `paths`, or the nearest ones around them that are there; of an
    entry of a list, without the list."""
    rest = copy.deepcopy(data)
    for path in paths:
        for length in range(len(path), 0, -1):
            *above, key = path[:length]
            inner: Any = rest
            with suppress(KeyError, IndexError, TypeError):
                for each in above:
                    inner = inner[each]
                if isinstance(key, str) and key in inner:
                    del inner[key]
                    break
    return rest


def _error(data: dict[str, Any], catalogue: Catalogue) -> ValidationError | None:
    try:
        SweepSpec.model_validate(data, context=catalogue)
    except ValidationError as error:
        return error
    return None


def _is_made(details: ErrorDetails, path: Path, document: Document) -> bool:
    """Whether a mistake comes from what was left out: what is there is no longer missing, nor does
    conditions fit."""
    if details["type"] == "missing":
        return document.at(path) is not None or path in document.values
    if details["type"] == "no_budget":
        return bool(document.at(path))
    return details["type"] in _HIDING and path[:1] in CONDITIONS


def written_at(path: Path, document: Document, catalogue: Catalogue) -> Path:
    """The path in the YAML of what is at `path` in the spec."""
    return _written(path, _grids(document.data, catalogue))


def written_apart(
    first: Path, second: Path, document: Document, catalogue: Catalogue
) -> tuple[Path, Path]:
    """The paths in the YAML of what makes two values of one section two."""
    (section, one), (_, other) = first, second
    return _apart((section,), int(one), int(other), _grids(document.data, catalogue))


def _grids(data: dict[str, Any], catalogue: Catalogue) -> dict[str, Grid]:
    grids: dict[str, Grid] = {}
    for name, value in data.items():
        with suppress(ValueError):  # what an axis has wrong is itself the error to report
            grids |= section_grids({name: value}, catalogue)
    return grids


def _mistake(
    details: ErrorDetails, grids: dict[str, Grid], document: Document
) -> tuple[Path, Place, str]:
    context = details.get("ctx", {})
    path: Path = (*details["loc"], *context.get("at", ()))
    if details["type"] == "repeated":
        one, other = _apart(path, context["first"], context["second"], grids)
        return other, document.place(other), f"means {same_as(one, document)}; remove one"
    path = (*_written(path, grids), *context.get("path", ()))
    if details["type"] == "unknown_key":
        path = (*path, context["key"])
        return path, document.key_place(path), _unknown_key(context, path, document)
    return path, document.place(path), _reason(details, path, document)


def _unknown_key(context: dict[str, Any], path: Path, document: Document) -> str:
    key, known = context["key"], context["known"]
    if key in ("sparsity", "pruned") and "density" in known:
        value = document.at(path)
        share = value if isinstance(value, int | float) and 0 < value < 1 else 0.9
        return (
            f'unknown key "{key}"; say what remains: a sparsity of {share:g} is '
            f"density: {float(f'{1 - share:.6g}'):g}"
        )
    text = unknown(key, known, "key")
    if context.get("of") and (*path[:-1], "name") not in document.values and known[0] == "name":
        text += f" (without a name, this is {context['of']})"
    return text


def _written(path: Path, grids: dict[str, Grid]) -> Path:
    match path:
        case (str(section), int(index), *inner) if section in grids:
            return (section, *grids[section].where(index, tuple(inner)))
    return path


def same_as(path: Path, document: Document) -> str:
    """Says what something is the same as, and where that is."""
    return f"the same as {dotted(path)} at {document.place(path)}"


def _apart(section: Path, first: int, second: int, grids: dict[str, Grid]) -> tuple[Path, Path]:
    """Where the values `first` and `second` of a section part as written: the first axis of which
    they take different entries."""
    choices = grids[str(section[0])].chosen
    pairs = zip(choices(first), choices(second), strict=False)
    one, other = next((one, other) for one, other in pairs if one != other)
    return (*section, *one), (*section, *other)


def _reason(details: ErrorDetails, path: Path, document: Document) -> str:
    context, value = details.get("ctx", {}), details["input"]
    kind = details["type"]
    if kind == "missing":
        return f"is missing; add {path[-1]}: …"
    if kind == "axis":
        return str(context["message"])
    if kind == "listed_twice":
        first = (*path[:-1], context["first"])
        return f"{context['shown']} is listed twice, first at {document.place(first)}; remove one"
    if value is None:
        return "a value is needed here, but there is none (null)"
    if kind == "unknown_name":
        return unknown(context["tag"], context["known"], _noun(path))
    if kind == "no_name":
        if (key := context["key"]) != "name":
            if isinstance(value, dict) and "name" in value:
                return f"say which {_noun(path)} by {key}: {as_json(value['name'])}, not by name"
            return f"say which {_noun(path)}: add {key}: …"
        return f"needs a name: which {_noun(path)}? Add name: …"
    if kind == "literal_error":
        return unknown(value, _quoted(context["expected"]), "value")
    if kind == "float_type" and isinstance(value, int) and not isinstance(value, bool):
        return f"{as_json(value)} is too large"
    if kind in _EXPECTED:
        return f"{shown(value)}, not {_EXPECTED[kind]}{_hint(kind, value)}"
    if kind in ("list_type", "set_type", "frozen_set_type"):
        return (
            "no option can be a list or a set; the plug-in has to make it a tuple, as in "
            "tuple[int, ...]"
        )
    if kind in _LIMITS:
        limit = _LIMITS[kind].format(**context)
        hint = _share_hint(path, value) if 1 in (context.get("le"), context.get("lt")) else ""
        return f"{as_json(value)} is out of range: it must be {limit}{hint}"
    if kind in _LENGTHS:
        return f"{as_json(value)} is too {_LENGTHS[kind].format(**context)}"
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
_NOUNS = {
    "methods": "method", "ablations": "ablation", "measures": "measure", "stop": "stop rule",
}  # fmt: skip
_LENGTHS = {
    "too_short": "short: it needs at least {min_length}",
    "string_too_short": "short: it must not be empty",
    "string_too_long": "long: it can have at most {max_length} characters",
}


def _share_hint(path: Path, value: Any) -> str:
    """For who gives what is at most 1 in percent."""
    if not isinstance(value, int | float) or not 1 < value <= 100:
        return ""
    share = float(f"{value / 100:.12g}")
    return f"; it is a share of 1: {value:g} % is {_noun(path)}: {share:g}"


def _hint(kind: str, value: Any) -> str:
    if isinstance(value, str) and kind in ("int_type", "float_type"):
        return _number_hint(value.strip())
    if isinstance(value, str) and value.lower() in ("yes", "no", "on", "off", "y", "n"):
        return "; YAML's only truth values are true and false" if kind == "bool_type" else ""
    if isinstance(value, float) and value.is_integer():
        return f"; write {int(value)}" if kind in ("int_type", "int_from_float") else ""
    if isinstance(value, int | float) and kind == "string_type":
        return "; put it in quotes"
    if isinstance(value, list | tuple):
        return "; this cannot be an axis, give one value"
    return ""


def _number_hint(text: str) -> str:
    if text.endswith("%"):
        with suppress(ValueError):
            return f"; write {float(text[:-1]) / 100:.12g}"
    if scalar_kind(text) in ("int", "float"):
        return f"; write {text} without quotes"
    for read in (lambda text: int(text, 0), float):  # Python's numbers, and those of YAML 1.1
        with suppress(ValueError):
            return f"; write {read(text)}" if isfinite(read(text)) else ""
    return ""


def _noun(path: Path) -> str:
    """What a name at `path` names: "methods.0" names a method."""
    name = next(str(part) for part in reversed(path) if isinstance(part, str))
    return _NOUNS.get(name, name)


def unknown(value: Any, known: Sequence[str], noun: str) -> str:
    """Says that `value` is none of the `known`, and which may be meant."""
    close = get_close_matches(str(value).lower(), known, n=1, cutoff=0.65)
    if close:
        return f"unknown {noun} {as_json(value)}; did you mean {as_json(close[0])}?"
    return f"unknown {noun} {as_json(value)}; known: {', '.join(known)}"


def _quoted(text: str) -> list[str]:
    """The words between single quotes, in which pydantic lists alternatives."""
    return re.findall(r"'([^']*)'", text)


def shown(value: Any) -> str:
    """A value and what kind of thing it is, as in `3 is a number`."""
    kinds = {bool: "a truth value", str: "text", list: "a list", tuple: "a list", dict: "a mapping"}
    if value is None:
        return "nothing (null)"
    if isinstance(value, float) and not isfinite(value):
        return f"{value} is not finite"
    return f"{as_json(value)} is {kinds.get(type(value), 'a number')}"
