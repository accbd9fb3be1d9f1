"""Claims: one holder at a time, whoever dies, stops or wakes up late."""

import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
)

from trainables.store import Store
from trainables.store.claims import Claim, ClaimLost, Claims
from trainables.store.object_files import ObjectFiles

KEY = "k" * 64
QUICK = 0.6
"""An expiry to wait for, in seconds."""
UNHURRIED = 4.0
"""An expiry of what must not expire: a busy machine may hold renewals up."""


@pytest.fixture(params=["path", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store") if request.param == "path" else "memory:///root")


def taken(claims: Claims) -> Claim:
    claim = claims.take(KEY)
    assert claim is not None
    return claim


def elsewhere(claim: Claim) -> None:
    """Make a ticket one of another machine, whose processes cannot be seen from here."""
    claim.ticket["process"] |= {"host": "another", "pid": 1}
    if claim.store.local_root:
        claim.write()
    else:
        assert claim.beat()


def stop_renewing(claim: Claim) -> None:
    """As a process does that is stopped, or whose machine is lost."""
    claim._done.set()
    assert claim._renewal is not None
    claim._renewal.join()


def test_a_claim_is_one_holders_until_it_is_given_back(store: Store) -> None:
    mine, other = Claims(store), Claims(store)
    with taken(mine):
        assert other.take(KEY) is None
        assert mine.take(KEY) is None
        with other.take("another key") or pytest.fail("keys are independent"):
            pass
    with taken(other):
        assert mine.take(KEY) is None


def test_nothing_is_left_of_a_claim_that_was_given_back(tmp_path: Path) -> None:
    with taken(Claims(Store(str(tmp_path)))):
        assert len(list((tmp_path / "claims" / KEY).iterdir())) == 1
    assert list((tmp_path / "claims").iterdir()) == []


def test_a_claim_that_is_renewed_does_not_expire(store: Store) -> None:
    with taken(Claims(store, expiry=UNHURRIED)) as claim:
        elsewhere(claim)
        other = Claims(store, expiry=UNHURRIED)
        until = time.monotonic() + 2 * UNHURRIED
        while time.monotonic() < until:
            assert other.take(KEY) is None
            time.sleep(UNHURRIED / 10)
        claim.require()


def test_a_claim_that_is_not_renewed_expires_and_its_holder_learns_of_it(store: Store) -> None:
    claim = taken(Claims(store, expiry=QUICK))
    elsewhere(claim)
    stop_renewing(claim)
    other = Claims(store, expiry=QUICK)
    claim.require()
    assert other.take(KEY) is None
    time.sleep(QUICK)
    with taken(other):
        with pytest.raises(ClaimLost, match=KEY):
            claim.require()
        claim.withdraw()
        assert Claims(store).take(KEY) is None


def test_claims_of_the_dead_are_waited_for_all_together(store: Store) -> None:
    """Whoever waits knows of each how long it has not been renewed, from the first look on."""
    dead = [Claims(store, expiry=UNHURRIED).take(f"key{n}") for n in range(3)]
    with Claims(store, expiry=UNHURRIED).take("alive") or pytest.fail("it is free"):
        for claim in dead:
            assert claim is not None
            elsewhere(claim)
            stop_renewing(claim)
        waiting = Claims(store, expiry=UNHURRIED)
        assert waiting.still_taken(["key0", "key1", "key2", "alive", "free"]) == {"alive"}
        assert not any(store.names(f"claims/key{n}") for n in range(3))


def test_a_late_beat_does_not_bring_a_lost_claim_back(store: Store) -> None:
    claim = taken(Claims(store, expiry=QUICK))
    store.delete_file(claim.path)
    time.sleep(QUICK / 2)  # more than a beat
    assert store.peek(claim.path) is None
    with taken(Claims(store)):
        pass


def test_clocks_do_not_matter(tmp_path: Path) -> None:
    """A ticket from a machine whose clock is years off lives and expires as any other."""
    store = Store(str(tmp_path))
    claim = taken(Claims(store, expiry=UNHURRIED))
    elsewhere(claim)
    other = Claims(store, expiry=UNHURRIED)
    for moment in (0, 4e9):
        os.utime(tmp_path / claim.path, (moment, moment))
        assert other.take(KEY) is None
    claim.withdraw()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"process": 3}', b"{}"])
def test_a_ticket_that_cannot_be_read_counts_until_it_expires(store: Store, content: bytes) -> None:
    foreign = f"claims/{KEY}/{'foreign' if store.local_root else 'ticket'}.json"
    store.put(foreign, content)
    claims = Claims(store, expiry=QUICK)
    assert claims.take(KEY) is None
    time.sleep(QUICK)
    with taken(claims):
        assert store.peek(foreign) != content


def test_the_claim_of_an_earlier_attempt_is_void(store: Store) -> None:
    first = Claims(store, run="run", lineage="one", attempt=1)
    second = Claims(store, run="run", lineage="one", attempt=2)
    claim = taken(first)
    elsewhere(claim)
    stop_renewing(claim)
    for other in ({"run": "other"}, {"lineage": "two"}, {"attempt": 1}):
        fields = {"run": "run", "lineage": "one", "attempt": 2} | other
        assert Claims(store, **fields).take(KEY) is None  # type: ignore[arg-type]
    with taken(second), pytest.raises(ClaimLost):
        claim.require()


class Unanswering:
    """A store whose n-th request fails."""

    def __init__(self, files: Any, n: int) -> None:
        self._files, self._left = files, n

    def __getattr__(self, name: str) -> Any:
        self._left -= 1
        if self._left == -1:
            raise OSError("no answer")
        return getattr(self._files, name)


def test_whatever_fails_while_a_claim_is_taken_leaves_no_ticket() -> None:
    raised = 0
    for n in itertools.count():
        store, failing = Store("memory:///root"), Store("memory:///root")
        assert isinstance(store.files, ObjectFiles)
        files = ObjectFiles(Unanswering(store.files.objects, n))  # type: ignore[arg-type]
        vars(failing)["files"] = files
        try:
            claim = Claims(failing).take(KEY)
        except OSError:
            raised += 1
            assert store.names(f"claims/{KEY}") == []
            continue
        assert claim is not None
        stop_renewing(claim)
        break
    assert raised


HOLDER = """
import sys, time
from trainables.store.claims import Claims
from trainables.store import Store
claim = Claims(Store(sys.argv[1]), expiry=float(sys.argv[3])).take(sys.argv[2])
print(claim.path, flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    arguments = [sys.executable, "-c", HOLDER, str(tmp_path), KEY, str(QUICK)]
    process = subprocess.Popen(arguments, text=True, stdout=subprocess.PIPE)
    yield process
    process.kill()
    process.wait()


def test_the_claim_of_a_killed_process_is_void_at_once(
    holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert holder.stdout
    assert KEY in holder.stdout.readline()
    claims = Claims(Store(str(tmp_path)), expiry=600)
    assert claims.take(KEY) is None
    holder.send_signal(signal.SIGKILL)
    # Nobody has waited for it yet: a zombie is as dead.
    deadline = time.monotonic() + 30
    while (claim := claims.take(KEY)) is None:
        assert time.monotonic() < deadline
    claim.withdraw()


def test_the_claim_of_a_stopped_process_expires_and_it_wakes_up_without_it(
    holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert holder.stdout
    path = holder.stdout.readline().strip()
    store = Store(str(tmp_path))
    holder.send_signal(signal.SIGSTOP)
    claims = Claims(store, expiry=QUICK)
    assert claims.take(KEY) is None
    time.sleep(QUICK)
    with taken(claims):
        holder.send_signal(signal.SIGCONT)
        time.sleep(QUICK)  # several of its beats
        assert store.peek(path) is None


def _count_alone(storage: str, held: int, sums: "multiprocessing.Queue[int]") -> None:
    claims = Claims(Store(storage))
    done = alone = 0
    while done < held:
        claim = claims.take(KEY)
        if claim is None:
            time.sleep(0.001)
            continue
        with claim:
            marker = Path(storage) / "inside"
            marker.mkdir()  # fails when another is inside
            alone += 1
            marker.rmdir()
        done += 1
    sums.put(alone)


def test_of_processes_that_compete_one_is_inside_at_a_time(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    sums: multiprocessing.Queue[int] = context.Queue()
    workers = [context.Process(target=_count_alone, args=(str(tmp_path), 25, sums))
               for _ in range(3)]  # fmt: skip
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=240)
        assert worker.exitcode == 0
    assert [sums.get(timeout=120) for _ in workers] == [25] * 3


def test_of_threads_that_come_at_once_at_most_one_gets_it(store: Store) -> None:
    for _ in range(20):
        barrier = threading.Barrier(4)
        got: list[Claim] = []

        def come(barrier: threading.Barrier = barrier, got: list[Claim] = got) -> None:
            claims = Claims(store)
            barrier.wait()
            if claim := claims.take(KEY):
                got.append(claim)

        threads = [threading.Thread(target=come) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(got) <= 1
        for claim in got:
            claim.withdraw()


class Holders(RuleBasedStateMachine):
    """Any order of taking, giving back, dying and waking up late, on a store without rename.

    Holders are of other machines, so that only time tells the dead; time is moved by hand, in
    what the watchers have seen.
    """

    held = Bundle("held")
    lost = Bundle("lost")
    KEYS = st.sampled_from(["a" * 64, "b" * 64])

    def __init__(self) -> None:
        super().__init__()
        self.store = Store("memory:///root")
        self.claims = [Claims(self.store, run=str(n), expiry=1e6) for n in range(3)]
        self.live: dict[str, Claim] = {}
        self.dead: set[str] = set()

    @rule(target=held, who=st.integers(0, 2), key=KEYS)
    def take(self, who: int, key: str):
        claim = self.claims[who].take(key)
        free = key not in self.live and not self._dead_tickets(key)
        if claim is None:
            assert not free
            return multiple()
        # Dead tickets only go once this watcher has seen them unchanged for long enough.
        assert key not in self.live
        elsewhere(claim)
        self.live[key] = claim
        self.dead.discard(claim.path)
        return claim

    @rule(claim=consumes(held))
    def give_back(self, claim: Claim) -> None:
        claim.withdraw()
        self._forget(claim)

    @rule(target=lost, claim=consumes(held))
    def die(self, claim: Claim):
        stop_renewing(claim)
        self.dead.add(claim.path)
        self._forget(claim)
        return claim

    @rule(who=st.integers(0, 2))
    def time_passes(self, who: int) -> None:
        """What `who` watches has not changed for longer than the expiry, but for live ones."""
        seen = self.claims[who]._seen
        for path, (content, since) in list(seen.items()):
            if path in self.dead:
                seen[path] = content, since - 2e6

    @rule(claim=consumes(lost))
    def wake_up_late(self, claim: Claim) -> None:
        found = self.store.peek(claim.path)
        if found is None or json.loads(found)["ticket"] != claim.ticket["ticket"]:
            assert not claim.beat()
            with pytest.raises(ClaimLost):
                claim.require()
            claim.withdraw()
        else:
            # Nobody wanted it meanwhile: still the only one.
            claim.require()
            claim.withdraw()
            self.dead.discard(claim.path)

    @invariant()
    def one_live_holder_a_key(self) -> None:
        for claim in self.live.values():
            assert (
                json.loads(self.store.peek(claim.path) or b"")["ticket"] == claim.ticket["ticket"]
            )

    def teardown(self) -> None:
        for claim in self.live.values():
            claim.withdraw()

    def _dead_tickets(self, key: str) -> bool:
        return any(path.startswith(f"claims/{key}/") for path in self.dead)

    def _forget(self, claim: Claim) -> None:
        self.live = {key: one for key, one in self.live.items() if one is not claim}


TestHolders = Holders.TestCase
TestHolders.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
