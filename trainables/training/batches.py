"""Batches: data that stays on the device, and what each training step takes of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from trainables.data import Dataset, Split
from trainables.lazy_torch import Tensor, torch
from trainables.training.randomness import stream, stream_seed
from trainables.training.recipe import Recipe

Inputs = Literal["real", "random"]


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
    def of(cls, dataset: Dataset, device: torch.device) -> DeviceData:
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


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Training steps in an epoch. The last batch may be smaller; a last batch of one example is
    left out, since BatchNorm cannot normalize it."""
    full, rest = divmod(examples, batch_size)
    return full + (rest > 1 or full == 0)


def smallest_batch(examples: int, batch_size: int) -> int:
    """The examples in the smallest batch of an epoch, see `steps_per_epoch`."""
    full, rest = divmod(examples, batch_size)
    return rest if rest > 1 or full == 0 else batch_size


def batches(
    data: DeviceData,
    recipe: Recipe,
    randomness: Randomness,
    epoch: int,
    steps: range,
    inputs: Inputs = "real",
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of `steps` of an epoch: inputs float32 [B, C, H, W] and labels int64 [B].

    *real*: training images in the epoch's order, augmented and normalized. *random*: drawn anew
    for every batch, normal with the data's mean and standard deviation, and uniform labels.
    """
    if inputs == "random":
        return _random_batches(data, recipe, randomness, epoch, steps)
    return _real_batches(data, recipe, randomness, epoch, steps)


def _real_batches(
    data: DeviceData, recipe: Recipe, randomness: Randomness, epoch: int, steps: range
) -> Iterator[tuple[Tensor, Tensor]]:
    examples = data.train
    device = examples.labels.device
    order = torch.randperm(len(examples), generator=randomness.generator("order", epoch))
    order = order.to(device)
    generator = randomness.generator("augment", epoch)
    augmented = recipe.augment.epoch(len(examples), generator, device)
    for step in steps:
        chosen = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
        images = augmented(examples.images.index_select(0, chosen), chosen, step)
        yield examples.normalized(images), examples.labels.index_select(0, chosen)


def _random_batches(
    data: DeviceData, recipe: Recipe, randomness: Randomness, epoch: int, steps: range
) -> Iterator[tuple[Tensor, Tensor]]:
    device = data.train.labels.device
    for step in steps:
        images, labels = _random_batch(data, recipe, randomness, epoch, step)
        yield images.to(device), labels.to(device)


def _random_batch(
    data: DeviceData, recipe: Recipe, randomness: Randomness, epoch: int, step: int
) -> tuple[Tensor, Tensor]:
    count = min(recipe.batch_size, len(data.train) - step * recipe.batch_size)
    generator = randomness.generator(f"random inputs {step}", epoch)
    images = torch.randn(count, *data.shape, generator=generator)
    return images, torch.randint(data.classes, (count,), generator=generator)


def stacked_batches(
    data: DeviceData,
    recipe: Recipe,
    randomness: Sequence[Randomness],
    epoch: int,
    steps: range,
    inputs: Inputs = "real",
) -> Iterator[tuple[Tensor, Tensor]]:
    """The `batches` of K networks, each from its own streams: inputs float32 [B, K, C, H, W] and
    labels int64 [B, K]."""
    if inputs == "random":
        return _stacked_random_batches(data, recipe, randomness, epoch, steps)
    return _stacked_real_batches(data, recipe, randomness, epoch, steps)


def _stacked_real_batches(
    data: DeviceData, recipe: Recipe, randomness: Sequence[Randomness], epoch: int, steps: range
) -> Iterator[tuple[Tensor, Tensor]]:
    examples, device = data.train, data.train.labels.device
    orders = [torch.randperm(len(examples), generator=each.generator("order", epoch))
              for each in randomness]  # fmt: skip
    order = torch.stack(orders, dim=1).to(device)
    generators = [each.generator("augment", epoch) for each in randomness]
    augmented = recipe.augment.epochs(len(examples), generators, device)
    for step in steps:
        chosen = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
        rows = chosen.flatten()
        images = augmented(examples.images.index_select(0, rows), chosen, step)
        labels = examples.labels.index_select(0, rows).view_as(chosen)
        yield examples.normalized(images).unflatten(0, chosen.shape), labels


def _stacked_random_batches(
    data: DeviceData, recipe: Recipe, randomness: Sequence[Randomness], epoch: int, steps: range
) -> Iterator[tuple[Tensor, Tensor]]:
    device = data.train.labels.device
    for step in steps:
        drawn = [_random_batch(data, recipe, each, epoch, step) for each in randomness]
        images, labels = zip(*drawn, strict=True)
        yield torch.stack(images, dim=1).to(device), torch.stack(labels, dim=1).to(device)
