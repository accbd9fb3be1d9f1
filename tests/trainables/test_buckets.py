"""Buckets: what a store in an object store promises, asked of a real server."""

import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from object_server import ObjectServer, commit_often
from test_lineage import (
    CPU,
    DIGITS,
    ROOTS,
    assert_same_results,
    held,
    lineage,
    method,
    run,
)

from trainables.data import load_dataset
from trainables.store import MANIFEST, Damaged, Store, StoreError, StoreSilent, iteration_path
from trainables.store.claims import Claims
from trainables.store.storage_format import mark
from trainables.training.batches import DeviceData

KEY = iteration_path("k" * 64)
FILES = {"weights": b"\x00\x01\xff" * 50, "empty": b"", "table": b"text\r\n"}
MINUTES = 5.0


@pytest.fixture
def location(bucket: ObjectServer, request: pytest.FixtureRequest) -> str:
    return bucket.location(request.node.name.translate(str.maketrans("[]", "__")))


@pytest.fixture(scope="module")
def data() -> DeviceData:
    return DeviceData.of(load_dataset(DIGITS, ROOTS), CPU)


@pytest.fixture
def own_server(tmp_path: Path, bucket: ObjectServer) -> Iterator[ObjectServer]:
    """A server to be killed."""
    server = ObjectServer(tmp_path)
    server.start()
    yield server
    server.kill()


def at_once(work: Callable[[int], Any], many: int) -> list[Any]:
    """What `many` calls return that begin at the same moment."""
    start = threading.Barrier(many)

    def begin(number: int) -> Any:
        start.wait()
        return work(number)

    with ThreadPoolExecutor(many) as pool:
        return list(pool.map(begin, range(many)))


# One of many


@pytest.mark.parametrize("lost", [0.0, 0.2], ids=["answered", "answers lost"])
def test_of_threads_that_commit_at_once_exactly_one_does(
    bucket: ObjectServer, location: str, lost: float
) -> None:
    bucket.behave(lost=lost)
    stores = [Store(location, patience_minutes=MINUTES) for _ in range(5)]
    for n in range(10):
        path = iteration_path(f"{n}")

        def commit(i: int, path: str = path) -> bool:
            return stores[i].commit(path, {"who": b"%d" % i})

        done = at_once(commit, len(stores))
        assert sorted(done) == [False] * 4 + [True]
        assert Store(location).read(path, "who") == b"%d" % done.index(True)
        assert len(Store(location).sizes(path)) == 2  # and nothing of the others


def test_of_processes_that_commit_at_once_exactly_one_does(location: str) -> None:
    context, rounds = multiprocessing.get_context("spawn"), 12
    start, won = context.Barrier(3), context.Queue()
    arguments = (location, rounds, start, won)
    workers = [context.Process(target=commit_often, args=arguments) for _ in range(3)]
    for worker in workers:
        worker.start()
    told = [won.get(timeout=240) for _ in range(3 * rounds)]
    for worker in workers:
        worker.join()
    assert sorted(n for n, committed in told if committed) == list(range(rounds))


def test_of_those_who_claim_at_once_exactly_one_has_it(location: str) -> None:
    for _ in range(5):
        taken = at_once(lambda _: Claims(Store(location)).take("k"), 5)
        (claim,) = [claim for claim in taken if claim]
        assert Claims(Store(location)).is_taken("k")
        claim.withdraw()
    assert Store(location).sizes("claims") == {}


HOLD = """
import sys
from trainables.store import Store
from trainables.store.claims import Claims
print(Claims(Store(sys.argv[1])).take("k"), flush=True)
sys.stdin.read()
"""


def test_the_claim_of_a_dead_process_goes_to_one(location: str) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, location], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert b"ticket" in holder.stdout.readline()
    assert Claims(Store(location)).take("k") is None
    holder.kill()
    holder.wait()
    taken = at_once(lambda _: Claims(Store(location)).take("k"), 5)
    (claim,) = [claim for claim in taken if claim]
    claim.require()
    claim.withdraw()


def test_a_claim_that_is_spent_goes_without_another_look_and_no_other(location: str) -> None:
    store = Store(location)
    for is_spent in (True, False):
        mine = Claims(store, run="r", lineage="l", attempt=1).take(KEY)
        assert mine is not None
        mine.is_spent = is_spent
        theirs = Claims(store, run="r", lineage="l", attempt=2).take(KEY)
        assert theirs is not None
        mine.withdraw()
        assert theirs.beat() is not is_spent
        theirs.withdraw()
    assert store.sizes("claims") == {}


