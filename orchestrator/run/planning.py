"""Planning: a sweep and what the store has → the tree of iterations to run. Pure."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from types import MappingProxyType
from typing import Any

from orchestrator.run.ranking import Rung
from orchestrator.sweepfile.spec import SweepSpec, cells
from trainables.config import canonical_json
from trainables.data import DatasetInfo, DatasetOptions
from trainables.errors import UserError
from trainables.lineage.ending import End, until
from trainables.lineage.identity import trunk_key
from trainables.lineage.keys import (
    Cell,
    Lineage,
    ablated,
    lineage_id,
    lineage_keys,
    lineage_measurements,
    trunk_config,
)
from trainables.lineage.stored import FilesOf, missing_iterations, missing_measurements
from trainables.models import Model, blueprint, check_model, prunable
from trainables.pruning import Step
from trainables.training.augmentation import Unfit
from trainables.training.batches import steps_per_epoch
from trainables.training.recipe import Recipe

TABLE_BYTES = 64_000
"""About what the measures of one iteration take."""
MAX_ROWS = 10_000_000
"""Iterations of all lineages of a sweep: more would take minutes and many gigabytes to plan."""
MAX_WEIGHTS = 2**31
"""Of one model, whose training holds several copies of them."""


class PlanError(UserError, ValueError):
    """The sweep cannot be run; `field` is the path of the field at fault in the spec, `repeats`
    that of an earlier value of its section, where it is the same as that."""

    def __init__(
        self,
        message: str,
        field: tuple[str | int, ...],
        repeats: tuple[str | int, ...] | None = None,
    ) -> None:
        super().__init__(message)
        self.field, self.repeats = field, repeats


@dataclass(frozen=True)
class ResolvedDataset:
    """A dataset of the sweep: its config, what is known of it, its identity as JSON values, and the
    path of its field in the spec."""

    config: Any
    info: DatasetInfo
    identity: dict[str, Any]
    field: tuple[str | int, ...] = ("dataset", 0)


@dataclass(frozen=True)
class Task:
    """A lineage with something to train, or to measure.

    It trains what is missing from iteration `first` on, but not before `after`, the last of its
    missing iterations that another lineage trains, is committed; then it measures.
    """

    lineage: Lineage
    first: int
    after: str | None


@dataclass(frozen=True)
class Plan:
    """What a run has to do.

    Of the `rows` iterations that all lineages have of their own, `shared` are the same as one of
    another lineage; of the rest, `stored` are in the store and `to_train` are not. `left` are the
    lineages that are not complete and are not trained, of those that were to be left, `leaving`.
    Those of `ends`, by their ids, have ended; others may end as well before all that is `to_train`
    is trained: by stop rules, or at the `rung` that is next.
    `to_measure` are the keys of the measurements to be made.
    """

    lineages: tuple[Lineage, ...]
    tasks: tuple[Task, ...]
    to_train: frozenset[str]
    stored: int
    shared: int
    left: tuple[str, ...] = ()
    leaving: frozenset[str] = frozenset()
    ends: Mapping[str, End] = field(default_factory=dict)
    rung: Rung | None = None
    to_measure: frozenset[str] = frozenset()

    @property
    def complete(self) -> int:
        """How many lineages have nothing left to train."""
        return len(self.lineages) - len(self.tasks) - len(self.left)

    @property
    def rows(self) -> int:
        return sum(len(lineage.own_keys) for lineage in self.so_far)

    @cached_property
    def so_far(self) -> tuple[Lineage, ...]:
        """The lineages, each up to where it ends."""
        return tuple(until(lineage, self.ends.get(lineage.id)) for lineage in self.lineages)

    @cached_property
    def may_end(self) -> frozenset[str]:
        """The ids of the lineages that may end before all of them is trained."""
        ruled = {t.lineage.id for t in self.tasks if t.lineage.cell.prune.stop}
        return frozenset(ruled | (self.rung.ids if self.rung else frozenset()))


def sweep_lineages(spec: SweepSpec, datasets: Sequence[ResolvedDataset]) -> tuple[Lineage, ...]:
    """The lineages of a sweep, one a cell; `datasets` are those of `spec.datasets`, in order.

    Raises PlanError when a lineage could not run: rewinding past the end of training, a scope or
    a held-out part it does not have, more scoring examples than there are, an ablation that means
    nothing; when two are the same, or there are too many iterations.
    """
    _check_rows(spec)
    _check_cells(spec, datasets)
    _check_ablations(spec, datasets)
    _check_scope(spec)
    _check_stops(spec)
    _check_rank(spec)
    by_config = {dataset.config: dataset.identity for dataset in datasets}
    trunks: dict[tuple[Any, ...], str] = {}
    methods: dict[tuple[Any, ...], tuple[tuple[Step, ...], str]] = {}
    known: dict[tuple[str, ...], Cell] = {}
    lineages = []
    for cell in cells(spec):
        identity = by_config[cell.dataset]
        trunk_of = (id(cell.dataset), id(cell.model), id(cell.train), cell.seed)
        if trunk_of not in trunks:
            trunks[trunk_of] = trunk_key(trunk_config(cell, identity))
        method_of = (id(cell.method), id(cell.prune))
        if method_of not in methods:
            method, prune = cell.method, cell.prune
            methods[method_of] = method.steps(prune), method.identity(prune)
        trunk, (steps, adds) = trunks[trunk_of], methods[method_of]
        what, elsewhere = (trunk, adds), None
        if cell.ablation is not None:
            there = cell.ablation.elsewhere
            elsewhere = None if there is None else by_config[there]
            with _ablation_mistakes(spec, cell):
                steps, adds = ablated(cell, steps, adds, elsewhere)
        keys = lineage_keys(trunk, steps)
        if cell.ablation is not None:
            # Where it branches off may be said in two ways.
            what = (*what, keys[-1])
        if (first := known.setdefault(what, cell)) is not cell:
            raise _same_twice(spec, first, cell)
        id_ = lineage_id(cell, trunk, adds)
        # What an ablation branches off is measured where it is trained.
        measures = spec.measures if cell.ablation is None else ()
        measured = lineage_measurements(measures, steps, keys)
        lineages.append(Lineage(id_, cell, identity, trunk, steps, keys, elsewhere, measured))
    _check_measures(spec, lineages)
    _check_rung(spec, lineages)
    return tuple(lineages)


def make_plan(
    lineages: Sequence[Lineage],
    files_of: FilesOf,
    leaving: Collection[str] = (),
    rank: Mapping[str, int] = MappingProxyType({}),
    ends: Mapping[str, End] = MappingProxyType({}),
    rung: Rung | None = None,
) -> Plan:
    """Divide the missing iterations among the lineages, each to the first that needs it, the most
    urgent first by their `rank`; but train nothing for those whose ids are in `leaving`, and of
    those that have come to one of the `ends` nothing behind that.

    `files_of(key)` are the files of an iteration's commit, None when it is not stored.
    """
    owner: dict[str, int] = {}
    tasks, left = [], []
    so_far = [until(lineage, ends.get(lineage.id)) for lineage in lineages]
    to_measure: set[str] = set()
    urgent_first = sorted(
        enumerate(so_far), key=lambda numbered: rank.get(numbered[1].id, len(rank))
    )
    for number, lineage in urgent_first:
        missing = missing_iterations(lineage, files_of)
        unmeasured = missing_measurements(lineage, files_of)
        if not (missing or unmeasured):
            continue
        if lineage.id in leaving:
            left.append(lineage)
            continue
        to_measure.update(each.key for each in unmeasured)
        keys = (lineage.keys[t] for t in missing)
        others = [key for key in keys if owner.setdefault(key, number) != number]
        first = missing[0] if missing else len(lineage.keys)
        tasks.append(Task(lineage, first, others[-1] if others else None))
    every = {key for lineage in so_far for key in lineage.keys}
    not_trained = {key for lineage in left for key in lineage.keys if files_of(key) is None}
    return Plan(
        lineages=tuple(lineages),
        tasks=tuple(tasks),
        to_train=frozenset(owner),
        stored=len(every) - len(owner) - len(not_trained - owner.keys()),
        left=tuple(lineage.id for lineage in left),
        leaving=frozenset(leaving),
        shared=sum(len(lineage.own_keys) for lineage in so_far) - len(every),
        ends=ends,
        rung=rung,
        to_measure=frozenset(to_measure),
    )


def wanted_snapshots(lineages: Iterable[Lineage]) -> dict[str, frozenset[int]]:
    """For each trunk key, the steps whose weights its lineages rewind to, or are measured from."""
    steps: dict[str, set[int]] = {}
    for lineage in lineages:
        method = lineage.cell.method
        step = method.rewind_step if method.rewinds == "weights" else 0
        for trunk in {lineage.trunk, lineage.keys[0]}:
            steps.setdefault(trunk, set()).add(step)
        for each in lineage.measurements:
            trunk = lineage.trunk_on(lineage.steps[each.index].inputs)
            steps.setdefault(trunk, set()).update(each.measure.snapshots)
    return {trunk: frozenset(found) for trunk, found in steps.items()}


def branch_points(lineages: Iterable[Lineage]) -> frozenset[str]:
    """The keys that lineages go on from in different ways, or whose weights ablations read."""
    children: dict[str, set[str]] = {}
    read: set[str] = set()
    for lineage in lineages:
        for parent, child in pairwise(lineage.keys):
            children.setdefault(parent, set()).add(child)
        if lineage.cell.ablation is not None:
            at = lineage.weights_read(lineage.first_own)
            read |= {lineage.keys[index] for index in at}
    return frozenset(read | {parent for parent, found in children.items() if len(found) > 1})


def training_group(config: Mapping[str, Any]) -> str:
    """What lineages whose iterations take about the same time share: data, model and recipe.

    `config` is a lineage's `config()`.
    """
    return canonical_json({name: config[name] for name in ("dataset", "model", "train")})


def training_groups(tasks: Iterable[Task]) -> Iterator[tuple[Task, str]]:
    """Each task with its training group; most have one in common, and it takes a while to make."""
    known: dict[tuple[int, ...], str] = {}
    for task in tasks:
        cell = task.lineage.cell
        same = id(task.lineage.dataset), id(cell.model), id(cell.train)
        if same not in known:
            known[same] = training_group(task.lineage.config())
        yield task, known[same]


def estimate_seconds(plan: Plan, recorded: Mapping[str, float], concurrency: int) -> float | None:
    """Wall-clock seconds for `plan` with `concurrency` lineages at a time.

    `recorded` maps training groups to the mean seconds of an iteration; None when a group that has
    to be trained is not among them.
    """
    total, longest = 0.0, 0.0
    counted: set[str] = set()
    for task, group in training_groups(plan.tasks):
        # In trainings: those of copies take about as long as those of iterations.
        needed = {key: 1 for key in task.lineage.keys if key in plan.to_train} | {
            each.key: each.measure.trainings
            for each in task.lineage.measurements
            if each.key in plan.to_measure
        }
        mine = [key for key in needed if key not in counted]
        counted.update(mine)
        seconds = recorded.get(group)
        if seconds is None:
            return None
        total += seconds * sum(needed[key] for key in mine)
        longest = max(longest, seconds * sum(needed.values()))
    return max(total / concurrency, longest)


def commit_bytes(
    plan: Plan,
    datasets: Sequence[ResolvedDataset],
    keep_weights: str,
    models: Sequence[Model] = (),
) -> int:
    """About how many bytes the commits to come will hold; `models` are those of the sweep.

    Raises PlanError when a model cannot take a dataset's images, or is too large.
    """
    shapes = {canonical_json(found.identity): found.info for found in datasets}
    sizes: dict[tuple[str, Any], tuple[int, int]] = {}
    files: set[str] = set()
    total = 0
    counted: set[str] = set()
    trunks: set[str] = set()
    for task in plan.tasks:
        lineage = task.lineage
        about = canonical_json(lineage.dataset)
        model = lineage.cell.model
        if (about, model) not in sizes:
            field = ("model", models.index(model)) if model in models else ("model",)
            sizes[about, model] = _model_bytes(model, shapes[about], field)
        weights, mask = sizes[about, model]
        new = [key for key in lineage.keys if key in plan.to_train and key not in counted]
        counted.update(new)
        kept = len(new) if keep_weights == "all" else min(len(new), 2)
        # A trunk leaves w_init beside its own weights.
        snapshots = 1 if new and lineage.trunk not in trunks else 0
        trunks.add(lineage.trunk)
        if model.initial_weights not in (None, *files):
            snapshots += 1  # they are kept once more, as they are in the file
            files.add(model.initial_weights)
        total += (kept + snapshots) * weights + len(new) * (mask + TABLE_BYTES)
    return total + len(plan.to_measure) * TABLE_BYTES


def _model_bytes(config: Model, info: DatasetInfo, field: tuple[str | int, ...]) -> tuple[int, int]:
    """The bytes of a model's weights and of its mask."""
    try:
        model = blueprint(config, info.shape, info.classes)
        if config.plugin is not None:
            check_model(config, model, info.shape, info.classes)
    except ValueError as error:
        raise PlanError(str(error), field) from error
    count = sum(tensor.numel() for tensor in model.state_dict().values())
    if count > MAX_WEIGHTS:
        raise PlanError(
            f"{config.name} has {count:,} weights for {'x'.join(map(str, info.shape))} images, and "
            f"at most {MAX_WEIGHTS:,} are allowed; choose a smaller one",
            field,
        )
    weights = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    return weights, sum(w.numel() for w in prunable(model).values()) // 8


