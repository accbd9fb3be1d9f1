"""Nodes that are about to go, of a Ray cluster that somebody else started."""

import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray_nodes import free_port, loopback_environment, wait_until_it_listens
from sweeping import COMMAND, SWEEP, assert_equal_results, claimed, run, store_of, wait_for, write

pytestmark = pytest.mark.cluster

RAY = str(Path(sys.executable).with_name("ray"))
ENVIRONMENT = loopback_environment() | {
    "RAY_AUTH_MODE": "disabled",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",  # else Ray lets no second node in
    "COLUMNS": "60",
}

LONG: dict[str, Any] = SWEEP | {
    "name": "long",
    "train": {"epochs": 100, "batch_size": 10},
    "prune": {"iterations": 1},
    "methods": ["one_shot"],
}
"""Two lineages, of two iterations of some fifteen thousand steps: a notice takes seconds."""


@contextmanager
def node(*options: str) -> Iterator[psutil.Popen]:
    """A node with one CPU that does not hear SIGTERM."""
    process = psutil.Popen(
        ["env", "--block-signal=TERM", RAY, "start", "--block", "--num-cpus", "1",
         "--object-store-memory", "80000000", *options],
        env=ENVIRONMENT,
    )  # fmt: skip
    try:
        yield process
    finally:
        for each in [*process.children(recursive=True), process]:
            with suppress(psutil.Error):
                each.kill()
        process.wait()


@contextmanager
def cluster() -> Iterator[tuple[str, list[psutil.Popen]]]:
    """Two nodes: the cluster's address, and theirs."""
    folder, port = tempfile.mkdtemp(prefix="ps"), free_port()
    address = f"127.0.0.1:{port}"
    head = ["--head", "--port", str(port), "--temp-dir", folder, "--include-dashboard", "false"]
    with ExitStack() as nodes:
        nodes.callback(shutil.rmtree, folder, ignore_errors=True)
        first = nodes.enter_context(node(*head))
        wait_until_it_listens(address)
        wait_for(lambda: bool(node_ids(first)))
        second = nodes.enter_context(node("--address", address))
        wait_for(lambda: bool(node_ids(second)))
        yield address, [first, second]


def node_ids(process: psutil.Popen) -> list[str]:
    found = [word for each in process.children(recursive=True) for word in each.cmdline()]
    return [word.partition("=")[2] for word in found if word.startswith("--node_id=")]


def start_on(address: str, folder: Path, sweep: dict[str, Any]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [COMMAND, "run", str(write(folder, sweep)), "--address", address],
        cwd=folder, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def wait_for_claims(folder: Path, count: int) -> None:
    wait_for(lambda: len(claimed(folder)) == count)


def test_what_is_on_a_node_that_is_drained_goes_on_elsewhere_from_where_it_was(
    tmp_path: Path,
) -> None:
    with cluster() as (address, nodes):
        process = start_on(address, tmp_path, LONG)
        wait_for_claims(tmp_path, 2)
        subprocess.run(
            [RAY, "drain-node", "--address", address, "--node-id", *node_ids(nodes[1]),
             "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "it is wanted back",
             "--deadline-remaining-seconds", "600"],
            env=ENVIRONMENT, check=True, capture_output=True,
        )  # fmt: skip
        wait_for(lambda: store_of(tmp_path).names("checkpoints") != [])
        _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "will be tried again" not in err
    assert store_of(tmp_path).names("checkpoints") == []
    (tmp_path / "alone").mkdir()
    run(tmp_path / "alone", LONG)
    assert_equal_results(tmp_path, tmp_path / "alone", "long")


@pytest.mark.parametrize("told", ["everything", "the driver"])
def test_a_cluster_that_is_told_to_go_leaves_all_in_order(tmp_path: Path, told: str) -> None:
    endless = LONG | {"train": {"epochs": 100_000, "batch_size": 10}}
    with cluster() as (address, nodes):
        process = start_on(address, tmp_path, endless)
        wait_for_claims(tmp_path, 2)
        if told == "everything":
            nodes_own = [each for one in nodes for each in one.children(recursive=True)]
            for each in [*nodes_own, psutil.Process(process.pid)]:
                each.send_signal(signal.SIGTERM)
        else:
            process.send_signal(signal.SIGUSR1)
        _, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    store = store_of(tmp_path)
    assert store.names("claims") == store.names("tmp") == []
    assert len(store.names("checkpoints")) == 2
