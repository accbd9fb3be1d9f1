"""MPS: NVIDIA's Multi-Process Service, through which processes use one GPU at once rather than in
turns. A daemon of the run's own, on this machine only: what Ray starts here finds it."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from trainables.lineage.mps_client import LOG, PIPE

CONTROL = "nvidia-cuda-mps-control"
SECONDS = 10.0
"""How long the daemon may take to answer."""


class NoDaemon(Exception):
    """MPS cannot be had here; the message says why."""


@contextmanager
def mps(wanted: bool) -> Iterator[str | None]:
    """Let the processes that are started inside share GPUs through MPS, where `wanted`: what to
    tell when they will not, or None. The daemon has ended, and its folder is gone, afterwards."""
    if not wanted:
        yield None
        return
    # Sockets have short paths only.
    folder = Path(tempfile.mkdtemp(prefix="ps-mps-", dir="/tmp"))
    environment = {PIPE: str(folder / "pipe"), LOG: str(folder / "log")}
    problem = None
    try:
        try:
            _start(environment)
        except NoDaemon as error:
            problem = f"resources.mps: GPUs are shared without MPS: {error}"
        with _set({} if problem else environment):
            yield problem
    finally:
        _end(environment)
        shutil.rmtree(folder, ignore_errors=True)


def _start(environment: Mapping[str, str]) -> None:
    if shutil.which(CONTROL) is None:
        raise NoDaemon(f"there is no {CONTROL} on this machine")
    for folder in environment.values():
        os.mkdir(folder)
    _control(environment, "-d")
    _control(environment, command="get_server_list")


def _end(environment: Mapping[str, str]) -> None:
    """Also a daemon that does not answer."""
    daemon = Path(environment[PIPE]) / f"{CONTROL}.pid"
    try:
        pid = int(daemon.read_text())
    except (OSError, ValueError):
        pid = None
    if pid is None and not Path(environment[PIPE]).is_dir():
        return
    with suppress(NoDaemon):
        _control(environment, command="quit")
        return
    if pid is not None:
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def _control(environment: Mapping[str, str], *arguments: str, command: str = "") -> None:
    """Call the control program; `command` is what it is told on its standard input."""
    asked = " ".join((*arguments, command)).strip()
    # A daemon that sees some GPUs only numbers them anew, and Ray's numbers are those of all.
    inherited = {n: value for n, value in os.environ.items() if n != "CUDA_VISIBLE_DEVICES"}
    # A file: the daemon may keep what it has for its output, and a pipe would not end.
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        try:
            code = subprocess.run(
                [CONTROL, *arguments], env={**inherited, **environment}, input=command + "\n",
                text=True, stdout=subprocess.DEVNULL, stderr=said, timeout=SECONDS,
                start_new_session=True,
            ).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            raise NoDaemon(f"{CONTROL} {asked} did not end within {SECONDS:g} s") from None
        except OSError as error:
            raise NoDaemon(f"{CONTROL} cannot be run: {error.strerror}") from error
        if code:
            said.seek(0)
            lines = said.read().strip().splitlines()
            raise NoDaemon(f"{CONTROL} {asked} failed: {lines[-1] if lines else code}")


@contextmanager
def _set(environment: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
