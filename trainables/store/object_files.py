"""Files in an object store: put whole, one by one; it moves no folder.

Whoever publishes a folder has a folder of its own inside it, which the last file names: two that
publish at once cannot mix their files. The last file is created or not, in one step: of many that
publish one folder, one has done it. Requests that need not wait for each other go at once.
"""

import re
import sys
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import pyarrow as pa
from obstore.exceptions import AlreadyExistsError, BaseError, GenericError, PreconditionError
from obstore.store import ObjectStore

from trainables.store.errors import StoreError, StoreGone
from trainables.store.patience import Patience
from trainables.store.processes import left_by_the_dead, process_name

T = TypeVar("T")

AT_ONCE = 8
"""Requests for one commit; each has at most four parts of a large file under way."""
PART_BYTES = 8 << 20

STATUS = re.compile(r"status code: (\d{3})")
NO_BUCKET = re.compile("NoSuchBucket|ContainerNotFound|bucket does not exist", re.IGNORECASE)
TIRED = {408, 409, 425, 429}
"""Of a server that is to be asked again, besides 5xx."""
CANNOT = 501


@dataclass(frozen=True)
class ObjectFiles:
    """The files of `objects`, at the user's `location`."""

    objects: ObjectStore
    location: str = ""
    patience: Patience = field(default_factory=Patience)

    @property
    def local_root(self) -> None:
        return None

    # Reading

    def is_file(self, path: str) -> bool:
        try:
            self._ask(lambda: self.objects.head(path))
        except FileNotFoundError:
            return False
        return True

    def read(self, path: str) -> bytes:
        return self._ask(lambda: bytes(self.objects.get(path).bytes()))

    def read_version(self, path: str) -> tuple[bytes, Mapping[str, str]]:
        def got() -> tuple[bytes, Mapping[str, str]]:
            answer = self.objects.get(path)
            return bytes(answer.bytes()), _version(answer.meta)

        return self._ask(got)

    def open(self, path: str) -> pa.NativeFile:
        return pa.BufferReader(self.read(path))

    def names(self, folder: str) -> list[str]:
        found = self._listing(lambda: self.objects.list_with_delimiter(folder or None))
        paths = [*found["common_prefixes"], *(each["path"] for each in found["objects"])]
        return sorted({path.rpartition("/")[2] for path in paths})

    def folders(self, folder: str) -> list[str]:
        found = self._listing(lambda: self.objects.list_with_delimiter(folder or None))
        return sorted(path.rpartition("/")[2] for path in found["common_prefixes"])

    def files_within(self, folder: str) -> list[str]:
        return [*self.sizes_within(folder)]

    def files_by_folder(self, folder: str) -> dict[str, frozenset[str]]:
        found: defaultdict[str, set[str]] = defaultdict(set)
        for path in self.files_within(folder):
            name, _, file = path.partition("/")
            found[name].add(sys.intern(file))
        return {name: frozenset(files) for name, files in found.items()}

    def sizes_within(self, folder: str) -> dict[str, int]:
        found = self._listing(lambda: self.objects.list(folder or None).collect())
        start = len(folder) + 1 if folder else 0
        sizes = {each["path"][start:]: each["size"] for each in found}
        # Earlier versions left an empty object in the place of a folder.
        folders = {"", *(path.rpartition("/")[0] for path in sizes)}
        return {path: size for path, size in sizes.items() if size or path not in folders}

    # Writing

    def write(self, path: str, data: bytes) -> None:
        self._put(path, data)

    put = write

    def overwrite(self, path: str, data: bytes) -> bool:
        with suppress(FileNotFoundError):
            return self.write_version(path, data, self.read_version(path)[1]) is not None
        return False

    def create(self, path: str, data: bytes) -> bool:
        return self.write_version(path, data, None) is not None

    def write_version(
        self, path: str, data: bytes, version: Mapping[str, str] | None
    ) -> Mapping[str, str] | None:
        while True:
            try:
                return self._put(path, data, "create" if version is None else version)
            except (AlreadyExistsError, PreconditionError):
                # The answer to an earlier try may have been lost: then what is there is this.
                with suppress(FileNotFoundError):
                    found, there = self.read_version(path)
                    return there if found == data else None
                if version is not None:
                    return None
                # Another's attempt, which came to nothing, was in the way.

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
        _at_once(lambda name: self.write(f"{path}/{inside}/{name}", files[name]), files)
        if self.create(f"{path}/{last}", seal(inside)):
            return True
        with suppress(FileNotFoundError):
            # The answer was lost, and another has changed the file since: it is this one's still.
            if inside.encode() in self.read(f"{path}/{last}"):
                return True
        self._delete([f"{path}/{inside}/{name}" for name in files])
        return False

    def place(self, folder: str, files: Mapping[str, bytes], last: str) -> None:
        _at_once(
            lambda name: self.write(f"{folder}/{name}", files[name]),
            [name for name in files if name != last],
        )
        self.write(f"{folder}/{last}", files[last])

    # Moving and deleting

    def move(self, path: str, target: str, last: str) -> None:
        """File by file: whoever deletes one has copied it, and all others that were there."""
        names = self.files_within(path)
        if not names:
            if self._copy(path, target):
                self.delete(path)
            return

        def copied(name: str) -> str | None:
            return name if self._copy(f"{path}/{name}", f"{target}/{name}") else None

        others = [name for name in _at_once(copied, [n for n in names if n != last]) if name]
        if last in names and copied(last):
            self.delete(f"{path}/{last}")
        self._delete([f"{path}/{name}" for name in others])

    def delete(self, path: str) -> None:
        self._delete([path])

    def remove(self, folder: str) -> None:
        self._delete([f"{folder}/{name}" for name in self.files_within(folder)])

    def discard(self, folder: str, first: str) -> None:
        self.delete(f"{folder}/{first}")
        self.remove(folder)

    def remove_if_empty(self, folder: str) -> None:
        pass

    def remove_leftovers(self) -> None:
        self._delete([f"tmp/{name}" for name in self.names("tmp") if left_by_the_dead(name)])

    # The storage as a whole

    def free_bytes(self) -> None:
        return None

    def require_writable(self) -> None:
        path, data = f"tmp/{process_name()}-{uuid.uuid4().hex}", uuid.uuid4().bytes
        self.write(path, data)
        try:
            found = self.read(path)
        finally:
            self.delete(path)
        if found != data:
            raise StoreError(
                f"storage {self.location} gives back other bytes than were written to it "
                f"({len(data)} were written, {len(found)} read); its server cannot be used"
            )

    def require_there(self) -> None:
        pass

    def refuse_links(self, folders: Iterable[str]) -> None:
        pass

    # Requests

    def _put(
        self, path: str, data: bytes, mode: Literal["create"] | Mapping[str, str] | None = None
    ) -> Mapping[str, str]:
        how: dict[str, Any] = {"max_concurrency": 4, "chunk_size": PART_BYTES}
        if mode is not None:
            how = {"mode": mode, "use_multipart": False}
        try:
            return _version(self._ask(lambda: self.objects.put(path, memoryview(data), **how)))
        except FileNotFoundError as error:
            raise self._no_bucket(error) from error

    def _copy(self, source: str, target: str) -> bool:
        """Copy a file; False when it has gone."""
        try:
            self._ask(lambda: self.objects.copy(source, target))
        except FileNotFoundError:
            return False
        return True

    def _delete(self, paths: list[str]) -> None:
        """Delete files, those of them that are there."""
        if not paths:
            return
        try:
            self._ask(lambda: self.objects.delete(paths))
        except FileNotFoundError:
            # Not all stores are content with what is not there.
            if len(paths) > 1:
                _at_once(lambda path: self._delete([path]), paths)

    def _listing(self, listing: Callable[[], T]) -> T:
        try:
            return self._ask(listing)
        except FileNotFoundError as error:
            raise self._no_bucket(error) from error

    def _ask(self, question: Callable[[], T]) -> T:
        """What the store answers. Raises FileNotFoundError, StoreSilent, what is said of
        versions, and OSError for all else."""
        try:
            return self.patience.ask(question, _silence)
        except (FileNotFoundError, AlreadyExistsError, PreconditionError):
            raise
        except BaseError as error:
            if NO_BUCKET.search(str(error)):
                raise self._no_bucket(error) from error
            raise OSError(_said(error)) from error

    def _no_bucket(self, error: Exception) -> StoreGone:
        return StoreGone(
            f"storage {self.location}: there is no such bucket ({_said(error)}); make it, or give "
            "another --storage"
        )


def _silence(error: Exception) -> str | None:
    """Why an error means that the store is to be asked again; None when it is an answer."""
    if not isinstance(error, GenericError):
        # Of a conflict nothing is known but that two wrote at once.
        return None
    said = STATUS.search(str(error))
    if said and not (int(said[1]) in TIRED or 500 <= int(said[1]) != CANNOT):
        return None
    return _said(error)


def _said(error: Exception) -> str:
    """What the store says, in one line."""
    line = str(error).splitlines()[0].partition(": <?xml")[0]
    code = re.search(r"<Code>(\w+)</Code>", str(error))
    # The seconds that it took, and queries, in which there may be signatures, come first.
    line = line.rpartition(" - ")[2]
    return f"{line} {code[1]}" if code else line


def _version(meta: Mapping[str, Any]) -> Mapping[str, str]:
    return {name: meta[name] for name in ("e_tag", "version") if meta.get(name) is not None}


def _at_once(work: Callable[[str], T], names: Iterable[str]) -> list[T]:
    """`work` done for each of `names`, several at a time."""
    names = list(names)
    if len(names) < 2:
        return [work(name) for name in names]
    with ThreadPoolExecutor(min(AT_ONCE, len(names))) as pool:
        return list(pool.map(work, names))
