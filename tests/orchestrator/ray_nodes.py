"""What tests need to start Ray's nodes on this machine by themselves."""

import os
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from types import MappingProxyType

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


class Raylets:
    """A Ray cluster whose nodes are raylets on this machine, each with an address and the name of
    a host of its own. Closing it kills all of them."""

    def __init__(self, folder: Path, cpus: int = 0) -> None:
        self.folder = folder
        self.environment = loopback_environment() | {
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
        }
        self._nodes: dict[str, psutil.Popen] = {}
        self.address = f"127.0.0.250:{free_port()}"
        port = self.address.partition(":")[2]
        self._start("head", ["--head", "--port", port, "--temp-dir", str(folder / "ray"),
                             "--include-dashboard", "false", "--num-cpus", str(cpus)])  # fmt: skip
        deadline = time.monotonic() + 600
        while "runtime started" not in (folder / "head.log").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def add(self, name: str, cpus: int = 1, gpus: int = 0, before: str = "",
            environment: Mapping[str, str] = MappingProxyType({})) -> None:  # fmt: skip
        """Start a node, after a command of the shell in its own namespaces. It joins by and by."""
        self._start(name, ["--address", self.address, "--num-cpus", str(cpus),
                           "--num-gpus", str(gpus)], before, environment)  # fmt: skip

    def kill(self, *names: str) -> None:
        """Kill the raylets of some nodes at once; their workers find out by themselves."""
        for name in names:
            (self.folder / name).touch()
        for name in names:
            self.raylet(name).kill()

    def workers(self, name: str) -> list[psutil.Process]:
        """The processes of a node that have begun with a trial."""
        return [each for each in self.raylet(name).children() if "Trainable" in each.name()
                or any("Trainable" in part for part in each.cmdline())]  # fmt: skip

    def raylet(self, name: str) -> psutil.Process:
        return next(each for each in self._nodes[name].children(recursive=True)
                    if each.name() == "raylet")  # fmt: skip

    def at_work(self, name: str) -> bool:
        """Whether a node, which may not have joined yet, has workers that have begun."""
        with suppress(StopIteration, psutil.Error):
            return bool(self.workers(name))
        return False

    def close(self) -> None:
        for node in self._nodes.values():
            with suppress(psutil.Error):
                for each in [*node.children(recursive=True), node]:
                    with suppress(psutil.Error):
                        each.kill()
            node.wait()

    def _start(self, name: str, arguments: Sequence[str], before: str = "",
               environment: Mapping[str, str] = MappingProxyType({})) -> None:  # fmt: skip
        number = 250 if name == "head" else 1 + len(self._nodes)
        command = [str(Path(sys.executable).with_name("ray")), "start", "--block",
                   "--node-ip-address", f"127.0.0.{number}",
                   "--object-store-memory", "80000000", *arguments]  # fmt: skip
        # Ray gives a raylet 30 s to begin, which a busy machine may not have.
        again = f"until {shlex.join(command)} || [ -e {self.folder / name} ]; do sleep 1; done"
        shell = f"hostname {name} && {before or 'true'} && {again}"
        with (self.folder / f"{name}.log").open("w") as log:
            self._nodes[name] = psutil.Popen(
                ["unshare", "--map-root-user", "--uts", "--mount", "sh", "-c", shell],
                env={**self.environment, **environment}, stdout=log, stderr=log,
            )  # fmt: skip


@contextmanager
def raylets(cpus: int = 0) -> Iterator[Raylets]:
    """A cluster of a head; its sockets need a short path."""
    folder = Path(tempfile.mkdtemp(prefix="ps"))
    nodes = Raylets(folder, cpus)
    try:
        yield nodes
    finally:
        nodes.close()
        shutil.rmtree(folder, ignore_errors=True)


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
