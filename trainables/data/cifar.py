"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009), as torchvision reads them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainables.data.dataset import Dataset, DatasetInfo, Split
from trainables.data.download import download
from trainables.data.roots import DataRoots, not_found, place_it
from trainables.data.torchvision_import import import_torchvision


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
        getattr(import_torchvision().datasets, self.title)(str(root), download=True)

    def _read(self, root: Path, train: bool) -> Split:
        reader = getattr(import_torchvision().datasets, self.title)
        try:
            split = reader(str(root), train=train)
        except RuntimeError as error:
            raise ValueError(
                f"{root / self.folder} is incomplete or damaged; delete it and fetch it again"
            ) from error
        images = np.ascontiguousarray(split.data.transpose(0, 3, 1, 2))
        return Split(images, np.asarray(split.targets, dtype=np.int64))


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
