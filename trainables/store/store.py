"""The store: commits on a local disk, a network file system or an object store.

A commit is a folder whose `manifest.json` (sizes and SHA-256 of its files) is written last. No
manifest: it never happened. On a local file system the folder is also made elsewhere, synced and
renamed into place, so that not even a half-written folder is seen. Where there is no rename, each
writer has a folder of its own inside the commit, which its manifest names: two that write at once
cannot mix their files.
"""

import errno
import hashlib
import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.store.errors import Damaged, NotCommitted, StoreError, StoreFull
from trainables.store.files import Files, open_files
from trainables.store.location import normal_location
from trainables.store.patience import SHORT_MINUTES, Patience
from trainables.store.recent import Recent

if TYPE_CHECKING:
    import pyarrow as pa

MANIFEST = "manifest.json"
MARKER = "prunesweep.json"
STORE_FORMAT = 1


def iteration_path(key: str) -> str:
    return f"iterations/{key}"


def snapshot_path(key: str) -> str:
    return f"snapshots/{key}"


def checkpoint_path(key: str, epoch: int, steps: int = 0) -> str:
    """That of the state after `epoch` epochs and `steps` more."""
    return f"checkpoints/{key}/{epoch:06d}" + (f"-{steps:08d}" if steps else "")


def sweep_path(name: str) -> str:
    return f"sweeps/{name}"


