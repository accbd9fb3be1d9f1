"""One training run, and evaluation, on data that stays on the device."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.errors import Hopeless
from trainables.measures.masks import Masks, apply_masks
from trainables.training.batches import (
    DeviceData,
    Examples,
    Inputs,
    Randomness,
    batches,
    steps_per_epoch,
)
from trainables.training.recipe import Adam, Recipe, learning_rate

EVALUATION_BATCH = 1000

State = dict[str, Tensor]
Row = dict[str, Any]


class Diverged(Hopeless):
    """The training or the test loss is no longer a finite number."""


@dataclass
class Progress:
    """How far a run has come: what an epoch checkpoint holds besides the optimizer's state."""

    epoch: int = 0
    rows: list[Row] = field(default_factory=list)
    seconds: float = 0.0
    best: State | None = None


class Checkpoint(Protocol):
    """Where a run keeps its state between epochs."""

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Progress | None: ...

    def save(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress
    ) -> None: ...


@dataclass(frozen=True)
class Evaluation:
    loss: float
    accuracy: float


@torch.inference_mode()
def evaluate(model: nn.Module, examples: Examples) -> Evaluation:
    """Mean cross-entropy and accuracy (0…1) over all examples, in eval mode."""
    model.eval()
    loss = torch.zeros((), dtype=torch.float64, device=examples.labels.device)
    correct = torch.zeros((), dtype=torch.int64, device=examples.labels.device)
    for start in range(0, len(examples), EVALUATION_BATCH):
        chosen = slice(start, start + EVALUATION_BATCH)
        labels = examples.labels[chosen]
        logits = model(examples.normalized(examples.images[chosen]))
        loss += F.cross_entropy(logits, labels, reduction="sum")
        correct += (logits.argmax(dim=1) == labels).sum()
    return Evaluation(loss.item() / len(examples), correct.item() / len(examples))


def train(
    model: nn.Module,
    masks: Masks | None,
    data: DeviceData,
    recipe: Recipe,
    randomness: Randomness,
    *,
    inputs: Inputs = "real",
    start_step: int = 0,
    snapshot: Callable[[int], None] | None = None,
    checkpoint: Checkpoint | None = None,
) -> Progress:
    """Train `model` in place from `start_step` to the recipe's end.

    `masks` are the kept weights (None: all), on the model's device; pruned weights are zero at the
    start and stay exactly zero. A run from step k > 0 takes the steps k…end, with their learning
    rates and their places in the data order, and a fresh optimizer. `snapshot(step)` is called
    before every step and once after the last.

    Raises Diverged when the loss of an epoch, in training or on the test set, is not finite.
    """
    optimizer = _optimizer(model, recipe)
    per_epoch = steps_per_epoch(len(data.train), recipe.batch_size)
    resumed = checkpoint.load(model, optimizer) if checkpoint else None
    progress = resumed or Progress(epoch=start_step // per_epoch)
    masked = _masked_parameters(model, masks)
    resumed_seconds, started = progress.seconds, time.perf_counter()
    while progress.epoch < recipe.epochs:
        randomness.seed_global(progress.epoch)
        first = max(start_step - progress.epoch * per_epoch, 0)
        steps = range(first, per_epoch)
        drawn = batches(data, recipe, randomness, progress.epoch, steps, inputs)
        numbered = zip((progress.epoch * per_epoch + step for step in steps), drawn, strict=True)
        row = _epoch(model, masked, data, recipe, optimizer, progress.epoch, numbered, snapshot)
        progress.rows.append(row)
        progress.epoch += 1
        _keep_best(model, recipe, progress)
        progress.seconds = resumed_seconds + time.perf_counter() - started
        if checkpoint:
            checkpoint.save(model, optimizer, progress)
    if snapshot:
        snapshot(recipe.epochs * per_epoch)
    if progress.best is not None:
        model.load_state_dict(progress.best)
    return progress


def _epoch(
    model: nn.Module,
    masked: list[tuple[nn.Parameter, Tensor]],
    data: DeviceData,
    recipe: Recipe,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    numbered: Iterator[tuple[int, tuple[Tensor, Tensor]]],
    snapshot: Callable[[int], None] | None,
) -> Row:
    rate = learning_rate(recipe.optimizer.lr, recipe.lr_schedule, epoch, recipe.epochs)
    for group in optimizer.param_groups:
        group["lr"] = rate
    device = data.train.labels.device
    loss_sum = torch.zeros((), dtype=torch.float64, device=device)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    seen = steps = 0
    parameters = list(model.parameters())
    model.train()
    for step, (images, labels) in numbered:
        if snapshot:
            snapshot(step)
        optimizer.zero_grad(set_to_none=True)
        logits = model(images)
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        for parameter, mask in masked:
            if parameter.grad is not None:
                parameter.grad.mul_(mask)
        if recipe.clip_grad_norm is not None:
            nn.utils.clip_grad_norm_(parameters, recipe.clip_grad_norm)
        optimizer.step()
        with torch.no_grad():
            loss_sum += loss * len(labels)
            correct += (logits.argmax(dim=1) == labels).sum()
        seen += len(labels)
        steps = step + 1
    train_loss = loss_sum.item() / seen
    test = evaluate(model, data.test)
    if not (math.isfinite(train_loss) and math.isfinite(test.loss)):
        raise Diverged(
            f"the training loss is {train_loss:g} and the test loss {test.loss:g} in epoch "
            f"{epoch + 1} of {recipe.epochs} (learning rate {rate:g}); try a smaller "
            "train.optimizer.lr or train.clip_grad_norm"
        )
    validation = evaluate(model, data.validation) if data.validation else None
    return {
        "epoch": epoch + 1,
        "step": steps,
        "lr": rate,
        "train_loss": train_loss,
        "train_accuracy": correct.item() / seen,
        "validation_loss": validation and validation.loss,
        "validation_accuracy": validation and validation.accuracy,
        "test_loss": test.loss,
        "test_accuracy": test.accuracy,
    }


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    settings = recipe.optimizer
    if isinstance(settings, Adam):
        return torch.optim.Adam(
            model.parameters(),
            lr=settings.lr,
            betas=(settings.beta1, settings.beta2),
            weight_decay=settings.weight_decay,
            fused=True,
        )
    return torch.optim.SGD(
        model.parameters(),
        lr=settings.lr,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def _masked_parameters(model: nn.Module, masks: Masks | None) -> list[tuple[nn.Parameter, Tensor]]:
    """Each masked parameter with its mask as 0 and 1. A zero weight with a zero gradient has zero
    momentum and zero weight decay, so masking the gradient keeps it at exactly zero."""
    if masks is None:
        return []
    apply_masks(model, masks)
    parameters = dict(model.named_parameters())
    return [
        (parameters[name], mask.to(parameters[name]))
        for name, mask in masks.items()
        if not bool(mask.all())
    ]


def _keep_best(model: nn.Module, recipe: Recipe, progress: Progress) -> None:
    if recipe.keep == "last":
        return
    measure = "test_accuracy" if recipe.keep == "best_test" else "validation_accuracy"
    *earlier, latest = [row[measure] for row in progress.rows]
    if not earlier or latest > max(earlier):
        progress.best = {name: t.clone() for name, t in model.state_dict().items()}
