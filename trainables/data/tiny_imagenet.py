"""Tiny ImageNet (Le and Yang, 2015), read from its folder as published."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainables.data.dataset import Dataset, DatasetInfo, Split
from trainables.data.decoding import Encoded, ImageFormat, Source, decode
from trainables.data.description import describe_files, with_notes
from trainables.data.entry import described_by
from trainables.data.reading import DatasetFiles, Read, read_files
from trainables.data.roots import DataRoots, not_found, place_it

FOLDERS = ("tiny-imagenet-200", "tiny_imagenet")
CLASS_LIST, ANNOTATIONS = "wnids.txt", "val/val_annotations.txt"

FORMAT = ImageFormat("RGB", height=64, width=64)
"""Some of the images are gray: they become RGB."""

PUBLISHED = DatasetInfo(FORMAT.shape, classes=200, train_examples=100_000, test_examples=10_000)
MEAN, STD = (0.480, 0.448, 0.398), (0.277, 0.269, 0.282)


@dataclass(frozen=True)
class Examples:
    """Image files, and the class number of each."""

    paths: Sequence[Path]
    labels: Sequence[int]


@dataclass(frozen=True)
class TinyImageNetFiles:
    """The files of both splits: training by class and name, test in the order of its list."""

    folder: Path
    classes: int
    train: Examples
    test: Examples

    @property
    def named(self) -> dict[str, Path]:
        """All files by their place in the folder."""
        lists = (self.folder / CLASS_LIST, self.folder / ANNOTATIONS)
        everything = (*lists, *self.train.paths, *self.test.paths)
        return {path.relative_to(self.folder).as_posix(): path for path in everything}

    @property
    def as_dataset(self) -> DatasetFiles:
        return DatasetFiles("tiny_imagenet", self.named, self.where, lambda: _read(self))

    def where(self, split: str, index: int) -> str:
        """The path of an example."""
        return str((self.train if split == "train" else self.test).paths[index])


def describe(roots: DataRoots) -> DatasetInfo:
    """What the folder holds, or without one what is published.

    Only another content than the published one has a fingerprint. Raises ValueError as
    `tiny_imagenet` does.
    """
    folder = _find(roots)
    if folder is None:
        return PUBLISHED
    files = _files(folder)
    counts = (files.classes, len(files.train.paths), len(files.test.paths))
    if counts == (PUBLISHED.classes, PUBLISHED.train_examples, PUBLISHED.test_examples):
        return PUBLISHED
    info = describe_files(files.as_dataset, roots.cache)
    return with_notes(info, (f"{folder} is not all of Tiny ImageNet, or another dataset",))


@described_by(describe, lambda roots: _find(roots) is not None)
def tiny_imagenet(roots: DataRoots) -> Dataset:
    """Images [N, 3, 64, 64]; `val` is the test split, and class i is line i of wnids.txt.

    Raises DatasetNotFound, and ValueError for an incomplete folder or damaged images.
    """
    folder = _find(roots)
    if folder is None:
        raise not_found(
            f"tiny_imagenet not found: the folder {FOLDERS[0]}",
            _places(roots),
            f"{place_it(FOLDERS[0])} as published, with {CLASS_LIST}, train/<class>/images/, "
            f"val/images/ and {ANNOTATIONS}; it is not downloaded",
        )
    return read_files(_files(folder).as_dataset, roots.cache).dataset


def _places(roots: DataRoots) -> Iterator[Path]:
    return (root / folder for root in roots.candidates for folder in FOLDERS)


def _find(roots: DataRoots) -> Path | None:
    return next((place for place in _places(roots) if (place / CLASS_LIST).is_file()), None)


def _files(folder: Path) -> TinyImageNetFiles:
    number = {name: index for index, name in enumerate(_lines(folder / CLASS_LIST))}
    train, test = _train_files(folder, number), _test_files(folder, number)
    return TinyImageNetFiles(folder, len(number), train, test)


def _train_files(folder: Path, number: Mapping[str, int]) -> Examples:
    by_class = {name: _images(folder / "train" / name / "images") for name in number}
    most = max(1, *map(len, by_class.values()))
    for name, images in by_class.items():
        # As published, all classes are of one size.
        if len(images) < most:
            raise _incomplete(
                folder, f"train/{name}/images has {len(images)} images, other classes {most}"
            )
    labels = [number[name] for name, images in by_class.items() for _ in images]
    return Examples([path for images in by_class.values() for path in images], labels)


def _test_files(folder: Path, number: Mapping[str, int]) -> Examples:
    images = {path.name: path for path in _images(folder / "val/images")}
    rows = [line.split("\t") for line in _lines(folder / ANNOTATIONS)]
    for row in rows:
        if len(row) < 2 or row[1] not in number:
            raise ValueError(f"{folder / ANNOTATIONS} gives no class of {CLASS_LIST} to {row[0]}")
    missing = [row[0] for row in rows if row[0] not in images]
    if missing:
        raise _incomplete(folder, f"val/images lacks {len(missing)} images, first {missing[0]}")
    return Examples([images[row[0]] for row in rows], [number[row[1]] for row in rows])


def _images(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.JPEG"), key=lambda path: path.name)


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is damaged: {error}; unpack {FOLDERS[0]} again") from error
    if not lines:
        raise ValueError(f"{path} is missing or empty; unpack {FOLDERS[0]} again")
    if len(set(lines)) < len(lines):
        raise ValueError(f"{path} has a line twice; unpack {FOLDERS[0]} again")
    return lines


def _incomplete(folder: Path, what: str) -> ValueError:
    return ValueError(f"{folder} is incomplete: {what}; unpack {FOLDERS[0]} again")


def _read(files: TinyImageNetFiles) -> Read:
    found = decode([_source(files.train), _source(files.test)], FORMAT)
    train, test = (
        Split(images, np.array(examples.labels, dtype=np.int64))
        for images, examples in zip(found.images, (files.train, files.test), strict=True)
    )
    dataset = Dataset(
        "tiny_imagenet", train, None, test, files.classes, MEAN, STD, notes=found.notes
    )
    return Read(dataset, found.as_ever)


def _source(examples: Examples) -> Source:
    paths = examples.paths
    return Source(len(paths), lambda: (Encoded(str(path), path.read_bytes) for path in paths))
