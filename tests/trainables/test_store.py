"""The store: commits, damage, atomicity, and roots with awkward names."""

import errno
import itertools
import json
import os
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from dying import without_rename
from hypothesis import given
from hypothesis import strategies as st

from trainables.store import (
    MANIFEST,
    Damaged,
    Store,
    StoreError,
    StoreSilent,
    checkpoint_path,
    iteration_path,
)
from trainables.store.local_files import LocalFiles
from trainables.store.object_files import ObjectFiles
from trainables.store.patient_files import PatientFiles

FILES = {"weights": b"\x00\x01\xff" * 50, "empty": b"", "table": b"text\r\n"}
KEY = iteration_path("k" * 64)


def objects_of(store: Store) -> Any:
    """What a store in an object store asks."""
    assert isinstance(store.files, ObjectFiles)
    return store.files.objects


@pytest.fixture(params=["path", "file URI", "memory URI", "object store"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """The same behaviour is asked of renaming into place and of writing in place."""
    return {
        "path": lambda: Store(str(tmp_path / "store")),
        "file URI": lambda: Store(f"file://{tmp_path}/store"),
        "memory URI": lambda: Store("memory:///bucket/root"),
        "object store": lambda: without_rename(tmp_path / "objects"),
    }[request.param]()


def local(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def put(store: Store, path: str, data: bytes) -> None:
    """Write a file past the store."""
    store.put(path, data)


def listing(store: Store) -> dict[str, bytes]:
    """Every file below the root, with what it holds."""
    return {path: store.files.read(path) for path in store.sizes("")}


# Commits


def test_what_was_committed_is_read_back(store: Store) -> None:
    assert not store.is_committed(KEY)
    assert store.commit(KEY, FILES) is True
    assert store.is_committed(KEY)
    assert {name: store.read(KEY, name) for name in FILES} == FILES
    assert set(store.manifest(KEY)["files"]) == set(FILES)
    assert store.committed("iterations") == {"k" * 64: frozenset([*FILES, MANIFEST])}


def test_another_process_reads_a_commit(tmp_path: Path) -> None:
    local(tmp_path).commit(KEY, FILES)
    assert Store(f"file://{tmp_path}/store").read(KEY, "weights") == FILES["weights"]
    assert (tmp_path / "store" / KEY / "table").read_bytes() == FILES["table"]


@given(data=st.dictionaries(st.sampled_from(["a", "b.c", "d-e_f"]), st.binary(), max_size=3))
def test_any_bytes_come_back(data: dict[str, bytes]) -> None:
    store = Store("memory:///root")
    store.commit(KEY, data)
    assert {name: store.read(KEY, name) for name in data} == data


def test_an_empty_store_holds_nothing(store: Store) -> None:
    assert store.committed("iterations") == {}
    assert store.names("iterations") == []
    with pytest.raises(Damaged, match="no manifest"):
        store.read(KEY, "weights")


def test_files_without_a_manifest_are_no_commit(store: Store) -> None:
    put(store, f"{KEY}/weights", b"half")
    assert not store.is_committed(KEY)
    assert store.committed("iterations") == {}


def test_the_leftovers_of_a_killed_writer_are_replaced(store: Store) -> None:
    put(store, f"{KEY}/weights", b"half")
    put(store, f"{KEY}/of-an-older-version", b"half")
    assert store.commit(KEY, FILES)
    assert {name: store.read(KEY, name) for name in FILES} == FILES
    assert store.committed("iterations") == {"k" * 64: frozenset([*FILES, MANIFEST])}


def test_a_second_commit_changes_nothing_and_says_so(store: Store) -> None:
    store.commit(KEY, FILES)
    before = listing(store)
    assert store.commit(KEY, {"weights": b"other", "more": b""}) is False
    assert listing(store) == before


def test_of_many_writers_at_once_exactly_one_commits(tmp_path: Path) -> None:
    store, writers = local(tmp_path), 8
    start = threading.Barrier(writers)

    def commit(number: int) -> bool:
        start.wait()
        return store.commit(KEY, {"who": str(number).encode() * 100})

    with ThreadPoolExecutor(writers) as pool:
        outcomes = list(pool.map(commit, range(writers)))
    assert sum(outcomes) == 1
    assert store.read(KEY, "who") == str(outcomes.index(True)).encode() * 100
    assert store.names("tmp") == []


def test_nested_commits_are_listed_under_their_first_folder(store: Store) -> None:
    store.commit(checkpoint_path("a", 3), FILES)
    store.commit(checkpoint_path("a", 12), FILES)
    assert store.names("checkpoints/a") == ["000003", "000012"]
    assert set(store.committed("checkpoints/a")) == {"000003", "000012"}


# Damage


def test_a_file_where_folders_are_is_none_and_has_nothing_in_it(store: Store) -> None:
    store.commit(KEY, FILES)
    put(store, "iterations/.DS_Store", b"a file browser's")
    assert store.folders("iterations") == [KEY.partition("/")[2]]
    assert store.folders("iterations/.DS_Store") == store.folders("nowhere") == []
    assert store.names("iterations/.DS_Store") == []
    assert store.committed("iterations").keys() == {KEY.partition("/")[2]}
    if store.local_root:  # a file system in the place of an object store has an error of its own
        assert store.peek("iterations/.DS_Store/manifest.json") is None


def flipped(store: Store) -> None:
    data = bytearray(FILES["weights"])
    data[70] ^= 1
    put(store, f"{KEY}/weights", bytes(data))


def truncated(store: Store) -> None:
    put(store, f"{KEY}/weights", FILES["weights"][:-1])


def lengthened(store: Store) -> None:
    put(store, f"{KEY}/weights", FILES["weights"] + b"\0")


def missing(store: Store) -> None:
    store.delete_file(f"{KEY}/weights")


def manifest_of(text: bytes) -> Callable[[Store], None]:
    def damage(store: Store) -> None:
        put(store, f"{KEY}/{MANIFEST}", text)

    return damage


def without(entry: str) -> bytes:
    entries = {"bytes": 150, "sha256": "0" * 64}
    del entries[entry]
    return json.dumps({"format": 1, "files": {"weights": entries}}).encode()


DAMAGE = {
    "flipped bit": flipped,
    "truncated": truncated,
    "lengthened": lengthened,
    "missing": missing,
    "manifest emptied": manifest_of(b""),
    "manifest cut": manifest_of(b'{"files": {"weights": {"by'),
    "manifest binary": manifest_of(b"\xff\xfe\x00"),
    "manifest a list": manifest_of(b"[]"),
    "manifest without files": manifest_of(b'{"format": 1}'),
    "manifest without the file": manifest_of(b'{"format": 1, "files": {}}'),
    "manifest with a number for a file": manifest_of(b'{"format": 1, "files": {"weights": 150}}'),
    "manifest without a size": manifest_of(without("bytes")),
    "manifest without a hash": manifest_of(without("sha256")),
    "manifest of no known format": manifest_of(b'{"format": 0, "files": {}}'),
    "manifest of a newer format": manifest_of(b'{"format": 2, "files": {}}'),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damage_is_found_and_named(damage: Callable[[Store], None], tmp_path: Path) -> None:
    store = local(tmp_path)
    store.commit(KEY, FILES)
    damage(store)
    with pytest.raises(Damaged) as caught:
        store.read(KEY, "weights")
    assert caught.value.path == KEY
    assert KEY in str(caught.value)


@given(st.integers(0, 10_000), st.integers(0, 7))
def test_no_flipped_bit_of_a_commit_goes_unseen(position: int, bit: int) -> None:
    # Every byte of the file and of what the manifest says of it; not the manifest's white space.
    store = Store("memory:///root")
    store.commit(KEY, {"weights": FILES["weights"]})
    held = {path: bytearray(data) for path, data in listing(store).items()}
    assert len(held) == 2
    places = [(path, i) for path, data in held.items() for i in range(len(data))]
    path, index = places[position % len(places)]
    held[path][index] ^= 1 << bit
    put(store, path, bytes(held[path]))
    try:
        assert store.read(KEY, "weights") == FILES["weights"]
    except Damaged:
        return
    assert path.endswith(MANIFEST)


def test_a_file_of_another_length_is_described_by_its_length(tmp_path: Path) -> None:
    store = local(tmp_path)
    store.commit(KEY, FILES)
    truncated(store)
    with pytest.raises(Damaged, match="weights has 149 bytes instead of 150"):
        store.read(KEY, "weights")


def test_damage_to_one_file_leaves_the_others_readable(store: Store) -> None:
    store.commit(KEY, FILES)
    flipped(store)
    assert store.read(KEY, "table") == FILES["table"]


def test_a_damaged_commit_is_set_aside_and_kept(store: Store) -> None:
    store.commit(KEY, FILES)
    flipped(store)
    before = {name: data for name, data in listing(store).items() if name.startswith(KEY)}
    aside = store.set_aside(KEY)
    assert aside.startswith("quarantine/")
    assert not store.is_committed(KEY)
    after = listing(store)
    assert {name.removeprefix(f"{aside}/") for name in after} == {
        name.removeprefix(f"{KEY}/") for name in before
    }
    assert sorted(after.values()) == sorted(before.values())
    assert store.commit(KEY, FILES)
    assert store.read(KEY, "weights") == FILES["weights"]


def test_setting_aside_again_keeps_both(store: Store) -> None:
    asides = set()
    for _ in range(2):
        store.commit(KEY, FILES)
        asides.add(store.set_aside(KEY))
    assert len(asides) == 2
    assert store.names("quarantine") == sorted(aside.split("/")[1] for aside in asides)


def test_a_damaged_file_is_set_aside_and_kept(store: Store) -> None:
    put(store, "sweeps/s/provenance.json", b"{")
    put(store, "sweeps/s/provenance.json.old", b"old")
    aside = store.set_aside("sweeps/s/provenance.json")
    assert aside.startswith("quarantine/sweeps-s-provenance.json-")
    assert listing(store) == {aside: b"{", "sweeps/s/provenance.json.old": b"old"}


class Interrupted:
    """A store in which something else happens just before its n-th request."""

    def __init__(self, files: Any, n: int, event: Callable[[], object]) -> None:
        self._files, self._left, self._event = files, n, event
        self.happened = False

    def __getattr__(self, name: str) -> Any:
        if self._left == 0:
            self.happened = True
            self._event()
        self._left -= 1
        return getattr(self._files, name)


def test_what_another_sets_aside_in_the_middle_is_kept_whole() -> None:
    for n in itertools.count():
        store, late = Store("memory:///root"), Store("memory:///root")
        store.commit(KEY, FILES)
        between = Interrupted(objects_of(store), n, lambda store=store: store.set_aside(KEY))
        vars(late)["files"] = ObjectFiles(between)  # type: ignore[arg-type]
        late.set_aside(KEY)
        if not between.happened:
            assert n > 2 * len(FILES)
            return
        assert {name.split("/")[0] for name in listing(store)} == {"quarantine"}
        # One of the two has all of it, and neither has a manifest of files that it has not.
        whole = store.committed("quarantine")
        assert whole
        for aside in whole:
            assert {name: store.read(f"quarantine/{aside}", name) for name in FILES} == FILES


def test_what_many_set_aside_at_once_is_kept(store: Store) -> None:
    many = 6
    for number in range(10):
        store.commit(KEY, FILES)
        start = threading.Barrier(many)

        def set_aside(_: int, start: threading.Barrier = start) -> None:
            start.wait()
            store.set_aside(KEY)

        with ThreadPoolExecutor(many) as pool:
            list(pool.map(set_aside, range(many)))
        assert not store.is_committed(KEY)
        assert len(store.committed("quarantine")) > number


# Taking away


def test_a_dropped_file_is_no_part_of_its_commit_any_more(store: Store) -> None:
    store.commit(KEY, FILES)
    store.drop_file(KEY, "weights")
    assert store.committed("iterations") == {"k" * 64: frozenset(["empty", "table", MANIFEST])}
    assert set(store.manifest(KEY)["files"]) == {"empty", "table"}
    assert store.read(KEY, "table") == FILES["table"]
    with pytest.raises(Damaged, match="not part of this commit"):
        store.read(KEY, "weights")
    before = listing(store)
    store.drop_file(KEY, "weights")
    assert listing(store) == before


def test_removing_takes_a_folder_and_nothing_else(store: Store) -> None:
    store.commit(checkpoint_path("a", 1), FILES)
    store.commit(checkpoint_path("ab", 1), FILES)
    store.remove("checkpoints/a")
    store.remove("checkpoints/none")
    assert store.names("checkpoints") == ["ab"]


# Single files


def test_a_json_file_is_replaced_and_read_back(store: Store) -> None:
    store.commit("sweeps/s", {})
    assert store.read_json("sweeps/s/plan.json") is None
    store.write_json("sweeps/s/plan.json", {"b": [1, None], "a": "é\n"})
    store.write_json("sweeps/s/plan.json", {"b": [2.5]})
    assert store.read_json("sweeps/s/plan.json") == {"b": [2.5]}
    put(store, "sweeps/s/plan.json", b'{"b": ')
    with pytest.raises(Damaged, match=r"sweeps/s/plan\.json"):
        store.read_json("sweeps/s/plan.json")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    store = local(tmp_path)
    store.write("sweeps/s/file", b"old")
    with pytest.raises(TypeError):
        store.write("sweeps/s/file", "no bytes")  # type: ignore[arg-type]
    assert listing(store) == {"sweeps/s/file": b"old"}


def test_a_file_is_put_where_another_removes_the_empty_folder_again_and_again(
    tmp_path: Path,
) -> None:
    store, over = Store(str(tmp_path)), threading.Event()

    def remove() -> None:
        while not over.is_set():
            with suppress(OSError):
                (tmp_path / "claims/k/ticket").unlink()
                (tmp_path / "claims/k").rmdir()

    with ThreadPoolExecutor(1) as pool:
        removing = pool.submit(remove)
        try:
            for _ in range(2000):
                store.put("claims/k/ticket", b"")
        finally:
            over.set()
        removing.result()


def test_a_file_in_place_of_a_folder_is_an_error_and_no_endless_loop(tmp_path: Path) -> None:
    (tmp_path / "claims").touch()
    with pytest.raises(FileExistsError):
        Store(str(tmp_path)).put("claims/ticket", b"")


def test_a_commit_that_fails_leaves_nothing(tmp_path: Path) -> None:
    store = local(tmp_path)
    with pytest.raises(TypeError):
        store.commit(KEY, {"weights": FILES["weights"], "bad": "no bytes"})  # type: ignore[dict-item]
    assert not store.is_committed(KEY)
    with pytest.raises(OSError, match="no-such-folder"):
        store.commit(KEY, {"weights": FILES["weights"], "no-such-folder/x": b""})
    assert listing(store) == {}
    assert store.names("tmp") == []
    assert store.commit(KEY, FILES)


def test_a_commit_that_fails_in_place_is_no_commit() -> None:
    store = Store("memory:///root")
    with pytest.raises(TypeError):
        store.commit(KEY, {"weights": b"x", "bad": "no bytes"})  # type: ignore[dict-item]
    assert not store.is_committed(KEY)
    assert store.commit(KEY, FILES)
    assert store.read(KEY, "weights") == FILES["weights"]


# Roots


def test_a_store_goes_to_another_process_opened_or_not(tmp_path: Path) -> None:
    store = local(tmp_path)
    for _ in range(2):
        assert pickle.loads(pickle.dumps(store)) == store
        store.commit(KEY, FILES)
    assert pickle.loads(pickle.dumps(store)).read(KEY, "weights") == FILES["weights"]


AWKWARD = {
    "spaces": "  two  spaces ",
    "quotes": 'it\'s "quoted" `so`',
    "unicode": "été-模型-🙂",
    "decomposed": "e\u0301",
    "newline": "one\ntwo",
    "percent and hash": "100%#1?a=b&c",
    "braces and glob": "{a}[b]*$HOME",
    "backslash": "a\\b",
    "dash": "-rf",
    "colon": "C:drive",
    "long": "n" * 200,
}


@pytest.mark.parametrize("name", AWKWARD.values(), ids=AWKWARD)
def test_any_folder_name_is_a_root_and_a_name(name: str, tmp_path: Path) -> None:
    store = Store(str(tmp_path / name))
    path = f"sweeps/{name}"
    assert store.commit(path, FILES)
    store.write_json(f"runs/{name}/x.json", [1])
    assert store.read(path, "weights") == FILES["weights"]
    assert store.committed("sweeps") == {name: frozenset([*FILES, MANIFEST])}
    assert store.names("runs") == [name]
    assert store.read_json(f"runs/{name}/x.json") == [1]
    assert sorted(os.listdir(tmp_path)) == [name]
    store.drop_file(path, "weights")
    aside = store.set_aside(path)
    assert store.read(aside, "table") == FILES["table"]


def test_a_relative_root_is_fixed_when_the_store_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    store = Store("../there/./x/../store")
    monkeypatch.chdir("/")
    store.commit(KEY, FILES)
    assert (tmp_path / "there" / "store" / KEY / MANIFEST).is_file()
    assert Store(f"{tmp_path}/here/../there/store") == store


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    Store("~/store").commit(KEY, FILES)
    assert (tmp_path / "store" / KEY / MANIFEST).is_file()


def test_a_root_behind_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    Store(str(tmp_path / "link")).commit(KEY, FILES)
    assert Store(str(tmp_path / "real")).read(KEY, "table") == FILES["table"]


def test_a_file_uri_with_escapes_is_the_folder_it_names(tmp_path: Path) -> None:
    Store(f"file://{tmp_path}/a%20b").commit(KEY, FILES)
    assert Store(str(tmp_path / "a b")).is_committed(KEY)


@pytest.mark.parametrize("location", ["", "nonsense://x", "s3n:///"])
def test_a_location_that_is_none_is_refused(location: str) -> None:
    with pytest.raises(StoreError, match=r"storage"):
        Store(location).is_committed(KEY)


def test_a_root_that_is_a_file_or_below_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for location in (tmp_path / "file", tmp_path / "file" / "store"):
        with pytest.raises(StoreError, match="not a folder"):
            Store(str(location)).is_committed(KEY)


def test_free_space_is_known_before_the_root_exists(tmp_path: Path) -> None:
    free = Store(str(tmp_path / "not" / "yet")).free_bytes()
    assert free is not None
    assert free > 0
    assert not (tmp_path / "not").exists()
    assert Store("memory:///root").free_bytes() is None


# A file system whose server is away


class Stale(LocalFiles):
    """Says for a while what a mounted file system says whose server does not answer."""

    silent = 3

    def read(self, path: str) -> bytes:
        type(self).silent -= 1
        if self.silent >= 0:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return super().read(path)


def test_a_file_system_that_does_not_answer_is_waited_for(tmp_path: Path) -> None:
    store = Store(str(tmp_path), patience_minutes=5)
    store.commit(KEY, FILES)
    vars(store)["files"] = PatientFiles(Stale(tmp_path), store.patience)
    assert store.read(KEY, "weights") == FILES["weights"]
    assert store.patience.waited() > 0

    class Gone(Stale):
        silent = 10**6

    impatient = Store(str(tmp_path), patience_minutes=0)
    vars(impatient)["files"] = PatientFiles(Gone(tmp_path), impatient.patience)
    with pytest.raises(StoreSilent, match="does not answer"):
        impatient.read(KEY, "weights")
