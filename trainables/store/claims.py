"""Claims: who is training an iteration, so that no two runs train the same one.

On a file system a claim is a ticket, a file of its own under `claims/<key>/`. Whoever finds another
live ticket beside the one it has just written takes its own back: of two that come at once, one
stays or neither, never both. That asks only that a listing shows every file written before it.

In an object store there is one ticket, `claims/<key>/ticket.json`: created where there is none, and
renewed, or taken over from the dead, only by who knows the version that it has.

A holder renews its ticket. One that a watcher has seen unchanged for `expiry` seconds of its own
monotonic clock, or whose process is gone from this very machine, is dead and removed; clocks of
two machines, or of one before and after a jump, are never compared, and time in which the storage
did not answer does not count. A holder that wakes up late finds its ticket gone and gives its work
up (ClaimLost). Were it to commit in that very moment, the first commit would stay: see
`Store.commit`.
"""

import json
import random
import threading
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self

from trainables.store.errors import StoreError
from trainables.store.files import Version
from trainables.store.processes import is_gone, this_process
from trainables.store.store import Store

EXPIRY_SECONDS = 60.0
BEATS_PER_EXPIRY = 6


def pause(seconds: float = 1.0) -> None:
    """Wait at most so long before asking for a claim again, each at its own pace."""
    time.sleep(seconds * random.uniform(0.5, 1.0))


class ClaimLost(Exception):
    """Another took the claim over, because this holder had not been heard of."""


@dataclass
class Claims:
    """What one attempt at a lineage claims, and what it has seen of the others' claims.

    A ticket of an earlier attempt at `lineage` in the same `run` is dead: the run that starts an
    attempt has seen the one before it end.
    """

    store: Store
    run: str = field(default_factory=lambda: uuid.uuid4().hex)
    lineage: str = ""
    attempt: int = 1
    expiry: float = EXPIRY_SECONDS
    _seen: dict[str, tuple[bytes, float]] = field(default_factory=dict)

    def take(self, key: str) -> "Claim | None":
        """The claim of `key`; None while another has it."""
        if self.store.local_root is None:
            return self._take_ticket(key)
        if self._others(key, None):
            return None
        claim = Claim(self.store, f"{_folder(key)}/{uuid.uuid4().hex}.json", self._ticket())
        try:
            claim.write()
            contested = self._others(key, claim.path)
        except BaseException:
            # Whatever it was: a ticket that is left, all others would have to see expire. A full
            # disk has room for an empty one.
            with suppress(OSError, StoreError):
                claim.withdraw()
            raise
        if contested:
            claim.withdraw()
            return None
        claim.renew_every(self.expiry / BEATS_PER_EXPIRY)
        return claim

    def is_taken(self, key: str) -> bool:
        """Whether somebody has `key`; tickets of the dead are removed."""
        if self.store.local_root is None:
            dead = self._dead_ticket(key)
            if isinstance(dead, bool):
                return dead
            claim = self._taken_over(key, dead)
            if claim is not None:
                claim.withdraw()
            return claim is None
        return self._others(key, None)

    def still_taken(self, keys: Iterable[str]) -> set[str]:
        """Those of `keys` that somebody has, once those of whom nothing is heard had the time to
        expire, all in the same time: it takes as long while somebody has one."""
        keys = {*keys}
        taken = {key for key in keys if self.is_taken(key)}
        until = time.monotonic() + self.expiry
        is_last = False
        while taken and not is_last:
            pause(min(1.0, self.expiry / 10))
            # By now all those have expired that were there at the first look.
            is_last = time.monotonic() > until
            taken = {key for key in keys if self.is_taken(key)}
        return taken

    def wait_for(self, key: str) -> None:
        """Wait until nobody has `key`."""
        while self.is_taken(key):
            pause(min(1.0, self.expiry / 10))

    def _take_ticket(self, key: str) -> "Claim | None":
        """`take` in an object store."""
        # One that was there a moment ago is likely to be there still: looking costs less.
        if _ticket_path(key) not in self._seen:
            claim = self._taken_over(key, None)
            if claim is not None:
                return claim
        dead = self._dead_ticket(key)
        if dead is True:
            return None
        return self._taken_over(key, None if dead is False else dead)

    def _taken_over(self, key: str, version: Version | None) -> "Claim | None":
        """The claim of `key`, if the ticket there has `version`, or with None there is none."""
        ticket = self._ticket() | {"ticket": uuid.uuid4().hex}
        claim = VersionedClaim(self.store, _ticket_path(key), ticket, version=version)
        if not claim.beat():
            return None
        self._seen.pop(claim.path, None)
        claim.renew_every(self.expiry / BEATS_PER_EXPIRY)
        return claim

    def _dead_ticket(self, key: str) -> "Version | bool":
        """The version of the ticket of `key` if its holder is dead; else whether there is one."""
        path = _ticket_path(key)
        try:
            found, version = self.store.files.read_version(path)
        except FileNotFoundError:
            self._seen.pop(path, None)
            return False
        return True if self._is_heard_of(path, found) else version

    def _others(self, key: str, mine: str | None) -> bool:
        """Whether another live ticket is there; removes the dead ones."""
        alive = False
        for name in self.store.names(_folder(key)):
            path = f"{_folder(key)}/{name}"
            if path == mine:
                continue
            if self._is_alive(path):
                alive = True
            else:
                self.store.delete_file(path)
        return alive

    def _is_alive(self, path: str) -> bool:
        found = self.store.peek(path)
        return found is not None and self._is_heard_of(path, found)

    def _is_heard_of(self, path: str, found: bytes) -> bool:
        """Whether the holder of a ticket that holds `found` is not known to be dead."""
        now = time.monotonic()
        before, since = self._seen.get(path, (None, now))
        if found != before:
            since = now
        self._seen[path] = found, since
        if now - max(since, self.store.patience.answering_since) >= self.expiry:
            return False
        try:
            ticket = json.loads(found)
            return not (self._is_earlier_attempt(ticket) or is_gone(ticket["process"]))
        except (ValueError, KeyError, TypeError):
            return True  # just being written, or no ticket of ours: until it expires

    def _is_earlier_attempt(self, ticket: dict[str, Any]) -> bool:
        same = (ticket["run"], ticket["lineage"]) == (self.run, self.lineage)
        return same and ticket["attempt"] < self.attempt

    def _ticket(self) -> dict[str, Any]:
        return {
            "run": self.run,
            "lineage": self.lineage,
            "attempt": self.attempt,
            "process": this_process(),
        }


