"""Notice: a worker is told to go, by a signal or by a file in the store."""

import json
import signal
import threading
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field

from trainables.store import Store, StoreError

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""A machine's last warning, and the one that job queues send some time before."""

SECONDS = 2.0
"""Between two looks into the store."""

EVERY_NODE = "*"


def tell(store: Store, path: str, nodes: Collection[str]) -> None:
    """Have the workers on `nodes` go, all with EVERY_NODE, that watch the file `path`."""
    store.write(path, json.dumps(sorted(nodes)).encode())


@dataclass
class Notice:
    """Whether this process is told to go: once it is, it stays so."""

    _given: threading.Event = field(default_factory=threading.Event)
    _over: threading.Event = field(default_factory=threading.Event)

    def is_given(self) -> bool:
        return self._given.is_set()

    def listen(self) -> None:
        """Take the SIGNALS for it, from now on and whoever had blocked them; in a main thread."""
        for number in SIGNALS:
            signal.signal(number, lambda number, frame: self._given.set())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def watch(self, store: Store, path: str, node: str) -> None:
        """Look whether those on `node` are told in the file `path`, until it is closed."""
        threading.Thread(target=self._watch, args=(store, path, node), daemon=True).start()

    def close(self) -> None:
        self._over.set()

    def _watch(self, store: Store, path: str, node: str) -> None:
        while not (self._given.is_set() or self._over.wait(SECONDS)):
            # A storage that does not answer for a while may do so at the next look.
            with suppress(OSError, StoreError, ValueError):
                found = store.peek(path)
                if found and {EVERY_NODE, node} & {*json.loads(found)}:
                    self._given.set()
