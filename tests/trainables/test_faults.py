"""Faults inside the store's operations: killed at every line, out of room, the power gone."""

import errno
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pyarrow.fs as fs
import pytest

import trainables.store.store
from trainables.store import MANIFEST, Damaged, Store, StoreError, StoreFull, iteration_path
from trainables.store.local_files import LocalFiles
from trainables.store.object_files import ObjectFiles

KEY = iteration_path("k" * 64)
FILES = {"weights": b"\x00\x01\xff" * 50, "empty": b"", "table": b"text\r\n"}
OTHERS = {"weights": b"new" * 70, "table": b"new"}
KILLED = 9

STORE_CODE = Path(trainables.store.store.__file__).parent


def renaming(root: Path) -> Store:
    return Store(str(root))


class PutWhole:
    """A folder as an object store: a file is there whole or not at all, and no folder moves."""

    def __init__(self, root: Path) -> None:
        self._files = fs.SubTreeFileSystem(str(root), fs.LocalFileSystem())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._files, name)

    @contextmanager
    def open_output_stream(self, path: str, compression: None) -> Iterator[io.BytesIO]:
        written = io.BytesIO()
        yield written
        self._files.create_dir(path.rpartition("/")[0], recursive=True)
        with self._files.open_output_stream("uploading", compression=compression) as stream:
            stream.write(written.getvalue())
        self._files.move("uploading", path)


def without_rename(root: Path) -> Store:
    store = Store(str(root))
    vars(store)["files"] = ObjectFiles(PutWhole(root), "inside")  # type: ignore[arg-type]
    return store


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory where there is such a file system: thousands of syncs take long on a disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        yield Path(name)


@pytest.fixture(params=[renaming, without_rename])
def open_store(request: pytest.FixtureRequest, folder: Path) -> Callable[[], Store]:
    """Opens the store anew, as another process does."""
    return lambda: request.param(folder)


def killed_at_every_line(prepare: Callable[[], None], act: Callable[[], Any]) -> Iterator[int]:
    """Do `act` in a process that is gone before the n-th line of the store's code, for every n.

    Yields n after each such process; `prepare` comes before, in this one. Ends when `act` does.
    """
    for n in range(10_000):
        prepare()
        pid = os.fork()
        if pid == 0:
            _die_at_line(n)
            act()
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        yield n
        if status == 0:
            assert n > 20
            return
        assert status == KILLED
    raise AssertionError("the operation has no end")


def _die_at_line(n: int) -> None:
    lines = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal lines
        if Path(frame.f_code.co_filename).parent != STORE_CODE:
            return None
        if event == "line":
            if lines == n:
                os._exit(KILLED)  # nothing is cleaned up, flushed or closed
            lines += 1
        return trace

    sys.settrace(trace)


def held(store: Store) -> dict[str, bytes] | None:
    """What a reader finds in the commit; None without one."""
    if not store.is_committed(KEY):
        return None
    return {name: store.read(KEY, name) for name in store.manifest(KEY)["files"]}


def empty(open_store: Callable[[], Store]) -> Callable[[], None]:
    def prepare() -> None:
        for folder in ("iterations", "quarantine", "tmp", "sweeps"):
            open_store().remove(folder)

    return prepare


def test_a_commit_killed_anywhere_is_whole_or_never_happened(
    open_store: Callable[[], Store],
) -> None:
    seen = set()
    for _ in killed_at_every_line(empty(open_store), lambda: open_store().commit(KEY, FILES)):
        store = open_store()
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


def test_a_commit_replaced_is_the_old_one_or_the_new_one(open_store: Callable[[], Store]) -> None:
    def prepare() -> None:
        empty(open_store)()
        open_store().commit(KEY, FILES)

    seen = []
    for _ in killed_at_every_line(prepare, lambda: open_store().replace(KEY, OTHERS)):
        store = open_store()
        seen.append(held(store))
        assert seen[-1] in (FILES, OTHERS)
        assert list(store.damage(KEY)) == []
        assert store.committed("iterations")["k" * 64] >= set(seen[-1] or ())
        store.replace(KEY, OTHERS)
        assert held(store) == OTHERS
        assert store.committed("iterations") == {"k" * 64: {*OTHERS, MANIFEST}}
    assert FILES in seen
    assert seen[-1] == OTHERS


def test_a_file_dropped_is_there_or_not(open_store: Callable[[], Store]) -> None:
    def prepare() -> None:
        empty(open_store)()
        open_store().commit(KEY, FILES)

    for _ in killed_at_every_line(prepare, lambda: open_store().drop_file(KEY, "weights")):
        store = open_store()
        rest = {name: data for name, data in FILES.items() if name != "weights"}
        assert held(store) in (FILES, rest)
        assert list(store.damage(KEY)) == []
        store.drop_file(KEY, "weights")
        assert held(store) == rest


def test_a_damaged_commit_set_aside_is_never_lost(open_store: Callable[[], Store]) -> None:
    def prepare() -> None:
        empty(open_store)()
        store = open_store()
        store.commit(KEY, FILES)
        weights = next(path for path in Path(root(store)).rglob("weights"))
        weights.write_bytes(b"damaged")

    for _ in killed_at_every_line(prepare, lambda: open_store().set_aside(KEY)):
        store = open_store()
        kept = [path.read_bytes() for path in Path(root(store)).rglob("weights")]
        assert b"damaged" in kept
        if store.is_committed(KEY):
            with pytest.raises(Damaged):
                held(store)
            store.set_aside(KEY)
        assert store.commit(KEY, FILES)
        assert held(store) == FILES


def root(store: Store) -> str:
    return store.location


def test_a_file_written_is_the_old_one_or_the_new_one(folder: Path) -> None:
    def prepare() -> None:
        renaming(folder).write("sweeps/s/a.json", b"old")

    seen = set()
    for _ in killed_at_every_line(
        prepare, lambda: renaming(folder).write("sweeps/s/a.json", b"new")
    ):
        store = renaming(folder)
        seen.add(store.peek("sweeps/s/a.json"))
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
