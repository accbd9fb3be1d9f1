"""What the sweeps of `sweeps/` take: lineages, trainings, and multiply-adds as hours of a GPU.

`python benchmarks/sweep_costs.py` prints the figures of the table in `sweeps/README.md`. A training
step is counted as three forward passes, dense: zeros save nothing. The hours are those of a GPU
that sustains TERAFLOPS and takes no less than STEP_SECONDS for a step, as small networks do on
every GPU. Both are assumed, and not measured.
"""

from collections.abc import Sequence
from pathlib import Path

from orchestrator.run.datasets import ResolvedDataset, resolve_datasets
from orchestrator.run.planning import make_plan, sweep_lineages
from orchestrator.sweepfile.spec import SweepSpec
from orchestrator.sweepfile.yaml_source import load_sweep
from trainables.data import DatasetInfo, data_roots
from trainables.models import Model, build_model
from trainables.sparsity.multiply_adds import multiply_adds
from trainables.training.batches import steps_per_epoch

SWEEPS = Path(__file__).parents[1] / "sweeps"
TERAFLOPS = 20.0
STEP_SECONDS = 1e-3
PASSES, FLOPS_PER_MULTIPLY_ADD = 3, 2


def main() -> None:
    for file in sorted(SWEEPS.glob("*/*.yaml")):
        spec = load_sweep(file)
        if any(config.name == "parquet" for config in spec.dataset):
            continue  # of files that not everybody has
        datasets = resolve_datasets(spec, data_roots(spec.data_root, {}))
        lineages, trainings, seconds = costs(spec, datasets)
        name = file.relative_to(SWEEPS)
        print(f"| `{name}` | {lineages:,} | {trainings:,} | {seconds / 3600:,.2g} |")


def costs(spec: SweepSpec, datasets: Sequence[ResolvedDataset]) -> tuple[int, int, float]:
    """Lineages, trainings, and the seconds of a GPU that all of them take, one after the other."""
    info = {found.config: found.info for found in datasets}
    plan = make_plan(sweep_lineages(spec, datasets), lambda key: None)
    per_image: dict[tuple[Model, DatasetInfo], int] = {}
    counted: set[str] = set()
    seconds = 0.0
    for line in plan.lineages:
        cell, known = line.cell, info[line.cell.dataset]
        if (cell.model, known) not in per_image:
            model = build_model(cell.model, known.shape, known.classes, seed=0)
            per_image[cell.model, known] = multiply_adds(model, known.shape)
        operations = per_image[cell.model, known] * PASSES * FLOPS_PER_MULTIPLY_ADD
        images = cell.train.epochs * known.train_examples
        steps = cell.train.epochs * steps_per_epoch(
            known.train_examples, cell.train.batch_size, cell.train.accumulate
        )
        training = max(images * operations / TERAFLOPS / 1e12, steps * STEP_SECONDS)
        seconds += len(set(line.keys) - counted) * training
        counted.update(line.keys)
    return len(plan.lineages), len(plan.to_train), seconds


if __name__ == "__main__":
    main()
