"""Batches: data that stays on the device, and what each training step takes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from trainables.data import Dataset, Split
from trainables.lazy_torch import Tensor, torch
from trainables.training.cutout import centers, cut
from trainables.training.mixup import mixed, pairs
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
    """Which streams a run draws from: those of one seed and one iteration, or of a `copy` of it,
    from 1, that is trained in another order."""

    seed: int
    iteration: int
    copy: int = 0

    def generator(self, purpose: str, epoch: int) -> torch.Generator:
        return stream(self.seed, *self._labels(purpose, epoch))

    def seed_global(self, epoch: int) -> None:
        """Seed the global generators, from which layers such as dropout draw."""
        torch.manual_seed(stream_seed(self.seed, *self._labels("layers", epoch)))

    def _labels(self, purpose: str, epoch: int) -> tuple[str | int, ...]:
        of_copy = ("copy", self.copy) if self.copy else ()
        return (purpose, self.iteration, epoch, *of_copy)


def steps_per_epoch(examples: int, batch_size: int, accumulate: int = 1) -> int:
    """Training steps in an epoch, each of `accumulate` batches, the last of those that are left.
    The last batch may be smaller; a last batch of one example is left out, since BatchNorm cannot
    normalize it."""
    full, rest = divmod(examples, batch_size)
    return -(-(full + (rest > 1 or full == 0)) // accumulate)


def smallest_batch(examples: int, batch_size: int) -> int:
    """The examples in the smallest batch of an epoch, see `steps_per_epoch`."""
    full, rest = divmod(examples, batch_size)
    return rest if rest > 1 or full == 0 else batch_size


def examples_taken(examples: int, batch_size: int) -> int:
    """The examples in all batches of an epoch, see `steps_per_epoch`."""
    return min(examples, steps_per_epoch(examples, batch_size) * batch_size)


Drawn = tuple[Tensor, ...]
"""Of the batches of a step; the first has a row for each example."""


def each_batch(drawn: Drawn, batch_size: int) -> Iterator[Drawn]:
    """What is drawn for each batch of a step. A tensor may have several rows for an example."""
    for first in range(0, len(drawn[0]), batch_size):
        yield tuple(
            each[first * rows : (first + batch_size) * rows]
            for each, rows in ((each, len(each) // len(drawn[0])) for each in drawn)
        )


class Batches(Protocol):
    """The batches of one network, or of K, each from its own streams, in two parts: what is drawn
    for those of a step, and the batch that device operations make of it, the same at every step."""

    def drawn(self, epoch: int, steps: range) -> Iterator[Drawn]:
        """What is drawn for each of `steps` of an epoch."""
        ...

    def prepare(self, epoch: int) -> None:
        """Draw what can be before the epoch begins, while the device is busy with another."""
        ...

    @property
    def made(self) -> Callable[..., tuple[Tensor, ...]]:
        """Of what is drawn of a batch, inputs float32 [B, C, H, W] and labels int64 [B]; of K
        networks, inputs [B, K, C, H, W] and labels [B, K]. Of mixtures, two more: see `mixed`."""
        ...


def batches_of(
    data: DeviceData, recipe: Recipe, randomness: Sequence[Randomness], inputs: Inputs = "real"
) -> Batches:
    """The batches of networks with the streams of `randomness`.

    *real*: training images in the epoch's order, augmented, normalized, cut and mixed. *random*:
    drawn anew for every step, normal with the mean and standard deviation that images are
    normalized with, and uniform labels.
    """
    if inputs == "random":
        return RandomBatches(data, recipe, randomness)
    draws = recipe.augment.draws(0, [torch.Generator()], torch.device("cpu"))
    if draws is None:
        return PluggedBatches(data, recipe, randomness)
    return RealBatches(data, recipe, randomness, tuple(draws))


@dataclass
class _Given:
    data: DeviceData
    recipe: Recipe
    randomness: Sequence[Randomness]
    prepared: dict[int, Any] = field(default_factory=dict, init=False)

    @property
    def device(self) -> torch.device:
        return self.data.train.labels.device

    def generators(self, purpose: str, epoch: int) -> list[torch.Generator]:
        return [each.generator(purpose, epoch) for each in self.randomness]

    def prepare(self, epoch: int) -> None:
        if epoch not in self.prepared:
            self.prepared[epoch] = self.in_advance(epoch)

    def of(self, epoch: int) -> Any:
        """What `in_advance` has drawn of an epoch."""
        self.prepare(epoch)
        return self.prepared.pop(epoch)

    def in_advance(self, epoch: int) -> Any:
        return self.order(epoch), self.cut_and_mixed(epoch)

    def cut_and_mixed(self, epoch: int) -> list[Tensor]:
        """What cutout and mixup draw for the examples of an epoch, in the order of its steps,
        [N, …] or [N, K, …]."""
        recipe, shape, found = self.recipe, self.data.shape, []
        if recipe.cutout:
            generators = self.generators("cutout", epoch)
            found.append(self.sent([centers(self.taken, shape, each) for each in generators]))
        if recipe.mixup:
            batches = range(0, self.taken, recipe.batch_size)
            sizes = [min(recipe.batch_size, self.taken - first) for first in batches]
            generators = self.generators("mixup", epoch)
            drawn = [pairs(sizes, recipe.mixup, each) for each in generators]
            found += [self.sent(of_each) for of_each in zip(*drawn, strict=True)]
        return found

    def finished(
        self, images: Tensor, labels: Tensor, drawn: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """Augmented images with the mean taken out, cut and mixed as was `drawn`."""
        images = _of_each(self.data.train.normalized(images), labels)
        if self.recipe.cutout:
            at, *drawn = drawn
            images = cut(images, at, self.recipe.cutout)
        return mixed(images, labels, *drawn) if self.recipe.mixup else (images, labels)

    @property
    def taken(self) -> int:
        """The examples of an epoch."""
        return examples_taken(len(self.data.train), self.recipe.batch_size)

    def places(self, step: int) -> slice:
        """Which of those a step has."""
        size = self.recipe.batch_size * self.recipe.accumulate
        return slice(step * size, min((step + 1) * size, self.taken))

    def order(self, epoch: int) -> Tensor:
        """The training examples of an epoch in the order of their steps, [N] or [N, K]."""
        examples = len(self.data.train)
        orders = [
            torch.randperm(examples, generator=generator)
            for generator in self.generators("order", epoch)
        ]
        return self.sent(orders)

    def sent(self, of_each: Sequence[Tensor]) -> Tensor:
        """The tensors on the device, as one [N, …] or [N, K, …]."""
        if len(of_each) == 1:
            return of_each[0].to(self.device)
        return torch.stack([*of_each]).to(self.device).transpose(0, 1).contiguous()

    def rows(self, of_epoch: Sequence[Tensor], steps: range) -> Iterator[list[Tensor]]:
        """The rows of each step of tensors that have one for each example of an epoch."""
        for step in steps:
            yield [each[self.places(step)] for each in of_epoch]


@dataclass
class RealBatches(_Given):
    """Batches of which the examples are drawn, and for each what augments it, by `names`."""

    names: tuple[str, ...]

    def drawn(self, epoch: int, steps: range) -> Iterator[Drawn]:
        order, draws, others = self.of(epoch)
        # The draws are as of K times the examples, those of the kth network that much further on.
        further = torch.arange(len(self.randomness), device=self.device) * len(self.data.train)
        for chosen, *rest in self.rows([order, *others], steps):
            rows = (chosen + further).flatten() if draws else chosen
            yield chosen, *(values.index_select(0, rows) for values in draws.values()), *rest

    def in_advance(self, epoch: int) -> tuple[Tensor, dict[str, Tensor], list[Tensor]]:
        examples, generators = len(self.data.train), self.generators("augment", epoch)
        draws = self.recipe.augment.draws(examples, generators, self.device)
        assert draws is not None
        return self.order(epoch), draws, self.cut_and_mixed(epoch)

    def made(self, chosen: Tensor, *drawn: Tensor) -> tuple[Tensor, ...]:
        examples, rows, named = self.data.train, chosen.flatten(), len(self.names)
        images = self.recipe.augment.augmented(
            examples.images.index_select(0, rows), dict(zip(self.names, drawn[:named], strict=True))
        )
        labels = examples.labels.index_select(0, rows).view_as(chosen)
        return self.finished(images, labels, drawn[named:])


class PluggedBatches(_Given):
    """Batches whose augmentation is called for each: it may do anything."""

    def drawn(self, epoch: int, steps: range) -> Iterator[Drawn]:
        examples, generators = self.data.train, self.generators("augment", epoch)
        alone = len(generators) == 1
        begin = self.recipe.augment.epoch if alone else self.recipe.augment.epochs
        given: Any = generators[0] if alone else generators
        augmented = begin(len(examples), given, self.device)
        order, others = self.of(epoch)
        for step, (chosen, *rest) in zip(steps, self.rows([order, *others], steps), strict=True):
            rows = chosen.flatten()
            images = augmented(examples.images.index_select(0, rows), chosen, step)
            yield examples.labels.index_select(0, rows).view_as(chosen), images, *rest

    def made(self, labels: Tensor, images: Tensor, *drawn: Tensor) -> tuple[Tensor, ...]:
        return self.finished(images, labels, drawn)


class RandomBatches(_Given):
    """Batches that are drawn whole, on the CPU."""

    def drawn(self, epoch: int, steps: range) -> Iterator[Drawn]:
        for step in steps:
            batches = [self._one(each, epoch, step) for each in self.randomness]
            labels, images = (_together(each) for each in zip(*batches, strict=True))
            yield _sent(labels, self.device), _sent(images, self.device)

    def in_advance(self, epoch: int) -> None:
        """Whole batches would take as much memory as they are many."""

    def made(self, labels: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        return images, labels

    def _one(self, randomness: Randomness, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        places = self.places(step)
        count = places.stop - places.start
        generator = randomness.generator(f"random inputs {step}", epoch)
        images = torch.randn(count, *self.data.shape, generator=generator)
        return torch.randint(self.data.classes, (count,), generator=generator), images


def _together(of_each: Sequence[Tensor]) -> Tensor:
    return of_each[0] if len(of_each) == 1 else torch.stack([*of_each], dim=1)


def _of_each(images: Tensor, labels: Tensor) -> Tensor:
    # Of one network as they are: a view would have other strides where there is one channel, and
    # convolutions round by strides.
    return images if labels.ndim == 1 else images.unflatten(0, labels.shape)


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on its way to the device, which no one waits for."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
