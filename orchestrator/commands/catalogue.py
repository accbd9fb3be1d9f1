"""The catalogue: what a sweep file can name, with options and defaults."""

import inspect
from dataclasses import dataclass
from typing import Any, Literal

from trainables.config import Config
from trainables.data import DATASET
from trainables.models import MODEL
from trainables.plugins.entry import Catalogue, Kind
from trainables.plugins.entry import Entry as Named
from trainables.pruning import METHOD
from trainables.pruning.criterion import CRITERION
from trainables.training.augmentation import AUGMENTATION
from trainables.training.losses import LOSS
from trainables.training.optimizers import OPTIMIZER
from trainables.training.schedules import SCHEDULE

What = Literal[
    "methods", "criteria", "models", "datasets",
    "optimizers", "lr_schedules", "losses", "augmentations",
]  # fmt: skip

KINDS: dict[What, Kind] = {
    "methods": METHOD,
    "criteria": CRITERION,
    "models": MODEL,
    "datasets": DATASET,
    "optimizers": OPTIMIZER,
    "lr_schedules": SCHEDULE,
    "losses": LOSS,
    "augmentations": AUGMENTATION,
}


@dataclass(frozen=True)
class Entry:
    """A name, what it is, and its options as `option=default` (or `option` when required)."""

    name: str
    summary: str
    options: tuple[str, ...]


def listed(what: What, catalogue: Catalogue) -> list[Entry]:
    """The entries of a kind, those of plug-ins last."""
    return [_entry(config) for config in catalogue.of(KINDS[what]).values()]


def _entry(config: type[Named]) -> Entry:
    fields = {name: config.model_fields[name] for name in config.ordered() if name != "name"}
    options = tuple(
        option if field.is_required() else f"{option}={_plain(field.default)}"
        for option, field in fields.items()
    )
    return Entry(config.entry_name, _summary(config), options)


def _summary(config: type[Named]) -> str:
    return (inspect.getdoc(config) or "").split("\n\n")[0].replace("\n", " ")


def _plain(value: Any) -> Any:
    if isinstance(value, Named):
        return value.name
    return value.model_dump() if isinstance(value, Config) else value
