"""The files in cluster/, which start Ray where it runs on several machines, and jobs of Ray's."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import jsonschema
import psutil
import pytest
import ray.autoscaler
from ray_nodes import RAY, SmallCluster, free_port, loopback_environment, small_cluster
from ruamel.yaml import YAML
from sweeping import COMMAND, SWEEP, commits, wait_for, write

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster"
GOLDEN = ROOT / "tests/golden"
BIN = str(Path(sys.executable).parent)


def read(name: str) -> Any:
    return YAML(typ="safe").load(FOLDER / name)


def schema_of(name: str) -> Any:
    launcher = Path(ray.autoscaler.__file__).with_name("ray-schema.json")
    files = {"aws.yaml": launcher, "kuberay.yaml": GOLDEN / "kuberay-rayjob.json"}
    return json.loads(files[name].read_text())


@pytest.mark.parametrize("name", ["aws.yaml", "kuberay.yaml"])
def test_a_file_is_as_its_schema_has_it(name: str) -> None:
    jsonschema.validate(read(name), schema_of(name))


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("aws.yaml", ()),
        ("aws.yaml", ("available_node_types", "worker")),
        ("kuberay.yaml", ("spec",)),
        ("kuberay.yaml", ("spec", "rayClusterSpec")),
        ("kuberay.yaml", ("spec", "rayClusterSpec", "workerGroupSpecs", 0)),
        ("kuberay.yaml", ("spec", "rayClusterSpec", "headGroupSpec", "template", "spec")),
    ],
)
def test_a_key_that_nobody_knows_is_none_of_the_schemas(name: str, path: tuple[Any, ...]) -> None:
    whole = part = read(name)
    for key in path:
        part = part[key]
    part["shutdownAfterJobFinished"] = True
    with pytest.raises(jsonschema.ValidationError, match="shutdownAfterJobFinished"):
        jsonschema.validate(whole, schema_of(name))


def test_the_images_have_the_version_of_ray_that_is_pinned() -> None:
    (pinned,) = re.findall(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    for name in ("aws.yaml", "kuberay.yaml"):
        named = re.findall(r"rayproject/ray:([\d.]+)-|rayVersion: (\S+)|ray\[default\]==([\d.]+)",
                           (FOLDER / name).read_text())  # fmt: skip
        assert {version for found in named for version in found if version} == {pinned}


def test_the_workers_of_each_are_there_from_the_start() -> None:
    """A run lays itself on the nodes that it finds."""
    worker = read("aws.yaml")["available_node_types"]["worker"]
    assert worker["min_workers"] == worker["max_workers"] == read("aws.yaml")["max_workers"]
    (group,) = read("kuberay.yaml")["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert group["replicas"] == group["minReplicas"] == group["maxReplicas"]


def test_the_shell_can_read_the_script() -> None:
    subprocess.run(["bash", "-n", str(FOLDER / "slurm.sbatch")], check=True)


# Slurm

SRUN = """#!/bin/bash
# In the place of srun: its tasks are processes of this machine, one for each node.
while [[ $1 == --* ]]; do shift; done
trap 'kill $(jobs -p)' TERM
for ((node = 0; node < SLURM_NNODES; node++)); do
    SLURM_NODEID=$node "$@" > "srun-$node.log" 2>&1 &
