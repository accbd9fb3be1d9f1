"""Nodes of a cluster are asked before the first trial whether they have what training takes."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from asking import refused
from ray_nodes import (
    SmallCluster,
    another_prunesweep,
    free_port,
    require_own_mounts,
    small_cluster,
)
from smallest import SWEEP
from sweeping import COMMAND, ONE_AT_A_TIME

from orchestrator.results.tables import table_path
from orchestrator.run.datasets import resolve_datasets
from orchestrator.run.ground import Ground, SurveyedNode
from orchestrator.run.planning import sweep_lineages
from orchestrator.run.starting import JOB_VARIABLE
from orchestrator.sweepfile.yaml_source import load_sweep
from trainables.data import data_roots, load_dataset
from trainables.lineage.bench import Bench
from trainables.lineage.loop import run_lineage
from trainables.own_code import own_code
from trainables.store import Store
from trainables.store.storage_format import mark
from trainables.training.batches import DeviceData

SOUND = {
    "python": "3.11.2", "ray": "2.60.0", "torch": "2.13.0", "cuda": "12.8", "code": "abc",
    "free_bytes": 1e11, "storage": None,
}  # fmt: skip


# What is made of the answers


def ground(*said: dict[str, Any], **node: Any) -> Ground:
    """That of as many nodes, which differ from a sound one in what they said."""
    nodes = [
        SurveyedNode(f"{i}", f"n{i}", 1, 1, SOUND | each, **node) for i, each in enumerate(said)
    ]
    return Ground("/store", SOUND, tuple(nodes), "0")


def faults(found: Ground) -> list[str | None]:
    return [found.fault(node, gpus=True) for node in found.nodes]


def test_nodes_that_are_alike_are_sound_and_nothing_is_told_of_them() -> None:
    found = ground({}, {}, ahead=4.0)
    assert faults(found) == [None, None]
    assert found.notices() == []


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ({"storage": "is another one there"}, "the storage /store is another one there"),
        ({"code": "def"}, "another prunesweep is there (code def, and here abc)"),
        ({"no_code": "trainables"}, "no trainables can be imported there"),
        ({"no_torch": "OSError: libcudart"}, "torch cannot be imported there (OSError: libcudart)"),
        ({"cuda": None}, "torch 2.13.0 is built without CUDA there"),
    ],
)
def test_what_would_make_results_wrong_or_training_impossible_is_a_fault(
    said: dict[str, Any], fault: str
) -> None:
    sound, faulty = faults(ground({}, said))
    assert sound is None
    assert faulty is not None
    assert faulty.startswith(fault)


def test_a_node_that_says_nothing_is_a_fault() -> None:
    node = SurveyedNode("1", "n1", 1, 0, silent="nothing was heard for 180 s")
    found = Ground("/store", SOUND, (node,), "0")
    assert faults(found) == ["it does not answer: nothing was heard for 180 s"]
    assert found.notices() == []
    assert found.without_code() == []


def test_a_node_that_trains_on_no_gpu_needs_no_cuda() -> None:
    found = ground({"cuda": None})
    assert found.fault(found.nodes[0], gpus=False) is None


@pytest.mark.parametrize(
    ("said", "ahead", "notice"),
    [
        ({"torch": "2.12.0", "cuda": None}, 0.0, "torch 2.12.0, cuda None, and here torch 2.13.0"),
        ({"free_bytes": 2e8}, 0.0, "its temporary folder has 0.2 GB free"),
        ({}, 61.0, "the clock is 61 s ahead of the one here"),
        ({}, -3600.0, "the clock is 3600 s behind the one here"),
    ],
)
def test_what_only_may_matter_is_told_once_with_all_nodes_it_is_true_of(
    said: dict[str, Any], ahead: float, notice: str
) -> None:
    found = ground(said, said, ahead=ahead)
    assert faults(found)[0] is None or "cuda" in said
    (told,) = found.notices()
    assert told.startswith(f"n0, n1: {notice}")


# Where a run goes


def sweep_file(folder: Path) -> Path:
    file = folder / "s.yaml"
    file.write_text(json.dumps(SWEEP | {"seeds": [0, 1]}))
    return file


@pytest.mark.parametrize("storage", [[], ["--storage", "below/it"]])
def test_a_job_of_rays_does_not_keep_results_in_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: list[str]
) -> None:
    monkeypatch.setenv(JOB_VARIABLE, "{}")
    monkeypatch.delenv("PRUNESWEEP_STORAGE", raising=False)
    said = refused(tmp_path, "run", str(sweep_file(tmp_path)), *storage)
    assert "give --storage or $PRUNESWEEP_STORAGE an absolute path" in said
    assert os.listdir(tmp_path) == ["s.yaml"]


def test_the_address_of_a_dashboard_is_none_of_a_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    said = refused(tmp_path, "run", str(sweep_file(tmp_path)))
    assert "http://127.0.0.1:8265 is a dashboard's address" in said
    assert os.listdir(tmp_path) == ["s.yaml"]


# Real nodes


def test_an_address_where_nobody_listens_is_told_of_at_once(tmp_path: Path) -> None:
    """Ray itself would ask there for minutes."""
    done = subprocess.run(
        [COMMAND, "run", str(sweep_file(tmp_path)), "--address", f"127.0.0.1:{free_port()}"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "no Ray cluster answers" in done.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["s.yaml"]


def trained_here(file: Path, folder: Path) -> dict[str, float]:
    """By an iteration's key, its loss, trained in this process."""
    spec, roots, device = load_sweep(file), data_roots(None, {}), torch.device("cpu")
    data = DeviceData.of(load_dataset(spec.dataset[0], roots), device)
    bench = Bench(mark(Store(str(folder / "here"))), data, device)
    lineages = sweep_lineages(spec, resolve_datasets(spec, roots))
    results = (result for lineage in lineages for result in run_lineage(lineage, bench))
    return {result["key"]: result["test_loss"] for result in results if result is not None}


