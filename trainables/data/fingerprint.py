"""The identity of a dataset's content, wherever its files lie."""

import functools
import hashlib
import json
import os
import re
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from stat import S_ISLNK


def fingerprint(files: Mapping[str, Path], cache: Path, marks: tuple[str, ...] = ()) -> str:
    """SHA-256, in hex, over the names and contents of `files`, and over `marks`.

    The names are the keys, so that the place of the files is no part of it. The result is kept in
    `cache` until a file changes.
    """
    stamped = stamps(files)
    remembered = cache / "fingerprints" / digest([*stamped, *marks])
    with suppress(OSError):
        known = remembered.read_bytes()
        # A file that a power cut has emptied would make one dataset of all.
        if re.fullmatch(rb"[0-9a-f]{64}", known):
            return known.decode()
    result = digest([*((name, _content_digest(path)) for name, path in files.items()), *marks])
    # A read-only cache costs hashing again, nothing else.
    with suppress(OSError):
        write_atomically(remembered, result.encode())
    return result


def stamps(files: Mapping[str, Path]) -> list[tuple[str | int, ...]]:
    """What changes when a file does, also when another of its size and time takes its place."""
    # Of each folder once: a hundred thousand files would take seconds.
    resolved = functools.cache(Path.resolve)
    return [_stamp(name, path, resolved) for name, path in files.items()]


def digest(value: object) -> str:
    """SHA-256, in hex, of JSON values."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def write_atomically(path: Path, *parts: bytes | memoryview) -> None:
    """Others see all of it or nothing; raises OSError, and leaves nothing behind then."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A temporary file would be for nobody else, whatever the umask.
    scratch = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        with scratch.open("wb") as file:
            for part in parts:
                file.write(part)
        os.replace(scratch, path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def _stamp(name: str, path: Path, resolved: Callable[[Path], Path]) -> tuple[str | int, ...]:
    found, place = path.lstat(), resolved(path.parent) / path.name
    if S_ISLNK(found.st_mode):
        found, place = path.stat(), path.resolve()
    times = found.st_mtime_ns, found.st_ctime_ns
    return name, str(place), found.st_size, found.st_ino, *times


def _content_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
