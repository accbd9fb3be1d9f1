"""Workers that keep to CPU cores of their own, which nobody hands out."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from trainables.lineage.cores import OwnCores

WORKER = """
import os, sys
from trainables.lineage.cores import OwnCores

own = OwnCores.taken(int(sys.argv[1]))
print(sorted(own.cores) if own else None, sorted(os.sched_getaffinity(0)), flush=True)
sys.stdin.read()
"""

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this system has no affinity"
)


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Locks of its own, since this machine's workers are others' business; and the affinity back
    at the end."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    before = os.sched_getaffinity(0)
    yield tmp_path
    os.sched_setaffinity(0, before)


@contextmanager
def worker(count: int) -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(count)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        assert process.stdout
        yield process.stdout.readline().strip()
        process.kill()


def test_each_worker_has_cores_of_its_own_and_whoever_finds_none_is_free() -> None:
    usable = sorted(os.sched_getaffinity(0))
    with ExitStack() as stack:
        lines = {stack.enter_context(worker(1)) for _ in usable}
        assert lines == {f"[{core}] [{core}]" for core in usable}
        assert stack.enter_context(worker(1)) == f"None {usable}"


def test_the_affinity_of_the_run_is_kept_to() -> None:
    first = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {first})
    with worker(2) as line:
        assert line == f"None [{first}]"
    with worker(1) as line:
        assert line == f"[{first}] [{first}]"


def test_a_worker_that_is_killed_leaves_its_cores_to_others() -> None:
    count = len(os.sched_getaffinity(0))
    for _ in range(2):
        with worker(count) as line:
            assert line.startswith("[")


def test_a_folder_of_somebody_else_is_not_used(folder: Path) -> None:
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    (folder / f"prunesweep-cores-{os.getuid()}").symlink_to(elsewhere)
    assert OwnCores.taken(1) is None
    assert list(elsewhere.iterdir()) == []


def test_released_cores_are_free() -> None:
    count = len(os.sched_getaffinity(0))
    own = OwnCores.taken(count)
    assert own is not None
    assert OwnCores.taken(1) is None
    own.release()
    assert OwnCores.taken(count) is not None