done
wait; wait
"""
SCONTROL = '#!/bin/bash\necho "$@" >> scontrol.log\n'


@contextmanager
def batch_job(folder: Path, job: int, sweep: Path) -> Iterator[psutil.Popen]:
    """The script as Slurm starts it, on an allocation of two nodes, with its two programs replaced;
    the end kills all it started."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    environment = loopback_environment() | {
        "PATH": f"{programs}:{BIN}:{os.environ['PATH']}", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",
        "SLURM_JOB_ID": str(job), "SLURM_NNODES": "2", "SLURM_CPUS_PER_TASK": "1",
    }  # fmt: skip
    script = [str(FOLDER / "slurm.sbatch"), str(sweep), "--storage", "prunesweep-store"]
    with open(folder / f"job-{job}.log", "wb") as log:
        process = psutil.Popen(
            ["bash", *script], cwd=folder, env=environment, stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        with suppress(psutil.Error):
            for each in [*process.children(recursive=True), process]:
                each.kill()
        process.wait()
        shutil.rmtree(f"/tmp/ray-{job}", ignore_errors=True)


@pytest.mark.cluster
@pytest.mark.timeout(1200)
def test_a_job_of_slurms_ends_before_its_time_is_up_and_goes_on_when_it_is_queued_again(
    tmp_path: Path,
) -> None:
    file = write(tmp_path, SWEEP | {"prune": {"iterations": 12}})
    job = 20_000 + os.getpid() % 5000
    with batch_job(tmp_path, job, file) as first:
        wait_for(lambda: len(commits(tmp_path)) > 2)
        started = first.children(recursive=True)
        first.send_signal(signal.SIGUSR1)
        code = first.wait(timeout=240)
        wait_for(lambda: not any(each.is_running() for each in started))
    log = (tmp_path / f"job-{job}.log").read_text()
    assert code == 130, log
    assert "of 2 nodes" in log
    assert "2 trials at a time" in log
    assert (tmp_path / "scontrol.log").read_text() == f"requeue {job}\n"
    committed = commits(tmp_path)
    with batch_job(tmp_path, job + 1, file) as second:
        code = second.wait(timeout=600)
    assert code == 0, (tmp_path / f"job-{job + 1}.log").read_text()
    assert committed < commits(tmp_path)
    assert (tmp_path / "scontrol.log").read_text() == f"requeue {job}\n"


# Ray's jobs


Submit: TypeAlias = Callable[..., subprocess.CompletedProcess[str]]


@contextmanager
def jobs(folder: Path, cpus: int) -> Iterator[tuple[SmallCluster, Submit]]:
    """A cluster with a dashboard, whose head has so many CPUs, and what submits a job to it: what
    that printed, and the exit code."""
    if find_spec("aiohttp_cors") is None:
        pytest.skip('jobs need Ray\'s dashboard: install ".[jobs]"')
    (folder / "sent").mkdir()
    write(folder / "sent", SWEEP | {"prune": {"iterations": 1}})
    port = free_port()
    with small_cluster(cpus=cpus, dashboard=port) as cluster:

        def submit(*entrypoint: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [RAY, "job", "submit", "--address", f"http://127.0.0.2:{port}",
                 "--working-dir", str(folder / "sent"), "--", *entrypoint],
                env=dict(cluster.environment), text=True, timeout=300,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip

        yield cluster, submit


@pytest.mark.cluster
@pytest.mark.timeout(1200)
def test_a_job_of_rays_finds_its_cluster_and_wants_a_storage(tmp_path: Path) -> None:
    with jobs(tmp_path, cpus=1) as (_, submit):
        refused = submit(COMMAND, "run", "small.yaml")
        assert refused.returncode != 0
        assert "give --storage or $PRUNESWEEP_STORAGE an absolute path" in refused.stdout
        done = submit(COMMAND, "run", "small.yaml", "--storage", str(tmp_path / "prunesweep-store"))
    assert done.returncode == 0, done.stdout
    assert re.search(r"on the Ray cluster at \S+ \(RAY_ADDRESS\), of 1 node\b", done.stdout)
    assert len(commits(tmp_path)) > 2


@pytest.mark.cluster
@pytest.mark.timeout(1200)
def test_a_job_whose_folder_is_made_anew_goes_on(tmp_path: Path) -> None:
    """The head has no CPU, so that the first worker is on another node, which shares its files."""
    with jobs(tmp_path, cpus=0) as (cluster, submit), cluster.node(3):
        ends = {"on_finish": f"ls small.yaml > {tmp_path}/seen"}
        write(tmp_path / "sent", SWEEP | {"prune": {"iterations": 1}} | ends)
        done = submit(COMMAND, "run", "small.yaml", "--storage", str(tmp_path / "prunesweep-store"))
    assert done.returncode == 0, done.stdout
    assert "of 2 nodes" in done.stdout
    assert len(commits(tmp_path)) > 2
    assert (tmp_path / "seen").read_text() == "small.yaml\n"
