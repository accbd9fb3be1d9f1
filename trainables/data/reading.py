"""Reading a dataset that is files: they are decoded once on a machine, until one changes.

What was decoded is kept in the folder `decoded` of the cache, a file for each dataset: the SHA-256
of the rest, the length of what is said of the arrays, that as JSON, and the arrays. A file with
anything wrong is as good as none, and is written again.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
from PIL import features
from pydantic import TypeAdapter

from trainables.data.contents import Where
from trainables.data.dataset import Dataset, Split
from trainables.data.fingerprint import digest, stamps, write_atomically

READING = 1
"""To be raised when files are read as other pixels or other counts than before."""

DIGEST, LENGTH, LABELS = 32, 8, np.dtype("<i8")

KEPT_BYTES = 32 * 2**30
"""What all that is kept may take; then what was not used for the longest time goes."""


class Read(NamedTuple):
    """A dataset from files, and whether its pixels are those that versions before `READING` 1 took
    from the same files."""

    dataset: Dataset
    as_ever: bool


@dataclass(frozen=True)
class DatasetFiles:
    """A dataset that is files, by their names: `read` decodes them, with nothing else to go by than
    `about` says. `where` names an example in messages."""

    about: str
    files: Mapping[str, Path]
    where: Where
    read: Callable[[], Read]


@dataclass(frozen=True)
class _About:
    """What is kept of a dataset besides its arrays; `train` and `test` are the images' shapes."""

    name: str
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    names: tuple[str, ...]
    notes: tuple[str, ...]
    as_ever: bool
    train: tuple[int, int, int, int]
    test: tuple[int, int, int, int]


ABOUT = TypeAdapter(_About)


def read_files(found: DatasetFiles, cache: Path) -> Read:
    """The dataset, whose files are decoded where that was not done before.

    Raises what its `read` raises, and nothing for a cache that cannot be read or written.
    """
    before = stamps(found.files)
    decoders = (PIL.__version__, features.version("jpg"))
    place = cache / "decoded" / digest([READING, decoders, found.about, before])
    with suppress(OSError, ValueError):
        return _kept(place)
    read = found.read()
    with suppress(OSError, ValueError):
        if stamps(found.files) == before:
            _keep(place, read)
    return read


def _kept(place: Path) -> Read:
    """Raises OSError, and ValueError for a file that is damaged."""
    content = np.fromfile(place, dtype=np.uint8)
    if hashlib.sha256(content[DIGEST:].data).digest() != content[:DIGEST].tobytes():
        raise ValueError(f"{place} is damaged")
    with suppress(OSError):
        os.utime(place)
    start = DIGEST + LENGTH
    end = start + int.from_bytes(content[DIGEST:start].tobytes())
    found = ABOUT.validate_json(content[start:end].tobytes())
    train, rest = _split(content[end:], found.train)
    test, _ = _split(rest, found.test)
    dataset = Dataset(
        found.name, train, None, test, found.classes, found.mean, found.std, found.names,
        found.notes,
    )  # fmt: skip
    return Read(dataset, found.as_ever)


def _split(content: np.ndarray, shape: tuple[int, ...]) -> tuple[Split, np.ndarray]:
    """Its images and labels, and what follows them."""
    middle = prod(shape)
    end = middle + shape[0] * LABELS.itemsize
    # A copy, because what they would share is not aligned.
    labels = content[middle:end].copy().view(LABELS).astype(np.int64)
    return Split(content[:middle].reshape(shape), labels), content[end:]


def _keep(place: Path, found: Read) -> None:
    """Raises OSError, also where it would take more than half of what is free."""
    dataset = found.dataset
    about = _About(
        dataset.name,
        dataset.classes,
        dataset.mean,
        dataset.std,
        dataset.names,
        dataset.notes,
        found.as_ever,
        dataset.train.images.shape,
        dataset.test.images.shape,
    )
    line = ABOUT.dump_json(about)
    splits = (dataset.train, dataset.test)
    arrays = [each for s in splits for each in (s.images, s.labels.astype(LABELS))]
    parts = [
        len(line).to_bytes(LENGTH),
        line,
        *(np.ascontiguousarray(each).data for each in arrays),
    ]
    checksum = hashlib.sha256()
    for part in parts:
        checksum.update(part)
    place.parent.mkdir(parents=True, exist_ok=True)
    size = sum(array.nbytes for array in arrays)
    if size > min(KEPT_BYTES, shutil.disk_usage(place.parent).free / 2):
        return
    _make_room(place.parent, KEPT_BYTES - size)
    write_atomically(place, checksum.digest(), *parts)


def _make_room(folder: Path, most: int) -> None:
    """Remove what was not used for the longest time, until the rest takes `most` bytes."""
    found = [(path, path.stat()) for path in folder.iterdir()]
    taken = 0
    for path, stat in sorted(found, key=lambda each: each[1].st_mtime, reverse=True):
        taken += stat.st_size
        if taken > most:
            path.unlink(missing_ok=True)
