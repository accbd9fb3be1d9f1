"""Sweeps in a bucket: the commands against a real S3 server, well behaved and not."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asking import ask, refused
from object_server import ObjectServer
from sweeping import ONE_AT_A_TIME, SWEEP, command, start, write

from orchestrator.records.status import sweep_status
from orchestrator.results.tables import read_parquet, table_path
from trainables.store import Store, iteration_path

SMALL = SWEEP | {"seeds": [0], "prune": {"iterations": 1}}


@pytest.fixture
def own_server(tmp_path: Path, bucket: ObjectServer) -> Iterator[ObjectServer]:
    """A server to be killed."""
    (tmp_path / "objects").mkdir()
    server = ObjectServer(tmp_path / "objects")
    server.start()
    yield server
    server.kill()


def sound(folder: Path, location: str) -> None:
    """Every iteration has one row, and all that is there is what was written."""
    store = Store(location)
    rows = read_parquet(store, table_path("iterations", "small"))
    keys = set(rows["key"].to_pylist())
    assert keys == set(store.committed("iterations"))
    assert json.loads(ask(folder, "verify", "--json", "--storage", location))["damage"] == []
    assert store.sizes("claims") == {}
    assert store.sizes("quarantine") == {}


@pytest.fixture(scope="module")
def trained(object_server: ObjectServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A storage that two runs at once have trained a sweep in, each iteration once."""
    object_server.behave()
    folder, location = tmp_path_factory.mktemp("trained"), object_server.location("trained")
    train_at_once(2, str(write(folder, SMALL)), location, folder)
    return location


def train_at_once(count: int, file: str, location: str, folder: Path, stored: int = 0) -> None:
    """So many runs of one sweep, which train each iteration once but for those `stored`."""
    runs = [start(folder, "run", file, "--storage", location, *ONE_AT_A_TIME) for _ in range(count)]
    told = [run.communicate(timeout=1200)[1] for run in runs]
    assert [run.returncode for run in runs] == [0] * count, told
    trained = sum(text.count(" iteration ") for text in told)
    assert stored + trained == len(Store(location).committed("iterations"))


def test_two_runs_at_once_train_each_iteration_once(trained: str, tmp_path: Path) -> None:
    sound(tmp_path, trained)


def test_what_is_there_is_found_by_listing(
    trained: str, bucket: ObjectServer, tmp_path: Path
) -> None:
    for asked, most in ((("plan", str(write(tmp_path, SMALL))), 40), (("status", "small"), 10)):
        bucket.requests()
        ask(tmp_path, *asked, "--storage", trained)
        requests = bucket.requests()
        assert len(requests) <= most, requests
        assert not [each for each in requests if "/iterations/" in each], requests


def test_what_verify_finds_damaged_the_next_run_trains_again(
    trained: str, bucket: ObjectServer, tmp_path: Path
) -> None:
    file, store = str(write(tmp_path, SMALL)), Store(trained)
    key = min(store.committed("iterations"))
    folder = store.manifest(iteration_path(key))["folder"]
    store.write(f"{iteration_path(key)}/{folder}/weights.safetensors", b"flipped")
    assert key in ask(tmp_path, "verify", "--storage", trained, expect=1)
    command(tmp_path, "run", file, "--storage", trained, *ONE_AT_A_TIME)
    assert json.loads(ask(tmp_path, "verify", "--json", "--storage", trained))["damage"] == []
    assert [name for name in store.names("quarantine") if key in name]
    # A run with nothing to do asks for no weights, and is not told of the same damage again.
    bucket.requests()
    ask(tmp_path, "run", file, "--storage", trained)
    requests = bucket.requests()
    assert not [each for each in requests if "/iterations/" in each], requests
    assert len(requests) <= 90, requests


@pytest.mark.parametrize("asked", [("doctor",), ("run", "small.yaml"), ("plan", "small.yaml")])
def test_a_bucket_that_is_not_there_is_told_of(
    bucket: ObjectServer, tmp_path: Path, asked: tuple[str, ...]
) -> None:
    write(tmp_path, SMALL)
    given = (*asked, "--storage", bucket.location(bucket="nowhere"))
    told = ask(tmp_path, *given, expect=1) if asked == ("doctor",) else refused(tmp_path, *given)
    assert "no such bucket" in " ".join(told.split())


@pytest.mark.parametrize("asked", [("doctor",), ("run", "small.yaml")])
def test_a_server_that_garbles_what_it_is_given_is_refused(
    bucket: ObjectServer, tmp_path: Path, asked: tuple[str, ...]
) -> None:
    write(tmp_path, SMALL)
    bucket.behave(garble=1)
    given = (*asked, "--storage", bucket.location("garbled"))
    told = ask(tmp_path, *given, expect=1) if asked == ("doctor",) else refused(tmp_path, *given)
    assert "gives back other bytes" in " ".join(told.split())
    bucket.behave()
    assert Store(bucket.location("garbled")).sizes("") == {}


# Minutes


def run_through(folder: Path, location: str, *arguments: str) -> str:
    file = str(write(folder, SWEEP))
    run = start(folder, "run", file, "--storage", location, *arguments)
    told = run.communicate(timeout=1500)[1]
    assert run.returncode == 0, told
    sound(folder, location)
    return told


@pytest.mark.cluster
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("how", [{"delay": 0.2}, {"failing": 0.05, "lost": 0.02}])
def test_a_run_on_a_server_that_is_slow_or_fails_at_random(
    bucket: ObjectServer, tmp_path: Path, how: dict[str, Any]
) -> None:
    bucket.behave(**how)
    told = run_through(tmp_path, bucket.location(f"bad-{'-'.join(how)}"))
    assert "will be tried again" not in told


@pytest.mark.cluster
@pytest.mark.timeout(1800)
def test_four_runs_at_once_on_a_server_that_fails_at_random(
    bucket: ObjectServer, tmp_path: Path
) -> None:
    bucket.behave(failing=0.05, lost=0.02)
    location = bucket.location("four")
    train_at_once(4, str(write(tmp_path, SWEEP)), location, tmp_path)
    bucket.behave()
    sound(tmp_path, location)


@pytest.mark.cluster
@pytest.mark.timeout(1800)
def test_an_outage_of_two_minutes_costs_no_lineage(
    own_server: ObjectServer, tmp_path: Path
) -> None:
    location = own_server.location()
    file = str(write(tmp_path, SWEEP | {"resources": {"retries": 0, "max_concurrent": 2}}))
    run = start(tmp_path, "run", file, "--storage", location)
    while len(Store(location).committed("iterations")) < 2:
        assert run.poll() is None
        time.sleep(0.2)
    own_server.kill()
    time.sleep(120)
    own_server.start()
    told = run.communicate(timeout=1200)[1]
    assert run.returncode == 0, told
    assert told.count("does not answer") == 1
    assert told.count("answers again") == 1
    last = sweep_status(Store(location), SWEEP["name"]).run
    assert last
    assert last.sight
    assert last.sight.slots.seconds["storage"] > 0
    sound(tmp_path, location)
