"""Claims of the dead, which a run waits for all together."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from object_server import ObjectServer

from orchestrator.run.expiring import expire_claims
from trainables.store import Store
from trainables.store.claims import Claims

SECONDS = 4.0
"""A busy machine may hold renewals up."""


def test_claims_of_the_dead_are_removed_and_those_of_others_stay(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for key in ("one", "two", "not of the plan"):
        claim = Claims(store, expiry=SECONDS).take(key)
        assert claim is not None
        claim._done.set()
        assert claim._renewal is not None
        claim._renewal.join()
        foreign = claim.ticket | {"process": claim.ticket["process"] | {"host": "another"}}
        store.put(claim.path, json.dumps(foreign).encode())
    mine = Claims(store, expiry=SECONDS).take("alive")
    assert mine is not None
    with mine:
        keys = {"one", "two", "alive", "never claimed"}
        watching = expire_claims(store, keys, seconds=SECONDS)
        assert watching is not None
        watching.join()
        left = {key for key in store.names("claims") if store.names(f"claims/{key}")}
        assert left == {"alive", "not of the plan"}


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_what_is_committed_has_no_claim_of_the_dead(
    place: str, tmp_path: Path, bucket: ObjectServer
) -> None:
    """Who is killed right after a commit leaves the claim, to which nobody comes again."""
    location = str(tmp_path) if place == "folder" else bucket.location("expiring")
    take = f"""
import os
from trainables.store import Store
from trainables.store.claims import Claims
assert Claims(Store({location!r})).take("done")
os._exit(1)
"""
    subprocess.run([sys.executable, "-c", take], check=False)
    store = Store(location)
    assert store.names("claims") == ["done"]
    alive = Claims(store).take("committed a moment ago")
    assert alive is not None
    with alive:
        assert expire_claims(store, set(), ["done", "committed a moment ago", "other"]) is None
        left = [key for key in store.names("claims") if store.names(f"claims/{key}")]
        assert left == ["committed a moment ago"]


def test_nothing_is_watched_where_nothing_is_claimed(tmp_path: Path) -> None:
    assert expire_claims(Store(str(tmp_path)), {"one"}) is None
