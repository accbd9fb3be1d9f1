"""What is in a dataset: counts that `plan` and `run` tell, and what makes results worthless."""

from collections.abc import Callable, Sequence
from hashlib import blake2b

import numpy as np

from trainables.data.dataset import ClassSize, Contents, Dataset, Split, SplitContents

BATCH = 1024

Where = Callable[[str, int], str]
"""Names the example of a split ("train" or "test") and an index."""


def contents(dataset: Dataset, where: Where) -> Contents:
    """Count what `dataset` holds; `where(split, index)` names an example in messages.

    Raises ValueError when it has one class only, a class without training examples, or training
    images that are all equal.
    """
    _require_classes(dataset)
    train, test = _digests(dataset.train.images), _digests(dataset.test.images)
    if len(set(train)) == 1:
        raise ValueError(f"all {len(train)} training images of {dataset.name} are equal")
    known = {digest: index for index, digest in reversed(list(enumerate(train)))}
    common = [index for index, digest in enumerate(test) if digest in known]
    first = ""
    if common:
        first = f"{where('test', common[0])} is {where('train', known[test[common[0]]])}"
    return Contents(
        _split_contents(dataset.train, train, dataset.names),
        _split_contents(dataset.test, test, dataset.names),
        len(common),
        first,
        dataset.names,
        dataset.notes,
    )


def example_number(split: str, index: int) -> str:
    """How an example is named that comes from no file."""
    return f"{split} example {index}"


def require_apart(name: str, found: Contents, overlap: int) -> None:
    """Raises ValueError when more than `overlap` test images are training images too."""
    if found.overlap > overlap:
        raise ValueError(
            f"{found.overlap} of the {found.test.examples} test images of {name} are training "
            f"images too (the first: {found.first_overlap}), so that accuracy would measure what "
            "is remembered; take them out of one split, or, if that is known and wanted, set "
            f"dataset.overlap: {found.overlap}"
        )


def _require_classes(dataset: Dataset) -> None:
    counts = np.bincount(dataset.train.labels, minlength=dataset.classes)
    missing = np.flatnonzero(counts == 0).tolist()
    if missing:
        named = ", ".join(map(str, missing[:5])) + (", …" if len(missing) > 5 else "")
        raise ValueError(
            f"{dataset.name} has {dataset.classes} classes, and no training example of "
            f"{len(missing)} of them: {named}"
        )
    if dataset.classes < 2:
        raise ValueError(f"{dataset.name} has one class only: there is nothing to learn")


def _digests(images: np.ndarray) -> list[bytes]:
    return [blake2b(image.tobytes(), digest_size=16).digest() for image in images]


def _split_contents(split: Split, digests: Sequence[bytes], names: Sequence[str]) -> SplitContents:
    counts = np.bincount(split.labels)
    there = np.flatnonzero(counts)
    smallest, largest = there[counts[there].argmin()], there[counts[there].argmax()]

    def size(label: int) -> ClassSize:
        return ClassSize(names[label] if names else str(label), int(counts[label]))

    return SplitContents(
        examples=len(split),
        classes=len(there),
        smallest=size(int(smallest)),
        largest=size(int(largest)),
        constant=_constant(split.images),
        repeated=len(digests) - len(set(digests)),
    )


def _constant(images: np.ndarray) -> int:
    parts = (images[start : start + BATCH] for start in range(0, len(images), BATCH))
    return sum(int((part == part[:, :, :1, :1]).all(axis=(1, 2, 3)).sum()) for part in parts)
