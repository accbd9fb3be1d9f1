"""Labels of a table to class numbers."""

import numpy as np

SHOWN = 5


def class_numbers(
    train: np.ndarray, test: np.ndarray, relabel: bool, where: str
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[int, ...]]:
    """Class numbers int64 of both splits, 0 to K - 1, and the labels that they stand for.

    Without `relabel` the labels are the numbers, and nothing is said of what they stand for; with
    it, the distinct training labels are numbered in ascending order. Raises ValueError, with
    `where`, when training lacks a class.
    """
    known = np.unique(train)
    unknown = np.setdiff1d(test, known)
    if len(unknown):
        raise ValueError(
            f"{where}: no training example has the test label {_some(unknown)}; training needs "
            "some of every class"
        )
    if relabel:
        numbers = np.searchsorted(known, train), np.searchsorted(known, test)
        return (numbers[0].astype(np.int64), numbers[1].astype(np.int64)), tuple(known.tolist())
    if not np.array_equal(known, np.arange(len(known))):
        raise ValueError(
            f"{where}: the labels are {_some(known)}, and not 0 to {len(known) - 1}, one for each "
            f"of the {len(known)} classes; set dataset.relabel: true to number them in this order, "
            "or write them anew"
        )
    return (train.astype(np.int64), test.astype(np.int64)), ()


def _some(labels: np.ndarray) -> str:
    """The labels, or the first and the last."""
    if len(labels) <= SHOWN:
        return ", ".join(map(str, labels.tolist()))
    return f"{', '.join(map(str, labels[: SHOWN - 1].tolist()))}, … {labels[-1]}"
