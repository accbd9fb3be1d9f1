"""Fitting: whether what a sweep puts together can be trained, as far as that shows before it is."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from orchestrator.errors import PlanError
from orchestrator.run.datasets import ResolvedDataset
from orchestrator.run.refusals import recipe_steps
from orchestrator.sweepfile.spec import SweepSpec, cells
from trainables.data import DatasetInfo, DatasetOptions
from trainables.lazy_torch import torch
from trainables.models import Model, blueprint, build_model, prunable
from trainables.models.weights import read_weights, require_fit
from trainables.plugins.entry import Entry, PluginError
from trainables.pruning import Method
from trainables.pruning.ablation import Ablation
from trainables.training.augmentation import Unfit
from trainables.training.batches import smallest_batch
from trainables.training.recipe import Recipe


def check_fit(spec: SweepSpec, datasets: Sequence[ResolvedDataset]) -> None:
    """Raise PlanError when a recipe cannot train on a dataset, a model on a recipe's batches,
    or when a method cannot prune a model."""
    info = {dataset.config: dataset.info for dataset in datasets}
    every = [*cells(spec)]
    distinct = dict.fromkeys((cell.dataset, cell.model, cell.train) for cell in every)
    for cell in every:
        there = cell.ablation and cell.ablation.elsewhere
        if there is not None:
            distinct[there, cell.model, cell.train] = None
    for dataset, model, ablation in {(c.dataset, c.model, c.ablation) for c in every}:
        if ablation is not None and ablation.elsewhere is not None:
            field = ("ablations", spec.ablations.index(ablation))
            _check_shapes(model, dataset, ablation.elsewhere, info, field)
    for model in spec.model:
        used = dict.fromkeys(dataset for dataset, other, _ in distinct if other is model)
        _check_initial_weights(spec, model, [info[dataset] for dataset in used])
    for dataset, model, ablation in {(c.dataset, c.model, c.ablation) for c in every}:
        if ablation is not None:
            _check_drawn(spec, ablation, model, info[ablation.elsewhere or dataset])
    for dataset, recipe in dict.fromkeys((dataset, recipe) for dataset, _, recipe in distinct):
        _check_recipe(recipe, info[dataset], dataset.name, ("train", spec.train.index(recipe)))
    pruned = dict.fromkeys((cell.dataset, cell.model, cell.method) for cell in cells(spec))
    for dataset, model, method in pruned:
        _check_method(spec, method, model, info[dataset])
    for dataset, model in dict.fromkeys((cell.dataset, cell.model) for cell in every):
        _check_measures(spec, model, info[dataset])
    for dataset, model, recipe in distinct:
        field = ("train", spec.train.index(recipe))
        _check_batches(spec, model, recipe, dataset, info[dataset])
        if _is_plugged(recipe.optimizer):
            with _mistakes(recipe.optimizer, (*field, "optimizer")):
                built = blueprint(model, info[dataset].shape, info[dataset].classes)
                recipe.optimizer.over([*built.parameters()])


Field = tuple[str | int, ...]


def _check_shapes(
    model: Model,
    dataset: DatasetOptions,
    there: DatasetOptions,
    info: Mapping[DatasetOptions, DatasetInfo],
    field: Field,
) -> None:
    """Masks of the model on `dataset` have to fit it on the one that an ablation takes them to."""
    try:
        one, other = (_shapes(model, info[each]) for each in (dataset, there))
    except ValueError as error:
        raise PlanError(str(error), field) from error
    for layer, shape in one.items():
        if shape != other.get(layer):
            raise PlanError(
                f"a mask of {model.name} on {dataset.name} does not fit it on {there.name}: "
                f"{layer} is {_times(shape)} on the one and {_times(other.get(layer, ()))} on the "
                "other; choose a dataset whose images and classes give the same shapes, or exclude "
                "it there",
                field,
            )


def _shapes(model: Model, info: DatasetInfo) -> dict[str, tuple[int, ...]]:
    built = blueprint(model, info.shape, info.classes)
    return {name: tuple(weight.shape) for name, weight in prunable(built).items()}


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "not there"


def _check_initial_weights(spec: SweepSpec, model: Model, on: Sequence[DatasetInfo]) -> None:
    """The weights in a file have to be those of the model on each dataset."""
    file = model.initial_weights
    if file is None:
        return
    try:
        found = read_weights(file) if on else {}
        for info in on:
            require_fit(file, found, blueprint(model, info.shape, info.classes), model.name)
    except ValueError as error:
        field = ("model", spec.model.index(model), "initial_weights")
        raise PlanError(str(error), field) from error


def _check_drawn(spec: SweepSpec, ablation: Ablation, model: Model, info: DatasetInfo) -> None:
    """An ablation that draws initial weights anew needs a model whose weights are drawn: one of a
    plug-in may bring its own."""
    drawn_anew = any(ablation.initial_seed(s) != ablation.training_seed(s) for s in spec.seeds)
    if not drawn_anew or not _is_plugged(model):
        return
    one, other = (prunable(build_model(model, info.shape, info.classes, seed)) for seed in (0, 1))
    if all(torch.equal(weight, other[name]) for name, weight in one.items()):
        raise PlanError(
            f"{ablation.name} draws initial weights anew, and {model.name} ({model.where()}) makes "
            "the same for every seed; exclude it there: "
            f"exclude: [{{model: {model.name}, ablation: {ablation.name}}}]",
            ("ablations", spec.ablations.index(ablation)),
        )


def _check_recipe(recipe: Recipe, info: DatasetInfo, dataset: str, field: Field) -> None:
    augment, loss, schedule = recipe.augment, recipe.loss, recipe.lr_schedule
    try:
        augment.require_fit(info.shape)
    except Unfit as error:
        at = (*field, "augment", error.option)
        raise PlanError(f"{dataset}: {error}", at) from error
    _check_cutout(recipe, info.shape, dataset, field)
    steps = recipe_steps(recipe, info)
    try:
        by_step = recipe.lr_interval == "step"
        schedule.require_fit(steps if by_step else recipe.epochs, recipe.lr_interval)
    except Unfit as error:
        raise PlanError(str(error), (*field, "lr_schedule", error.option)) from error
    _check_warmup(recipe, steps, dataset, field)
    if _is_plugged(augment):
        with _mistakes(augment, (*field, "augment")):
            images = torch.zeros(2, *info.shape, dtype=torch.uint8)
            epoch = augment.epoch(2, torch.Generator().manual_seed(0), torch.device("cpu"))
            epoch(images, torch.arange(2), 0)
    if _is_plugged(loss):
        with _mistakes(loss, (*field, "loss")):
            loss.mean(torch.zeros(2, info.classes), torch.zeros(2, dtype=torch.int64))
    if _is_plugged(schedule):
        with _mistakes(schedule, (*field, "lr_schedule")):
            an_epoch = steps // recipe.epochs
            for epoch, step in ((0, 0), (recipe.epochs - 1, an_epoch - 1)):
                recipe.rate(epoch, step, an_epoch)


def _check_cutout(recipe: Recipe, shape: tuple[int, int, int], dataset: str, field: Field) -> None:
    _, height, width = shape
    if recipe.cutout > min(height, width):
        raise PlanError(
            f"{dataset}: a square of {recipe.cutout} pixels is larger than {height}x{width} "
            f"images; choose at most {min(height, width)}",
            (*field, "cutout"),
        )


def _check_warmup(recipe: Recipe, steps: int, dataset: str, field: Field) -> None:
    """The learning rate has to be reached before the last epoch, or step, of all."""
    for name, most, what in (
        ("warmup_epochs", recipe.epochs, "epochs"),
        ("warmup_steps", steps, f"steps on {dataset}"),
    ):
        if getattr(recipe, name) >= most:
            raise PlanError(
                f"the training is {most} {what}, all of which would be warmup; choose at most "
                f"{most - 1}, or train longer",
                (*field, name),
            )


def _check_method(spec: SweepSpec, method: Method, model: Model, info: DatasetInfo) -> None:
    try:
        method.require_fit(lambda: prunable(blueprint(model, info.shape, info.classes)))
    except Unfit as error:
        at = ("methods", spec.methods.index(method), error.option)
        raise PlanError(f"{model.name}: {error}", at) from error


def _check_measures(spec: SweepSpec, model: Model, info: DatasetInfo) -> None:
    if not spec.measures:
        return
    built = blueprint(model, info.shape, info.classes)
    weights = sum(each.numel() for each in built.parameters())
    for number, measure in enumerate(spec.measures):
        try:
            measure.require_network(weights)
        except Unfit as error:
            at = ("measures", number, error.option)
            raise PlanError(f"{model.name}: {error}", at) from error


def _check_batches(
    spec: SweepSpec, model: Model, recipe: Recipe, dataset: DatasetOptions, info: DatasetInfo
) -> None:
    """A batch of one example is what BatchNorm cannot take where images have become one pixel."""
    if smallest_batch(info.train_examples, recipe.batch_size) > 1:
        return
    built = blueprint(model, info.shape, info.classes)
    device = next(built.parameters()).device
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            built.train()(torch.zeros(1, *info.shape, device=device))
    except Exception as error:  # whatever a network raises
        field: Field = ("train", spec.train.index(recipe), "batch_size")
        advice = "choose a larger batch_size"
        if info.train_examples == 1:
            field = (*spec.datasets[dataset], "subset")
            advice = "choose a larger subset"
        raise PlanError(
            f"{model.name} cannot be trained on a batch of one image of {dataset.name} "
            f"({_first_line(error)}); {advice}",
            field,
        ) from error


def _is_plugged(entry: Entry) -> bool:
    return entry.plugged_code is not None


@contextmanager
def _mistakes(entry: Entry, field: Field) -> Iterator[None]:
    """Makes whatever a plugged-in entry raises when it is tried a PlanError."""
    try:
        yield
    except PluginError as error:
        raise PlanError(str(error), field) from error
    except Exception as error:
        raise PlanError(
            f"{entry.where()}: the {entry.kind.name} {entry.name} cannot be used: "
            f"{type(error).__name__}: {_first_line(error)}",
            field,
        ) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "no reason given")
