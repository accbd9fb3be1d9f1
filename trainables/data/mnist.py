"""MNIST (LeCun et al., 1998) and Fashion-MNIST (Xiao et al., 2017)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainables.data.dataset import Dataset, DatasetInfo, Split
from trainables.data.download import download
from trainables.data.entry import described_by
from trainables.data.idx import read_idx
from trainables.data.roots import DataRoots, DatasetNotFound, not_found, place_it
from trainables.torchvision_import import import_torchvision

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
TRAIN_EXAMPLES, TEST_EXAMPLES, SIDE, CLASSES = 60_000, 10_000, 28, 10


@dataclass(frozen=True)
class IdxDataset:
    """A dataset in MNIST's four files.

    `title` is torchvision's name for it, `md5` has the checksums of the four files when they are
    not gzipped: all such datasets have files of the same names, and one must not be taken for
    another.
    """

    name: str
    title: str
    urls: tuple[str, ...]
    mean: float
    std: float
    md5: tuple[str, str, str, str]

    def describe(self, roots: DataRoots) -> DatasetInfo:
        """What is known without any file."""
        return DatasetInfo((1, SIDE, SIDE), CLASSES, TRAIN_EXAMPLES, TEST_EXAMPLES)

    def load(self, roots: DataRoots) -> Dataset:
        """Images [N, 1, 28, 28], from the first folder that has the four files, or downloaded.

        Raises DatasetNotFound, and ValueError for damaged files.
        """
        paths = self._find(roots) or self._download(roots)
        train = _read(paths[:2], self.md5[:2], TRAIN_EXAMPLES)
        test = _read(paths[2:], self.md5[2:], TEST_EXAMPLES)
        return Dataset(self.name, train, None, test, CLASSES, (self.mean,), (self.std,))

    def found(self, roots: DataRoots) -> bool:
        """Whether a folder has the four files."""
        return self._find(roots) is not None

    def _folders(self, roots: DataRoots) -> Iterator[Path]:
        for root in roots.candidates:
            for folder in (root / self.title, root / self.name, root):
                yield folder / "raw"
                yield folder

    def _find(self, roots: DataRoots) -> list[Path] | None:
        for folder in self._folders(roots):
            paths = [_present(folder, name) for name in FILES]
            if all(paths):
                return [path for path in paths if path]
        return None

    def _download(self, roots: DataRoots) -> list[Path]:
        reason = "the download is incomplete"
        try:
            download(self.urls, self.title, roots.cache, self._fetch)
        except (OSError, RuntimeError, ImportError) as error:
            reason = str(error)
        downloaded = self._find(DataRoots((roots.cache,), roots.cache))
        if downloaded is None:
            raise self._not_found(roots, reason)
        return downloaded

    def _fetch(self, root: Path) -> None:
        getattr(import_torchvision().datasets, self.title)(str(root), download=True)

    def _not_found(self, roots: DataRoots, reason: str) -> DatasetNotFound:
        return not_found(
            f"{self.name} not found: a folder with {', '.join(FILES)} (plain or .gz)",
            self._folders(roots),
            f"{place_it(self.title)}, or run once where it can be downloaded to {roots.cache} "
            f"(tried: {reason})",
        )


MNIST = IdxDataset(
    "mnist",
    "MNIST",
    ("https://ossci-datasets.s3.amazonaws.com/mnist/train-labels-idx1-ubyte.gz",),
    mean=0.1307,
    std=0.3081,
    md5=(
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    ),
)
FASHION_MNIST = IdxDataset(
    "fashion_mnist",
    "FashionMNIST",
    ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/train-labels-idx1-ubyte.gz",),
    mean=0.2860,
    std=0.3530,
    md5=(
        "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "9018921c3c673c538a1fc5bad174d6f9",
        "8181f5470baa50b63fa0f6fddb340f0a",
        "15d484375f8d13e6eb1aabb0c3f46965",
    ),
)


@described_by(MNIST.describe, MNIST.found)
def mnist(roots: DataRoots) -> Dataset:
    """Handwritten digits (LeCun et al., 1998), 28x28."""
    return MNIST.load(roots)


@described_by(FASHION_MNIST.describe, FASHION_MNIST.found)
def fashion_mnist(roots: DataRoots) -> Dataset:
    """Clothes (Xiao et al., 2017), 28x28."""
    return FASHION_MNIST.load(roots)


def _present(folder: Path, name: str) -> Path | None:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    return None


def _read(paths: Sequence[Path], md5: Sequence[str], count: int) -> Split:
    """Images and labels of one split, from its two files."""
    return Split(
        read_idx(paths[0], (count, SIDE, SIDE), md5[0])[:, None],
        read_idx(paths[1], (count,), md5[1]).astype(np.int64),
    )
