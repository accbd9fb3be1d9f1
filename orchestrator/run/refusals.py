"""Refusals: what of a sweep could not run, or would mean nothing, said with its field. Pure."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from orchestrator.errors import PlanError
from orchestrator.run.datasets import ResolvedDataset
from orchestrator.run.ranking import candidates
from orchestrator.sweepfile.spec import SweepSpec, cells
from trainables.data import DatasetInfo, DatasetOptions
from trainables.lineage.keys import Cell, Lineage
from trainables.lineage.pairs import compared, count_compared
from trainables.training.augmentation import Unfit
from trainables.training.batches import steps_per_epoch
from trainables.training.recipe import Recipe

MAX_ROWS = 10_000_000
"""Iterations of all lineages of a sweep: more would take minutes and many gigabytes to plan."""
MAX_PAIRS = 1_000_000
"""Of tickets that a measure compares, for the same reason."""

Field = tuple[str | int, ...]


def check_cells(spec: SweepSpec, datasets: Sequence[ResolvedDataset]) -> None:
    """Raise PlanError when a cell could not run: rewinding past the end of training, a scope or
    a held-out part it does not have, more scoring examples than there are; or when there are too
    many iterations."""
    _check_rows(spec)
    _check_recipes(spec, datasets)
    _check_ablations(spec, datasets)
    _check_scope(spec)
    _check_stops(spec)
    _check_rank(spec)


def check_lineages(spec: SweepSpec, lineages: Sequence[Lineage]) -> None:
    """Raise PlanError when something of the sweep concerns none of its lineages."""
    _check_measures(spec, lineages)
    _check_pairs(spec, lineages)
    _check_rung(spec, lineages)


def same_twice(spec: SweepSpec, first: Cell, second: Cell) -> PlanError:
    """Two cells that differ as written, and whose results are the same by all that decides them."""
    values = zip(first.configs, second.configs, strict=True)
    names = ("dataset", "model", "train", "prune", "methods", "ablations")
    sections = zip(names, values, strict=False)
    name, (one, other) = next(pair for pair in sections if pair[1][0] is not pair[1][1])
    told = "remove one"
    if name in ("dataset", "model"):
        told = f"the content of its files is equal; {told}"
    elif name == "prune" and first.prune.stop != second.prune.stop:
        told = (
            "stop rules are no part of what a lineage is, so no axis; put others into a sweep of "
            "their own on this storage, which trains nothing twice"
        )
    elif name == "prune":
        key = next(n for n in type(one).model_fields if getattr(one, n) != getattr(other, n))
        method, value = first.method.name, json.dumps(getattr(other, key))
        told = (
            f"for {method}, which has no use for it; exclude one there: "
            f"exclude: [{{method: {method}, prune.{key}: {value}}}]"
        )
    numbers = [getattr(spec, name).index(value) for value in (one, other)]
    return PlanError(told, (name, numbers[1]), (name, numbers[0]))


@contextmanager
def ablation_mistakes(spec: SweepSpec, cell: Cell) -> Iterator[None]:
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


def _check_recipes(spec: SweepSpec, datasets: Sequence[ResolvedDataset]) -> None:
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
        own = ("step",) if "step" in type(ablation).model_fields else ()
        _require_before_end(step, steps, recipe, where, (*field, *own))


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
            advice = "correct its iterations"
            if measure.iterations is None:
                advice = "give a method that has some which it can measure"
            raise PlanError(
                f"{measure.name} measures no iteration of any lineage; {advice}, or remove it",
                ("measures", number),
            )


def _check_pairs(spec: SweepSpec, lineages: Sequence[Lineage]) -> None:
    for number, measure in enumerate(spec.measures):
        if (pairs := count_compared(lineages, measure)) > MAX_PAIRS:
            raise PlanError(
                f"{measure.name} would compare {pairs:,} pairs of tickets, more than "
                f"{MAX_PAIRS:,}; give fewer {measure.across}s, or the measure fewer iterations: "
                "iterations: [0, 5]",
                ("measures", number),
            )
        if measure.across is not None and next(compared(lineages, measure), None) is None:
            raise PlanError(
                f"{measure.name} compares lineages that differ in the {measure.across} alone, at "
                "equal densities or iterations, and there are no two; give another "
                f"{measure.across}, or remove it",
                ("measures", number),
            )


def _check_rung(spec: SweepSpec, lineages: Sequence[Lineage]) -> None:
    rank = spec.budget and spec.budget.rank
    if rank is None:
        return
    last = max(step.iteration for lineage in lineages for step in lineage.steps)
    if rank.after_iterations >= last:
        raise PlanError(
            f"after iteration {rank.after_iterations} nothing goes on, since the last one is "
            f"{last}; choose an earlier one",
            ("budget", "rank", "after_iterations"),
        )
    if len(candidates(lineages, {}, rank.after_iterations)) < 2:
        raise PlanError(
            f"one cell alone goes on after iteration {rank.after_iterations}, with nothing to be "
            "compared with: seeds are of one cell, and methods that are done by then are none; "
            "give another cell, or leave out rank",
            ("budget", "rank"),
        )


def recipe_steps(recipe: Recipe, info: DatasetInfo) -> int:
    """The number of training steps of one run."""
    size, accumulate = recipe.batch_size, recipe.accumulate
    return recipe.epochs * steps_per_epoch(info.train_examples, size, accumulate)


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