@dataclass
class Claim:
    """A ticket that is held; leaving the context gives it back."""

    store: Store
    path: str
    ticket: dict[str, Any]
    is_spent: bool = False
    """Whether what it is of has been committed, so that nobody needs it any more."""
    _beat: int = 0
    _done: threading.Event = field(default_factory=threading.Event)
    _renewal: threading.Thread | None = None

    def require(self) -> None:
        """Raise ClaimLost unless the ticket is still there."""
        if self.store.peek(self.path) is None:
            raise ClaimLost(f"{self.path} was taken over")

    def beat(self) -> bool:
        """Renew the ticket; whether it was still there."""
        self._beat += 1
        # Never made anew: who removed it has the claim.
        return self.store.overwrite(self.path, self._bytes())

    def write(self) -> None:
        self.store.put(self.path, self._bytes())

    def withdraw(self) -> None:
        self._done.set()
        if self._renewal:
            self._renewal.join()
        self.store.delete_file(self.path)
        self.store.remove_if_empty(self.path.rpartition("/")[0])

    def renew_every(self, seconds: float) -> None:
        self._renewal = threading.Thread(target=self._renew, args=(seconds,), daemon=True)
        self._renewal.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.withdraw()

    def _renew(self, seconds: float) -> None:
        while not self._done.wait(seconds):
            try:
                if not self.beat():
                    return
            except (OSError, StoreError):
                pass  # a storage that does not answer for a while; the next beat may reach it

    def _bytes(self) -> bytes:
        # Always as long, so that it can be overwritten in place.
        return json.dumps(self.ticket | {"beat": f"{self._beat:012d}"}).encode()


@dataclass
class VersionedClaim(Claim):
    """A ticket in an object store: held for as long as nobody else has written it."""

    version: Version | None = None
    _lost: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _heard_at: tuple[float, float] | None = None
    _every: float = 0.0

    def renew_every(self, seconds: float) -> None:
        self._every = seconds
        super().renew_every(seconds)

    def beat(self) -> bool:
        with self._lock:
            if not self._lost:
                self._beat += 1
                self._heard_at = _now()
                version = self.store.files.write_version(self.path, self._bytes(), self.version)
                self._lost = version is None
                self.version = version
            return not self._lost

    def require(self) -> None:
        if not self.beat():
            raise ClaimLost(f"{self.path} was taken over")

    def withdraw(self) -> None:
        self._done.set()
        if self._renewal:
            self._renewal.join()
        # A file is deleted whatever it holds: only while nobody can think its holder dead. Who has
        # taken over one that is spent finds the commit.
        if (self.is_spent and self._is_just_heard_of()) or self.beat():
            self.store.delete_file(self.path)

    def _is_just_heard_of(self) -> bool:
        if self._lost or self._heard_at is None:
            return False
        since = [now - then for now, then in zip(_now(), self._heard_at, strict=True)]
        return all(0 <= seconds < self._every for seconds in since)


def _now() -> tuple[float, float]:
    """Two clocks: one stands still with its machine, and the other may be set."""
    return time.monotonic(), time.time()


def _folder(key: str) -> str:
    return f"claims/{key}"


def _ticket_path(key: str) -> str:
    return f"{_folder(key)}/ticket.json"
