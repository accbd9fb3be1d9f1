"""The catalogue: what a sweep file can name, with options and defaults, read off the registries."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

from pydantic_core import PydanticUndefined

from trainables.config import Config
from trainables.data import DATASETS, DatasetConfig
from trainables.models import MODELS, ModelConfig
from trainables.pruning import MethodConfig
from trainables.pruning.criteria import CRITERIA


@dataclass(frozen=True)
class Entry:
    """A name, what it is, and its options as `option=default` (or `option` when required)."""

    name: str
    summary: str
    options: tuple[str, ...]


def catalogue(what: str) -> list[Entry]:
    """The entries of `what`: methods, criteria, models or datasets."""
    if what == "criteria":
        return [Entry(name, _summary(score), ()) for name, score in CRITERIA.items()]
    kinds: dict[str, tuple[Any, dict[str, Callable[..., Any]]]] = {
        "methods": (MethodConfig, {}),
        "models": (ModelConfig, MODELS),
        "datasets": (DatasetConfig, {name: entry.load for name, entry in DATASETS.items()}),
    }
    union, described = kinds[what]
    return [_entry(config, described) for config in get_args(get_args(union)[0])]


def _entry(config: type[Config], described: dict[str, Callable[..., Any]]) -> Entry:
    (name,) = get_args(config.model_fields["name"].annotation)
    options = tuple(
        option if field.default is PydanticUndefined else f"{option}={_plain(field.default)}"
        for option, field in config.model_fields.items()
        if option != "name"
    )
    return Entry(name, _summary(described.get(name, config)), options)


def _summary(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").split("\n\n")[0].replace("\n", " ")


def _plain(value: Any) -> Any:
    return value.model_dump() if isinstance(value, Config) else value
