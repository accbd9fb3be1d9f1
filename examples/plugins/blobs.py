"""A dataset of one's own: `dataset: {name: blobs, noise: 40.0}`."""

import numpy as np

from prunesweep import DataRoots, Dataset, Split, channel_statistics, dataset


@dataset
def blobs(roots: DataRoots, *, side: int = 8, noise: float = 20.0) -> Dataset:
    """Bright spots, each class at its own place, under Gaussian noise."""
    draw = np.random.RandomState(0)
    places = draw.randint(1, side - 1, size=(4, 2))

    def split(examples: int) -> Split:
        labels = draw.randint(0, len(places), examples)
        images = draw.normal(60, noise, (examples, 1, side, side))
        rows, columns = places[labels].T
        images[np.arange(examples), 0, rows, columns] += 120
        return Split(images.clip(0, 255).astype(np.uint8), labels.astype(np.int64))

    train, test = split(400), split(100)
    return Dataset("blobs", train, None, test, len(places), *channel_statistics(train.images))
