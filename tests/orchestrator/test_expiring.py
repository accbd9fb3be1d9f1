"""Claims of the dead, which a run waits for all together."""

import json
from pathlib import Path

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
        watching = expire_claims(store, {"one", "two", "alive", "never claimed"}, SECONDS)
        assert watching is not None
        watching.join()
        left = {key for key in store.names("claims") if store.names(f"claims/{key}")}
        assert left == {"alive", "not of the plan"}


def test_nothing_is_watched_where_nothing_is_claimed(tmp_path: Path) -> None:
    assert expire_claims(Store(str(tmp_path)), {"one"}) is None
