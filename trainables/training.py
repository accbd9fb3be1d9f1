"""One training run, and evaluation, on data that stays on the device."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.data import Dataset, Split
from trainables.masks import Masks, apply_masks
from trainables.randomness import stream, stream_seed
from trainables.recipe import Adam, Augment, Recipe, learning_rate

EVALUATION_BATCH = 1000

State = dict[str, Tensor]
Row = dict[str, Any]


class Diverged(Exception):
    """The training loss is no longer a finite number."""


@dataclass(frozen=True)
class Examples:
    """A split on the device: `images` uint8 [N, C, H, W], `labels` int64 [N]."""

    images: Tensor
    labels: Tensor
    mean: Tensor
    std: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def normalized(self, images: Tensor) -> Tensor:
        """uint8 images as float32 with the data's mean and standard deviation taken out."""
        return images.to(torch.float32).div_(255.0).sub_(self.mean).div_(self.std)


@dataclass(frozen=True)
class DeviceData:
    """A dataset whose splits are decoded and resident on one device."""

    shape: tuple[int, int, int]
    classes: int
    train: Examples
    test: Examples
    validation: Examples | None

    @classmethod
    def of(cls, dataset: Dataset, device: torch.device) -> "DeviceData":
        channel = (1, -1, 1, 1)
        mean = torch.tensor(dataset.mean, device=device).view(channel)
        std = torch.tensor(dataset.std, device=device).view(channel)

        def examples(split: Split) -> Examples:
            images = torch.from_numpy(np.array(split.images)).to(device)
            labels = torch.from_numpy(np.array(split.labels)).to(device)
            return Examples(images, labels, mean, std)

        _, channels, height, width = dataset.train.images.shape
        return cls(
            shape=(channels, height, width),
            classes=dataset.classes,
            train=examples(dataset.train),
            test=examples(dataset.test),
            validation=examples(dataset.validation) if dataset.validation else None,
        )


