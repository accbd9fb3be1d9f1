"""Faults inside the store's operations: killed at every line, out of room, the power gone."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dying
import pytest
from dying import FILES, KEY, KILLED, OTHERS, PLACE, RECORD, STORES

from trainables.store import MANIFEST, Damaged, Store, StoreError, StoreFull, iteration_path
from trainables.store.local_files import LocalFiles


@dataclass(frozen=True)
class Place:
    """A folder, and how a store lies in it."""

    kind: str
    folder: Path

    def open(self) -> Store:
        """The store opened anew, as another process does."""
        return STORES[self.kind](self.folder)


@pytest.fixture(params=STORES)
def place(request: pytest.FixtureRequest, in_memory: Path) -> Place:
    return Place(request.param, in_memory)


def killed_at_every_line(
    place: Place, operation: str, prepare: Callable[[], Any]
) -> Iterator[None]:
    """Do `operation` in a process that is gone before the n-th line of the store's code, for
    every n.

    Yields after each such process; `prepare` comes before, in this one. Ends when the operation
    does.
    """
    with subprocess.Popen(
        [sys.executable, dying.__file__], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as killer:
        assert killer.stdin
        assert killer.stdout
        for n in range(10_000):
            prepare()
            print(json.dumps([place.kind, str(place.folder), operation, n]), file=killer.stdin)
            killer.stdin.flush()
            status = int(killer.stdout.readline())
            yield
            if status == 0:
                assert n > 20
                return
            assert status == KILLED
    raise AssertionError("the operation has no end")


def held(store: Store) -> dict[str, bytes] | None:
    """What a reader finds in the commit; None without one."""
    if not store.is_committed(KEY):
        return None
    return {name: store.read(KEY, name) for name in store.manifest(KEY)["files"]}


def empty(place: Place) -> None:
    for folder in ("iterations", "quarantine", "tmp", "sweeps"):
        place.open().remove(folder)


def committed(place: Place) -> None:
    """The commit, and nothing beside it."""
    empty(place)
    place.open().commit(KEY, FILES)


def test_a_commit_killed_anywhere_is_whole_or_never_happened(place: Place) -> None:
    seen = set()
    for _ in killed_at_every_line(place, "commit", lambda: empty(place)):
        store = place.open()
        found = held(store)
        assert found in (None, FILES)
        assert set(store.committed("iterations")) == (set() if found is None else {"k" * 64})
        assert store.commit(KEY, FILES) is (found is None)
        assert held(store) == FILES
        assert list(store.damage(KEY)) == []
        store.remove_leftovers()
        assert store.names("tmp") == []
        seen.add(found is None)
    assert seen == {True, False}


def test_a_commit_replaced_is_the_old_one_or_the_new_one(place: Place) -> None:
    seen = []
    for _ in killed_at_every_line(place, "replace", lambda: committed(place)):
        store = place.open()
        seen.append(held(store))
        assert seen[-1] in (FILES, OTHERS)
        assert list(store.damage(KEY)) == []
        assert store.committed("iterations")["k" * 64] >= set(seen[-1] or ())
        store.replace(KEY, OTHERS)
        assert held(store) == OTHERS
        assert store.committed("iterations") == {"k" * 64: {*OTHERS, MANIFEST}}
    assert FILES in seen
    assert seen[-1] == OTHERS


def test_a_file_dropped_is_there_or_not(place: Place) -> None:
    rest = {name: data for name, data in FILES.items() if name != "weights"}
    for _ in killed_at_every_line(place, "drop a file", lambda: committed(place)):
        store = place.open()
        assert held(store) in (FILES, rest)
        assert list(store.damage(KEY)) == []
        store.drop_file(KEY, "weights")
        assert held(store) == rest


def test_a_damaged_commit_set_aside_is_never_lost(place: Place) -> None:
    def prepare() -> None:
        committed(place)
        next(place.folder.rglob("weights")).write_bytes(b"damaged")

    for _ in killed_at_every_line(place, "set aside", prepare):
        store = place.open()
        kept = [path.read_bytes() for path in place.folder.rglob("weights")]
        assert b"damaged" in kept
        if store.is_committed(KEY):
            with pytest.raises(Damaged):
                held(store)
            store.set_aside(KEY)
        assert store.commit(KEY, FILES)
        assert held(store) == FILES


def test_a_commit_discarded_is_whole_or_not_there(place: Place) -> None:
    seen = set()
    for _ in killed_at_every_line(place, "discard", lambda: committed(place)):
        store = place.open()
        seen.add(held(store) is None)
        assert held(store) in (FILES, None)
        store.discard(KEY)
        assert store.committed("iterations") == {}
        store.remove_leftovers()
        assert store.sizes("") == {}
        assert store.commit(KEY, FILES)
        assert held(store) == FILES
    assert seen == {True, False}


def test_a_folder_placed_is_whole_or_not_there(place: Place) -> None:
    seen = set()
    for _ in killed_at_every_line(place, "place", lambda: empty(place)):
        store = place.open()
        there = store.exists(f"{PLACE}/table")
        seen.add(there)
        found = {name: store.peek(f"{PLACE}/{name}") for name in store.names(PLACE)}
        if there or place.kind == "renaming":
            assert found == (FILES if there else {})
        if not there:
            store.place(PLACE, FILES, last="table")
        assert {name: store.peek(f"{PLACE}/{name}") for name in store.names(PLACE)} == FILES
        store.remove_leftovers()
        assert store.names("tmp") == []
    assert seen == {True, False}


def test_a_file_written_is_the_old_one_or_the_new_one(in_memory: Path) -> None:
    place = Place("renaming", in_memory)
    seen = set()
    for _ in killed_at_every_line(place, "write", lambda: place.open().write(RECORD, b"old")):
        store = place.open()
        seen.add(store.peek(RECORD))
        assert store.names("sweeps/s") == ["a.json"]
        store.remove_leftovers()
        assert store.names("tmp") == []
    assert seen == {b"old", b"new"}


def test_what_a_living_process_writes_is_left_to_it(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with LocalFiles(tmp_path).temporary() as mine:
        mine.write_bytes(b"being written")
        store.put("tmp/foreign", b"not ours")
        store.remove_leftovers()
        assert mine.read_bytes() == b"being written"
    assert store.names("tmp") == ["foreign"]


def test_everything_is_synced_before_the_rename_and_the_rename_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fsync has not been asked for may be gone when the power is."""
    events: list[str] = []
    sync, rename = os.fsync, os.rename

    def synced(descriptor: int) -> None:
        sync(descriptor)
        name = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        events.append("folder" if name.is_dir() and name.parent.name == "tmp" else name.name)

    def renamed(source: Any, target: Any) -> None:
        rename(source, target)
        events.append("renamed")

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    Store(str(tmp_path)).commit(KEY, FILES)
    at = events.index("renamed")
    # The new folder `iterations` is an entry of the root, the commit one of `iterations`.
    assert events[:at] == [tmp_path.name, *FILES, MANIFEST, "folder"]
    assert events[at + 1 :] == ["iterations"]


# Disk full


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a quarter of a megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system is not permitted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_full_refuses_a_commit_and_keeps_the_others(small_disk: Path) -> None:
    store = Store(str(small_disk))
    store.commit(KEY, FILES)
    big = iteration_path("b" * 64)
    with pytest.raises(StoreFull, match=r"0\.4 MB were to be written and 0\.2 MB are free"):
        store.commit(big, {"weights": b"x" * 400_000})
    assert not store.is_committed(big)
    assert store.names("tmp") == []
    assert held(store) == FILES
    with pytest.raises(StoreFull):
        store.write("tables/t.parquet", b"x" * 400_000)
    with pytest.raises(StoreFull):
        store.replace(KEY, {"weights": b"x" * 400_000})
    assert held(store) == FILES
    assert store.commit(big, {"weights": b"x" * 1000})


def test_a_full_disk_is_an_error_of_the_users(small_disk: Path) -> None:
    assert issubclass(StoreFull, StoreError)
    with pytest.raises(OSError, match="File too large"), Store(str(small_disk))._room_for(1):
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
