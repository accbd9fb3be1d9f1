"""Plug-ins through the commands and through Ray: trained, kept, missed, edited, and shipped to a
node that lacks the file."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import psutil
import pytest
from asking import ask
from ray_nodes import free_port, wait_until_it_listens

EXAMPLES = Path(__file__).parents[2] / "examples/plugins"
SCRIPTS = Path(sys.executable).parent
FAILED = 1
"""The iteration that the criterion fails at."""
PLAIN = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
GUARDED = PLAIN | {
    "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64, "RAY_USAGE_STATS_ENABLED": "0",
}  # fmt: skip

BROKEN = """
from prunesweep import Scoring, criterion

@criterion
def broken(scoring: Scoring):
    raise RuntimeError("the third eye is shut")
"""
MORE = """
  - {name: broken, density: 0.5}
resources: {retries: 0}
"""
"""What is added to the sweep of the examples."""


Done: TypeAlias = "subprocess.CompletedProcess[str]"


def run(folder: Path, *arguments: str, storage: str = "store", **variables: str) -> Done:
    return subprocess.run(
        [str(SCRIPTS / "prunesweep"), "run", "sweep.yaml", "--storage", storage, *arguments],
        cwd=folder, env=os.environ | variables, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples and a criterion that raises, and the storage of their sweep, run by the command;
    what it printed is in `summary.json`."""
    folder = tmp_path_factory.mktemp("own") / "lab"
    shutil.copytree(EXAMPLES, folder)
    (folder / "broken.py").write_text(BROKEN)
    file = folder / "sweep.yaml"
    file.write_text(file.read_text().replace("method.py]", "method.py, broken.py]").rstrip() + MORE)
    # For one worker: a second one takes seconds to start.
    done = run(folder, "--json", "--set", "resources.max_concurrent=1")
    assert done.returncode == 1, done.stderr
    (folder / "summary.json").write_text(done.stdout)
    return folder


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "lab"))


def planned(folder: Path) -> dict[str, Any]:
    return json.loads(ask(folder, "plan", "sweep.yaml", "--storage", "store", "--json"))


def query(folder: Path, sql: str, storage: str = "store") -> list[dict[str, Any]]:
    shown = ("results", "my-own", "--storage", storage, "--format", "json", "--sql", sql)
    return json.loads(ask(folder, *shown))


def test_the_examples_are_results_like_any_others(folder: Path) -> None:
    sql = "SELECT DISTINCT dataset, model, method FROM iterations ORDER BY method"
    assert [tuple(row.values()) for row in query(folder, sql)] == [
        ("blobs", "gated_perceptron", method)
        for method in ("lottery_ticket", "scaled_magnitude", "shrinking_steps")
    ]
    assert planned(folder)["to_train"] == FAILED


def test_everything_but_plan_and_run_works_without_the_files(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in copy.glob("*.py"):
        file.unlink()
    for command in (
        ("status", "my-own"),
        ("results", "my-own", "--layout", "paper"),
        ("report", "my-own", "--output", "report.html"),
        ("figures", "my-own", "--output", "figures", "--figure", "retrained"),
        ("verify",),
        ("export", "my-own", "scaled_magnitude", "--output", "out"),
    ):
        ask(copy, *command, "--storage", "store")
    kept = json.loads((copy / "store/sweeps/my-own/plugins.json").read_text())
    sources = {m["name"]: m["source"] for plugin in kept for m in plugin["modules"]}
    assert sources == {file.stem: file.read_text() for file in [*EXAMPLES.glob("*.py")]} | {
        "broken": BROKEN
    }
    ask(copy, "plan", "sweep.yaml", "--storage", "store", expect=2)
    message = capsys.readouterr().err
    assert "sweep.yaml:3:11: plugins.0: plug-in network.py: there is no file" in message


def test_formatting_trains_nothing_and_another_formula_trains_its_own(copy: Path) -> None:
    file = copy / "criterion.py"
    file.write_text("# A comment.\n" + file.read_text().replace("|w| over", "The magnitude over"))
    assert planned(copy)["to_train"] == FAILED
    file.write_text(file.read_text().replace("w.abs() / w.std()", "w.abs() / w.var()"))
    # lottery_ticket's two prunings, and the one at initialization; the trunk has no criterion.
    assert planned(copy)["to_train"] == 3 + FAILED
    notice, other = planned(copy)["notices"]
    assert "criterion.py:13: the code of criterion scaled_magnitude has changed" in notice
    assert "the code of method scaled_magnitude has changed" in other


def test_plugged_in_code_that_raises_is_its_lineages_failure(folder: Path) -> None:
    (failure,) = json.loads((folder / "summary.json").read_text())["failures"]
    assert failure["lineage"].startswith("broken")
    assert f'File "{folder / "broken.py"}", line 6' in failure["traceback"]
    assert 'raise RuntimeError("the third eye is shut")' in failure["traceback"]


# --- a cluster of two nodes


@pytest.fixture
def two_nodes(folder: Path) -> Iterator[str]:
    """A Ray cluster of a head without CPUs and a node of two: in its mount namespace, the folder of
    the examples is empty but for an empty storage, `second`."""
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode != 0:
        pytest.skip("this machine lets nobody make a mount namespace")
    root = Path(tempfile.mkdtemp(prefix="pp"))
    address = f"127.0.0.1:{free_port()}"
    kept, second = root / "second", folder / "second"
    kept.mkdir()
    second.mkdir()
    hide = f"mount --bind {second} {kept} && mount -t tmpfs none {folder} && mkdir {second}"
    hide += f" && mount --bind {kept} {second} && exec"
    ray, memory = f"{SCRIPTS / 'ray'} start --block", "--object-store-memory 80000000"
    head = f"{ray} --head --port {address.partition(':')[2]} --num-cpus 0 {memory}"
    head += f" --include-dashboard false --temp-dir {root / 'ray'}"
    node = f"{hide} {ray} --address {address} --num-cpus 2 {memory}"
    processes: list[psutil.Popen] = []
    try:
        processes.append(started(head, root))
        wait_until_it_listens(address)
        processes.append(started(node, root, "unshare", "--mount"))
        wait_until_it_has_cpus(address)
        yield address
    finally:
        for process in processes:
            for each in [*process.children(recursive=True), process]:
                with suppress(psutil.Error):
                    each.kill()
            process.wait()
        shutil.rmtree(root, ignore_errors=True)


def started(script: str, folder: Path, *before: str) -> psutil.Popen:
    return psutil.Popen(
        [*before, "sh", "-c", script], env=GUARDED, cwd=folder,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def wait_until_it_has_cpus(address: str) -> None:
    ask_it = f"import ray, time; ray.init(address={address!r}, log_to_driver=False)\n"
    ask_it += "while ray.cluster_resources().get('CPU', 0) < 2: time.sleep(0.2)"
    subprocess.run([sys.executable, "-c", ask_it], env=GUARDED, check=True, timeout=240)


@pytest.mark.cluster
def test_a_node_that_lacks_the_file_trains_with_it(folder: Path, two_nodes: str) -> None:
    """Its numbers are those of a machine that has it."""
    only = "methods=[{name: shrinking_steps, first: 0.2}]"
    less = ("--set", only, "--set", "prune.iterations=1")
    done = run(folder, *less, "--address", two_nodes, storage="second", **GUARDED)
    assert done.returncode == 0, done.stderr
    sql = "SELECT key, params_kept, test_accuracy FROM iterations ORDER BY iteration"
    alone = {row["key"]: row for row in query(folder, sql)}
    there = query(folder, sql, "second")
    assert len(there) == 2
    assert there == [alone[row["key"]] for row in there]