def _same_twice(spec: SweepSpec, first: Cell, second: Cell) -> PlanError:
    """Two cells that differ as written, and whose results are the same by all that decides them."""
    values = zip(first.configs, second.configs, strict=True)
    names = ("dataset", "model", "train", "prune", "methods", "ablations")
    sections = zip(names, values, strict=False)
    name, (one, other) = next(pair for pair in sections if pair[1][0] is not pair[1][1])
    why = "the content of its files is equal; " if name in ("dataset", "model") else ""
    numbers = [getattr(spec, name).index(value) for value in (one, other)]
    return PlanError(f"{why}remove one", (name, numbers[1]), (name, numbers[0]))


def _check_rows(spec: SweepSpec) -> None:
    lengths: dict[tuple[int, int], int] = {}
    rows = 0
    for cell in cells(spec):
        of = (id(cell.method), id(cell.prune))
        if of not in lengths:
            lengths[of] = len(cell.method.steps(cell.prune))
        rows += lengths[of]
        if rows > MAX_ROWS:
            raise PlanError(
                f"the lineages have more than {MAX_ROWS:,} iterations together; shorten "
                "prune.iterations or axes, or divide the sweep",
                ("methods", spec.methods.index(cell.method)),
            )


def _check_ablations(spec: SweepSpec, datasets: Sequence[ResolvedDataset]) -> None:
    ends = {"prune.stop": any(prune.stop for prune in spec.prune),
            "budget.rank": spec.budget is not None and spec.budget.rank is not None}  # fmt: skip
    for what, may_end in ends.items():
        if spec.ablations and may_end:
            raise PlanError(
                f"ablations branch off iterations that {what} may leave untrained; put them in a "
                "sweep of their own on this storage, which trains nothing again, or remove one",
                ("ablations",),
            )
    info = {dataset.config: dataset.info for dataset in datasets}
    distinct = {(cell.dataset, cell.train, cell.method, cell.ablation) for cell in cells(spec)}
    for dataset, recipe, method, ablation in distinct:
        if ablation is None:
            continue
        field = ("ablations", spec.ablations.index(ablation))
        where = ablation.elsewhere or dataset
        _require_holdout(recipe, where, field)
        steps, step = recipe_steps(recipe, info[where]), ablation.first_step(method.rewind_step)
        _require_before_end(step, steps, recipe, where, field)


