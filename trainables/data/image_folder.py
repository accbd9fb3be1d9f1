"""A folder of image files: `train/<class>/**` and `test/<class>/**` (or `val/<class>/**`)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from trainables.data.dataset import Dataset, DatasetInfo, Split, channel_statistics
from trainables.data.decoding import Encoded, Source, decode
from trainables.data.description import describe_files, with_notes
from trainables.data.entry import described_by
from trainables.data.folder import find_folder
from trainables.data.listing import LeftOut, files_below, is_litter, shown, told
from trainables.data.reading import DatasetFiles, Read, read_files
from trainables.data.roots import DataRoots

NO_IMAGES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
"""What Pillow can open and not read, or only with another program."""


@dataclass(frozen=True)
class ImageFile:
    """One image of a split, and its class."""

    path: Path
    category: str


@dataclass(frozen=True)
class ImageFiles:
    """The files of both splits, each sorted by class and name; `classes` are sorted.

    `notes` tell what was left out.
    """

    folder: Path
    classes: tuple[str, ...]
    train: Sequence[ImageFile]
    test: Sequence[ImageFile]
    notes: tuple[str, ...]

    def where(self, split: str, index: int) -> str:
        """The path of an example."""
        files = self.train if split == "train" else self.test
        return shown(files[index].path)


def describe(roots: DataRoots, *, path: str) -> DatasetInfo:
    """Shape, classes, counts and fingerprint, from names and contents; raises as `image_folder`
    does."""
    files = _find(roots, path)
    return with_notes(describe_files(_files(files), roots.cache), files.notes)


@described_by(describe)
def image_folder(roots: DataRoots, *, path: str) -> Dataset:
    """Images [N, C, H, W] of the folder `path`; classes are numbered in the order of their names.

    Files are read at any depth below a class, in every format that Pillow reads, and shown as
    their EXIF orientation says. They become gray (C = 1) if they all are, else RGB (C = 3). What
    is hidden or no image is left out, and told. Raises DatasetNotFound, and ValueError for content
    that does not fit.
    """
    files = _find(roots, path)
    found = read_files(_files(files), roots.cache).dataset
    return replace(found, notes=(*files.notes, *found.notes))


def _find(roots: DataRoots, path: str) -> ImageFiles:
    return find_folder(path, roots, _look, "train/<class>/ and test/<class>/ (or val/<class>/)")


def _look(folder: Path) -> ImageFiles | None:
    tests = [folder / name for name in ("test", "val") if (folder / name).is_dir()]
    if not (folder / "train").is_dir() or not tests:
        return None
    left_out = [LeftOut(place, "the test images are those in test/") for place in tests[1:]]
    train, test = _split(folder / "train", left_out), _split(tests[0], left_out)
    classes = sorted({file.category for file in train})
    unknown = {file.category for file in test} - set(classes)
    if unknown:
        raise ValueError(
            f"{folder}: no training images of the test class {shown(', '.join(sorted(unknown)))}; "
            "training needs some of every class, or the folder is to be taken out of the test "
            "images"
        )
    return ImageFiles(folder, tuple(classes), train, test, told(left_out, folder))


def _split(folder: Path, left_out: list[LeftOut]) -> list[ImageFile]:
    """The images of all classes; raises ValueError when there are none."""
    found: list[ImageFile] = []
    for place in sorted(folder.iterdir(), key=lambda place: place.name):
        if is_litter(place.name):
            left_out.append(LeftOut(place, "hidden, or a system's"))
        elif place.is_symlink() and not place.exists():
            raise ValueError(f"{shown(place)} is a link to nothing; is all that it needs mounted?")
        elif not place.is_dir():
            left_out.append(LeftOut(place, "in no folder of a class"))
        else:
            found += _images(place, left_out)
    if not found:
        raise ValueError(
            f"{folder} has no images; they are looked for in {folder.name}/<class>/, with names "
            "that end in .png, .jpg, or as another format that Pillow reads"
        )
    return found


def _images(category: Path, left_out: list[LeftOut]) -> list[ImageFile]:
    """Those of one class, sorted by their path in its folder."""
    images, others = [], len(left_out)
    for file in files_below(category, left_out):
        suffix = file.suffix.lower()
        if suffix in _suffixes():
            images.append(file)
        else:
            left_out.append(LeftOut(file, f"{suffix or 'without a suffix'}, no image"))
    if not images and len(left_out) == others:
        left_out.append(LeftOut(category, "an empty class"))
    images.sort(key=lambda file: file.relative_to(category).as_posix())
    return [ImageFile(file, category.name) for file in images]


@cache
def _suffixes() -> frozenset[str]:
    """Of all formats that Pillow reads by itself."""
    found = Image.registered_extensions()
    # MPO has no opener of its own: it is opened as JPEG.
    read = (Image.OPEN.keys() | {"MPO"}) - NO_IMAGES
    return frozenset(suffix for suffix, name in found.items() if name in read)


def _files(files: ImageFiles) -> DatasetFiles:
    everything = (*files.train, *files.test)
    named = {file.path.relative_to(files.folder).as_posix(): file.path for file in everything}
    return DatasetFiles("image_folder", named, files.where, lambda: _read(files))


def _read(files: ImageFiles) -> Read:
    found = decode([_source(files.train), _source(files.test)])
    number = {name: index for index, name in enumerate(files.classes)}
    train, test = (
        Split(images, np.array([number[file.category] for file in split], dtype=np.int64))
        for images, split in zip(found.images, (files.train, files.test), strict=True)
    )
    mean, std = channel_statistics(train.images)
    dataset = Dataset(
        "image_folder", train, None, test, len(files.classes), mean, std, files.classes, found.notes
    )
    return Read(dataset, found.as_ever)


def _source(files: Sequence[ImageFile]) -> Source:
    return Source(
        len(files), lambda: (Encoded(shown(file.path), file.path.read_bytes) for file in files)
    )