def test_what_many_add_to_a_record_at_once_is_all_there(
    bucket: ObjectServer, location: str
) -> None:
    bucket.behave(lost=0.1)
    path = "sweeps/s/list.json"

    def add(number: int) -> None:
        Store(location, patience_minutes=MINUTES).update(
            path, lambda found: json.dumps([*{*json.loads(found or b"[]"), number}]).encode()
        )

    at_once(add, 8)
    assert sorted(Store(location).read_json(path)) == list(range(8))


# Killed


COMMIT = """
import sys
from trainables.store import Store, iteration_path
store = Store(sys.argv[1])
store.files
print(flush=True)
sys.stdin.readline()
store.commit(iteration_path("k" * 64), {"weights": b"w" * 100, "mask": b"m", "table": b"t"})
"""


@pytest.mark.parametrize("after", [0, 1], ids=["before it is done", "after it is done"])
def test_a_writer_killed_at_any_request_leaves_a_whole_commit_or_none(
    bucket: ObjectServer, location: str, after: int
) -> None:
    files = {"weights": b"w" * 100, "mask": b"m", "table": b"t"}
    for n in range(10):
        store = Store(location.replace("/test_", f"/{n}/test_"))
        writer = subprocess.Popen(
            [sys.executable, "-c", COMMIT, store.location],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert writer.stdout is not None
        writer.stdout.readline()
        bucket.behave(kill_at=n, after=after, pid=writer.pid)
        writer.communicate(b"\n", timeout=120)
        bucket.behave()
        if store.is_committed(KEY):
            assert {name: store.read(KEY, name) for name in files} == files
        else:
            assert store.committed("iterations") == {}
            assert store.commit(KEY, files)
        if writer.returncode == 0:
            assert n == len(files) + 1
            return
        assert writer.returncode == -signal.SIGKILL
    pytest.fail("it was killed at every request")


# Few requests


def trained(location: str, iterations: int, data: DeviceData) -> list[Any]:
    one = lineage(method("sap", p=0.5), iterations=iterations)
    return run(one, data, Store(location, patience_minutes=MINUTES))


def test_an_iteration_takes_few_requests_and_a_lineage_as_many_for_each(
    bucket: ObjectServer, location: str, data: DeviceData
) -> None:
    def requests(iterations: int) -> int:
        bucket.requests()
        trained(f"{location}".replace("/test", f"/{iterations}/test"), iterations, data)
        asked = bucket.requests()
        renewals = [each for each in asked if each.startswith("PUT") and "/claims/" in each]
        assert len(renewals) >= 2 * (iterations + 1)
        return len(asked) - len(renewals)

    # Beside two of the claim, which is renewed as time goes by: its end, six files and their
    # manifest, whether it is there, and whether there is a checkpoint.
    two, four, six = (requests(iterations) for iterations in (2, 4, 6))
    assert six - four == four - two <= 2 * 10

    def found(iterations: int) -> int:
        bucket.requests()
        assert (
            trained(f"{location}".replace("/test", f"/{iterations}/test"), iterations, data) == []
        )
        return len(bucket.requests())

    assert [found(t) for t in (2, 4, 6)] == [3, 5, 7]


def test_large_files_are_written_in_parts(bucket: ObjectServer, location: str) -> None:
    store, large = Store(location), os.urandom(20 << 20)
    bucket.requests()
    assert store.commit(KEY, {"weights": large})
    assert any("uploadId" in each or each.startswith("POST") for each in bucket.requests())
    assert Store(location).read(KEY, "weights") == large


# Slow, failing, away


def test_a_server_that_fails_at_random_costs_nothing(
    bucket: ObjectServer, location: str, data: DeviceData, tmp_path: Path
) -> None:
    bucket.behave(failing=0.1, lost=0.1)
    assert len(trained(location, 2, data)) == 3
    bucket.behave()
    assert_same_as_on_a_disk(location, 2, data, tmp_path)


def assert_same_as_on_a_disk(
    location: str, iterations: int, data: DeviceData, folder: Path
) -> None:
    trained(str(folder / "disk"), iterations, data)
    one = lineage(method("sap", p=0.5), iterations=iterations)
    assert_same_results(held(one, location), held(one, folder / "disk"))


def test_a_lineage_waits_for_a_server_that_is_killed_and_started_again(
    own_server: ObjectServer, data: DeviceData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    location = own_server.location()
    caplog.set_level(logging.WARNING, "prunesweep.store")
    own_server.behave(delay=0.1)
    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(trained, location, 2, data)
        for outage, files in enumerate((1, 9), start=1):
            # In the middle of a commit: some of its files are there, and its manifest is not.
            while not work.done() and len(Store(location).sizes("iterations")) < files:
                time.sleep(0.05)
            own_server.kill()
            while not work.done() and caplog.text.count("does not answer") < outage:
                time.sleep(0.05)
            own_server.start()
            own_server.behave(delay=0.1)
        assert [metrics["iteration"] for metrics in work.result()] == [0, 1, 2]
    # Once for each time, whoever asked, and once that it was over.
    assert caplog.text.count("does not answer") == 2
    assert caplog.text.count("answers again") == 2
    assert_same_as_on_a_disk(location, 2, data, tmp_path)


def test_patience_has_an_end(own_server: ObjectServer) -> None:
    store = Store(own_server.location(), patience_minutes=0.01)
    store.commit(KEY, FILES)
    own_server.kill()
    with pytest.raises(StoreSilent, match=r"does not answer .* run again when it is back"):
        store.read(KEY, "weights")
    own_server.start()
    assert store.read(KEY, "weights") == FILES["weights"]


def test_time_in_which_the_server_was_away_does_not_expire_a_claim(
    own_server: ObjectServer,
) -> None:
    holder, watcher = (Store(own_server.location(), patience_minutes=MINUTES) for _ in range(2))
    claim = Claims(holder, expiry=4.0).take("k")
    assert claim is not None
    claim.ticket["process"] |= {"host": "another", "pid": 1}
    assert claim.beat()
    watching = Claims(watcher, expiry=4.0)
    assert watching.is_taken("k")
    own_server.kill()
    back = threading.Timer(6.0, own_server.start)
    back.start()
    assert watching.is_taken("k")
    back.join()
    claim.require()
    claim.withdraw()


# No bucket, and bytes that are others


def test_a_bucket_that_is_not_there_is_named(bucket: ObjectServer) -> None:
    store = Store(bucket.location(bucket="nowhere"))
    for use in (lambda: store.names(""), store.require_writable, lambda: store.commit(KEY, FILES)):
        with pytest.raises(StoreError, match=r"no such bucket .*NoSuchBucket.*; make it, or give"):
            use()


def test_a_server_that_gives_back_other_bytes_is_refused(
    bucket: ObjectServer, location: str
) -> None:
    bucket.behave(garble=1)
    for use in (Store(location).require_writable, lambda: mark(Store(location))):
        with pytest.raises(StoreError, match="gives back other bytes"):
            use()


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("hdfs://host/folder", "hdfs:// is none of s3://"),
        ("s3:///folder", "names no bucket"),
        ("s3://bucket/f?regoin=x", "no option 'regoin'"),
    ],
)
def test_a_location_that_is_none_is_refused(place: str, reason: str) -> None:
    with pytest.raises(StoreError, match=f"no usable location .*{reason}"):
        Store(place).files  # noqa: B018


def test_credentials_and_region_are_taken_from_awss_own_files(
    bucket: ObjectServer, location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "credentials"
    file.write_text("[mine]\naws_access_key_id = a\naws_secret_access_key = b\n")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_PROFILE", "mine")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    assert Store(location).commit(KEY, FILES)


def test_what_earlier_versions_left_in_the_place_of_folders_is_no_file(
    bucket: ObjectServer, location: str
) -> None:
    store = Store(location)
    store.commit(KEY, FILES)
    below = location.partition("?")[0].removeprefix("s3:/")
    for folder in (KEY, "iterations", "claims/k"):
        bucket.ask(f"{below}/{folder}/", "PUT", b"")
    assert store.sizes("iterations").keys() == {
        f"{KEY.partition('/')[2]}/{name}"
        for name in (MANIFEST, *(f"{store.manifest(KEY)['folder']}/{name}" for name in FILES))
    }
    assert store.committed("iterations") == {"k" * 64: frozenset([*FILES, MANIFEST])}
    assert not Claims(store).is_taken("k")
    with pytest.raises(Damaged):
        store.read(KEY, "other")