@contextmanager
def _ablation_mistakes(spec: SweepSpec, cell: Cell) -> Iterator[None]:
    """Makes an ablation that means nothing for its cell a PlanError."""
    try:
        yield
    except ValueError as error:
        ablation = cell.ablation
        assert ablation is not None
        at = "" if ablation.at is None else f", ablation.at: {ablation.at}"
        seed = f", seed: {cell.seed}" if ablation.name == "transport" else ""
        where = f"{{method: {cell.method.name}, ablation: {ablation.name}{at}{seed}}}"
        raise PlanError(
            f"{ablation.name} of {cell.method.name}: {error}; correct it, or exclude it there: "
            f"exclude: [{where}]",
            ("ablations", spec.ablations.index(ablation)),
        ) from error


def recipe_steps(recipe: Recipe, info: DatasetInfo) -> int:
    """The number of training steps of one run."""
    return recipe.epochs * steps_per_epoch(info.train_examples, recipe.batch_size)


def _check_scope(spec: SweepSpec) -> None:
    for cell in cells(spec):
        method, scope = cell.method, cell.prune.scope
        if method.needs_global_scope and scope != "global":
            raise PlanError(
                f"{method.name} decides itself which weights compete, so it has no scope "
                f"{scope}; exclude it there: exclude: [{{method: {method.name}, scope: {scope}}}]",
                ("methods", spec.methods.index(cell.method)),
            )