@dataclass(frozen=True)
class Store:
    """A storage root, as a path or the URI of an object store (`s3://…`, `gs://…`, `abfs://…`).

    Paths given to its methods are relative to the root. Raises StoreError when the location
    cannot be understood, holds credentials, is a file, or cannot be listed.

    An `existing` store is marked as one, and nothing is written once its mark is gone. One that
    does not answer is waited for, for `patience_minutes`; then StoreSilent is raised.
    """

    location: str
    existing: bool = False
    patience_minutes: float = SHORT_MINUTES

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "location", normal_location(self.location))
        except ValueError as error:
            raise StoreError(str(error)) from None

    def __reduce__(self) -> tuple[Any, ...]:
        return Store, (self.location, self.existing, self.patience_minutes)

    @cached_property
    def patience(self) -> Patience:
        return Patience(self.location, self.patience_minutes)

    @cached_property
    def files(self) -> Files:
        return open_files(self.location, MARKER if self.existing else None, self.patience)

    @cached_property
    def _recent(self) -> Recent:
        return Recent()

    @property
    def local_root(self) -> Path | None:
        """The root folder when the store is on a local (or mounted) file system."""
        return self.files.local_root

    def absolute(self, path: str) -> str:
        """`path` on a local file system."""
        assert self.local_root is not None
        return f"{self.local_root}/{path}"

    def uri(self, path: str) -> str:
        """The full name of `path`, for messages."""
        return f"{self.location.rstrip('/')}/{path}"

    # Commits

    def is_committed(self, path: str) -> bool:
        return self.files.is_file(f"{path}/{MANIFEST}")

    def committed(self, folder: str) -> dict[str, frozenset[str]]:
        """The names of the commits in `folder`, each with its files, from one listing."""
        with self._listing():
            found = self.files.files_by_folder(folder)
        alike: dict[frozenset[str], frozenset[str]] = {}
        commits: dict[str, frozenset[str]] = {}
        for name, held in found.items():
            if MANIFEST in held:
                files = self._files_of(f"{folder}/{name}", held)
                commits[name] = alike.setdefault(files, files)
        return commits

    def commit(self, path: str, files: Mapping[str, bytes]) -> bool:
        """Write `files` and their manifest as the commit `path`.

        Returns False, and leaves everything as it is, when `path` is already committed. What an
        earlier writer left there without a manifest is replaced. Raises StoreFull.
        """
        with self._room_for(sum(map(len, files.values()))):
            made = self.files.publish(
                path, files, MANIFEST, lambda folder: _manifest(files, folder), _aside(path)
            )
        if made and self.local_root is None:
            self._recent.keep(path, files)
        return made

    def replace(self, path: str, files: Mapping[str, bytes]) -> None:
        """Put `files` in the place of a commit's; a reader finds the old ones or the new ones."""
        self._recent.forget(path)
        old = self._files_within(path)
        folder = uuid.uuid4().hex[:12]
        with self._room_for(sum(map(len, files.values()))):
            for name, data in files.items():
                self.files.write(f"{path}/{folder}/{name}", data)
            self.files.write(f"{path}/{MANIFEST}", _manifest(files, folder))
        for name in old:
            if name != MANIFEST:
                self.delete_file(f"{path}/{name}")

    def read(self, path: str, name: str) -> bytes:
        """The bytes of one file of a commit; raises Damaged when they are not what was written."""
        return self._checked(path, self.manifest(path), name)

    def read_files(self, path: str, names: Iterable[str]) -> dict[str, bytes]:
        """The bytes of some files of a commit; raises Damaged."""
        manifest = self.manifest(path)
        return {name: self._checked(path, manifest, name) for name in names}

    def recall(self, path: str, name: str) -> bytes:
        """`read`, but what this process has written to an object store, or read there, of late is
        not asked for again."""
        found = self._recent.get(path, name)
        if found is None:
            found = self.read(path, name)
            if self.local_root is None:
                self._recent.keep(path, {name: found})
        return found

    def _checked(self, path: str, manifest: Mapping[str, Any], name: str) -> bytes:
        entry = manifest["files"].get(name)
        if entry is None:
            raise Damaged(path, f"{name} is not part of this commit")
        try:
            data = self.files.read(_inside(path, manifest, name))
        except FileNotFoundError as error:
            raise Damaged(path, f"{name} is missing") from error
        if len(data) != entry["bytes"]:
            raise Damaged(path, f"{name} has {len(data)} bytes instead of {entry['bytes']}")
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise Damaged(path, f"{name} does not have the SHA-256 of its manifest")
        return data

    def manifest(self, path: str) -> dict[str, Any]:
        """The manifest of a commit; raises Damaged when it cannot be read."""
        try:
            return manifest_in(path, self.files.read(f"{path}/{MANIFEST}"))
        except FileNotFoundError as error:
            raise NotCommitted(path, "it has no manifest") from error

    def damage(self, path: str) -> Iterator[Damaged]:
        """Everything that is wrong with one commit; reads all its files."""
        try:
            manifest = self.manifest(path)
        except NotCommitted:
            yield NotCommitted(path, "not committed: it has no manifest; `run` trains it again")
            return
        except Damaged as error:
            yield error
            return
        for name in manifest["files"]:
            try:
                self._checked(path, manifest, name)
            except Damaged as error:
                yield error

    def drop_file(self, path: str, name: str) -> None:
        """Take one file out of a commit; the manifest forgets it before it is deleted."""
        self._recent.forget(path)
        manifest = self.manifest(path)
        if name not in manifest["files"]:
            return

        def without(found: bytes | None) -> bytes:
            left = self.manifest(path) if found is None else manifest_in(path, found)
            left["files"].pop(name, None)
            return json_bytes(left)

        self.update(f"{path}/{MANIFEST}", without)
        self.delete_file(_inside(path, manifest, name))

    def place(self, folder: str, files: Mapping[str, bytes], last: str) -> None:
        """Write a folder of `files` that counts as there once its file `last` is.

        Raises StoreFull, and OSError where another is there on a local file system."""
        with self._room_for(sum(map(len, files.values()))):
            self.files.place(folder, files, last)

    def move(self, path: str, target: str, last: str) -> None:
        """Move a folder that counts as there once its file `last` is."""
        self.files.move(path, target, last)

    def set_aside(self, path: str) -> str:
        """Move a damaged commit, or file, to `quarantine/`, where it is kept; its new path."""
        aside = _aside(path)
        self._recent.forget(path)
        self.files.move(path, aside, MANIFEST)
        return aside

    def remove(self, path: str) -> None:
        """Delete a folder and all in it, if it is there."""
        self._recent.forget(path)
        self.files.remove(path)

    def discard(self, path: str, first: str = MANIFEST) -> None:
        """Delete a commit, or another folder whose file `first` says that it is there: a reader
        finds it whole or not at all. What a killed deletion leaves is no such folder."""
        self._recent.forget(path)
        self.files.discard(path, first)

    def remove_leftovers(self) -> None:
        """Delete what ended processes of this machine left behind in `tmp/`."""
        self.files.remove_leftovers()

    # Single files

    def write(self, path: str, data: bytes) -> None:
        """Write one file so that a reader sees the old or the new one, never a part.

        Raises StoreFull."""
        with self._room_for(len(data)):
            self.files.write(path, data)

    def create(self, path: str, data: bytes) -> bool:
        """Write one file unless it is there; whether it was written. Raises StoreFull."""
        with self._room_for(len(data)):
            return self.files.create(path, data)

    def update(self, path: str, change: Callable[[bytes | None], bytes]) -> None:
        """Write what `change` makes of a file's bytes, or of None when there is none; in an object
        store whatever others write at the same time. Where the answer to a request was lost, it may
        have to change what it has changed already. Raises StoreFull."""
        while True:
            try:
                found, version = self.files.read_version(path)
            except FileNotFoundError:
                found = version = None
            written = change(found)
            with self._room_for(len(written)):
                if self.files.write_version(path, written, version) is not None:
                    return

    def open(self, path: str) -> "pa.NativeFile":
        """A file, for readers of tables. Raises FileNotFoundError."""
        return self.files.open(path)

    def put(self, path: str, data: bytes) -> None:
        """Write a file that may be lost, or be seen in parts while it is written.

        Raises StoreFull."""
        with self._room_for(len(data)):
            self.files.put(path, data)

    def overwrite(self, path: str, data: bytes) -> bool:
        """Write over a file in place, if it is there; whether it was."""
        return self.files.overwrite(path, data)

    def peek(self, path: str) -> bytes | None:
        """The bytes of a file, unchecked; None when there is none."""
        try:
            return self.files.read(path)
        except FileNotFoundError:
            return None

    def exists(self, path: str) -> bool:
        """Whether there is a file `path`."""
        return self.files.is_file(path)

    def delete_file(self, path: str) -> None:
        """Delete a file, if it is there."""
        self.files.delete(path)

    def remove_if_empty(self, folder: str) -> None:
        """Delete an empty local folder; object stores have none."""
        self.files.remove_if_empty(folder)

    def write_json(self, path: str, value: Any) -> None:
        self.write(path, json_bytes(value))

    def read_json(self, path: str) -> Any:
        """The JSON value in a file, or None when there is no such file.

        Raises Damaged when it is not JSON."""
        try:
            return json_in(path, self.files.read(path))
        except FileNotFoundError:
            return None
        except IsADirectoryError as error:
            raise Damaged(path, "not JSON, but a folder") from error

    def names(self, folder: str) -> list[str]:
        """The names of the files and folders directly in `folder`, sorted."""
        with self._listing():
            return self.files.names(folder)

    def folders(self, folder: str) -> list[str]:
        """The names of the folders directly in `folder`, sorted; files among them, such as an
        editor's, are nothing."""
        with self._listing():
            return self.files.folders(folder)

    def sizes(self, folder: str) -> dict[str, int]:
        """The files in `folder` and in its folders, relative to it, each with its bytes."""
        with self._listing():
            return self.files.sizes_within(folder)

    def free_bytes(self) -> int | None:
        """Free space under the root; None where a store has no such figure."""
        return self.files.free_bytes()

    def require_writable(self) -> None:
        """Raise StoreError unless files can be made under a local root; leaves nothing behind."""
        try:
            self.files.require_writable()
        except OSError as error:
            raise StoreError(
                f"storage {self.location} cannot be written ({error.strerror}); choose another one"
            ) from error

    def _files_within(self, path: str) -> list[str]:
        with self._listing():
            return self.files.files_within(path)

    @contextmanager
    def _listing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(f"storage {self.location} cannot be listed ({error})") from error

    def _files_of(self, path: str, held: frozenset[str]) -> frozenset[str]:
        if not any("/" in name for name in held):
            return held
        folders = {name.rpartition("/")[0] for name in held - {MANIFEST}}
        if len(folders) > 1:
            # Other writers' files are there as well: the manifest knows which ones count.
            with suppress(Damaged):
                return frozenset(self.manifest(path)["files"]) | {MANIFEST}
        return frozenset(name.rpartition("/")[2] for name in held)

    @contextmanager
    def _room_for(self, size: int) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            free = self.free_bytes() or 0
            raise StoreFull(
                f"storage {self.location} is full: {size / 1e6:.1f} MB were to be written and "
                f"{free / 1e6:.1f} MB are free; make room and run again, everything committed is "
                "safe"
            ) from error


