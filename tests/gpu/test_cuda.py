"""What can only be seen on a CUDA device; skipped, and said so, without one."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter

from trainables.data import DatasetConfig, data_roots, describe_dataset, identity, load_dataset
from trainables.lineage.bench import Bench
from trainables.lineage.keys import Cell, Lineage, make_lineage
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


def lineage(name: str, model: dict[str, Any], **pruning: Any) -> Lineage:
    config = TypeAdapter(DatasetConfig).validate_python({"name": "digits", "subset": 500})
    cell = Cell(
        config,
        TypeAdapter(ModelConfig).validate_python(model),
        Recipe(epochs=2, batch_size=50),
        Pruning(iterations=2),
        TypeAdapter(MethodConfig).validate_python({"name": name, **pruning}),
        seed=0,
    )
    return make_lineage(cell, identity(config, describe_dataset(config, data_roots(None, {}))))


def rows(lineage: Lineage, folder: Path, device: str) -> list[dict[str, Any]]:
    on = torch.device(device)
    data = DeviceData.of(load_dataset(lineage.cell.dataset, data_roots(None, {})), on)
    found = run_lineage(lineage, Bench(Store(str(folder)), data, on))
    return [row for row in found if row is not None]


@pytest.mark.parametrize("name", ["lottery_ticket", "sap"])
def test_a_lineage_on_the_gpu_keeps_the_counts_of_the_cpu(tmp_path: Path, name: str) -> None:
    found = lineage(name, {"name": "mlp", "hidden": [32]})
    on_cpu, on_cuda = (rows(found, tmp_path / device, device) for device in ("cpu", "cuda"))
    for cpu, cuda in zip(on_cpu, on_cuda, strict=True):
        # Float rounding differs between devices, and SAP's amount follows the weights.
        assert cuda["params_kept"] == pytest.approx(cpu["params_kept"], rel=0.02)
        assert cuda["test_accuracy"] == pytest.approx(cpu["test_accuracy"], abs=0.1)
        assert cuda["peak_memory_bytes"] > 0
        assert cuda["device"] != "cpu"


@pytest.mark.parametrize("model", [{"name": "cnn", "hidden": [8, 16]}, {"name": "resnet20"}],
                         ids=lambda model: model["name"])  # fmt: skip
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("lottery_ticket", {}),
        ("sap", {}),
        *((name, {"density": 0.2}) for name in ("synflow", "snip", "grasp")),
    ],
)
def test_a_lineage_on_the_gpu_comes_out_bit_by_bit_again(
    tmp_path: Path, name: str, options: dict[str, Any], model: dict[str, Any]
) -> None:
    found = lineage(name, model, **options)
    times = {"train_seconds", "seconds", "created_at", "attempt", "run"}

    def numbers(row: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in row.items() if isinstance(value, float | int | str)
                and not ("seconds" in key or "memory" in key or key in times)}  # fmt: skip

    once, again = (rows(found, tmp_path / folder, "cuda") for folder in ("once", "again"))
    for one, other in zip(once, again, strict=True):
        assert {k: v for k, v in numbers(one).items() if numbers(other).get(k) != v} == {}
