"""Runs on a Ray cluster that somebody else started, and who such a cluster lets in."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray_nodes import free_port, loopback_environment, wait_until_it_listens
from smallest import SWEEP

from orchestrator.commands.doctor import Check, examine_cluster
from orchestrator.run.interruption import interruptions_noted

COMMAND = str(Path(sys.executable).with_name("prunesweep"))

TOKEN = secrets.token_hex(32)


@pytest.fixture(scope="module")
def heads() -> Iterator[dict[str, str]]:
    """Two Ray clusters on 127.0.0.1, one that asks for TOKEN and one that admits anyone: their
    addresses."""
    root = Path(tempfile.mkdtemp(prefix="ps"))
    modes = {"guarded": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN},
             "open": {"RAY_AUTH_MODE": "disabled"}}  # fmt: skip
    with head(root / "g", modes["guarded"]) as guarded, head(root / "o", modes["open"]) as open_:
        for address in (guarded, open_):
            wait_until_it_listens(address)
        yield {"guarded": guarded, "open": open_}
    shutil.rmtree(root, ignore_errors=True)


@contextmanager
def head(folder: Path, mode: dict[str, str]) -> Iterator[str]:
    port = free_port()
    process = psutil.Popen(
        [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block",
         "--port", str(port), "--temp-dir", str(folder), "--num-cpus", "1",
         "--include-dashboard", "false", "--object-store-memory", "80000000"],
        env=loopback_environment() | mode, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield f"127.0.0.1:{port}"
    finally:
        for each in [*process.children(recursive=True), process]:
            with suppress(psutil.Error):
                each.kill()
        process.wait()


def waiting(heartbeat: Path) -> int:
    return json.loads(heartbeat.read_text())["counts"]["waiting"]


def wait_until_handed_out(sweep: Path) -> None:
    """Until every lineage of the run whose records are in `sweep` is a trial of Tune's."""
    deadline = time.monotonic() + 240
    while not (beats := [*sweep.glob("run-*.json")]) or waiting(beats[0]):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Nobody's environment: no token in it or at home."""
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    monkeypatch.setenv("HOME", str(tmp_path))
    return monkeypatch


def found(address: str) -> dict[str, Check]:
    return {check.name: check for check in examine_cluster(address)}


def test_the_doctor_warns_of_a_cluster_that_admits_anyone(
    heads: dict[str, str], user: pytest.MonkeyPatch
) -> None:
    checks = found(heads["open"])
    assert checks["cluster"].ok
    assert checks["dashboard"] == Check("dashboard", True, "off")
    assert not checks["token"].ok
    assert "admits anyone who reaches it" in checks["token"].found
    assert "RAY_AUTH_MODE=token" in checks["token"].found


def test_the_doctor_knows_a_cluster_that_asks_for_a_token(
    heads: dict[str, str], user: pytest.MonkeyPatch
) -> None:
    checks = found(heads["guarded"])
    assert checks["token"].ok
    assert not checks["cluster"].ok
    assert "set RAY_AUTH_TOKEN" in checks["cluster"].found
    user.setenv("RAY_AUTH_TOKEN", TOKEN)
    assert all(check.ok for check in found(heads["guarded"]).values())


def test_the_doctor_is_told_of_a_cluster_that_does_not_answer(user: pytest.MonkeyPatch) -> None:
    checks = found(f"127.0.0.1:{free_port()}")
    assert not checks["cluster"].ok
    assert "no Ray cluster answers" in checks["cluster"].found


