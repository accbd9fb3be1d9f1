"""Files: what a storage can do, whatever it is kept on. What a commit is, `Store` knows.

`open_files` chooses, once, between a local (or mounted) file system and an object store.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias, cast

if TYPE_CHECKING:
    import pyarrow as pa

from trainables.store.errors import StoreError
from trainables.store.local_files import LocalFiles, nearest_existing
from trainables.store.patience import Patience
from trainables.store.patient_files import PatientFiles

Version: TypeAlias = Mapping[str, str]
"""What tells the contents of a file from those it had before."""


class Files(Protocol):
    """The files of a storage, by paths relative to its root, with `/` between folders.

    Raises OSError where the storage fails, and StoreSilent where it has not answered for long. On
    a local file system, whatever changes a file raises
    StoreError rather than follow a link out of the storage, and StoreGone.
    """

    @property
    def local_root(self) -> Path | None:
        """The root folder on a local file system; None on an object store."""
        ...

    def is_file(self, path: str) -> bool: ...

    def read(self, path: str) -> bytes:
        """Raises FileNotFoundError."""
        ...

    def read_version(self, path: str) -> tuple[bytes, Version]:
        """The bytes of a file and their version. Raises FileNotFoundError."""
        ...

    def open(self, path: str) -> "pa.NativeFile":
        """A file for readers of tables. Raises FileNotFoundError."""
        ...

    def names(self, folder: str) -> list[str]:
        """The files and folders directly in `folder`, sorted; none where there is no folder."""
        ...

    def folders(self, folder: str) -> list[str]:
        """Those of `names` that are no files."""
        ...

    def files_within(self, folder: str) -> list[str]:
        """The files in `folder` and in its folders, relative to it, from one listing."""
        ...

    def files_by_folder(self, folder: str) -> dict[str, frozenset[str]]:
        """The files within each of its folders, relative to that, by its name; from one listing."""
        ...

    def sizes_within(self, folder: str) -> dict[str, int]:
        """The same files, each with its bytes."""
        ...

    def write(self, path: str, data: bytes) -> None:
        """Write durably, so that a reader sees the old file or the new one, never a part."""
        ...

    def put(self, path: str, data: bytes) -> None:
        """Write what may be lost, or be seen in parts while it is written."""
        ...

    def overwrite(self, path: str, data: bytes) -> bool:
        """`put` over a file, if it is there; whether it was."""
        ...

    def create(self, path: str, data: bytes) -> bool:
        """Write a file unless it is there; whether it was written."""
        ...

    def write_version(self, path: str, data: bytes, version: Version | None) -> Version | None:
        """Write over a file that has the `version`, or with None one that is not there; its new
        version, and None where it was not written.

        One step in an object store, and two on a local file system.
        """
        ...

    def publish(
        self,
        path: str,
        files: Mapping[str, bytes],
        last: str,
        seal: Callable[[str | None], bytes],
        aside: str,
    ) -> bool:
        """Make the folder `path` of `files` and a file `last`, there only once all others are.

        `seal` gives the bytes of `last`, told the folder of `path` that the others are in, None
        when they are beside it. False, and everything as it was, where `last` was there already.
        What is in the way without a `last` is moved to `aside`.
        """
        ...

    def place(self, folder: str, files: Mapping[str, bytes], last: str) -> None:
        """Make a folder of `files`, of which `last` is not there before all others are.

        Raises OSError where a local one is there that is not empty.
        """
        ...

    def move(self, path: str, target: str, last: str) -> None:
        """Move a file or a folder, whose file `last` is the last to arrive and the first to go.

        What another moves or deletes meanwhile is left to it.
        """
        ...

    def delete(self, path: str) -> None:
        """Delete a file, if it is there."""
        ...

    def remove(self, folder: str) -> None:
        """Delete a folder and all in it, if it is there."""
        ...

    def discard(self, folder: str, first: str) -> None:
        """`remove` a folder whose file `first` is not there any more once any other is not."""
        ...

    def remove_if_empty(self, folder: str) -> None:
        """Delete an empty folder; object stores have none."""
        ...

    def remove_leftovers(self) -> None:
        """Delete what ended processes of this machine were writing."""
        ...

    def free_bytes(self) -> int | None:
        """Room for more; None where there is no such figure."""
        ...

    def require_writable(self) -> None:
        """Raise OSError where no file can be made; leaves nothing behind."""
        ...

    def require_there(self) -> None:
        """Raise StoreGone when a storage that was there is no longer."""
        ...

    def refuse_links(self, folders: Iterable[str]) -> None:
        """Raise StoreError when one of `folders`, or what is directly in it, leads out."""
        ...


def open_files(location: str, mark: str | None = None, patience: Patience | None = None) -> Files:
    """The files at a location as `normal_location` gives it, waited for with `patience`; makes
    nothing.

    A local storage with a `mark` is changed only while it has the file of that name. Raises
    StoreError.
    """
    patience = patience or Patience(location)
    if "://" not in location:
        if not nearest_existing(Path(location)).is_dir():
            raise StoreError(f"storage {location} is not a folder; choose another one")
        return cast(Files, PatientFiles(LocalFiles(Path(location), mark), patience))
    # Here, as most storages are folders.
    from trainables.store.object_files import ObjectFiles
    from trainables.store.object_stores import open_object_store

    try:
        objects = open_object_store(location)
    except ValueError as error:
        raise StoreError(
            f"storage {location!r} is no usable location ({error}); "
            "give a folder or a URI such as s3://bucket/folder"
        ) from error
    return ObjectFiles(objects, location, patience)
