"""Probes, shares of a GPU and MPS on a CUDA device; skipped, and said so, without one."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.records.probes import read_probes
from orchestrator.run.mps import CONTROL, mps
from trainables.store import Store

COMMAND = [sys.executable, "-c", "from orchestrator.commands.cli import main; main()"]
"""As installed or not."""
SWEEP: dict[str, Any] = {
    "name": "s",
    "dataset": {"name": "digits", "subset": 500},
    "model": {"name": "mlp", "hidden": [32]},
    "seeds": [0, 1, 2, 3],
    "train": {"epochs": 2, "batch_size": 50},
    "prune": {"iterations": 1},
    "methods": ["one_shot"],
    "wandb": {"mode": "disabled"},
}

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


def prunesweep(folder: Path, command: str, resources: dict[str, Any], *arguments: str) -> Any:
    (folder / "s.yaml").write_text(json.dumps(SWEEP | {"resources": resources}))
    done = subprocess.run(
        [*COMMAND, command, "s.yaml", "--json", *arguments],
        cwd=folder, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_probe_knows_the_gpu_and_how_many_networks_are_best(tmp_path: Path) -> None:
    planned = prunesweep(tmp_path, "plan", {"fuse": "auto"}, "--probe")
    probes = read_probes(Store(str(tmp_path / "prunesweep-store")))
    assert {probe.device for probe in probes} == {torch.cuda.get_device_name()}
    assert {1, 2} <= {probe.fused for probe in probes}
    for probe in probes:
        assert probe.memory_bytes is not None
        assert 0 < probe.peak_memory_bytes < probe.memory_bytes
    assert planned["estimated_here"]["device"] == "GPU"
    assert "as probes have measured" in planned["packed_here"]


@pytest.mark.parametrize("resources", [{}, {"mps": "auto", "timeout_minutes": 5}])
def test_lineages_share_the_gpu(tmp_path: Path, resources: dict[str, Any]) -> None:
    assert prunesweep(tmp_path, "run", resources)["failures"] == []


@pytest.mark.skipif(shutil.which(CONTROL) is None, reason=f"no {CONTROL} here")
def test_the_daemon_serves_a_process() -> None:
    with mps(True) as problem:
        assert problem is None
        added = "import torch; print(int((torch.ones(2, device='cuda') + 1).sum()))"
        done = subprocess.run(
            [sys.executable, "-c", added], capture_output=True, text=True, timeout=120
        )
    assert done.stdout.strip() == "4", done.stderr
