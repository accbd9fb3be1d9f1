"""The Ray cluster of a run: started on this machine, or found at an address; and who it admits."""

import json
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants
from ray._raylet import AuthenticationTokenLoader, Config  # pyright: ignore

from trainables.errors import UserError

QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}
"""Ray's environment: no chatter, no log files of its own, no state that is never read, and no
signal handler in the place of ours."""


class ClusterError(UserError):
    """The Ray cluster cannot be reached; the message says what to do."""


@dataclass(frozen=True)
class Cluster:
    """What Ray has to offer: in all, and (CPUs, GPUs) of each node, where it is not one."""

    cpus: int
    gpus: int
    nodes: tuple[tuple[int, int], ...] = ()


@contextmanager
def ray_cluster(address: str | None, cpus: int | None = None) -> Iterator[Cluster]:
    """Connect to the cluster at `address`, or start one on this machine; leave it at the end.

    One that is started listens on loopback only and asks for a token of its own, which is in the
    environment of its processes and on no disk. Raises ClusterError.
    """
    os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        options |= {"include_dashboard": False, "num_cpus": cpus}
    token = _own_token() if address is None else _users_token()
    with token, _loopback(address is None), _connected(address, options) as cluster:
        yield cluster


@contextmanager
def _connected(address: str | None, options: dict[str, Any]) -> Iterator[Cluster]:
    try:
        with _interruptions_noted():
            ray.init(address=address or "local", configure_logging=True, **options)
            signal.signal(signal.SIGTERM, signal.default_int_handler)
    except (ConnectionError, ValueError) as error:
        raise ClusterError(
            f"no Ray cluster answers at {address!r} ({error}); check --address, and that "
            "RAY_AUTH_TOKEN is the cluster's; or leave --address out to use this machine"
        ) from error
    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # Ray prints its errors; standard output is for what a command was asked for.
    with redirect_stdout(sys.stderr):
        try:
            yield _cluster()
        finally:
            ray.shutdown()


@contextmanager
def _interruptions_noted() -> Iterator[None]:
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
            if {signal.SIGINT, signal.SIGTERM} & set(noted.recv(4096)):
                raise KeyboardInterrupt


def _cluster() -> Cluster:
    resources = ray.cluster_resources()
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return Cluster(
        int(resources.get("CPU", 1)),
        int(resources.get("GPU", 0)),
        tuple((int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in nodes),
    )


def _own_token() -> AbstractContextManager[None]:
    return _authentication({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)})


def _users_token() -> AbstractContextManager[None]:
    mode = _users_mode()
    return _authentication({"RAY_AUTH_MODE": mode} if mode else {})


def _users_mode() -> str | None:
    """With an address, Ray sends a token only where RAY_AUTH_MODE says so; a cluster that wants
    none does not mind one."""
    named = os.environ.get("RAY_AUTH_TOKEN_PATH", Path.home() / ".ray" / "auth_token")
    has_token = "RAY_AUTH_TOKEN" in os.environ or Path(named).is_file()
    return os.environ.get("RAY_AUTH_MODE") or ("token" if has_token else None)


@contextmanager
def _authentication(variables: Mapping[str, str]) -> Iterator[None]:
    """Ray's authentication as in these environment variables; afterwards as it was."""
    before = {name: os.environ.get(name) for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
    os.environ.update(variables)
    _read_authentication()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        _read_authentication()


def _read_authentication() -> None:
    # Ray keeps both from when it first looked. In this order: see ray's reset_auth_token_state.
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def _loopback(on: bool) -> Iterator[None]:
    """Let Ray take this machine's address to be 127.0.0.1, as it does on macOS and Windows.

    `_node_ip_address` does not do it: Ray replaces 127.0.0.1 by an address others can reach.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    if on:
        ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


_ASK = """
import json, socket, sys
from ray._private.ray_constants import KV_NAMESPACE_DASHBOARD
from ray._private.services import canonicalize_bootstrap_address
from ray._raylet import GcsClient
from ray.exceptions import AuthenticationError
address = canonicalize_bootstrap_address(sys.argv[1])
host, _, port = address.rpartition(":")
socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
try:
    client = GcsClient(address=address)
    dashboard = client.internal_kv_get(b"webui:url", KV_NAMESPACE_DASHBOARD, timeout=10)
    print(json.dumps({"admits": True, "dashboard": (dashboard or b"").decode()}))
except AuthenticationError:
    print(json.dumps({"admits": False, "dashboard": ""}))
"""


def ask_cluster(address: str, *, with_token: bool) -> tuple[bool, str]:
    """Whether the cluster at `address` admits who comes with the user's token, or without one;
    and its dashboard as host:port, "" when that is off or not told. Raises ClusterError when it
    does not answer."""
    mode = _users_mode() if with_token else "disabled"
    # In a process of its own: Ray's client remembers its token, and writes to the terminal.
    asked = subprocess.run(
        [sys.executable, "-c", _ASK, address],
        env={**os.environ, **({"RAY_AUTH_MODE": mode} if mode else {})},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    if asked.returncode != 0:
        why = (asked.stderr.strip().splitlines() or ["no reason"])[-1]
        raise ClusterError(f"no Ray cluster answers at {address!r} ({why})")
    answer = json.loads(asked.stdout.splitlines()[-1])
    return answer["admits"], answer["dashboard"]
