"""Datasets that the library `datasets` has saved: `plugins: [prunesweep.saved_datasets]`.

It needs `pip install prunesweep[datasets]`.

`dataset: {name: saved_dataset, path: my_data}` is the folder that `save_to_disk` wrote, with a
split to train on and one to test with.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from prunesweep import (
    DataRoots,
    Dataset,
    DatasetNotFound,
    Split,
    channel_statistics,
    dataset,
)
from trainables.data.decoding import Encoded, Source, decode
from trainables.data.labels import class_numbers
from trainables.data.roots import expanded

__version__ = "1"


@dataset
def saved_dataset(
    roots: DataRoots,
    *,
    path: str,
    train: str = "train",
    test: str = "test",
    image: str = "image",
    label: str = "label",
    relabel: bool = False,
) -> Dataset:
    """A DatasetDict as `save_to_disk` writes it: images of one size in column `image`, and classes
    0 to K - 1 in column `label`, or with `relabel` any K integers, which become those in order.

    Images are shown as their EXIF orientation says, and become gray (C = 1) if they all are, else
    RGB (C = 3). Raises DatasetNotFound, and ValueError for content that does not fit.
    """
    found = _read(roots, path)
    for split in (train, test):
        if split not in found:
            raise ValueError(f"{path} has no split {split}; it has {', '.join(found)}")
        _check_columns(f"{path}, {split}", found[split], image, label)
    labels, relabelled = class_numbers(
        np.array(found[train][label], dtype=np.int64),
        np.array(found[test][label], dtype=np.int64),
        relabel,
        f"{path}, column {label}",
    )
    decoded = decode([_source(f"{path}, {name}", found[name], image) for name in (train, test)])
    splits = [Split(*both) for both in zip(decoded.images, labels, strict=True)]
    mean, std = channel_statistics(splits[0].images)
    classes = int(splits[0].labels.max()) + 1
    names = tuple(map(str, relabelled))
    return Dataset(
        "saved_dataset", splits[0], None, splits[1], classes, mean, std, names, decoded.notes
    )


def _read(roots: DataRoots, path: str) -> Any:
    try:
        from datasets import load_from_disk
    except ImportError as error:
        raise ValueError(
            "saved_dataset needs the library datasets: pip install 'prunesweep[datasets]'"
        ) from error
    places = [root / expanded(path) for root in roots.candidates]
    for place in places:
        if (place / "dataset_dict.json").is_file():
            try:
                return load_from_disk(str(place))
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{place} cannot be read: {error}") from error
    looked = "\n".join(f"  {place}" for place in places)
    raise DatasetNotFound(
        f"no dataset at {path}: a folder with dataset_dict.json, as `save_to_disk` of a "
        f"DatasetDict writes it; looked in\n{looked}"
    )


def _check_columns(where: str, split: Any, image: str, label: str) -> None:
    from datasets import Image

    for column in (image, label):
        if column not in split.features:
            raise ValueError(f"{where}: no column {column}; it has {', '.join(split.features)}")
    if not isinstance(split.features[image], Image):
        raise ValueError(f"{where}: the column {image} is {split.features[image]}, no Image()")
    if "int" not in getattr(split.features[label], "dtype", ""):
        raise ValueError(f"{where}: labels must be integers, they are {split.features[label]}")
    if not len(split):
        raise ValueError(f"{where}: it has no examples")
    if any(value is None for value in split[label]):
        raise ValueError(f"{where}: some examples have no label")


def _source(where: str, split: Any, image: str) -> Source:
    from datasets import Image

    encoded = split.select_columns([image]).cast_column(image, Image(decode=False))

    def images() -> Iterator[Encoded]:
        for row, example in enumerate(encoded):
            yield Encoded(f"{where}, row {row}", partial(_content, example[image], where, row))

    return Source(len(split), images)


def _content(value: dict[str, Any] | None, where: str, row: int) -> bytes:
    if value and value["bytes"] is not None:
        return value["bytes"]
    if value and value["path"] is not None:
        return Path(value["path"]).read_bytes()
    raise ValueError(f"{where}, row {row} has no image")
