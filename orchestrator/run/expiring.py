"""Expiring: claims of the dead; those of holders that died elsewhere are waited for together."""

import threading
from collections.abc import Collection, Iterable
from contextlib import suppress

from trainables.store import Store, StoreError
from trainables.store.claims import EXPIRY_SECONDS, Claims


def expire_claims(
    store: Store, keys: Collection[str], done: Iterable[str] = (), seconds: float = EXPIRY_SECONDS
) -> threading.Thread | None:
    """Watch the claims that there are of `keys`, in a thread, until those of the dead are removed.

    A lineage watches only the claim that it meets, from when it meets it: those of a killed run
    would be waited for one after the other. None when there is nothing to watch.

    What is `done` no lineage comes to: of that, who was killed right after the commit has left a
    claim, which goes now if its holder was of this machine.
    """
    claimed = {*store.names("claims")}
    held = claimed & {*keys}
    for key in claimed.intersection(done) - held:
        Claims(store).is_taken(key)
    if not held:
        return None
    watching = threading.Thread(target=_watch, args=(store, held, seconds), daemon=True)
    watching.start()
    return watching


def _watch(store: Store, keys: Collection[str], seconds: float) -> None:
    # Of a storage that fails, those hear who train.
    with suppress(OSError, StoreError):
        Claims(store, expiry=seconds).still_taken(keys)
