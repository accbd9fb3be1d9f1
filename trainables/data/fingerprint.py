"""The identity of a dataset's content, wherever its files lie."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path


def fingerprint(files: Mapping[str, Path], cache: Path) -> str:
    """SHA-256, in hex, over the names and contents of `files`.

    The names are the keys, so that the place of the files is no part of it. The result is kept in
    `cache` until the path, size or modification time of a file changes.
    """
    remembered = cache / "fingerprints" / _digest([_stamp(*item) for item in files.items()])
    with suppress(OSError):
        return remembered.read_text()
    result = _digest([(name, _content_digest(path)) for name, path in files.items()])
    # A read-only cache costs hashing again, nothing else.
    with suppress(OSError):
        _write(remembered, result)
    return result


def _stamp(name: str, path: Path) -> tuple[str, str, int, int]:
    status = path.stat()
    return name, str(path.resolve()), status.st_size, status.st_mtime_ns


def _content_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, scratch = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    os.replace(scratch, path)
