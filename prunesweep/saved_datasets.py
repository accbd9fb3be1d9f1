"""Datasets that the library `datasets` has saved: `plugins: [prunesweep.saved_datasets]`.

It needs `pip install prunesweep[datasets]`.

`dataset: {name: saved_dataset, path: my_data}` is the folder that `save_to_disk` wrote, with a
split to train on and one to test with.
"""

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
) -> Dataset:
    """A DatasetDict as `save_to_disk` writes it: images of one size in column `image`, and
    integers from 0 in column `label`.

    All images become gray (C = 1) if they all are, else RGB (C = 3). Raises DatasetNotFound, and
    ValueError for content that does not fit.
    """
    found = _read(roots, path)
    for split in (train, test):
        if split not in found:
            raise ValueError(f"{path} has no split {split}; it has {', '.join(found)}")
        _check_columns(f"{path}, {split}", found[split], image, label)
    splits = {name: (found[name][image], np.array(found[name][label])) for name in (train, test)}
    gray = all(one.mode in ("1", "L") for images, _ in splits.values() for one in images)
    whole = {
        name: _split(f"{path}, {name}", images, labels, "L" if gray else "RGB")
        for name, (images, labels) in splits.items()
    }
    classes = int(max(split.labels.max() for split in whole.values())) + 1
    mean, std = channel_statistics(whole[train].images)
    return Dataset("saved_dataset", whole[train], None, whole[test], classes, mean, std)


def _read(roots: DataRoots, path: str) -> Any:
    try:
        from datasets import load_from_disk
    except ImportError as error:
        raise ValueError(
            "saved_dataset needs the library datasets: pip install 'prunesweep[datasets]'"
        ) from error
    places = [root / Path(path).expanduser() for root in roots.candidates]
    for place in places:
        if (place / "dataset_dict.json").is_file():
            try:
                return load_from_disk(str(place))
            except (OSError, ValueError) as error:
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


def _split(where: str, images: Any, labels: np.ndarray, mode: str) -> Split:
    pixels = [np.asarray(image.convert(mode)) for image in images]
    if len({each.shape for each in pixels}) != 1:
        raise ValueError(f"{where}: all images must have one size, and there must be some")
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{where}: labels must be integers, they are {labels.dtype}")
    stacked = np.stack(pixels).reshape(len(pixels), *pixels[0].shape[:2], -1)
    return Split(np.ascontiguousarray(stacked.transpose(0, 3, 1, 2)), labels.astype(np.int64))