def _check_stops(spec: SweepSpec) -> None:
    for dataset, prune in {(cell.dataset, cell.prune) for cell in cells(spec)}:
        for number, rule in enumerate(prune.stop):
            if rule.measure == "validation_accuracy" and dataset.holdout == 0:
                raise PlanError(
                    f"{rule.name} of validation needs a held-out part of {dataset.name}; set "
                    "dataset.holdout, or of: test",
                    ("prune", spec.prune.index(prune), "stop", number),
                )


def _check_rank(spec: SweepSpec) -> None:
    rank = spec.budget and spec.budget.rank
    if rank is None:
        return
    without = [dataset.name for dataset in spec.dataset if dataset.holdout == 0]
    if rank.by == "validation_accuracy" and without:
        raise PlanError(
            f"validation_accuracy needs a held-out part of {without[0]}; set dataset.holdout, or "
            "by: test_accuracy",
            ("budget", "rank", "by"),
        )
    if spec.store.keep_weights == "none":
        raise PlanError(
            "lineages go on from the weights that they have at a rung, which keep_weights: none "
            "does not keep; set store.keep_weights: last",
            ("budget", "rank"),
        )


def _check_rung(spec: SweepSpec, lineages: Sequence[Lineage]) -> None:
    rank = spec.budget and spec.budget.rank
    last = max(step.iteration for lineage in lineages for step in lineage.steps)
    if rank is not None and rank.after_iterations >= last:
        raise PlanError(
            f"after iteration {rank.after_iterations} nothing goes on, since the last one is "
            f"{last}; choose an earlier one",
            ("budget", "rank", "after_iterations"),
        )


