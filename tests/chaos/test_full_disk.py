"""A disk that fills up, for real: a small file system in memory, where mounting one is allowed."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from comparing import doubled_rows
from launches import COMMAND
from stored import commit, keys, store_sweep

from orchestrator.storage.collecting import collect
from orchestrator.storage.naming import sweeps_in
from orchestrator.storage.removing import remove_sweep
from orchestrator.storage.renaming import rename_sweep
from trainables.store import Store, StoreFull
from trainables.store.claims import Claims

SWEEP = {
    "name": "full",
    "dataset": "digits",
    "model": {"name": "mlp", "hidden": [32]},
    "seeds": [0, 1],
    "train": {"epochs": 8, "batch_size": 10},
    "prune": {"iterations": 2},
    "methods": ["one_shot", "lottery_ticket"],
    "resources": {"retries": 0},
    "wandb": {"mode": "disabled"},
}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("a file system can be mounted by root on Linux only")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Write until nothing more goes in; the file that took the room."""
    filler = disk / f"filler-{len(list(disk.iterdir()))}"
    with (
        pytest.raises(OSError, match="No space left on device"),
        open(filler, "wb", buffering=0) as file,
    ):
        _write_for_ever(file)
    return filler


def _write_for_ever(file: BinaryIO) -> None:
    while True:
        file.write(bytes(4096))


def run(tmp_path: Path, storage: Path, *options: str) -> subprocess.Popen[str]:
    file = tmp_path / "full.yaml"
    file.write_text(json.dumps(SWEEP))
    return subprocess.Popen(
        [COMMAND, "run", str(file), "--storage", str(storage), *options],
        cwd=tmp_path, env=os.environ | {"COLUMNS": "150"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_a_full_disk_leaves_no_empty_claim_that_others_wait_for(disk: Path) -> None:
    claims = Claims(Store(str(disk / "store")))
    first = claims.take("first")
    assert first is not None
    filler = fill(disk)
    with pytest.raises(StoreFull, match="is full"):
        claims.take("second")
    first.withdraw()
    filler.unlink()
    assert not list((disk / "store/claims").iterdir())
    assert Claims(Store(str(disk / "store"))).take("second") is not None


def test_room_is_made_on_a_full_disk(disk: Path) -> None:
    store = Store(str(disk / "store"))
    kept, gone = store_sweep(store, "kept"), store_sweep(store, "gone", seeds=[1])
    nobodys = [f"iterations/{digit * 64}" for digit in "ef"]
    for path in nobodys:
        commit(store, path)
    fill(disk)
    assert collect(store, dry_run=True) == collect(store)
    assert not any(map(store.is_committed, nobodys))
    fill(disk)
    assert remove_sweep(store, "gone").iterations == len(keys(gone))
    assert sweeps_in(store) == ["kept"]
    assert store.committed("iterations").keys() == keys(kept)
    fill(disk)
    with pytest.raises(StoreFull, match="is full"):
        rename_sweep(store, "kept", "renamed")
    assert [*store.sizes("tmp"), *store.sizes("claims")] == []


@pytest.mark.cluster
def test_a_disk_that_fills_up_costs_what_was_in_flight(disk: Path, tmp_path: Path) -> None:
    storage = disk / "store"
    process = run(tmp_path, storage)
    deadline = time.monotonic() + 240
    while len(list(storage.glob("iterations/*"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    filler = fill(disk)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 1, err
    assert "is full" in err
    filler.unlink()
    # For one worker: a second one takes seconds to start.
    process = run(tmp_path, storage, "--set", "resources.max_concurrent=1")
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert doubled_rows(storage, "full") == []
    assert subprocess.run([COMMAND, "verify", "--storage", str(storage)]).returncode == 0
