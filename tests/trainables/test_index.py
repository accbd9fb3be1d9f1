"""The index of a storage: what it lists, and when."""

from typing import Any

import pytest
from obstore.store import MemoryStore

from trainables.store import MANIFEST, Store, iteration_path, snapshot_path
from trainables.store.index import StoreIndex
from trainables.store.object_files import ObjectFiles

FILES = {"weights": b"w", "mask": b"m"}
HELD = frozenset([*FILES, MANIFEST])


class Counting:
    """A store that counts how often it is listed."""

    def __init__(self) -> None:
        self._objects = MemoryStore()
        self.listings = 0

    def __getattr__(self, name: str) -> Any:
        self.listings += name.startswith("list")
        return getattr(self._objects, name)


@pytest.fixture
def counting() -> Counting:
    return Counting()


@pytest.fixture
def store(counting: Counting) -> Store:
    store = Store("memory:///root")
    vars(store)["files"] = ObjectFiles(counting)  # type: ignore[arg-type]
    store.commit(iteration_path("a"), FILES)
    store.commit(snapshot_path("s"), {"weights": b"w"})
    return store


def test_an_index_lists_once_and_not_before_it_is_asked(store: Store, counting: Counting) -> None:
    index = StoreIndex(store)
    store.commit(iteration_path("b"), {})
    assert counting.listings == 0
    for _ in range(3):
        assert index.iterations == {"a": HELD, "b": {MANIFEST}}
        assert index.files_of("a") == HELD
        assert index.files_of("c") is None
    assert counting.listings == 1
    for _ in range(3):
        assert index.snapshots == {"s": {"weights", MANIFEST}}
    assert counting.listings == 2


def test_what_others_commit_is_found_by_a_new_listing(store: Store) -> None:
    index = StoreIndex(store)
    assert (set(index.iterations), set(index.snapshots)) == ({"a"}, {"s"})
    store.commit(iteration_path("b"), FILES)
    store.commit(snapshot_path("t"), {})
    assert (set(index.iterations), set(index.snapshots)) == ({"a"}, {"s"})
    index.refresh()
    assert (set(index.iterations), set(index.snapshots)) == ({"a", "b"}, {"s", "t"})