def run(
    cluster: SmallCluster, folder: Path, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *arguments], cwd=folder, env={**cluster.environment, **environment},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that one of the nodes does not see."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def cluster(shared: Path) -> Iterator[SmallCluster]:
    """Its head has no CPUs, and its one other node does not see what is in `shared`."""
    require_own_mounts()
    with small_cluster() as cluster, cluster.node(3, hidden=shared):
        yield cluster


def test_a_folder_that_no_other_node_sees_is_refused_and_nothing_written(
    cluster: SmallCluster, shared: Path
) -> None:
    file = sweep_file(shared)
    done = run(cluster, shared, "run", str(file), "--address", cluster.address,
               "--storage", "not/there/yet", RAY_ADDRESS="127.0.0.1:1")  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert f"storage {shared}/not/there/yet is a folder of this machine" in done.stderr
    assert "give --storage a folder that all of them share" in done.stderr
    assert done.stdout == ""
    assert os.listdir(shared) == ["s.yaml"]


def test_a_cluster_of_another_ray_is_told_apart(cluster: SmallCluster, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text('import ray\n\nray.__version__ = "2.1.0"\n')
    path = f"{tmp_path}:{Path(__file__).parents[2]}"
    file = sweep_file(tmp_path)
    done = run(cluster, tmp_path, "run", str(file), RAY_ADDRESS=cluster.address, PYTHONPATH=path)
    assert done.returncode == 2, done.stderr
    assert f"the Ray cluster at '{cluster.address}' cannot be used: Version mismatch" in done.stderr
    assert "2.1.0" in done.stderr
    assert not (tmp_path / "prunesweep-store").exists()


@pytest.mark.cluster
def test_other_nodes_are_left_out_and_get_the_code_that_they_lack(
    cluster: SmallCluster, shared: Path, tmp_path: Path
) -> None:
    file = sweep_file(shared)
    with cluster.node(4, path=another_prunesweep(tmp_path / "other")):
        told = run(cluster, shared, "doctor", "--address", cluster.address, "--json")
        done = run(cluster, shared, "run", str(file), *ONE_AT_A_TIME, RAY_ADDRESS=cluster.address)
    assert done.returncode == 0, done.stderr
    assert f"on the Ray cluster at {cluster.address} (RAY_ADDRESS), of 3 nodes" in done.stderr
    assert "prunesweep is not there, or another one, and was sent for this run" in done.stderr
    (left,) = [line for line in done.stderr.splitlines() if "left out" in line]
    assert f"the storage {shared}/prunesweep-store is another one there" in left
    store = Store(str(shared / "prunesweep-store"))
    rows = pq.read_table(store.absolute(table_path("iterations", "s"))).to_pylist()
    assert {row["code"] for row in rows} == {own_code()}
    assert {row["key"]: row["test_loss"] for row in rows} == trained_here(file, tmp_path)
    assert os.listdir(shared / "prunesweep-store/tmp") == []
    nodes = [each for each in json.loads(told.stdout) if each["name"].startswith("node ")]
    assert [each["ok"] for each in nodes].count(False) == 1, told.stdout
    (other,) = [each for each in nodes if each["ok"]]
    assert "another prunesweep is there" in other["found"]
    assert "let a run with --address send its own" in other["found"]


WITHOUT_PRUNESWEEP = """
import sys
from pathlib import Path

def has_it(folder):
    return Path(folder, "trainables").is_dir() and "py_modules_files" not in folder

sys.path[:] = [each for each in sys.path if not has_it(each)]
"""
"""Python runs it when it starts, after it has found what is installed; what Ray sends stays."""


@pytest.mark.cluster
@pytest.mark.timeout(1200)
def test_a_node_without_prunesweep_trains_and_one_that_hangs_keeps_nobody_waiting(
    tmp_path: Path,
) -> None:
    file, path = sweep_file(tmp_path), tmp_path / "path"
    path.mkdir()
    (path / "sitecustomize.py").write_text(WITHOUT_PRUNESWEEP)
    with small_cluster() as cluster, cluster.node(3) as stopped, cluster.node(4, path=path):
        for each in stopped.children(recursive=True):
            each.suspend()
        done = run(cluster, tmp_path, "run", str(file), "--address", cluster.address)
    assert done.returncode == 0, done.stderr
    # Who hangs is asked in vain, or is dead by then.
    assert "1 trial at a time" in done.stderr
    assert "prunesweep is not there, or another one, and was sent for this run" in done.stderr
    store = Store(str(tmp_path / "prunesweep-store"))
    assert len(store.committed("iterations")) == 4
