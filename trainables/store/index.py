"""What a storage has committed, listed once."""

from collections.abc import Mapping

from trainables.store.store import Store


class StoreIndex:
    """The commits of `store`, for one who asks for them many times.

    Each of the two mappings takes one listing, made when it is first asked for. What is committed
    after that is unknown until `refresh`. Listing raises StoreError.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._listed: dict[str, dict[str, frozenset[str]]] = {}

    @property
    def iterations(self) -> Mapping[str, frozenset[str]]:
        """The names of the files of every iteration's commit, by key."""
        return self._commits("iterations")

    @property
    def snapshots(self) -> Mapping[str, frozenset[str]]:
        """The same of snapshots."""
        return self._commits("snapshots")

    def files_of(self, key: str) -> frozenset[str] | None:
        """The names of the files of an iteration's commit; None without one."""
        return self.iterations.get(key)

    def refresh(self) -> None:
        """Forget everything: the next question lists again."""
        self._listed.clear()

    def _commits(self, folder: str) -> Mapping[str, frozenset[str]]:
        if folder not in self._listed:
            self._listed[folder] = self.store.committed(folder)
        return self._listed[folder]
