"""The 8x8 handwritten digits that scikit-learn carries (UCI, Alpaydin and Kaynak, 1998)."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from trainables.data.dataset import Dataset, DatasetInfo, Split, channel_statistics
from trainables.data.entry import described_by
from trainables.data.roots import DataRoots

LEVELS_PER_UNIT = 15
"""From the 0..16 of the source to 0..240 of a byte."""


def describe(roots: DataRoots) -> DatasetInfo:
    """What is known without loading."""
    return DatasetInfo((1, 8, 8), classes=10, train_examples=1437, test_examples=360)


@described_by(describe)
def digits(roots: DataRoots) -> Dataset:
    """1,797 images [N, 1, 8, 8]; every fifth is a test example. Needs no file."""
    rows = np.loadtxt(_file(), delimiter=",")
    pixels = (rows[:, :-1] * LEVELS_PER_UNIT).astype(np.uint8).reshape(-1, 1, 8, 8)
    everything = Split(pixels, rows[:, -1].astype(np.int64))
    indices = np.arange(len(everything))
    train, test = everything.take(indices[indices % 5 != 0]), everything.take(indices[::5])
    mean, std = channel_statistics(train.images)
    return Dataset("digits", train, None, test, 10, mean, std)


def _file() -> Path:
    """What scikit-learn's `load_digits` reads: the package itself takes a second to import."""
    spec = find_spec("sklearn")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).with_name("datasets") / "data/digits.csv.gz"
