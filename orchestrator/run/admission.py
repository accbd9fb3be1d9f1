"""Admission: asks a cluster whether it lets one in, and where its dashboard is.

In a process of its own, this module run as a program: Ray's client remembers its token, and writes
to the terminal.
"""

import json
import os
import socket
import subprocess
import sys

from orchestrator.run.authentication import users_mode
from orchestrator.run.cluster import ClusterError
from orchestrator.run.ray_internals import host_and_port, told_dashboard

CONNECT_SECONDS = 5.0


def ask_cluster(address: str, *, with_token: bool) -> tuple[bool, str]:
    """Whether the cluster at `address` admits who comes with the user's token, or without one;
    and its dashboard as host:port, "" when that is off or not told. Raises ClusterError when it
    does not answer."""
    mode = users_mode() if with_token else "disabled"
    asked = subprocess.run(
        # -P: as for the command itself, a folder is not searched because it is the current one.
        [sys.executable, "-P", "-m", __name__, address],
        env={**os.environ, **({"RAY_AUTH_MODE": mode} if mode else {})},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    if asked.returncode != 0:
        why = (asked.stderr.strip().splitlines() or ["no reason"])[-1]
        raise ClusterError(f"no Ray cluster answers at {address!r} ({why})")
    answer = json.loads(asked.stdout.splitlines()[-1])
    return answer["admits"], answer["dashboard"]


def _answer(address: str) -> None:
    place = host_and_port(address)
    host, _, port = place.rpartition(":")
    # Ray's client would go on trying.
    socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    dashboard = told_dashboard(place)
    print(json.dumps({"admits": dashboard is not None, "dashboard": dashboard or ""}))


if __name__ == "__main__":
    _answer(sys.argv[1])
