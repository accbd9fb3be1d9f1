"""The Ray cluster of a run: started on this machine, or found at an address, and left again."""

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group

from orchestrator.run.authentication import own_token, users_token
from orchestrator.run.interruption import unheard_by_children
from orchestrator.run.machines import Cluster, Node, usable_cpus
from orchestrator.run.nodes import LOOK_SECONDS
from orchestrator.run.ray_folder import ray_folder
from orchestrator.run.ray_internals import (
    asked_often,
    autoscaled,
    few_helpers,
    gpus_here,
    kill_at_shutdown,
    lean_raylet,
    loopback,
    nothing_printed,
    one_environment,
    sigterm_kept,
)
from trainables.errors import UserError

QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_MAX_PENDING_TRIALS_PG": str(10**9),
}
"""Ray's environment: no chatter, and no log files of its own. How many trials may wait for room we
say ourselves."""

OWN = {
    "RAY_preload_python_modules": "trainables.lineage.preload",
    "RAY_idle_worker_killing_time_threshold_ms": "60000",
    "RAY_raylet_client_connect_timeout_milliseconds": "20",
    "RAY_raylet_client_num_connect_attempts": "500",
    "RAY_enable_metrics_collection": "0",
    "RAY_worker_niceness": "0",
    "RAY_enable_pipe_based_agent_to_parent_health_check": "1",
}
"""That of a cluster of our own: workers import what trials need before they are asked for one, and
are not taken to be idle meanwhile. They stand back for others only if the run does (`nice`). A
raylet connects to a thread of its own that may not listen yet, and would wait for a second before
it tries again, ten times: it tries more often, for as long. Nobody reads its metrics. It is at the
other end of the input of what stands in for its agents."""


ANSWER_SECONDS = 10.0
"""How long a cluster's head may take to accept a connection."""


class ClusterError(UserError):
    """The Ray cluster cannot be reached; the message says what to do."""


@contextmanager
def ray_cluster(
    address: str | None, trials: Callable[[Cluster], int] = lambda cluster: 0
) -> Iterator[Cluster]:
    """Connect to the cluster at `address`, or start one on this machine; leave it at the end.

    One that is started has workers for as many `trials` on it in advance, and does not hear
    SIGTERM. It listens on loopback only and asks for a token of its own, which is in the
    environment of its processes and on no disk; where the temporary folder's path is too long for
    its sockets, they are in a folder of their own. Raises ClusterError, and NoShortFolder.
    """
    if address and address.startswith(("http://", "https://")):
        raise ClusterError(
            f"{address} is a dashboard's address, to which `ray job submit` sends jobs; give "
            "--address or RAY_ADDRESS that of a Ray cluster, such as 10.0.0.1:6379, or auto on one "
            "of its nodes; --address local is this machine"
        )
    settings = QUIET | (OWN if address is None else {})
    os.environ.update({name: value for name, value in settings.items() if name not in os.environ})
    # Ray counts all CPUs there are, whatever this process may use.
    own = {"include_dashboard": False, "num_cpus": _cpus()} if address is None else {}
    token = own_token() if address is None else users_token()
    folder = ray_folder() if address is None else nullcontext()
    with (
        folder as notice,
        token,
        _started_lean(trials) if address is None else nullcontext(),
        _connected(address, own) as cluster,
    ):
        yield replace(cluster, line=_line(address, cluster), notices=(notice,) if notice else ())


@contextmanager
def _started_lean(trials: Callable[[Cluster], int]) -> Iterator[None]:
    ahead = trials(Cluster(usable_cpus(), gpus_here()))
    with loopback(), few_helpers(), asked_often(), lean_raylet(ahead), one_environment():
        yield


def reconnect(address: str, packages: Sequence[str]) -> None:
    """Inside `ray_cluster`, leave it and come again with Python packages, given by their folders,
    that its workers are to import instead of their own. Raises ClusterError."""
    ray.shutdown()
    _connect(address, {"runtime_env": {"py_modules": list(packages)}})


@contextmanager
def _connected(address: str | None, options: dict[str, Any]) -> Iterator[Cluster]:
    _connect(address, options)
    with nothing_printed():
        try:
            yield Cluster.of(nodes())
        finally:
            ray.shutdown()


def _connect(address: str | None, options: dict[str, Any]) -> None:
    options = {"log_to_driver": False, "logging_level": logging.ERROR, **options}
    try:
        _require_answer(address or "")
        with unheard_by_children() if address is None else nullcontext(), sigterm_kept():
            ray.init(address=address or "local", configure_logging=True, **options)
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"no Ray cluster answers at {address!r} ({error}); check --address, and that "
            "RAY_AUTH_TOKEN is the cluster's; --address local is this machine"
        ) from error
    except RuntimeError as error:  # above all, another version of Ray or Python
        if address is None:
            raise
        raise ClusterError(f"the Ray cluster at {address!r} cannot be used: {error}") from error
    if address is None:
        kill_at_shutdown()
    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _require_answer(address: str) -> None:
    """Raise OSError of a host and port where nobody listens: Ray asks there for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()


def _line(address: str | None, cluster: Cluster) -> str:
    if address is None:
        return "Ray is started on this machine, for this run"
    said = " (RAY_ADDRESS)" if address == os.environ.get("RAY_ADDRESS") else ""
    nodes = "1 node" if len(cluster.nodes) == 1 else f"{len(cluster.nodes)} nodes"
    return f"on the Ray cluster at {address}{said}, of {nodes}"


def _cpus() -> int | None:
    usable = usable_cpus()
    return usable if usable < (os.cpu_count() or 1) else None


def wait_for_room(
    fits: Callable[[Cluster], bool], asked: Mapping[str, float], seconds: float
) -> Cluster:
    """The cluster as soon as a lineage `fits`, or after so long. It is `asked` for the room, so
    that who can start nodes does."""
    group = placement_group([{name: amount for name, amount in asked.items() if amount}])
    deadline = time.monotonic() + seconds
    try:
        while not fits(found := Cluster.of(nodes())) and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
    finally:
        remove_placement_group(group)
    return found


def node_types() -> Cluster | None:
    """One node of each type that the cluster's autoscaler may start; None without one."""
    types = autoscaled()
    return (
        Cluster(sum(cpus for cpus, _ in types), sum(gpus for _, gpus in types), types)
        if types
        else None
    )


def nodes() -> list[Node]:
    """All nodes that the cluster has and had."""
    return [
        Node(
            found["NodeID"],
            found["NodeManagerHostname"],
            int(found["Resources"].get("CPU", 0)),
            int(found["Resources"].get("GPU", 0)),
            found["Alive"],
            (found["NodeManagerAddress"], found["NodeManagerPort"]),
        )
        for found in ray.nodes()
    ]
