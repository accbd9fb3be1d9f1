"""The datasets that models are trained on: a function each, `def f(roots, *, option=…)`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, Any

from trainables.config import canonical
from trainables.data.dataset import Dataset, DatasetInfo, Split, partition, remaining_examples
from trainables.data.entry import (
    DATASET,
    DatasetOptions,
    checked,
    dataset,
    described_by,
    normalized,
    require_channels,
)
from trainables.data.roots import DataRoots, DatasetNotFound, data_roots
from trainables.plugins.entry import Named

__all__ = [
    "DATASET",
    "DataRoots",
    "Dataset",
    "DatasetConfig",
    "DatasetInfo",
    "DatasetNotFound",
    "DatasetOptions",
    "Split",
    "data_roots",
    "dataset",
    "describe_dataset",
    "described_by",
    "identity",
    "load_dataset",
]

DatasetConfig = Annotated[DatasetOptions, Named(DATASET)]

NO_CONTENT = ("path", "overlap")
"""Options that change no number."""


def load_dataset(config: DatasetOptions, roots: DataRoots) -> Dataset:
    """The dataset of `config`, with its holdout and subset taken.

    Raises DatasetNotFound, and ValueError for files that cannot be read, content that does not
    fit, or a holdout or subset larger than the training set.
    """
    with _readable(config):
        dataset = normalized(checked(config(roots), config), config)
    train, validation = partition(dataset.train.labels, config)
    return replace(
        dataset,
        train=dataset.train.take(train),
        validation=dataset.train.take(validation) if config.holdout else None,
    )


def describe_dataset(config: DatasetOptions, roots: DataRoots) -> DatasetInfo:
    """What is known of the dataset of `config`, and that it is fit to be trained on.

    Datasets with a published content need no file for it; others are read once, until a file
    changes. Raises as `load_dataset` does, and ValueError for contents that are refused, see
    `trainables.data.contents`.
    """
    with _readable(config):
        info = config.describe(roots)
        require_channels(config, info.shape[0])
    return replace(info, train_examples=remaining_examples(info.train_examples, config))


def identity(config: DatasetOptions, info: DatasetInfo) -> dict[str, Any]:
    """The JSON values that decide the numbers: the content of a dataset, not its place."""
    values = {key: value for key, value in canonical(config).items() if key not in NO_CONTENT}
    return values if info.fingerprint is None else {**values, "fingerprint": info.fingerprint}


@contextmanager
def _readable(config: DatasetOptions) -> Iterator[None]:
    """Makes a file that cannot be opened or read a ValueError that names it."""
    try:
        yield
    except OSError as error:
        if config.plugin is not None:
            raise  # with the line of the plug-in
        what = error.filename or "a file of the dataset"
        raise ValueError(
            f"{what} cannot be read: {error.strerror or error}; check that it is there, whole, and "
            "that you may read it"
        ) from error
