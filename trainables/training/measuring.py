"""Measuring: what a few training steps of a model take."""

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from trainables.models import Model, build_model, prunable
from trainables.sparsity.masks import dense_masks
from trainables.training.batches import DeviceData, Examples, Randomness, steps_per_epoch
from trainables.training.evaluation import EVALUATION_BATCH, evaluate
from trainables.training.execution import PLAIN, Execution
from trainables.training.precision import laid_out
from trainables.training.recipe import Recipe
from trainables.training.run import Training, train
from trainables.training.timing import Timing

FEW, MANY = 4, 12
"""Steps of the two trainings whose difference is timed: what is done once does not count."""
TURNS = 3
"""Of each, the fastest counts: what else the machine does slows some down."""
LONG_SECONDS = 10.0
"""A training that takes longer is timed in one turn."""
HARMLESS_RATE = 1e-6
"""A learning rate with which nothing diverges; steps take the same time with any."""


def measure(
    config: Model, data: DeviceData, recipe: Recipe, execution: Execution = PLAIN, fused: int = 1
) -> Timing:
    """Train `fused` networks of `config` for some dozen steps, with masks, and time it.

    Raises Unfusible as `train` does, and what the device raises when its memory is too small.
    """
    device = data.train.labels.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    trained = partial(_trained, config, data, recipe, execution, fused)
    # The first steps of all choose algorithms and fill caches.
    trained(FEW)
    few, few_seconds = trained(FEW)
    many, many_seconds = trained(MANY)
    for _ in range(TURNS - 1 if many_seconds < LONG_SECONDS else 0):
        few_seconds = min(few_seconds, trained(FEW)[1])
        many_seconds = min(many_seconds, trained(MANY)[1])
    step = (many_seconds - few_seconds) / (many - few)
    if step <= 0:  # the machine was busy with something else
        step = many_seconds / many
    model = laid_out(build_model(config, data.shape, data.classes, 0), recipe.precision, device)
    some = _first(data.test, EVALUATION_BATCH)
    evaluation = _seconds(
        device, lambda: evaluate(model, some, recipe.loss, recipe.precision)
    ) / len(some)
    return Timing(step / fused, evaluation, _peak(device))


def _trained(
    config: Model, data: DeviceData, recipe: Recipe, execution: Execution, fused: int, steps: int
) -> tuple[int, float]:
    """How many steps were taken, at least `steps`, and the seconds."""
    size, accumulate = recipe.batch_size, recipe.accumulate
    train_part = _first(data.train, steps * size * accumulate)
    part = replace(data, train=train_part, test=_first(data.test, 1), validation=None)
    an_epoch = steps_per_epoch(len(train_part), size, accumulate)
    epochs = -(-steps // an_epoch)
    optimizer = recipe.optimizer.model_copy(update={"lr": HARMLESS_RATE})
    short = recipe.model_copy(update={"epochs": epochs, "keep": "last", "optimizer": optimizer})
    device = data.train.labels.device
    trainings = []
    for seed in range(fused):
        model = build_model(config, data.shape, data.classes, seed)
        model = laid_out(model, recipe.precision, device)
        masks = dense_masks(prunable(model))
        trainings.append(
            Training(
                model, masks, part, short, Randomness(seed, 0),
                architecture=config, execution=execution,
            )
        )  # fmt: skip
    return epochs * an_epoch, _seconds(device, lambda: train(trainings))


def _first(examples: Examples, count: int) -> Examples:
    return replace(examples, images=examples.images[:count], labels=examples.labels[:count])


def _seconds(device: torch.device, work: Callable[[], object]) -> float:
    before = _now(device)
    work()
    return _now(device) - before


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes elsewhere
