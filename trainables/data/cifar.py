"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009): the published files, which are pickles of arrays."""

import hashlib
import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainables.data.dataset import Dataset, DatasetInfo, Split
from trainables.data.download import download
from trainables.data.entry import described_by
from trainables.data.roots import DataRoots, not_found, place_it
from trainables.torchvision_import import import_torchvision


@dataclass(frozen=True)
class CifarDataset:
    """One of the two; `title` is torchvision's name, `folder` what its archive unpacks to."""

    name: str
    title: str
    folder: str
    url: str
    classes: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def describe(self, roots: DataRoots) -> DatasetInfo:
        """What is known without any file."""
        return DatasetInfo((3, 32, 32), self.classes, 50_000, 10_000)

    def load(self, roots: DataRoots) -> Dataset:
        """Images [N, 3, 32, 32], from the first root that has the folder, or downloaded.

        Raises DatasetNotFound, and ValueError for damaged files.
        """
        root = self._find(roots) or self._download(roots)
        train, test = self._read(root, train=True), self._read(root, train=False)
        return Dataset(self.name, train, None, test, self.classes, self.mean, self.std)

    def found(self, roots: DataRoots) -> bool:
        """Whether the folder is there."""
        return self._find(roots) is not None

    def _find(self, roots: DataRoots) -> Path | None:
        found = (root for root in roots.candidates if (root / self.folder).is_dir())
        return next(found, None)

    def _download(self, roots: DataRoots) -> Path:
        try:
            download((self.url,), self.folder, roots.cache, self._fetch)
        except (OSError, RuntimeError, ImportError) as error:
            raise not_found(
                f"{self.name} not found: the folder {self.folder}",
                [root / self.folder for root in roots.candidates],
                f"{place_it(self.folder)}, or run once where it can be downloaded to "
                f"{roots.cache} (tried: {error})",
            ) from error
        return roots.cache

    def _fetch(self, root: Path) -> None:
        published = self._published
        import_torchvision().datasets.utils.download_and_extract_archive(
            published.url, str(root), filename=published.filename, md5=published.tgz_md5
        )

    def _read(self, root: Path, train: bool) -> Split:
        files = self._published.train_list if train else self._published.test_list
        batches = [self._batch(root / self.folder / name, md5) for name, md5 in files]
        images = np.concatenate([images for images, _ in batches]).reshape(-1, 3, 32, 32)
        return Split(images, np.concatenate([labels for _, labels in batches]))

    def _batch(self, path: Path, md5: str) -> tuple[np.ndarray, np.ndarray]:
        """Images [n, 3072] and labels [n] of one file."""
        try:
            content = path.read_bytes()
            if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
                raise ValueError("not the published file")
            batch = _Arrays(io.BytesIO(content), encoding="latin1").load()
            labels = batch["labels" if "labels" in batch else "fine_labels"]
            return batch["data"], np.asarray(labels, dtype=np.int64)
        except (OSError, ValueError, pickle.UnpicklingError) as error:
            raise ValueError(
                f"{path.parent} is incomplete or damaged: {path.name}: {error}; "
                "delete it and fetch it again"
            ) from error

    @property
    def _published(self) -> Any:
        """torchvision's class, which knows the files and their checksums."""
        return getattr(import_torchvision().datasets, self.title)


ARRAY_PARTS = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
}


class _Arrays(pickle.Unpickler):
    """Makes arrays and plain values, and calls nothing else: a pickle can name any function."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ARRAY_PARTS:
            raise pickle.UnpicklingError(f"{module}.{name} is no part of an array")
        return super().find_class(module, name)


CIFAR10 = CifarDataset(
    "cifar10",
    "CIFAR10",
    "cifar-10-batches-py",
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    classes=10,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
)
CIFAR100 = CifarDataset(
    "cifar100",
    "CIFAR100",
    "cifar-100-python",
    "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    classes=100,
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
)


@described_by(CIFAR10.describe, CIFAR10.found)
def cifar10(roots: DataRoots) -> Dataset:
    """Ten kinds of things (Krizhevsky, 2009), 32x32 in colour."""
    return CIFAR10.load(roots)


@described_by(CIFAR100.describe, CIFAR100.found)
def cifar100(roots: DataRoots) -> Dataset:
    """A hundred kinds of things (Krizhevsky, 2009), 32x32 in colour."""
    return CIFAR100.load(roots)
