"""What a dataset is, and what is known of it before it is loaded."""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

SPLIT_SEED = 0


@dataclass(frozen=True, eq=False)
class Split:
    """Labelled images: `images` uint8 [N, C, H, W], `labels` int64 [N] in 0..classes-1."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> "Split":
        """The examples at `indices`, in that order."""
        return Split(self.images[indices], self.labels[indices])


@dataclass(frozen=True, eq=False)
class Dataset:
    """A dataset in memory.

    `mean` and `std` normalize each channel of images scaled to [0, 1]; they belong to the whole
    training set, before `holdout` and `subset`. `validation` is None without a holdout. `names`
    are those of the classes, if they have any; `notes` are sentences that `plan` and `run` tell:
    what was left out of the files, and what was changed on reading them.
    """

    name: str
    train: Split
    validation: Split | None
    test: Split
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ClassSize:
    """A class, by its name or number, and how many examples it has."""

    name: str
    examples: int


@dataclass(frozen=True)
class SplitContents:
    """`constant` images have one colour only, `repeated` ones are in the split once more."""

    examples: int
    classes: int
    smallest: ClassSize
    largest: ClassSize
    constant: int
    repeated: int


@dataclass(frozen=True)
class Contents:
    """Both splits as they are before holdout and subset.

    `overlap` counts the test examples whose image is a training image too; `first_overlap` says
    which the first of them is. `names` and `notes` are those of the dataset.
    """

    train: SplitContents
    test: SplitContents
    overlap: int
    first_overlap: str
    names: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class DatasetInfo:
    """What planning needs: `shape` is (channels, height, width).

    `train_examples` are those left by holdout and subset. `fingerprint` is a SHA-256 of the
    content where the name of the dataset does not fix it, else None. `contents` is None for
    published datasets, which are not looked into.
    """

    shape: tuple[int, int, int]
    classes: int
    train_examples: int
    test_examples: int
    fingerprint: str | None = None
    contents: Contents | None = None


class Chosen(Protocol):
    """What a sweep file says of how much of a dataset is used, see `DatasetOptions`."""

    @property
    def name(self) -> str: ...
    @property
    def holdout(self) -> int: ...
    @property
    def subset(self) -> int | None: ...


def remaining_examples(examples: int, options: Chosen) -> int:
    """How many of `examples` training examples holdout and subset leave; ValueError if too few."""
    left = examples - options.holdout
    if left < 1:
        raise ValueError(
            f"holdout: {options.holdout} leaves nothing of the {examples} training examples "
            f"of {options.name}; it must be at most {examples - 1}"
        )
    if options.subset is None:
        return left
    if options.subset > left:
        raise ValueError(
            f"subset: {options.subset} is more than the {left} training examples of "
            f"{options.name} (of {examples}, {options.holdout} are held out)"
        )
    return options.subset


def partition(labels: np.ndarray, options: Chosen) -> tuple[np.ndarray, np.ndarray]:
    """Indices [n] of the training and [holdout] of the validation examples, both ascending.

    Raises ValueError as `remaining_examples` does.
    """
    count = remaining_examples(len(labels), options)
    # RandomState's stream is frozen for good; that of numpy's newer generators may change.
    order = np.random.RandomState(SPLIT_SEED).permutation(len(labels))
    validation, rest = order[: options.holdout], order[options.holdout :]
    by_turn = np.argsort(_rank_within_class(labels[rest]), kind="stable")
    return np.sort(rest[by_turn[:count]]), np.sort(validation)


def _rank_within_class(labels: np.ndarray) -> np.ndarray:
    """How many earlier examples have the same label, for each of labels [N]."""
    by_class = np.argsort(labels, kind="stable")
    _, starts, sizes = np.unique(labels[by_class], return_index=True, return_counts=True)
    ranks = np.empty(len(labels), dtype=np.int64)
    ranks[by_class] = np.arange(len(labels)) - np.repeat(starts, sizes)
    return ranks


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of uint8 images [N, C, H, W] scaled to [0, 1].

    A constant channel has standard deviation 1, so that normalizing it does not divide by zero.
    """
    mean, std = zip(*(_moments(images[:, c]) for c in range(images.shape[1])), strict=True)
    return mean, std


def _moments(channel: np.ndarray) -> tuple[float, float]:
    # Integer sums are exact: the result depends on neither the machine nor the order of summation.
    counts = _histogram(channel).tolist()
    size = sum(counts)
    first = sum(value * count for value, count in enumerate(counts))
    second = sum(value**2 * count for value, count in enumerate(counts))
    std = math.sqrt(size * second - first**2) / (255 * size)
    return first / (255 * size), std or 1.0


def _histogram(channel: np.ndarray, batch: int = 1024) -> np.ndarray:
    # In batches, because bincount copies its input to int64.
    counts = np.zeros(256, dtype=np.int64)
    for start in range(0, len(channel), batch):
        counts += np.bincount(channel[start : start + batch].ravel(), minlength=256)
    return counts
