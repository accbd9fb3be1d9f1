"""The schema of a sweep file, and the cells of its grid."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from math import prod
from typing import Annotated, Any, Literal, Self, TypeGuard, get_args

from pydantic import AfterValidator, Field, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

from orchestrator.sweepfile.axes import Grid, axis_error, grid
from orchestrator.sweepfile.budget import Budget
from orchestrator.sweepfile.conditions import Rule, meets, rules_of
from orchestrator.sweepfile.resources import Resources
from trainables.config import Config
from trainables.data import DatasetConfig, DatasetOptions
from trainables.lineage.keeping import StoreOptions
from trainables.lineage.keys import Cell
from trainables.measurements import MeasureConfig
from trainables.models import ModelConfig
from trainables.plugins.entry import BUILT_IN, Catalogue
from trainables.pruning import MethodConfig, Pruning
from trainables.pruning.ablation import AblationConfig
from trainables.training.recipe import Recipe

MAX_CELLS = 1_000_000
MAX_COMPARISONS = 100_000_000
"""Of cells with entries of `exclude`: more would take minutes."""
SECTIONS = ("dataset", "model", "train", "prune", "methods", "ablations", "seeds")
"""The fields of a sweep that axes expand, in the order in which cells vary, the last fastest."""
PREFIXES = {"methods": "method", "ablations": "ablation", "seeds": "seed"}
"""What the names of a cell's parameters begin with, where that is not its section's name."""
AXES = (*SECTIONS, "measures")
"""Those that axes expand, whether or not cells vary with them."""


def _checked_name(name: str) -> str:
    if not 1 <= len(name) <= 100:
        raise ValueError(f"a name has 1 to 100 characters, this one {len(name)}")
    if ".." in name or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError(
            "a name starts with a letter or digit and holds only letters, digits, '-', '_' and"
            " single '.'; it names a folder"
        )
    return name


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    seen: dict[Any, int] = {}
    for i, value in enumerate(values):
        first = seen.setdefault(value, i)
        if first != i:
            raise PydanticCustomError(
                "repeated",
                "values {first} and {second} are the same once defaults are filled in",
                {"first": first, "second": i},
            )
    return values


def _one_length(values: tuple[Pruning, ...]) -> tuple[Pruning, ...]:
    for i, value in enumerate(values):
        if value.iterations != values[0].iterations:
            longest = max(each.iterations for each in values)
            raise axis_error(
                "iterations cannot be an axis: the longest run contains the shorter ones;"
                f" write iterations: {longest}",
                (),
                (i, "iterations"),
            )
    return values


Name = Annotated[str, AfterValidator(_checked_name)]
SEEDS = 2**32
Seed = Annotated[int, Field(ge=0, lt=SEEDS)]
Distinct = AfterValidator(_distinct)


def _checked_project(name: str) -> str:
    if not 1 <= len(name) <= 128 or re.search(r"[/\\#?%:]", name):
        raise ValueError("a W&B project has 1 to 128 characters, none of them / \\ # ? % :")
    return name


Tag = Annotated[str, Field(min_length=1, max_length=64)]


class WandbOptions(Config):
    """What Weights & Biases is shown; outside the identity of results.

    Without a `mode`: WANDB_MODE, else online where there is a key, offline where there is none.
    """

    project: Annotated[str, AfterValidator(_checked_project)] = "prunesweep"
    entity: Annotated[str, Field(min_length=1)] | None = None
    mode: Literal["offline", "online", "disabled"] | None = None
    tags: tuple[Tag, ...] = ()
    histograms: bool = False
    log_ticket: bool = False


class SweepSpec(Config):
    """A sweep. In a file, every section may hold axes; here each is a tuple of concrete values.

    Validation raises pydantic.ValidationError; its context is the `Catalogue` of what a file can
    name, without one what is built in. In the context of an error about an axis, `at`
    continues its location inside the concrete values, and `path` inside what was written.
    """

    name: Name
    dataset: Annotated[tuple[DatasetConfig, ...], Distinct]
    model: Annotated[tuple[ModelConfig, ...], Distinct]
    seeds: Annotated[tuple[Seed, ...], Distinct] = (0,)
    train: Annotated[tuple[Recipe, ...], Distinct] = (Recipe(),)
    prune: Annotated[tuple[Pruning, ...], Distinct, AfterValidator(_one_length)] = (Pruning(),)
    methods: Annotated[tuple[MethodConfig, ...], Distinct]
    ablations: Annotated[tuple[AblationConfig, ...], Distinct] = ()
    measures: Annotated[tuple[MeasureConfig, ...], Distinct] = ()
    exclude: tuple[dict[str, Any], ...] = ()
    priority: tuple[dict[str, Any], ...] = ()
    resources: Resources = Resources()
    budget: Budget | None = None
    store: StoreOptions = StoreOptions()
    wandb: WandbOptions = WandbOptions()
    data_root: str | None = None
    plugins: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    published: str | None = None
    on_finish: Annotated[str, Field(min_length=1)] | None = None

    @property
    def configs(self) -> tuple[Config, ...]:
        """The values of all sections."""
        cells = (self.dataset, self.model, self.train, self.prune, self.methods, self.ablations)
        sections = (*cells, self.measures)
        return tuple(config for section in sections for config in section)

    @property
    def datasets(self) -> dict[DatasetOptions, tuple[str | int, ...]]:
        """Every dataset that is trained on, with the path of its field: those of the cells, and
        then those that ablations go to."""
        found: dict[DatasetOptions, tuple[str | int, ...]] = {
            config: ("dataset", i) for i, config in enumerate(self.dataset)
        }
        for i, ablation in enumerate(self.ablations):
            if ablation.elsewhere is not None:
                found.setdefault(ablation.elsewhere, ("ablations", i, "dataset"))
        return found

    @model_validator(mode="before")
    @classmethod
    def _expand_axes(cls, data: Any, info: ValidationInfo) -> Any:
        if not isinstance(data, Mapping):
            return data
        grids = section_grids(data, info.context or BUILT_IN)
        # Of ablations, there is what they are of as well.
        sizes = {
            name: section.size + (name == "ablations")
            for name, section in grids.items()
            if name in SECTIONS
        }
        count = prod(sizes.values())
        if count > MAX_CELLS:
            largest = max(sizes, key=lambda name: sizes[name])
            raise axis_error(
                f"the grid has {count:,} cells and at most {MAX_CELLS:,} are allowed; shorten axes",
                (largest,),
            )
        rules = data.get("exclude")
        if isinstance(rules, list) and len(rules) * count > MAX_COMPARISONS:
            raise axis_error(
                f"{len(rules):,} entries for {count:,} cells are too many; put values that are "
                "excluded together in one entry, as in {seed: [0, 1]}",
                ("exclude",),
            )
        return {**data, **{name: tuple(section.values()) for name, section in grids.items()}}

    @model_validator(mode="after")
    def _keep_what_is_measured(self) -> Self:
        for number, each in enumerate(self.measures):
            if each.reads(1) and self.store.keep_weights != "all":
                raise axis_error(
                    f"{each.name} reads the trained weights of iterations; set "
                    "store.keep_weights: all",
                    (),
                    ("measures", number),
                )
        return self

    @model_validator(mode="after")
    def _exclude_some_cells(self) -> Self:
        _rules(self, self.exclude, "exclude")
        _rules(self, self.priority, "priority")
        if self.exclude and next(cells(self), None) is None:
            raise axis_error("every cell is excluded; nothing is left to run", ("exclude",))
        return self


def section_grids(data: Mapping[str, Any], catalogue: Catalogue) -> dict[str, Grid]:
    """The grid of each section that `data`, a sweep as written, has; `catalogue` is what it can
    name.

    Raises PydanticCustomError "axis" as `grid` does, with the whole path from the top.
    """
    kinds = {name: get_args(SweepSpec.model_fields[name].annotation)[0] for name in AXES}
    written = {name: data[name] for name in kinds if name in data}
    for name in ("ablations", "measures"):
        if written.get(name) == []:
            del written[name]  # as a sweep's record has it where there are none
    if isinstance(written.get("seeds"), Mapping):
        written["seeds"] = _counted_seeds(written["seeds"])
    return {name: grid(kinds[name], raw, (name,), catalogue) for name, raw in written.items()}


def _counted_seeds(written: Mapping[str, Any]) -> list[int]:
    """The seeds that `{count: 3}` stands for, those from `first` on."""
    known = ["count", "first"]
    for key in written:
        if key not in known:
            context = {"key": key, "known": known, "path": ("seeds",)}
            raise PydanticCustomError("unknown_key", "unknown key", context)
    count, first = written.get("count"), written.get("first", 0)
    if not _is_whole(count) or not 1 <= count <= MAX_CELLS:
        message = f"say how many seeds, from 1 to {MAX_CELLS:,}, as in {{count: 3}} for 0, 1 and 2"
        raise axis_error(message, ("seeds", "count"))
    if not _is_whole(first) or not 0 <= first <= SEEDS - count:
        raise axis_error(f"the seeds are from 0 to {SEEDS - 1:,}", ("seeds", "first"))
    return [*range(first, first + count)]


def _is_whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def cells(spec: SweepSpec) -> Iterator[Cell]:
    """The cells that are not excluded, in the order of `SECTIONS`, the seed varying fastest; those
    without an ablation before those with one."""
    sections = [_values(spec, name) for name in SECTIONS]
    for index in _indexes(spec):
        *others, ablation, seed = (of[i] for of, i in zip(sections, index, strict=True))
        dataset, model, train, prune, method = others
        yield Cell(dataset, model, train, prune, method, seed, ablation)


def _values(spec: SweepSpec, section: str) -> tuple[Any, ...]:
    """What cells have of a section."""
    values = getattr(spec, section)
    return (None, *values) if section == "ablations" else values


def first_met(spec: SweepSpec, entries: Sequence[Mapping[str, Any]], name: str) -> list[int | None]:
    """For each of the `cells`, the number of the first of `entries`, conditions such as those of
    `exclude`, that it meets; None where it meets none.

    Raises PydanticCustomError as validation does, with a path that begins with `name`.
    """
    rules = _rules(spec, entries, name)
    return [
        next((number for number, rule in enumerate(rules) if meets(index, rule)), None)
        for index in _indexes(spec)
    ]


def _indexes(spec: SweepSpec) -> Iterator[tuple[int, ...]]:
    """Of each cell that is not excluded, the place of its value in each section."""
    rules = _rules(spec, spec.exclude, "exclude")
    for index in product(*(range(len(_values(spec, name))) for name in SECTIONS)):
        if not any(meets(index, rule) for rule in rules):
            yield index


def _rules(spec: SweepSpec, entries: Sequence[Mapping[str, Any]], name: str) -> list[Rule]:
    sections = {PREFIXES.get(each, each): _values(spec, each) for each in SECTIONS}
    return rules_of(entries, sections, name)


def parameter(cell: Cell, name: str) -> Any:
    """The value of a dotted parameter such as `train.optimizer.lr`, `prune.scope` or `method.p`.

    None where the cell has no such parameter, as `method.p` for a method without a p.
    """
    head, *keys = name.split(".")
    value = getattr(cell, head)
    for key in keys:
        value = getattr(value, key, None)
    return value


def swept_parameters(spec: SweepSpec) -> tuple[str, ...]:
    """The dotted names of the parameters that differ between cells, for `parameter`.

    Options are compared among entries of the same name: two `sap` entries that differ in p make
    `method.p` a swept parameter, a `sap` beside a `one_shot` does not. Names of datasets, models
    and methods, and seeds, are not listed: every cell has them anyway. Nor are stop rules, which
    are no part of what a lineage is.
    """
    sections = ("dataset", "model", "train", "prune", "method", "ablation")
    values = (spec.dataset, spec.model, spec.train, spec.prune, spec.methods, spec.ablations)
    names = [name for pair in zip(sections, values, strict=True) for name in _differing(*pair)]
    never = {"dataset.name", "model.name", "method.name", "ablation.name", "prune.stop"}
    return tuple(name for name in dict.fromkeys(names) if name not in never)


def _differing(prefix: str, values: Iterable[Any]) -> Iterator[str]:
    by_kind: dict[type, dict[Any, None]] = {}
    for value in values:
        by_kind.setdefault(type(value), {})[value] = None
    kinds = [kind for kind in by_kind if issubclass(kind, Config)]
    others = [value for kind, group in by_kind.items() if kind not in kinds for value in group]
    if len(by_kind) > 1 and any("name" in kind.model_fields for kind in kinds):
        yield f"{prefix}.name"
    for kind in kinds:
        # Only its fields tell a config without a name from None.
        values = [*by_kind[kind], *(() if "name" in kind.model_fields else others)]
        for key in kind.ordered():
            yield from _differing(f"{prefix}.{key}", (getattr(each, key, None) for each in values))
    if len(others) > 1:
        yield prefix
