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
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.fs as fs

from trainables.errors import Hopeless
from trainables.store.location import normal_location
from trainables.store.processes import left_by_the_dead, process_name

MANIFEST = "manifest.json"
MARKER = "prunesweep.json"
STORE_FORMAT = 1
LISTING_TRIES = 100


class StoreError(Exception):
    """The storage cannot be used; the message says why and what to do."""


class StoreGone(StoreError, Hopeless):
    """The storage was there when a run began, and is no longer."""


class StoreFull(StoreError):
    """There is no room left; the message says how much is needed."""


class Damaged(Exception):
    """A committed file is missing or is not what its manifest says."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)  # with these it is made anew where a worker's errors arrive
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def iteration_path(key: str) -> str:
    return f"iterations/{key}"


def snapshot_path(key: str) -> str:
    return f"snapshots/{key}"


def checkpoint_path(key: str, epoch: int) -> str:
    return f"checkpoints/{key}/{epoch:06d}"


def sweep_path(name: str) -> str:
    return f"sweeps/{name}"


@dataclass(frozen=True)
class Store:
    """A storage root, as a path or a URI that `pyarrow.fs` understands (`s3://…`, `gs://…`).

    Paths given to its methods are relative to the root. Raises StoreError when the location
    cannot be understood, holds credentials, is a file, or cannot be listed.

    An `existing` store is marked as one, and nothing is written once its mark is gone.
    """

    location: str
    existing: bool = False

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "location", normal_location(self.location))
        except ValueError as error:
            raise StoreError(str(error)) from None

    @cached_property
    def _root(self) -> tuple[fs.FileSystem, str]:
        if "://" not in self.location:
            if not _nearest_existing(Path(self.location)).is_dir():
                raise StoreError(f"storage {self.location} is not a folder; choose another one")
            return fs.LocalFileSystem(), self.location
        try:
            return fs.FileSystem.from_uri(self.location)
        except (ValueError, OSError) as error:
            raise StoreError(
                f"storage {self.location!r} is no usable location ({error}); "
                "give a folder or a URI such as s3://bucket/folder"
            ) from error

    @property
    def filesystem(self) -> fs.FileSystem:
        return self._root[0]

    @property
    def local_root(self) -> Path | None:
        """The root folder when the store is on a local (or mounted) file system."""
        filesystem, root = self._root
        return Path(root) if isinstance(filesystem, fs.LocalFileSystem) else None

    def absolute(self, path: str) -> str:
        return f"{self._root[1]}/{path}"

    def local_path(self, path: str) -> Path:
        """Where to write, move or delete `path` of a local store.

        Raises StoreError when a link leads it out of the storage, and StoreGone."""
        assert self.local_root is not None
        if self.existing and not (self.local_root / MARKER).is_file():
            raise StoreGone(
                f"storage {self.location} is gone, or another one is there now; put it back and "
                "run again, everything committed in it is safe"
            )
        real = os.path.realpath(self.local_root / path)
        if not Path(real).is_relative_to(os.path.realpath(self.local_root)):
            raise StoreError(
                f"storage {self.location}: {path} leads out of the storage, to {real}; nothing is "
                "written through a link: move what it leads to in here, or remove the link"
            )
        return self.local_root / path

    def uri(self, path: str) -> str:
        """The full name of `path`, for messages."""
        return f"{self.location.rstrip('/')}/{path}"

    # Commits

    def is_committed(self, path: str) -> bool:
        return self._is_file(f"{path}/{MANIFEST}")

    def committed(self, folder: str) -> dict[str, frozenset[str]]:
        """The names of the commits in `folder`, each with its files, from one listing."""
        base = self.absolute(folder)
        found = self._listed(fs.FileSelector(base, recursive=True, allow_not_found=True))
        files: dict[str, set[str]] = {}
        for info in found:
            name, _, file = os.path.relpath(info.path, base).partition("/")
            if info.type == fs.FileType.File:
                files.setdefault(name, set()).add(file)
        return {
            name: self._files_of(f"{folder}/{name}", held)
            for name, held in files.items()
            if MANIFEST in held
        }

    def commit(self, path: str, files: Mapping[str, bytes]) -> bool:
        """Write `files` and their manifest as the commit `path`.

        Returns False, and leaves everything as it is, when `path` is already committed. What an
        earlier writer left there without a manifest is replaced. Raises StoreFull.
        """
        if self.is_committed(path):
            return False
        with self._room_for(sum(map(len, files.values()))):
            if self.local_root is None:
                return self._write_in_place(path, files, replace=False)
            return self._write_and_rename(path, files)

    def replace(self, path: str, files: Mapping[str, bytes]) -> None:
        """Put `files` in the place of a commit's; a reader finds the old ones or the new ones."""
        old = self._names_within(path)
        with self._room_for(sum(map(len, files.values()))):
            self._write_in_place(path, files, replace=True)
        for name in old:
            if name != MANIFEST:
                self.delete_file(f"{path}/{name}")

    def read(self, path: str, name: str) -> bytes:
        """The bytes of one file of a commit; raises Damaged when they are not what was written."""
        manifest = self.manifest(path)
        entry = manifest["files"].get(name)
        if entry is None:
            raise Damaged(path, f"{name} is not part of this commit")
        try:
            data = self._read_bytes(_inside(path, manifest, name))
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
            manifest = json.loads(self._read_bytes(f"{path}/{MANIFEST}"))
        except FileNotFoundError as error:
            raise Damaged(path, "it has no manifest") from error
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

    def damage(self, path: str) -> Iterator[Damaged]:
        """Everything that is wrong with one commit; reads all its files."""
        if not self.is_committed(path):
            yield Damaged(path, "not committed: it has no manifest; `run` trains it again")
            return
        try:
            files = self.manifest(path)["files"]
        except Damaged as error:
            yield error
            return
        for name in files:
            try:
                self.read(path, name)
            except Damaged as error:
                yield error

    def drop_file(self, path: str, name: str) -> None:
        """Take one file out of a commit; the manifest forgets it before it is deleted."""
        manifest = self.manifest(path)
        if manifest["files"].pop(name, None) is not None:
            self.write(f"{path}/{MANIFEST}", _json_bytes(manifest))
            self.delete_file(_inside(path, manifest, name))

    def set_aside(self, path: str) -> str:
        """Move a damaged commit to `quarantine/`, where it is kept; returns its new path."""
        aside = f"quarantine/{path.replace('/', '-')}-{time.strftime('%Y%m%dT%H%M%S')}"
        aside = f"{aside}-{uuid.uuid4().hex[:6]}"
        if self.local_root is None:
            self._move_file_by_file(path, aside)
        else:
            self.filesystem.create_dir(str(self.local_path("quarantine")), recursive=True)
            with suppress(FileNotFoundError):  # another was faster
                self.filesystem.move(str(self.local_path(path)), self.absolute(aside))
        return aside

    def remove(self, path: str) -> None:
        """Delete a folder and all in it, if it is there."""
        info = self.filesystem.get_file_info(self._to_change(path))
        if info.type == fs.FileType.Directory:
            self.filesystem.delete_dir(info.path)

    def remove_leftovers(self) -> None:
        """Delete what ended processes of this machine left behind in `tmp/`."""
        if self.local_root is not None:
            for name in self.names("tmp"):
                if left_by_the_dead(name):
                    _delete(self.local_path(f"tmp/{name}"))

    # Single files

    def write(self, path: str, data: bytes) -> None:
        """Write one file so that a reader sees the old or the new one, never a part.

        Raises StoreFull."""
        if self.local_root is None:
            self._put(path, data)
            return
        target = self.local_path(path)
        with self._room_for(len(data)), self._temporary() as temporary:
            _make_folder(target.parent)
            _write_synced(temporary, data)
            os.replace(temporary, target)
        _sync_folder(target.parent)

    def put(self, path: str, data: bytes) -> None:
        """Write a file that may be lost, or be seen in parts while it is written."""
        if self.local_root is None:
            self._put(path, data)
            return
        while True:
            target = self.local_path(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                target.write_bytes(data)
                return
            except FileNotFoundError:
                continue  # another removed the empty folder in between

    def overwrite(self, path: str, data: bytes) -> bool:
        """Write over a file in place, if it is there; whether it was."""
        if self.local_root is None:
            found = self._is_file(path)
            if found:
                self._put(path, data)
            return found
        try:
            with open(self.local_path(path), "r+b") as file:
                file.write(data)
            return True
        except FileNotFoundError:
            return False

    def peek(self, path: str) -> bytes | None:
        """The bytes of a file, unchecked; None when there is none."""
        try:
            return self._read_bytes(path)
        except FileNotFoundError:
            return None

    def exists(self, path: str) -> bool:
        """Whether there is a file `path`."""
        return self._is_file(path)

    def delete_file(self, path: str) -> None:
        """Delete a file, if it is there."""
        with suppress(FileNotFoundError):
            self.filesystem.delete_file(self._to_change(path))

    def remove_if_empty(self, folder: str) -> None:
        """Delete an empty local folder; object stores have none."""
        if self.local_root is not None:
            with suppress(OSError):
                (self.local_root / folder).rmdir()

    def write_json(self, path: str, value: Any) -> None:
        self.write(path, _json_bytes(value))

    def read_json(self, path: str) -> Any:
        """The JSON value in a file, or None when there is no such file.

        Raises Damaged when it is not JSON."""
        try:
            return json.loads(self._read_bytes(path))
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError) as error:
            raise Damaged(path, f"not JSON ({error})") from error
        except OSError as error:
            if self.filesystem.get_file_info(self.absolute(path)).type == fs.FileType.Directory:
                raise Damaged(path, "not JSON, but a folder") from error
            raise

    def names(self, folder: str) -> list[str]:
        """The names of the files and folders directly in `folder`, sorted."""
        base = self.absolute(folder).rstrip("/") or "/"
        selector = fs.FileSelector(base, allow_not_found=True)
        return sorted(info.base_name for info in self._listed(selector))

    def free_bytes(self) -> int | None:
        """Free space under the root; None where a store has no such figure."""
        if self.local_root is None:
            return None
        return shutil.disk_usage(_nearest_existing(self.local_root)).free

    def require_writable(self) -> None:
        """Raise StoreError unless files can be made under a local root; leaves nothing behind."""
        if self.local_root is None:
            return
        try:
            with tempfile.TemporaryFile(dir=_nearest_existing(self.local_root)):
                pass
        except OSError as error:
            raise StoreError(
                f"storage {self.location} cannot be written ({error.strerror}); choose another one"
            ) from error

    def _listed(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        for _ in range(LISTING_TRIES):
            try:
                return self.filesystem.get_file_info(selector)
            except FileNotFoundError:
                # A folder went while it was being listed; what came before is no whole listing.
                continue
            except OSError as error:
                raise StoreError(f"storage {self.location} cannot be listed ({error})") from error
        raise StoreError(f"storage {self.location} cannot be listed: it changes all the time")

    def _to_change(self, path: str) -> str:
        return self.absolute(path) if self.local_root is None else str(self.local_path(path))

    def _is_file(self, path: str) -> bool:
        return self.filesystem.get_file_info(self.absolute(path)).type == fs.FileType.File

    def _read_bytes(self, path: str) -> bytes:
        with self.filesystem.open_input_stream(self.absolute(path), compression=None) as stream:
            return stream.read()

    def _put(self, path: str, data: bytes) -> None:
        target = self.absolute(path)
        try:
            stream = self.filesystem.open_output_stream(target, compression=None)
        except FileNotFoundError:  # some have folders, most object stores have none
            self.filesystem.create_dir(target.rpartition("/")[0], recursive=True)
            stream = self.filesystem.open_output_stream(target, compression=None)
        with stream as file:
            file.write(data)

    def _names_within(self, path: str) -> list[str]:
        """The files in a folder and its folders, relative to it."""
        base = self.absolute(path)
        found = self._listed(fs.FileSelector(base, recursive=True, allow_not_found=True))
        return [os.path.relpath(i.path, base) for i in found if i.type == fs.FileType.File]

    def _files_of(self, path: str, held: set[str]) -> frozenset[str]:
        folders = {name.rpartition("/")[0] for name in held - {MANIFEST}}
        if len(folders) > 1:
            # Other writers' files are there as well: the manifest knows which ones count.
            with suppress(Damaged):
                return frozenset(self.manifest(path)["files"]) | {MANIFEST}
        return frozenset(name.rpartition("/")[2] for name in held)

    def _move_file_by_file(self, path: str, target: str) -> None:
        """Object stores cannot move folders. The manifest is the last file to arrive, the first
        to go."""
        names = sorted(self._names_within(path), key=lambda name: name == MANIFEST)
        for name in names:
            folder = f"{target}/{name}".rpartition("/")[0]
            self.filesystem.create_dir(self.absolute(folder), recursive=True)
            self.filesystem.copy_file(
                self.absolute(f"{path}/{name}"), self.absolute(f"{target}/{name}")
            )
        for name in reversed(names):
            self.filesystem.delete_file(self.absolute(f"{path}/{name}"))
        self.remove(path)

    def _write_in_place(self, path: str, files: Mapping[str, bytes], *, replace: bool) -> bool:
        folder = uuid.uuid4().hex[:12]
        inside = f"{path}/{folder}"
        self.filesystem.create_dir(self._to_change(inside), recursive=True)
        for name, data in files.items():
            self.write(f"{inside}/{name}", data)
        if not replace and self.is_committed(path):
            self.remove(inside)
            return False
        self.write(f"{path}/{MANIFEST}", _manifest(files, folder))
        return True

    def _write_and_rename(self, path: str, files: Mapping[str, bytes]) -> bool:
        target = self.local_path(path)
        _make_folder(target.parent)
        with self._temporary() as temporary:
            temporary.mkdir()
            for name, data in files.items():
                _write_synced(temporary / name, data)
            _write_synced(temporary / MANIFEST, _manifest(files))
            _sync_folder(temporary)
            if target.exists() and not self.is_committed(path):
                self.set_aside(path)
            try:
                os.rename(temporary, target)
            except OSError:
                if self.is_committed(path):
                    return False
                raise
        _sync_folder(target.parent)
        return True

    @contextmanager
    def _temporary(self) -> Iterator[Path]:
        """A path in `tmp/` whose name tells whose it is; what is left there goes at the end."""
        folder = self.local_path("tmp")
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{process_name()}-{uuid.uuid4().hex}"
        try:
            yield path
        finally:
            _delete(path)

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


def _nearest_existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _manifest(files: Mapping[str, bytes], folder: str | None = None) -> bytes:
    """`folder` is where in the commit the files are, when not beside the manifest."""
    held = {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in files.items()
    }
    where = {} if folder is None else {"folder": folder}
    return _json_bytes({"format": STORE_FORMAT, "files": held, **where})


def _inside(path: str, manifest: Mapping[str, Any], name: str) -> str:
    """Where a file of a commit is."""
    return "/".join([path, *filter(None, [manifest.get("folder")]), name])


def _make_folder(path: Path) -> None:
    """Make a folder and those above it, such that they outlast a loss of power."""
    if not path.is_dir():
        _make_folder(path.parent)
        path.mkdir(exist_ok=True)
        _sync_folder(path.parent)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _json_bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def _write_synced(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