def _check_measures(spec: SweepSpec, lineages: Sequence[Lineage]) -> None:
    if spec.measures and spec.budget is not None and spec.budget.limits:
        raise PlanError(
            "measures are made once a lineage is trained, which a spent budget does not come to; "
            "train it first, and then measure without the limits of the budget",
            ("measures",),
        )
    chains = {line.steps for line in lineages if line.cell.ablation is None}
    for number, measure in enumerate(spec.measures):
        if not any(measure.measures(steps, i) for steps in chains for i in range(len(steps))):
            raise PlanError(
                f"{measure.name} measures no iteration of any lineage; correct its iterations, or "
                "remove it",
                ("measures", number),
            )


def _check_cells(spec: SweepSpec, datasets: Sequence[ResolvedDataset]) -> None:
    info = {dataset.config: dataset.info for dataset in datasets}
    # Many cells differ in seed or scope only.
    distinct = {(cell.dataset, cell.train, cell.method) for cell in cells(spec)}
    for dataset, recipe, method in distinct:
        number = spec.methods.index(method)
        steps, step = recipe_steps(recipe, info[dataset]), method.rewind_step
        _require_before_end(step, steps, recipe, dataset, ("methods", number, "rewind", "step"))
        try:
            method.require_time(recipe, steps)
        except Unfit as error:
            raise PlanError(str(error), ("methods", number, error.option)) from error
        for at, measure in enumerate(spec.measures):
            try:
                measure.require_fit(steps, info[dataset].train_examples)
            except Unfit as error:
                message = f"{dataset.name}: {error}"
                raise PlanError(message, ("measures", at, error.option)) from error
        examples, available = method.real_examples, info[dataset].train_examples
        if examples > available:
            raise PlanError(
                f"examples: {examples} is more than the {available} training examples of "
                f"{dataset.name}; choose at most {available}",
                ("methods", number, "examples"),
            )
        _require_holdout(recipe, dataset, ("train", spec.train.index(recipe), "keep"))


Field = tuple[str | int, ...]


def _require_before_end(
    step: int, steps: int, recipe: Recipe, dataset: DatasetOptions, field: Field
) -> None:
    if step >= steps:
        raise PlanError(
            f"step {step} is past the end of training: {recipe.epochs} epochs of "
            f"{dataset.name} are {steps} steps; choose a step up to {steps - 1}",
            field,
        )


def _require_holdout(recipe: Recipe, dataset: DatasetOptions, field: Field) -> None:
    if recipe.keep == "best_validation" and dataset.holdout == 0:
        raise PlanError(
            f"keep: best_validation needs a held-out part of {dataset.name}; "
            "set dataset.holdout, or keep: last",
            field,
        )
