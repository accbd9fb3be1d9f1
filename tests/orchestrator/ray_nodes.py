"""What tests need to start Ray's nodes on this machine by themselves."""

import os
import socket
import time


def loopback_environment() -> dict[str, str]:
    """For a cluster on 127.0.0.1 alone, and who is to find it there."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    return plain | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def wait_until_it_listens(address: str) -> None:
    host, _, port = address.partition(":")
    deadline = time.monotonic() + 240
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
