"""What a storage has of a lineage, and so what is left to train."""

from collections.abc import Callable, Collection

from trainables.lineage.ending import End, Measured, end_of, until
from trainables.lineage.keys import Lineage, Measurement
from trainables.store import MANIFEST, Store, iteration_path
from trainables.store.artifacts import WEIGHTS
from trainables.store.store import manifest_in

FilesOf = Callable[[str], Collection[str] | None]
"""The files of an iteration's commit by its key, None without one."""


def missing_iterations(lineage: Lineage, files_of: FilesOf) -> list[int]:
    """The indexes of the lineage's steps that have to be trained, in order.

    An iteration whose weights were not kept is complete in itself, but is trained again when a
    missing one, or a measurement to be made, reads them.
    """
    missing: list[int] = []
    read = {
        index
        for each in lineage.measurements
        if (reads := each.measure.reads(each.index)) and files_of(each.key) is None
        for index in reads
    }
    for t in reversed(range(len(lineage.keys))):
        files = files_of(lineage.keys[t])
        if files is None or (t in read and WEIGHTS not in files):
            missing.append(t)
            read |= lineage.weights_read(t)
    return missing[::-1]


def missing_measurements(lineage: Lineage, files_of: FilesOf) -> list[Measurement]:
    """The measurements of the lineage that have to be made."""
    return [each for each in lineage.measurements if files_of(each.key) is None]


def stored_parents(lineage: Lineage, files_of: FilesOf) -> list[str]:
    """The keys of the stored iterations that the training of what is missing reads."""
    missing = missing_iterations(lineage, files_of)
    read = {at for t in missing for at in lineage.weights_read(t)}
    # Masks are the parent's, also where no weights are scored.
    read |= {t - 1 for t in missing if t > 0 and lineage.steps[t].kind != "train"}
    return [lineage.keys[t] for t in sorted(read.difference(missing))]


def stored_files(store: Store) -> FilesOf:
    """`files_of` for `missing_iterations`, looking each iteration up in the store."""

    def files_of(key: str) -> frozenset[str] | None:
        path = iteration_path(key)
        found = store.peek(f"{path}/{MANIFEST}")
        return None if found is None else frozenset(manifest_in(path, found)["files"])

    return files_of


class Stored:
    """What the store has of a lineage, looked up once and again only where it may be news.

    A lineage of T iterations asks the store O(T) times in all, however long it waits. `end` is
    where its stop rules end it, None while they do not.
    """

    def __init__(self, lineage: Lineage, store: Store) -> None:
        self._lineage, self._look = lineage, stored_files(store)
        self._files: dict[str, Collection[str] | None] = {}
        self._measured = Measured(store, self._files_of)
        self.end: End | None = None

    def first_missing(self) -> int | None:
        """The index of the step to train next; None when nothing is missing. Raises Damaged."""
        self.end = end_of(self._lineage, self._measured)
        lineage = until(self._lineage, self.end)
        first = next((t for t, key in enumerate(lineage.keys) if not self._is_stored(key)), None)
        if first is not None and self._supposed(lineage, first)[0] == first:
            return first
        return next(iter(missing_iterations(lineage, self._files_of)), None)

    def look_again(self, index: int) -> None:
        """Ask the store for this one once more: it may have been committed meanwhile."""
        self._files.pop(self._lineage.keys[index], None)

    def committed(self, index: int) -> None:
        """This one was committed here, with its weights: nobody has to be asked. The next one is
        most likely missing: it is asked for once it is claimed."""
        self._files[self._lineage.keys[index]] = {WEIGHTS}
        for key in self._lineage.keys[index + 1 : index + 2]:
            self._files.setdefault(key, None)

    def forget(self) -> None:
        """Ask for everything once more: something was not as it seemed."""
        self._files.clear()
        self._measured.forget()

    def _supposed(self, lineage: Lineage, first: int) -> list[int]:
        """What is missing if all after the first that is not stored is: so much at the most, and
        nobody is asked for it."""
        after = {*lineage.keys[first:]}
        return missing_iterations(lineage, lambda k: None if k in after else self._files_of(k))

    def _is_stored(self, key: str) -> bool:
        return self._files_of(key) is not None

    def _files_of(self, key: str) -> Collection[str] | None:
        if key not in self._files:
            self._files[key] = self._look(key)
        return self._files[key]
