"""What a storage has committed: listed once, then kept up to date by what one is told."""

from collections.abc import Iterable, Mapping

from trainables.store.store import MANIFEST, Store


class StoreIndex:
    """The commits of `store`, for one who commits, or is told of, all that it needs to know.

    Each of the two mappings takes one listing, made when it is first asked for. What others commit
    after that is unknown until `refresh`. Listing raises StoreError.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._listed: dict[str, dict[str, frozenset[str]]] = {}

    @property
    def iterations(self) -> Mapping[str, frozenset[str]]:
        """The names of the files of every iteration's commit, by key; it follows what is told."""
        return self._commits("iterations")

    @property
    def snapshots(self) -> Mapping[str, frozenset[str]]:
        """The same of snapshots, as they were listed."""
        return self._commits("snapshots")

    def files_of(self, key: str) -> frozenset[str] | None:
        """The names of the files of an iteration's commit; None without one."""
        return self.iterations.get(key)

    def committed(self, key: str, files: Iterable[str]) -> None:
        """An iteration is committed now, with these files besides its manifest, and no others."""
        if "iterations" in self._listed:  # else the listing to come has it
            self._listed["iterations"][key] = frozenset(files) | {MANIFEST}

    def lost(self, key: str) -> None:
        """An iteration is no longer committed, if it was."""
        self._listed.get("iterations", {}).pop(key, None)

    def refresh(self) -> None:
        """Forget everything: the next question lists again."""
        self._listed.clear()

    def _commits(self, folder: str) -> dict[str, frozenset[str]]:
        if folder not in self._listed:
            self._listed[folder] = self.store.committed(folder)
        return self._listed[folder]
