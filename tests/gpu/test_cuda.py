"""What can only be seen on a CUDA device; skipped, and said so, without one."""

from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter

from trainables.data import DatasetConfig, data_roots, describe_dataset, identity, load_dataset
from trainables.lineage.bench import Bench
from trainables.lineage.keys import Cell, make_lineage
from trainables.lineage.loop import run_lineage
from trainables.models import ModelConfig
from trainables.pruning import MethodConfig, Pruning
from trainables.store import Store
from trainables.training.batches import DeviceData
from trainables.training.recipe import Recipe

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


@pytest.mark.parametrize("name", ["lottery_ticket", "sap"])
def test_a_lineage_on_the_gpu_keeps_the_counts_of_the_cpu(tmp_path: Path, name: str) -> None:
    config = TypeAdapter(DatasetConfig).validate_python({"name": "digits"})
    roots = data_roots(None, {})
    cell = Cell(
        config,
        TypeAdapter(ModelConfig).validate_python({"name": "mlp", "hidden": [32]}),
        Recipe(epochs=2, batch_size=50),
        Pruning(iterations=2),
        TypeAdapter(MethodConfig).validate_python({"name": name}),
        seed=0,
    )
    lineage = make_lineage(cell, identity(config, describe_dataset(config, roots)))
    rows = {}
    for device in ("cpu", "cuda"):
        data = DeviceData.of(load_dataset(config, roots), torch.device(device))
        bench = Bench(Store(str(tmp_path / device)), data, torch.device(device))
        rows[device] = list(run_lineage(lineage, bench))
    for cpu, cuda in zip(rows["cpu"], rows["cuda"], strict=True):
        # Float rounding differs between devices, and SAP's amount follows the weights.
        assert cuda["params_kept"] == pytest.approx(cpu["params_kept"], rel=0.02)
        assert cuda["test_accuracy"] == pytest.approx(cpu["test_accuracy"], abs=0.1)
        assert cuda["peak_memory_bytes"] > 0
        assert cuda["device"] != "cpu"
