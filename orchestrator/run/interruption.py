"""Interruptions: what SIGINT, SIGTERM, SIGUSR1 and a terminal that is closed do to a run."""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

_nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN

TOLD_TO_GO = (signal.SIGTERM, signal.SIGUSR1, *(() if _nohup else (signal.SIGHUP,)))
"""A machine's last warning, the one that job queues send some time before, and that of a terminal
that is closed, unless nohup has it not heard."""

INTERRUPTIONS = (signal.SIGINT, *TOLD_TO_GO)

_on_terminal = [stream for stream in (1, 2) if os.isatty(stream)]


def interrupt(number: int, frame: Any) -> NoReturn:
    """A handler that raises KeyboardInterrupt, and lets the process leave in its own time.

    In the moment in which Ray's core is made, SIGTERM may be heard through a handler of Ray's,
    which calls this one, and has set an alarm: after three seconds the process would be aborted.
    """
    signal.alarm(0)
    _leave_closed_terminal(number)
    raise KeyboardInterrupt


def _leave_closed_terminal(number: int) -> None:
    """What is written to it would be an error, and the run's last."""
    if number == signal.SIGHUP:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in _on_terminal:
            os.dup2(nowhere, stream)


@contextmanager
def stopped_by_signals(
    stop: Callable[[], None], leave: Callable[[], None], stopping: Callable[[], bool]
) -> Iterator[None]:
    """SIGINT calls `stop`, and once it is `stopping` raises KeyboardInterrupt; those of TOLD_TO_GO
    call `leave`, as often as they come: some senders send them twice."""

    def heard(number: int, frame: Any) -> None:
        _leave_closed_terminal(number)
        if number in TOLD_TO_GO:
            leave()
        elif stopping():
            raise KeyboardInterrupt
        else:
            stop()

    with _handled_by(heard):
        yield


@contextmanager
def interruptions_noted() -> Iterator[None]:
    """Raise KeyboardInterrupt if a signal of these comes, whoever handles it, at the latest at the
    end.

    What a handler raises is lost when it runs in a callback of the interpreter, and becomes another
    error where a class is made, as imports do; and Ray, which forks and so runs such callbacks,
    puts a SIGTERM handler of its own that exits.
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
        except Exception:
            if _interrupted(noted):
                raise KeyboardInterrupt from None
            raise
        finally:
            signal.set_wakeup_fd(previous)
        if _interrupted(noted):
            raise KeyboardInterrupt


def _interrupted(noted: socket.socket) -> bool:
    with suppress(BlockingIOError):
        return bool(set(INTERRUPTIONS) & set(noted.recv(4096)))
    return False


@contextmanager
def unheard_by_children() -> Iterator[None]:
    """What this thread starts meanwhile does not hear that it is told to go, and neither does what
    that starts: who tells a whole machine, or a whole job, does not end it before the work in it is
    left in order."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, TOLD_TO_GO)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _handled_by(handler: Callable[[int, Any], None]) -> Iterator[None]:
    previous = [signal.signal(number, handler) for number in INTERRUPTIONS]
    try:
        yield
    finally:
        for number, before in zip(INTERRUPTIONS, previous, strict=True):
            signal.signal(number, before)
