"""Sweeps in a bucket: the commands against a real S3 server, well behaved and not."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asking import ask, refused
from object_server import ObjectServer
from sweeping import ONE_AT_A_TIME, SWEEP, command, start, write

from orchestrator.results.tables import read_parquet, table_path
from orchestrator.run.planning import sweep_lineages
from trainables.store import Store, iteration_path

SMALL = SWEEP | {"seeds": [0], "prune": {"iterations": 1}}
ITERATIONS = 4


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
    assert "sound" in ask(folder, "verify", "--storage", location)
    assert store.sizes("claims") == {}
    assert store.sizes("quarantine") == {}


def test_two_runs_at_once_train_each_iteration_once(
    bucket: ObjectServer, tmp_path: Path
) -> None:
    location = bucket.location("together")
    file = str(write(tmp_path, SMALL))
    runs = [start(tmp_path, "run", file, "--storage", location, *ONE_AT_A_TIME) for _ in range(2)]
    told = [run.communicate(timeout=300)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], told
    trained = sum(text.count(" density ") for text in told)
    assert trained == len(Store(location).committed("iterations"))
    sound(tmp_path, location)
    # What is there already is found by listing, and nothing of it is asked for.
    for asked, most in ((("plan", file), 40), (("status", "small"), 10)):
        bucket.requests()
        ask(tmp_path, *asked, "--storage", location)
        requests = bucket.requests()
        assert len(requests) <= most, requests
        assert not [each for each in requests if "/iterations/" in each], requests


def test_what_verify_finds_damaged_the_next_run_trains_again(
    bucket: ObjectServer, tmp_path: Path
) -> None:
    location, sweep = bucket.location("damaged"), SMALL | {"methods": ["one_shot"]}
    file = str(write(tmp_path, sweep))
    command(tmp_path, "run", file, "--storage", location)
    store = Store(location)
    key = min(store.committed("iterations"))
    folder = store.manifest(iteration_path(key))["folder"]
    store.write(f"{iteration_path(key)}/{folder}/weights.safetensors", b"flipped")
    assert key in ask(tmp_path, "verify", "--storage", location, expect=1)
    command(tmp_path, "run", file, "--storage", location)
    assert "sound" in ask(tmp_path, "verify", "--storage", location)
    assert store.names("quarantine")
    # A run with nothing to do asks for no commit.
    bucket.requests()
    command(tmp_path, "run", file, "--storage", location)
    assert len(bucket.requests()) <= 60


@pytest.mark.parametrize("asked", [("doctor",), ("run", "small.yaml"), ("plan", "small.yaml")])
def test_a_bucket_that_is_not_there_is_told_of(
    bucket: ObjectServer, tmp_path: Path, asked: tuple[str, ...]
) -> None:
    write(tmp_path, SMALL)
    given = (*asked, "--storage", bucket.location(bucket="nowhere"))
    if asked == ("doctor",):
        told = ask(tmp_path, *given, expect=1)
    else:
        told = refused(tmp_path, *given)
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
    told = command(folder, "run", file, "--storage", location, *arguments)
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
def test_four_runs_at_once_train_each_iteration_once(bucket: ObjectServer, tmp_path: Path) -> None:
    location, file = bucket.location("four"), str(write(tmp_path, SWEEP))
    runs = [start(tmp_path, "run", file, "--storage", location, *ONE_AT_A_TIME) for _ in range(4)]
    told = [run.communicate(timeout=1500)[0] for run in runs]
    assert [run.returncode for run in runs] == [0] * 4, told
    trained = sum(text.count(" density ") for text in told)
    assert trained == len(Store(location).committed("iterations"))
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
    told, complaints = run.communicate(timeout=1200)
    assert run.returncode == 0, told + complaints
    assert told.count("does not answer") == 1
    assert told.count("answers again") == 1
    sound(tmp_path, location)


@pytest.mark.cluster
@pytest.mark.timeout(1800)
def test_a_driver_killed_at_any_request_loses_nothing(
    bucket: ObjectServer, tmp_path: Path
) -> None:
    """Every few requests, for as long as there is something to train."""
    location, file = bucket.location("killed"), str(write(tmp_path, SMALL))
    for n in range(8, 200, 8):
        run = start(tmp_path, "run", file, "--storage", location, *ONE_AT_A_TIME)
        bucket.behave(kill_at=n, pid=run.pid)
        run.communicate(timeout=600)
        if run.returncode == 0:
            break
    bucket.behave()
    command(tmp_path, "run", file, "--storage", location)
    sound(tmp_path, location)
