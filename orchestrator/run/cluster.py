"""The Ray cluster of a run: started on this machine, or found at an address, and left again."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import ray

from orchestrator.run.authentication import own_token, users_token
from orchestrator.run.machines import Cluster, usable_cpus
from orchestrator.run.ray_folder import ray_folder
from orchestrator.run.ray_internals import few_helpers, loopback
from trainables.errors import UserError

QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_prestart_worker_first_driver": "0",
}
"""Ray's environment: no chatter, no log files of its own, no state that is never read, no signal
handler in the place of ours, and no workers in advance, which Tune's trials never use: they ask for
workers with an environment of their own."""


class ClusterError(UserError):
    """The Ray cluster cannot be reached; the message says what to do."""


@contextmanager
def ray_cluster(address: str | None, cpus: int | None = None) -> Iterator[Cluster]:
    """Connect to the cluster at `address`, or start one on this machine; leave it at the end.

    One that is started listens on loopback only and asks for a token of its own, which is in the
    environment of its processes and on no disk; where the temporary folder's path is too long for
    its sockets, they are in a folder of their own. Raises ClusterError, and NoShortFolder.
    """
    if address and address.startswith(("http://", "https://")):
        raise ClusterError(
            f"{address} is a dashboard's address, to which `ray job submit` sends jobs; give "
            "--address or RAY_ADDRESS that of a Ray cluster, such as 10.0.0.1:6379, or auto on one "
            "of its nodes; --address local is this machine"
        )
    os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
    # Ray counts all CPUs there are, whatever this process may use.
    own = {"include_dashboard": False, "num_cpus": cpus or _cpus()} if address is None else {}
    token = own_token() if address is None else users_token()
    folder = ray_folder() if address is None else nullcontext()
    with (
        folder as notice,
        token,
        loopback(address is None),
        few_helpers(),
        _connected(address, own) as cluster,
    ):
        yield replace(cluster, line=_line(address, cluster), notices=(notice,) if notice else ())


def reconnect(address: str, packages: Sequence[str]) -> None:
    """Inside `ray_cluster`, leave it and come again with Python packages, given by their folders,
    that its workers are to import instead of their own. Raises ClusterError."""
    ray.shutdown()
    _connect(address, {"runtime_env": {"py_modules": list(packages)}})


@contextmanager
def _connected(address: str | None, options: dict[str, Any]) -> Iterator[Cluster]:
    _connect(address, options)
    try:
        yield _cluster()
    finally:
        ray.shutdown()


def _connect(address: str | None, options: dict[str, Any]) -> None:
    options = {"log_to_driver": False, "logging_level": logging.ERROR, **options}
    try:
        ray.init(address=address or "local", configure_logging=True, **options)
    except (ConnectionError, ValueError) as error:
        raise ClusterError(
            f"no Ray cluster answers at {address!r} ({error}); check --address, and that "
            "RAY_AUTH_TOKEN is the cluster's; --address local is this machine"
        ) from error
    except RuntimeError as error:  # above all, another version of Ray or Python
        if address is None:
            raise
        raise ClusterError(f"the Ray cluster at {address!r} cannot be used: {error}") from error
    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _line(address: str | None, cluster: Cluster) -> str:
    if address is None:
        return "Ray is started on this machine, for this run"
    said = " (RAY_ADDRESS)" if address == os.environ.get("RAY_ADDRESS") else ""
    nodes = "1 node" if len(cluster.nodes) == 1 else f"{len(cluster.nodes)} nodes"
    return f"on the Ray cluster at {address}{said}, of {nodes}"


def _cpus() -> int | None:
    usable = usable_cpus()
    return usable if usable < (os.cpu_count() or 1) else None


def _cluster() -> Cluster:
    resources = ray.cluster_resources()
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return Cluster(
        int(resources.get("CPU", 1)),
        int(resources.get("GPU", 0)),
        tuple((int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in nodes),
    )
