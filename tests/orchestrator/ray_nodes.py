"""What tests need to start Ray's nodes on this machine by themselves."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import psutil
import pytest

RAY = str(Path(sys.executable).with_name("ray"))
HEAD = "127.0.0.2"


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


@dataclass(frozen=True)
class SmallCluster:
    """A Ray cluster whose nodes are processes of this machine, each with an address of its own on
    loopback. `environment` is for who is to come to it."""

    address: str
    environment: Mapping[str, str]

    @contextmanager
    def node(
        self, number: int, *, path: Path | None = None, hidden: Path | None = None
    ) -> Iterator[psutil.Popen]:
        """A node with one CPU, from when it is there: its `ray start`. Its workers import from
        `path`; they see another, empty, folder at `hidden`."""
        environment = {**self.environment, **({"PYTHONPATH": str(path)} if path else {})}
        start = [RAY, "start", "--address", self.address, "--block", "--num-cpus", "1",
                 "--node-ip-address", f"127.0.0.{number}",
                 "--object-store-memory", "80000000"]  # fmt: skip
        own = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs none {hidden} && exec "$@"', "-"]
        with _running([*(own if hidden else []), *start], environment) as process:
            yield process


@contextmanager
def small_cluster(cpus: int = 0, dashboard: int | None = None) -> Iterator[SmallCluster]:
    """One with a head alone, which has `cpus` and asks for a token; its dashboard has a port."""
    folder = Path(tempfile.mkdtemp(prefix="ps"))
    port = free_port()
    environment = loopback_environment() | {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }  # fmt: skip
    start = [RAY, "start", "--head", "--block", "--port", str(port), "--num-cpus", str(cpus),
             "--node-ip-address", HEAD, "--temp-dir", str(folder),
             "--object-store-memory", "80000000",
             "--include-dashboard", str(dashboard is not None).lower(), "--dashboard-host", HEAD,
             *(["--dashboard-port", str(dashboard)] if dashboard else []),
             "--dashboard-agent-listen-port", "0"]  # fmt: skip
    cluster = SmallCluster(f"{HEAD}:{port}", environment)
    with _running(start, environment):
        yield cluster
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _running(command: list[str], environment: Mapping[str, str]) -> Iterator[psutil.Popen]:
    """A node of Ray's, from when it is one of the cluster's; killed with all it has started."""
    process = psutil.Popen(
        command, env={**environment, "PYTHONUNBUFFERED": "1"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        said = "".join(takewhile(lambda line: "Ray runtime started" not in line, process.stdout))
        assert process.poll() is None, said
        yield process
    finally:
        with suppress(psutil.Error):
            for each in [*process.children(recursive=True), process]:
                with suppress(psutil.Error):
                    each.kill()
        process.wait()


def require_own_mounts() -> None:
    """For tests of nodes that see other folders than this process."""
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("this user may not mount anything, not even for a process of its own")


def another_prunesweep(folder: Path) -> Path:
    """Another version of prunesweep, which cannot train."""
    packages = Path(__file__).parents[2]
    for name in ("prunesweep", "orchestrator", "trainables"):
        shutil.copytree(
            packages / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    with open(folder / "trainables/lineage/trainable.py", "a") as file:
        file.write('\nraise RuntimeError("the other code was used")\n')
    return folder
