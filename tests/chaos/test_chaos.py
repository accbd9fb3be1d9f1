"""The sweep of chaos.py under a few kills of every kind; `make chaos` is the long version."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chaos import chaos, stored_in
from schedule import MIX

KILLS, DEPTH = 5, 3
SEED = 11
"""Kills the raylet last: while a driver is without one, workers can finish a sweep this small."""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a path short enough for Ray's sockets, which pytest's own is not."""
    made = Path(tempfile.mkdtemp(prefix="chaos-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.mark.timeout(900)
def test_kills_of_every_kind_lose_nothing_and_change_nothing(folder: Path) -> None:
    assert_nothing_lost(chaos(folder, KILLS, SEED, depth=DEPTH))


@pytest.mark.cluster
@pytest.mark.timeout(1800)
def test_nor_do_they_in_a_bucket(folder: Path) -> None:
    """Whose results are those of a file system, bit for bit."""
    with stored_in("s3://", folder) as storage:
        assert_nothing_lost(chaos(folder, KILLS, SEED, depth=DEPTH, storage=storage))


def assert_nothing_lost(found: dict[str, Any]) -> None:
    assert found["problems"] == []
    assert found["kills"] == KILLS
    assert found["kills_by_victim"].keys() == {victim for victim, _ in MIX}
    assert found["committed"] == found["iterations"]
    assert (found["lost"], found["duplicated"]) == (0, 0)
    assert found["bit_identical"]
    assert found["verify_sound"]
    assert found["redone"] <= found["in_flight_at_kills"]
    assert 0 < found["worked_seconds"]["alone"] < found["worked_seconds"]["killed"] * 2
