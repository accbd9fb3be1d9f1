"""Files in an object store: put whole, one by one; it moves no folder.

Whoever publishes a folder has a folder of its own inside it, which the last file names: two that
publish at once cannot mix their files.
"""

import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import pyarrow.fs as fs

LISTING_TRIES = 100


@dataclass(frozen=True)
class ObjectFiles:
    """The files of `filesystem` below `root`, `bucket/folder`."""

    filesystem: fs.FileSystem
    root: str

    @property
    def local_root(self) -> None:
        return None

    def absolute(self, path: str) -> str:
        return f"{self.root}/{path}"

    # Reading

    def is_file(self, path: str) -> bool:
        return self.filesystem.get_file_info(self.absolute(path)).type == fs.FileType.File

    def read(self, path: str) -> bytes:
        with self.filesystem.open_input_stream(self.absolute(path), compression=None) as stream:
            return stream.read()

    def names(self, folder: str) -> list[str]:
        return sorted(info.base_name for info in self._listed(folder, recursive=False))

    def files_within(self, folder: str) -> list[str]:
        return [*self.sizes_within(folder)]

    def sizes_within(self, folder: str) -> dict[str, int]:
        start = len(self.absolute(folder).rstrip("/")) + 1
        found = self._listed(folder, recursive=True)
        return {info.path[start:]: info.size for info in found if info.type == fs.FileType.File}

    # Writing

    def write(self, path: str, data: bytes) -> None:
        target = self.absolute(path)
        try:
            stream = self.filesystem.open_output_stream(target, compression=None)
        except FileNotFoundError:  # some have folders, most object stores have none
            self._make_folder(target)
            stream = self.filesystem.open_output_stream(target, compression=None)
        with stream as file:
            file.write(data)

    put = write

    def overwrite(self, path: str, data: bytes) -> bool:
        found = self.is_file(path)
        if found:
            self.write(path, data)
        return found

    def publish(
        self,
        path: str,
        files: Mapping[str, bytes],
        last: str,
        seal: Callable[[str | None], bytes],
        aside: str,
    ) -> bool:
        # Nothing is ever in the way of a folder that nobody else has, or of a new file.
        inside = uuid.uuid4().hex[:12]
        for name, data in files.items():
            self.write(f"{path}/{inside}/{name}", data)
        if self._create(f"{path}/{last}", seal(inside)):
            return True
        self.remove(f"{path}/{inside}")
        return False

    def place(self, folder: str, files: Mapping[str, bytes], last: str) -> None:
        for name in sorted(files, key=lambda name: name == last):
            self.write(f"{folder}/{name}", files[name])

    # Moving and deleting

    def move(self, path: str, target: str, last: str) -> None:
        """File by file: whoever deletes one has copied it, and all others that were there."""
        if self.is_file(path):
            if self._copy(path, target):
                self.delete(path)
            return
        names = sorted(self.files_within(path), key=lambda name: name == last)
        copied = [name for name in names if self._copy(f"{path}/{name}", f"{target}/{name}")]
        for name in reversed(copied):
            self.delete(f"{path}/{name}")
        if not self.files_within(path):
            self.remove(path)

    def delete(self, path: str) -> None:
        with suppress(FileNotFoundError):
            self.filesystem.delete_file(self.absolute(path))

    def remove(self, folder: str) -> None:
        info = self.filesystem.get_file_info(self.absolute(folder))
        if info.type == fs.FileType.Directory:
            with suppress(FileNotFoundError):
                self.filesystem.delete_dir(info.path)

    def discard(self, folder: str, first: str) -> None:
        self.delete(f"{folder}/{first}")
        self.remove(folder)

    def remove_if_empty(self, folder: str) -> None:
        pass

    def remove_leftovers(self) -> None:
        pass

    # The storage as a whole

    def free_bytes(self) -> None:
        return None

    def require_writable(self) -> None:
        pass

    def require_there(self) -> None:
        pass

    def refuse_links(self, folders: Iterable[str]) -> None:
        pass

    def _listed(self, folder: str, *, recursive: bool) -> list[fs.FileInfo]:
        base = self.absolute(folder).rstrip("/")
        selector = fs.FileSelector(base, recursive=recursive, allow_not_found=True)
        for _ in range(LISTING_TRIES):
            # A folder went while it was being listed; what came before is no whole listing.
            with suppress(FileNotFoundError):
                return self.filesystem.get_file_info(selector)
        raise OSError("it changes all the time")

    def _create(self, path: str, data: bytes) -> bool:
        """Write a file unless there is one; whether it was written."""
        # Not one step, as it cannot be here: of two that find none, the later one's file stays.
        if self.is_file(path):
            return False
        self.write(path, data)
        return True

    def _copy(self, source: str, target: str) -> bool:
        """Copy a file; False when it has gone."""
        self._make_folder(self.absolute(target))
        try:
            self.filesystem.copy_file(self.absolute(source), self.absolute(target))
        except OSError:
            # Stores differ in what they say of a file that is not there.
            if self.is_file(source):
                raise
            return False
        return True

    def _make_folder(self, target: str) -> None:
        self.filesystem.create_dir(target.rpartition("/")[0], recursive=True)
