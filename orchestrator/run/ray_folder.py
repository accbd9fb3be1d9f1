"""Ray's folder: where a cluster on this machine keeps its sockets, whose paths have to be short."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from trainables.errors import UserError

LONGEST_SOCKET = 103 if sys.platform == "darwin" else 107
"""Bytes that the path of a Unix socket may have."""

BELOW = len("/ray/session_2026-01-31_12-00-00_123456_4194304/sockets/plasma_store")
"""What Ray adds to its folder."""

SHORT = ("/tmp", "/var/tmp", "/dev/shm")


class NoShortFolder(UserError):
    """Ray's sockets have no place on this machine; the message says what to do."""


def rays_own() -> str:
    """The folder that Ray takes by itself."""
    temporary = os.environ.get("TMPDIR") if sys.platform == "linux" else None
    return os.environ.get("RAY_TMPDIR") or temporary or "/tmp"


def short_enough(folder: str) -> bool:
    return len(os.fsencode(os.path.abspath(folder))) + BELOW <= LONGEST_SOCKET


def place_for_sockets() -> str | None:
    """Where a folder for Ray is to be made, None where its own will do. Raises NoShortFolder."""
    own = rays_own()
    if short_enough(own):
        return None
    for folder in SHORT:
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise NoShortFolder(
        f"the temporary folder {own} is too long for Ray's sockets, and none of {', '.join(SHORT)} "
        "can be written; set RAY_TMPDIR to a folder of your own with at most "
        f"{LONGEST_SOCKET - BELOW} characters"
    )


@contextmanager
def ray_folder() -> Iterator[str | None]:
    """Let Ray use a new folder, which is private and removed afterwards, where the path of its own
    is too long: what to tell of it, None where Ray's own is used. Raises NoShortFolder."""
    place, own, before = place_for_sockets(), rays_own(), os.environ.get("RAY_TMPDIR")
    if place is None:
        yield None
        return
    folder = tempfile.mkdtemp(prefix="prunesweep-", dir=place)
    os.environ["RAY_TMPDIR"] = folder
    try:
        yield f"{own} is too long for Ray's sockets; Ray uses {folder} until the run ends"
    finally:
        if before is None:
            del os.environ["RAY_TMPDIR"]
        else:
            os.environ["RAY_TMPDIR"] = before
        shutil.rmtree(folder, ignore_errors=True)
