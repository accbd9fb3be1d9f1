"""Interruptions: what SIGINT and SIGTERM do to a run."""

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stopped_by_signals(stop: Callable[[], None], stopping: Callable[[], bool]) -> Iterator[None]:
    """SIGINT and SIGTERM call `stop`; once it is `stopping`, they raise KeyboardInterrupt."""

    def interrupt(number: int, frame: Any) -> None:
        if stopping():
            raise KeyboardInterrupt
        stop()

    previous = [signal.signal(number, interrupt) for number in INTERRUPTIONS]
    try:
        yield
    finally:
        for number, handler in zip(INTERRUPTIONS, previous, strict=True):
            signal.signal(number, handler)


@contextmanager
def interruptions_noted() -> Iterator[None]:
    """Raise KeyboardInterrupt if a SIGINT or SIGTERM comes, whoever handles it, at the latest at
    the end.

    What a handler raises is lost when it runs in a callback of the interpreter, and Ray, which
    forks and so runs such callbacks, puts a SIGTERM handler of its own that exits.
    """
    noted, note = socket.socketpair()
    with noted, note:
        noted.setblocking(False)
        note.setblocking(False)
        previous = signal.set_wakeup_fd(note.fileno(), warn_on_full_buffer=False)
        try:
            yield
        except SystemExit:
            raise KeyboardInterrupt from None
        finally:
            signal.set_wakeup_fd(previous)
        with suppress(BlockingIOError):
            if set(INTERRUPTIONS) & set(noted.recv(4096)):
                raise KeyboardInterrupt
