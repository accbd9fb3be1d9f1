"""The datasets that models are trained on.

A dataset is two functions, `load(roots, *, option=default, ...)` and `describe` with the same
parameters, and a line in `DATASETS`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import Field

from trainables.config import canonical, options_config, options_of
from trainables.data import digits, image_folder, parquet, tiny_imagenet
from trainables.data.cifar import CIFAR10, CIFAR100
from trainables.data.dataset import (
    Dataset,
    DatasetInfo,
    DatasetOptions,
    Split,
    partition,
    remaining_examples,
)
from trainables.data.mnist import FASHION_MNIST, MNIST
from trainables.data.roots import DataRoots, DatasetNotFound, data_roots

__all__ = [
    "DATASETS",
    "DataRoots",
    "Dataset",
    "DatasetConfig",
    "DatasetEntry",
    "DatasetInfo",
    "DatasetNotFound",
    "DatasetOptions",
    "Split",
    "data_roots",
    "describe_dataset",
    "identity",
    "load_dataset",
]


@dataclass(frozen=True)
class DatasetEntry:
    """How to load a whole dataset, and how to describe it without loading it."""

    load: Callable[..., Dataset]
    describe: Callable[..., DatasetInfo]


DATASETS: dict[str, DatasetEntry] = {
    "digits": DatasetEntry(digits.load, digits.describe),
    "mnist": DatasetEntry(MNIST.load, MNIST.describe),
    "fashion_mnist": DatasetEntry(FASHION_MNIST.load, FASHION_MNIST.describe),
    "cifar10": DatasetEntry(CIFAR10.load, CIFAR10.describe),
    "cifar100": DatasetEntry(CIFAR100.load, CIFAR100.describe),
    "tiny_imagenet": DatasetEntry(tiny_imagenet.load, tiny_imagenet.describe),
    "parquet": DatasetEntry(parquet.load, parquet.describe),
    "image_folder": DatasetEntry(image_folder.load, image_folder.describe),
}

if TYPE_CHECKING:
    # The union is made from the registry at run time; checkers see what its members share.
    DatasetConfig = DatasetOptions
else:
    DatasetConfig = Annotated[
        Union[
            tuple(
                options_config(name, entry.load, DatasetOptions) for name, entry in DATASETS.items()
            )
        ],
        Field(discriminator="name"),
    ]


def load_dataset(config: DatasetConfig, roots: DataRoots) -> Dataset:
    """The dataset of `config`, with its holdout and subset taken.

    Raises DatasetNotFound, and ValueError for damaged files, content that does not fit, or a
    holdout or subset larger than the training set.
    """
    entry = DATASETS[config.name]
    dataset = entry.load(roots, **options_of(config, entry.load))
    train, validation = partition(dataset.train.labels, config)
    return replace(
        dataset,
        train=dataset.train.take(train),
        validation=dataset.train.take(validation) if config.holdout else None,
    )


def describe_dataset(config: DatasetConfig, roots: DataRoots) -> DatasetInfo:
    """What is known of the dataset of `config` without decoding its images.

    Downloadable datasets need no file for it. Raises as `load_dataset` does.
    """
    entry = DATASETS[config.name]
    info = entry.describe(roots, **options_of(config, entry.load))
    return replace(info, train_examples=remaining_examples(info.train_examples, config))


def identity(config: DatasetConfig, info: DatasetInfo) -> dict[str, Any]:
    """The JSON values that decide the numbers: the content of a dataset, not its place."""
    values = {key: value for key, value in canonical(config).items() if key != "path"}
    return values if info.fingerprint is None else {**values, "fingerprint": info.fingerprint}
