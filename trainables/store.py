"""The store: commits on a local disk, a network file system or an object store.

A commit is a folder whose `manifest.json` (sizes and SHA-256 of its files) is written last. No
manifest: it never happened. On a local file system the folder is also made elsewhere, synced and
renamed into place, so that not even a half-written folder is seen.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.fs as fs

MANIFEST = "manifest.json"
STORE_FORMAT = 1


class StoreError(Exception):
    """The storage cannot be used; the message says why and what to do."""


class Damaged(Exception):
    """A committed file is missing or is not what its manifest says."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


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
    cannot be understood, is a file, or cannot be listed.
    """

    location: str

    def __post_init__(self) -> None:
        if not self.location:
            raise StoreError("storage is empty; give a folder or a URI such as s3://bucket/folder")
        if "://" not in self.location:
            # Workers have working folders of their own.
            path = os.path.abspath(os.path.expanduser(self.location))
            object.__setattr__(self, "location", path)

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
        return {name: frozenset(held) for name, held in files.items() if MANIFEST in held}

    def commit(self, path: str, files: Mapping[str, bytes]) -> bool:
        """Write `files` and their manifest as the commit `path`.

        Returns False, and leaves everything as it is, when `path` is already committed. What an
        earlier writer left there without a manifest is replaced.
        """
        if self.is_committed(path):
            return False
        manifest = _manifest(files)
        if self.local_root is None:
            self._write_in_place(path, files, manifest)
            return True
        return self._write_and_rename(path, files, manifest)

    def read(self, path: str, name: str) -> bytes:
        """The bytes of one file of a commit; raises Damaged when they are not what was written."""
        entry = self.manifest(path)["files"].get(name)
        if entry is None:
            raise Damaged(path, f"{name} is not part of this commit")
        try:
            data = self._read_bytes(f"{path}/{name}")
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
        except ValueError as error:
            raise Damaged(path, f"its manifest is not JSON ({error})") from error
        if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
            raise Damaged(path, "its manifest has no list of files")
        for name, entry in manifest["files"].items():
            if not isinstance(entry, dict) or not {"bytes", "sha256"} <= entry.keys():
                raise Damaged(path, f"its manifest lacks the size or SHA-256 of {name}")
        if isinstance(manifest.get("format"), int) and manifest["format"] > STORE_FORMAT:
            raise StoreError(
                f"{self.uri(path)} has format {manifest['format']}, and this version reads "
                f"{STORE_FORMAT}; use the newer prunesweep that wrote it"
            )
        if manifest.get("format") != STORE_FORMAT:
            raise Damaged(
                path, f"its format is {manifest.get('format')}, this version reads {STORE_FORMAT}"
            )
        return manifest

    def drop_file(self, path: str, name: str) -> None:
        """Take one file out of a commit; the manifest forgets it before it is deleted."""
        manifest = self.manifest(path)
        if manifest["files"].pop(name, None) is not None:
            self.write(f"{path}/{MANIFEST}", _json_bytes(manifest))
            self.filesystem.delete_file(self.absolute(f"{path}/{name}"))

    def set_aside(self, path: str) -> str:
        """Move a damaged commit to `quarantine/`, where it is kept; returns its new path."""
        aside = f"quarantine/{path.replace('/', '-')}-{time.strftime('%Y%m%dT%H%M%S')}"
        aside = f"{aside}-{uuid.uuid4().hex[:6]}"
        if self.local_root is None:
            self._move_file_by_file(path, aside)
        else:
            self.filesystem.create_dir(self.absolute("quarantine"), recursive=True)
            self.filesystem.move(self.absolute(path), self.absolute(aside))
        return aside

    def remove(self, path: str) -> None:
        """Delete a folder and all in it, if it is there."""
        info = self.filesystem.get_file_info(self.absolute(path))
        if info.type == fs.FileType.Directory:
            self.filesystem.delete_dir(self.absolute(path))

    # Single files

    def write(self, path: str, data: bytes) -> None:
        """Write one file so that a reader sees the old or the new one, never a part."""
        if self.local_root is None:
            self._put(path, data)
            return
        target = self.local_root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name[:100]}.{uuid.uuid4().hex}")
        try:
            _write_synced(temporary, data)
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(target.parent)

    def write_json(self, path: str, value: Any) -> None:
        self.write(path, _json_bytes(value))

    def read_json(self, path: str) -> Any:
        """The JSON value in a file, or None when there is no such file.

        Raises Damaged when it is not JSON."""
        try:
            return json.loads(self._read_bytes(path))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise Damaged(path, f"not JSON ({error})") from error

    def names(self, folder: str) -> list[str]:
        """The names of the files and folders directly in `folder`, sorted."""
        selector = fs.FileSelector(self.absolute(folder), allow_not_found=True)
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
        try:
            return self.filesystem.get_file_info(selector)
        except OSError as error:
            raise StoreError(f"storage {self.location} cannot be listed ({error})") from error

    def _is_file(self, path: str) -> bool:
        return self.filesystem.get_file_info(self.absolute(path)).type == fs.FileType.File

    def _read_bytes(self, path: str) -> bytes:
        with self.filesystem.open_input_stream(self.absolute(path), compression=None) as stream:
            return stream.read()

    def _put(self, path: str, data: bytes) -> None:
        with self.filesystem.open_output_stream(self.absolute(path), compression=None) as stream:
            stream.write(data)

    def _move_file_by_file(self, path: str, target: str) -> None:
        """Object stores cannot move folders. The manifest is the last file to arrive, the first
        to go."""
        names = sorted(self.names(path), key=lambda name: name == MANIFEST)
        self.filesystem.create_dir(self.absolute(target), recursive=True)
        for name in names:
            self.filesystem.copy_file(
                self.absolute(f"{path}/{name}"), self.absolute(f"{target}/{name}")
            )
        for name in reversed(names):
            self.filesystem.delete_file(self.absolute(f"{path}/{name}"))
        self.remove(path)

    def _write_in_place(self, path: str, files: Mapping[str, bytes], manifest: bytes) -> None:
        self.remove(path)
        self.filesystem.create_dir(self.absolute(path), recursive=True)
        for name, data in files.items():
            self._put(f"{path}/{name}", data)
        self._put(f"{path}/{MANIFEST}", manifest)

    def _write_and_rename(self, path: str, files: Mapping[str, bytes], manifest: bytes) -> bool:
        assert self.local_root is not None
        temporary = self.local_root / "tmp" / uuid.uuid4().hex
        target = self.local_root / path
        temporary.mkdir(parents=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            for name, data in files.items():
                _write_synced(temporary / name, data)
            _write_synced(temporary / MANIFEST, manifest)
            _sync_folder(temporary)
            if target.exists() and not self.is_committed(path):
                self.set_aside(path)
            try:
                os.rename(temporary, target)
            except OSError:
                if self.is_committed(path):
                    return False
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        _sync_folder(target.parent)
        return True


def _nearest_existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _manifest(files: Mapping[str, bytes]) -> bytes:
    return _json_bytes(
        {
            "format": STORE_FORMAT,
            "files": {
                name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
                for name, data in files.items()
            },
        }
    )


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
