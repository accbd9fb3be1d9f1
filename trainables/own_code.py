"""The code that computes: which of prunesweep's it is, as rows and workers tell."""

import hashlib
from functools import cache
from pathlib import Path

DIGITS = 12


@cache
def own_code() -> str:
    """A short hash of the source files of `trainables` that this process runs."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()}\n".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:DIGITS]
