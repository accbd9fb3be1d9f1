"""The catalogue: what a sweep file can name, with options and defaults."""

import inspect
import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from trainables.config import Config
from trainables.data import DATASET
from trainables.measurements import MEASURE
from trainables.models import MODEL
from trainables.plugins.entry import Catalogue, Entry, Kind
from trainables.pruning import METHOD
from trainables.pruning.ablation import ABLATION
from trainables.pruning.criterion import CRITERION
from trainables.pruning.stopping import STOP
from trainables.training.augmentation import AUGMENTATION
from trainables.training.losses import LOSS
from trainables.training.optimizers import OPTIMIZER
from trainables.training.schedules import SCHEDULE

What = Literal[
    "methods", "criteria", "ablations", "models", "datasets",
    "optimizers", "lr_schedules", "losses", "augmentations", "stop_rules", "measures",
]  # fmt: skip

KINDS: dict[What, Kind] = {
    "methods": METHOD,
    "criteria": CRITERION,
    "ablations": ABLATION,
    "models": MODEL,
    "datasets": DATASET,
    "optimizers": OPTIMIZER,
    "lr_schedules": SCHEDULE,
    "losses": LOSS,
    "augmentations": AUGMENTATION,
    "stop_rules": STOP,
    "measures": MEASURE,
}


@dataclass(frozen=True)
class Listing:
    """A name, what it is, and its options as `option=default` (or `option` when required).

    `values` are, by option, those that it can have, where these are a few or have limits.
    """

    name: str
    summary: str
    options: tuple[str, ...]
    values: dict[str, str]


def listed(what: What, catalogue: Catalogue) -> list[Listing]:
    """The entries of a kind, those of plug-ins last."""
    return [_listing(config) for config in catalogue.of(KINDS[what]).values()]


def _listing(config: type[Entry]) -> Listing:
    fields = {name: config.model_fields[name] for name in config.ordered() if name != "name"}
    options = tuple(
        option if field.is_required() else f"{option}={_plain(field.default)}"
        for option, field in fields.items()
    )
    values = {name: allowed for name in fields if (allowed := _allowed(fields[name]))}
    return Listing(config.entry_name, _summary(config), options, values)


def _allowed(field: FieldInfo) -> str:
    """What an option can be besides its type, such as `real, normal, sparse` or `0 < density <= 1`
    without its name; empty where there is nothing to say."""
    if choices := _choices(field.annotation):
        return ", ".join(choices)
    limits = [*field.metadata]
    below = [f"{m.gt} <" for m in limits if getattr(m, "gt", None) is not None]
    below += [f"{m.ge} <=" for m in limits if getattr(m, "ge", None) is not None]
    above = [f"< {m.lt}" for m in limits if getattr(m, "lt", None) is not None]
    above += [f"<= {m.le}" for m in limits if getattr(m, "le", None) is not None]
    return " ".join([*below, "…", *above]) if below or above else ""


def _choices(kind: Any) -> list[str]:
    """The values of a literal, a truth value, or of a union of such."""
    if get_origin(kind) is Literal:
        return [*map(_shown, get_args(kind))]
    if get_origin(kind) is Annotated:
        return _choices(get_args(kind)[0])
    if kind is bool:
        return ["true", "false"]
    return []


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _summary(config: type[Entry]) -> str:
    return (inspect.getdoc(config) or "").split("\n\n")[0].replace("\n", " ")


def _plain(value: Any) -> str:
    """A default as a sweep file would have it."""
    if isinstance(value, Entry):
        return value.name
    if isinstance(value, str):
        return value
    told = value.model_dump(mode="json") if isinstance(value, Config) else value
    return json.dumps(told, default=str)
