"""A folder of image files: `train/<class>/*` and `test/<class>/*` (or `val/<class>/*`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainables.data.dataset import Dataset, DatasetInfo, Split, channel_statistics
from trainables.data.decoding import ImageFormat, decode_images, image_format
from trainables.data.entry import described_by
from trainables.data.fingerprint import fingerprint
from trainables.data.folder import find_folder
from trainables.data.roots import DataRoots

SUFFIXES = {".png", ".jpg", ".jpeg"}


@dataclass(frozen=True)
class ImageFiles:
    """The files of both splits, each sorted by class and name; `classes` are sorted."""

    folder: Path
    classes: Sequence[str]
    train: Sequence[Path]
    test: Sequence[Path]


def describe(roots: DataRoots, *, path: str) -> DatasetInfo:
    """Shape, classes, counts and fingerprint, from file names and the header of one image.

    Raises as `image_folder` does.
    """
    files = _find(roots, path)
    everything = (*files.train, *files.test)
    named = {file.relative_to(files.folder).as_posix(): file for file in everything}
    return DatasetInfo(
        _format(files).shape,
        len(files.classes),
        len(files.train),
        len(files.test),
        fingerprint(named, roots.cache),
    )


@described_by(describe)
def image_folder(roots: DataRoots, *, path: str) -> Dataset:
    """Images [N, C, H, W] of the folder `path`; classes are numbered in the order of their names.

    The first training image decides between gray (C = 1) and RGB (C = 3). Raises
    DatasetNotFound, and ValueError for content that does not fit.
    """
    files = _find(roots, path)
    form = _format(files)
    train, test = _read(files.train, files, form), _read(files.test, files, form)
    mean, std = channel_statistics(train.images)
    return Dataset("image_folder", train, None, test, len(files.classes), mean, std)


def _find(roots: DataRoots, path: str) -> ImageFiles:
    files = find_folder(path, roots, _look, "train/<class>/ and test/<class>/ (or val/<class>/)")
    unknown = {file.parent.name for file in files.test} - set(files.classes)
    if unknown:
        raise ValueError(
            f"{files.folder}: no training images of the test class {', '.join(sorted(unknown))}"
        )
    return files


def _look(folder: Path) -> ImageFiles | None:
    train, test = _images(folder / "train"), _images(folder / "test") or _images(folder / "val")
    if not train or not test:
        return None
    return ImageFiles(folder, sorted({file.parent.name for file in train}), train, test)


def _images(split: Path) -> list[Path]:
    found = (file for file in split.glob("*/*") if file.suffix.lower() in SUFFIXES)
    return sorted(found, key=lambda file: (file.parent.name, file.name))


def _format(files: ImageFiles) -> ImageFormat:
    first = files.train[0]
    return image_format(first.read_bytes(), str(first))


def _read(paths: Sequence[Path], files: ImageFiles, form: ImageFormat) -> Split:
    images = np.empty((len(paths), *form.shape), dtype=np.uint8)
    decode_images(images, lambda i: paths[i].read_bytes(), lambda i: str(paths[i]), form)
    number = {name: index for index, name in enumerate(files.classes)}
    return Split(images, np.array([number[path.parent.name] for path in paths], dtype=np.int64))