def _aside(path: str) -> str:
    """Where in `quarantine/` to keep what is at `path`; another place every time."""
    name = f"{path.replace('/', '-')}-{time.strftime('%Y%m%dT%H%M%S')}"
    return f"quarantine/{name}-{uuid.uuid4().hex[:6]}"


def _manifest(files: Mapping[str, bytes], folder: str | None = None) -> bytes:
    """`folder` is where in the commit the files are, when not beside the manifest."""
    held = {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in files.items()
    }
    where = {} if folder is None else {"folder": folder}
    return json_bytes({"format": STORE_FORMAT, "files": held, **where})


def manifest_in(path: str, data: bytes) -> dict[str, Any]:
    """The manifest of the commit `path` that `data` holds; raises Damaged."""
    try:
        manifest = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Damaged(path, f"its manifest is not JSON ({error})") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise Damaged(path, "its manifest has no list of files")
    for name, entry in manifest["files"].items():
        if not isinstance(entry, dict) or not {"bytes", "sha256"} <= entry.keys():
            raise Damaged(path, f"its manifest lacks the size or SHA-256 of {name}")
    for name in (*manifest["files"], manifest.get("folder", "x")):
        if not isinstance(name, str) or "/" in name or name in ("", ".", ".."):
            raise Damaged(path, f"its manifest names {name!r}, which is not a file of it")
    # A newer version marks the whole storage as its own.
    if manifest.get("format") != STORE_FORMAT:
        raise Damaged(
            path, f"its format is {manifest.get('format')}, this version reads {STORE_FORMAT}"
        )
    return manifest


def _inside(path: str, manifest: Mapping[str, Any], name: str) -> str:
    """Where a file of a commit is."""
    return "/".join([path, *filter(None, [manifest.get("folder")]), name])


def json_in(path: str, data: bytes) -> Any:
    """The JSON value that the file `path` holds in `data`; raises Damaged."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Damaged(path, f"not JSON ({error})") from error


def json_bytes(value: Any) -> bytes:
    """`value` as the store's files have it."""
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()