@dataclass(frozen=True)
class Randomness:
    """Which streams a run draws from: those of one seed and one iteration."""

    seed: int
    iteration: int

    def generator(self, purpose: str, epoch: int) -> torch.Generator:
        return stream(self.seed, purpose, self.iteration, epoch)

    def seed_global(self, epoch: int) -> None:
        """Seed the global generators, from which layers such as dropout draw."""
        torch.manual_seed(stream_seed(self.seed, "layers", self.iteration, epoch))


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


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Training steps in an epoch. The last batch may be smaller; a last batch of one example is
    left out, since BatchNorm cannot normalize it."""
    full, rest = divmod(examples, batch_size)
    return full + (rest > 1 or full == 0)


def train(
    model: nn.Module,
    masks: Masks | None,
    data: DeviceData,
    recipe: Recipe,
    randomness: Randomness,
    *,
    start_step: int = 0,
    snapshot: Callable[[int], None] | None = None,
    checkpoint: Checkpoint | None = None,
) -> Progress:
    """Train `model` in place from `start_step` to the recipe's end.

    `masks` are the kept weights (None: all), on the model's device; pruned weights are zero at the
    start and stay exactly zero. A run from step k > 0 takes the steps k…end, with their learning
    rates and their places in the data order, and a fresh optimizer. `snapshot(step)` is called
    before every step and once after the last.

    Raises Diverged when an epoch's loss is not finite.
    """
    optimizer = _optimizer(model, recipe)
    per_epoch = steps_per_epoch(len(data.train), recipe.batch_size)
    resumed = checkpoint.load(model, optimizer) if checkpoint else None
    progress = resumed or Progress(epoch=start_step // per_epoch)
    masked = _masked_parameters(model, masks)
    resumed_seconds, started = progress.seconds, time.perf_counter()
    while progress.epoch < recipe.epochs:
        first = max(start_step - progress.epoch * per_epoch, 0)
        row = _epoch(
            model, masked, data, recipe, randomness, optimizer, progress.epoch, first, snapshot
        )
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
    randomness: Randomness,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    first_step: int,
    snapshot: Callable[[int], None] | None,
) -> Row:
    rate = learning_rate(recipe.optimizer.lr, recipe.lr_schedule, epoch, recipe.epochs)
    for group in optimizer.param_groups:
        group["lr"] = rate
    randomness.seed_global(epoch)
    device = data.train.labels.device
    per_epoch = steps_per_epoch(len(data.train), recipe.batch_size)
    loss_sum = torch.zeros((), dtype=torch.float64, device=device)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    seen = 0
    parameters = list(model.parameters())
    batches = _batches(data.train, recipe, randomness, epoch, first_step, per_epoch)
    model.train()
    for step, (images, labels) in enumerate(batches, start=first_step):
        if snapshot:
            snapshot(epoch * per_epoch + step)
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
    train_loss = loss_sum.item() / seen
    if not math.isfinite(train_loss):
        raise Diverged(
            f"the training loss is {train_loss} in epoch {epoch + 1} of {recipe.epochs} "
            f"(learning rate {rate:g}); try a smaller train.optimizer.lr or train.clip_grad_norm"
        )
    test = evaluate(model, data.test)
    validation = evaluate(model, data.validation) if data.validation else None
    return {
        "epoch": epoch + 1,
        "step": (epoch + 1) * per_epoch,
        "lr": rate,
        "train_loss": train_loss,
        "train_accuracy": correct.item() / seen,
        "validation_loss": validation and validation.loss,
        "validation_accuracy": validation and validation.accuracy,
        "test_loss": test.loss,
        "test_accuracy": test.accuracy,
    }


def _batches(
    examples: Examples,
    recipe: Recipe,
    randomness: Randomness,
    epoch: int,
    first_step: int,
    per_epoch: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    device = examples.labels.device
    order = torch.randperm(len(examples), generator=randomness.generator("order", epoch))
    order = order.to(device)
    augmentation = _draw(recipe.augment, len(examples), randomness.generator("augment", epoch))
    augmentation = {name: drawn.to(device) for name, drawn in augmentation.items()}
    for step in range(first_step, per_epoch):
        chosen = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
        images = examples.images.index_select(0, chosen)
        drawn = {name: values.index_select(0, chosen) for name, values in augmentation.items()}
        images = augmented(images, recipe.augment, drawn)
        yield examples.normalized(images), examples.labels.index_select(0, chosen)


def _draw(augment: Augment, count: int, generator: torch.Generator) -> dict[str, Tensor]:
    drawn: dict[str, Tensor] = {}
    if augment.horizontal_flip:
        drawn["flip"] = torch.rand(count, generator=generator) < 0.5
    if augment.crop_padding:
        span = 2 * augment.crop_padding + 1
        drawn["offset"] = torch.randint(span, (count, 2), generator=generator)
    return drawn


def augmented(images: Tensor, augment: Augment, drawn: dict[str, Tensor]) -> Tensor:
    """A batch of uint8 images [B, C, H, W] flipped where `drawn["flip"]` [B] says so and cropped
    at `drawn["offset"]` [B, 2] (rows, columns) of the padded image."""
    if augment.horizontal_flip:
        images = torch.where(drawn["flip"].view(-1, 1, 1, 1), images.flip(3), images)
    if not augment.crop_padding:
        return images
    batch, _, height, width = images.shape
    padded = _padded(images, augment)
    rows = drawn["offset"][:, 0, None] + torch.arange(height, device=images.device)
    columns = drawn["offset"][:, 1, None] + torch.arange(width, device=images.device)
    example = torch.arange(batch, device=images.device)
    cropped = padded[example[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return cropped.permute(0, 3, 1, 2).contiguous()


def _padded(images: Tensor, augment: Augment) -> Tensor:
    sides = (augment.crop_padding,) * 4
    if augment.padding_mode == "zeros":
        return F.pad(images, sides)
    # Reflection is not implemented for uint8; float32 holds 0…255 exactly.
    return F.pad(images.to(torch.float32), sides, mode="reflect").to(torch.uint8)


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