def test_a_run_on_a_cluster_needs_its_token_and_nothing_else(
    heads: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "s.yaml").write_text(json.dumps(SWEEP))
    environment = loopback_environment() | {"HOME": str(tmp_path), "RAY_AUTH_TOKEN": TOKEN}
    done = subprocess.run(
        [COMMAND, "run", "s.yaml", "--address", heads["guarded"], "--json",
         "--set", "wandb.mode=disabled"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["failures"] == []
    assert not [f for f in tmp_path.rglob("*") if f.is_file() and TOKEN.encode() in f.read_bytes()]


TOLD = """
import sys
import ray
from ray._private.ray_constants import KV_NAMESPACE_DASHBOARD
from ray._raylet import GcsClient
from orchestrator.run.ray_internals import told_dashboard

address, place = sys.argv[1], b"127.0.0.1:1234"
gcs = GcsClient(address=address)
gcs.internal_kv_put(b"webui:url", place, True, KV_NAMESPACE_DASHBOARD)
try:
    print(ray.init(address, log_to_driver=False).address_info["webui_url"], told_dashboard(address))
finally:
    gcs.internal_kv_del(b"webui:url", False, KV_NAMESPACE_DASHBOARD)
"""
"""Says where the dashboard of a cluster is to be, then where Ray and prunesweep look for it."""


def test_a_dashboard_is_looked_for_where_ray_does(heads: dict[str, str]) -> None:
    environment = loopback_environment() | {"RAY_AUTH_MODE": "disabled"}
    told = subprocess.run(
        [sys.executable, "-c", TOLD, heads["open"]],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert told.stdout.split() == ["127.0.0.1:1234", "127.0.0.1:1234"], told.stderr


BUSY = """
import sys
import ray

ray.init(sys.argv[1], log_to_driver=False)

@ray.remote(num_cpus=1)
class Someone:
    def works(self) -> bool:
        return True

someone = Someone.remote()
assert ray.get(someone.works.remote())
print("busy", flush=True)
sys.stdin.read()
"""
"""Takes the one CPU of a cluster until its standard input is closed."""


def test_a_run_that_waits_for_a_busy_cluster_can_be_interrupted(
    heads: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "s.yaml").write_text(json.dumps(SWEEP))
    environment = loopback_environment() | {"HOME": str(tmp_path), "RAY_AUTH_MODE": "disabled"}
    someone = subprocess.Popen(
        [sys.executable, "-c", BUSY, heads["open"]],
        env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with someone:
        assert someone.stdout
        assert someone.stdout.readline() == "busy\n"
        run = subprocess.Popen(
            [COMMAND, "run", "s.yaml", "--address", heads["open"], "--set", "wandb.mode=disabled"],
            cwd=tmp_path, env=environment, text=True, stderr=subprocess.PIPE,
        )  # fmt: skip
        wait_until_handed_out(tmp_path / "prunesweep-store/sweeps/s")
        run.send_signal(signal.SIGINT)
        _, err = run.communicate(timeout=240)
        someone.communicate()
    assert run.returncode == 130, err
    assert not list((tmp_path / "prunesweep-store").glob("iterations/*"))


class _Interrupting:
    """Is sent `number` where the interpreter ignores what is raised."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.kill(os.getpid(), self.number)
        for _ in range(1000):
            pass  # the handler runs between two instructions


def test_an_interruption_while_a_class_is_made_is_still_one() -> None:
    """Python 3.11 makes another error of it."""

    class Interrupting:
        def __set_name__(self, owner: type, name: str) -> None:
            signal.raise_signal(signal.SIGINT)

    def interrupt() -> None:
        with interruptions_noted():
            type("Made", (), {"attribute": Interrupting()})

    with pytest.raises(KeyboardInterrupt):
        interrupt()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize(
    "handler", [signal.default_int_handler, lambda number, _: sys.exit(number)]
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interruption_that_is_raised_where_nobody_hears_is_still_one(
    number: int, handler: Any
) -> None:
    previous = signal.signal(number, handler)
    went_on: list[bool] = []

    def interrupt() -> None:
        with interruptions_noted():
            _Interrupting(number)
            went_on.append(True)

    try:
        with pytest.raises(KeyboardInterrupt):
            interrupt()
    finally:
        signal.signal(number, previous)
    assert went_on
    with interruptions_noted():
        pass
