"""Files on a local or mounted file system: written elsewhere, synced, renamed into place."""

import hashlib
import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as fs

from trainables.store.errors import StoreError, StoreGone
from trainables.store.processes import left_by_the_dead, process_name


@dataclass(frozen=True)
class LocalFiles:
    """The files below the folder `root`, which are changed only while `mark` is one of them."""

    root: Path
    mark: str | None = None

    @property
    def local_root(self) -> Path:
        return self.root

    def absolute(self, path: str) -> str:
        return f"{self.root}/{path}"

    # Reading

    def is_file(self, path: str) -> bool:
        try:
            return stat.S_ISREG(os.stat(self.absolute(path)).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False

    def read(self, path: str) -> bytes:
        try:
            return Path(self.absolute(path)).read_bytes()
        except NotADirectoryError as error:  # a file, such as .DS_Store, where folders are
            raise FileNotFoundError(*error.args, error.filename) from None

    def read_version(self, path: str) -> tuple[bytes, Mapping[str, str]]:
        data = self.read(path)
        return data, _version(data)

    def open(self, path: str) -> pa.NativeFile:
        return pa.OSFile(self.absolute(path))

    def names(self, folder: str) -> list[str]:
        try:
            return sorted(os.listdir(self.absolute(folder)))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def folders(self, folder: str) -> list[str]:
        entries = _entries(self.absolute(folder))
        return sorted(entry.name for entry in entries if not entry.is_file())

    def files_within(self, folder: str) -> list[str]:
        base = self.absolute(folder).rstrip("/")
        return [path[len(base) + 1 :] for path in _files_within(base)]

    def files_by_folder(self, folder: str) -> dict[str, frozenset[str]]:
        found: dict[str, frozenset[str]] = {}
        alike: dict[frozenset[str], frozenset[str]] = {}
        for entry in filter(os.DirEntry.is_dir, _entries(self.absolute(folder))):
            start = len(entry.path) + 1
            held = frozenset(path[start:] for path in _files_within(entry.path))
            # Most have files of the same names, which are kept once.
            found[entry.name] = alike.setdefault(held, held)
        return found

    def sizes_within(self, folder: str) -> dict[str, int]:
        sizes: dict[str, int] = {}
        for path in self.files_within(folder):
            with suppress(FileNotFoundError):
                sizes[path] = os.stat(f"{self.absolute(folder)}/{path}").st_size
        return sizes

    # Writing

    def write(self, path: str, data: bytes) -> None:
        target = self._to_change(path)
        with self.temporary() as temporary:
            _make_folder(target.parent)
            _write_synced(temporary, data)
            os.replace(temporary, target)
        _sync_folder(target.parent)

    def put(self, path: str, data: bytes) -> None:
        while True:
            target = self._to_change(path)
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
                return
            except FileNotFoundError:
                continue  # another removed the empty folder in between
            except FileExistsError:
                # mkdir says this too of a folder that was there when it tried, and then no more.
                if target.parent.is_file() or target.parent.is_symlink():
                    raise

    def overwrite(self, path: str, data: bytes) -> bool:
        try:
            with open(self._to_change(path), "r+b") as file:
                file.write(data)
            return True
        except FileNotFoundError:
            return False

    def create(self, path: str, data: bytes) -> bool:
        return self.write_version(path, data, None) is not None

    def write_version(
        self, path: str, data: bytes, version: Mapping[str, str] | None
    ) -> Mapping[str, str] | None:
        try:
            found = self.read_version(path)[1]
        except FileNotFoundError:
            found = None
        if found != version:
            return None
        self.write(path, data)
        return _version(data)

    def publish(
        self,
        path: str,
        files: Mapping[str, bytes],
        last: str,
        seal: Callable[[str | None], bytes],
        aside: str,
    ) -> bool:
        if self.is_file(f"{path}/{last}"):
            return False
        target = self._to_change(path)
        _make_folder(target.parent)
        with self.temporary() as folder:
            folder.mkdir()
            for name, data in files.items():
                _write_synced(folder / name, data)
            _write_synced(folder / last, seal(None))
            _sync_folder(folder)
            if target.exists() and not self.is_file(f"{path}/{last}"):
                self.move(path, aside, last)
            try:
                os.rename(folder, target)
            except OSError:
                if self.is_file(f"{path}/{last}"):
                    return False
                raise
        _sync_folder(target.parent)
        return True

    def place(self, folder: str, files: Mapping[str, bytes], last: str) -> None:
        target = self._to_change(folder)
        _make_folder(target.parent)
        with self.temporary() as made:
            made.mkdir()
            for name, data in files.items():
                _write_synced(made / name, data)
            _sync_folder(made)
            os.rename(made, target)
        _sync_folder(target.parent)

    # Moving and deleting

    def move(self, path: str, target: str, last: str) -> None:
        source, goal = self._to_change(path), self._to_change(target)
        goal.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # another was faster
            os.rename(source, goal)

    def delete(self, path: str) -> None:
        self._to_change(path).unlink(missing_ok=True)

    def remove(self, folder: str) -> None:
        target = self._to_change(folder)
        if target.is_dir():
            with suppress(FileNotFoundError):
                fs.LocalFileSystem().delete_dir(str(target))

    def discard(self, folder: str, first: str) -> None:
        target = self._to_change(folder)
        with self.temporary() as gone, suppress(FileNotFoundError):
            os.rename(target, gone)
            _sync_folder(target.parent)

    def remove_if_empty(self, folder: str) -> None:
        with suppress(OSError):
            (self.root / folder).rmdir()

    def remove_leftovers(self) -> None:
        for name in self.names("tmp"):
            if left_by_the_dead(name):
                _delete(self._to_change(f"tmp/{name}"))

    @contextmanager
    def temporary(self) -> Iterator[Path]:
        """A path in `tmp/` whose name tells whose it is; what is left there goes at the end."""
        folder = self._to_change("tmp")
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{process_name()}-{uuid.uuid4().hex}"
        try:
            yield path
        finally:
            _delete(path)

    # The storage as a whole

    def free_bytes(self) -> int:
        return shutil.disk_usage(nearest_existing(self.root)).free

    def require_writable(self) -> None:
        with tempfile.TemporaryFile(dir=nearest_existing(self.root)):
            pass

    def require_there(self) -> None:
        if self.mark is not None and not (self.root / self.mark).is_file():
            raise StoreGone(
                f"storage {self.root} is gone, or another one is there now; put it back and "
                "run again, everything committed in it is safe"
            )

    def refuse_links(self, folders: Iterable[str]) -> None:
        for folder in folders:
            for link in self._links(folder):
                self._to_change(link)

    def _links(self, folder: str) -> list[str]:
        """The links among a folder and what is directly in it; one listing, whatever it holds."""
        if (self.root / folder).is_symlink():
            return [folder]
        if not (self.root / folder).is_dir():
            return []
        with os.scandir(self.root / folder) as entries:
            return sorted(f"{folder}/{entry.name}" for entry in entries if entry.is_symlink())

    def _to_change(self, path: str) -> Path:
        """Where to write, move or delete `path`, now that it is known to be in the storage."""
        self.require_there()
        real = os.path.realpath(self.root / path)
        if not Path(real).is_relative_to(os.path.realpath(self.root)):
            raise StoreError(
                f"storage {self.root}: {path} leads out of the storage, to {real}; nothing is "
                "written through a link: move what it leads to in here, or remove the link"
            )
        return self.root / path


def nearest_existing(path: Path) -> Path:
    """`path`, or the folder above it that is there."""
    while not path.exists():
        path = path.parent
    return path


def _version(data: bytes) -> Mapping[str, str]:
    return {"sha256": hashlib.sha256(data).hexdigest()}


def _entries(folder: str) -> list[os.DirEntry[str]]:
    # Moved or deleted meanwhile, as it might be before; or a file.
    with suppress(FileNotFoundError, NotADirectoryError):
        return list(os.scandir(folder))
    return []


def _files_within(folder: str) -> Iterator[str]:
    for entry in _entries(folder):
        if entry.is_dir():
            yield from _files_within(entry.path)
        elif entry.is_file():
            yield entry.path


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
