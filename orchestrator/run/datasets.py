"""The datasets of a sweep: what is known of each, and their arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from orchestrator.run.planning import (
    Plan,
    PlanError,
    ResolvedDataset,
)
from orchestrator.sweepfile.spec import SweepSpec
from trainables.config import canonical_json
from trainables.data import DataRoots, Dataset, describe_dataset, identity, load_dataset


def resolve_datasets(spec: SweepSpec, roots: DataRoots) -> tuple[ResolvedDataset, ...]:
    """What is known of each dataset of the sweep; raises PlanError or DatasetNotFound."""
    resolved = []
    for config, field in spec.datasets.items():
        with _dataset_mistakes(field):
            info = describe_dataset(config, roots)
        resolved.append(ResolvedDataset(config, info, identity(config, info), field))
    return tuple(resolved)


def load_datasets(
    datasets: Sequence[ResolvedDataset], plan: Plan, roots: DataRoots
) -> dict[str, Dataset]:
    """Those that the plan trains on, by their identity as JSON; raises as `resolve_datasets`."""
    wanted = {key for task in plan.tasks for key in task.lineage.trained_on}
    arrays: dict[str, Dataset] = {}
    for found in datasets:
        key = canonical_json(found.identity)
        if key in wanted and key not in arrays:
            with _dataset_mistakes(found.field):
                arrays[key] = load_dataset(found.config, roots)
                _require_unchanged(found, roots)
    return arrays


def _require_unchanged(found: ResolvedDataset, roots: DataRoots) -> None:
    """Raise ValueError when files are others than those that the keys are made with."""
    before = found.info.fingerprint
    if found.config.described is None or before is None:
        return
    if describe_dataset(found.config, roots).fingerprint != before:
        raise ValueError("its files changed while they were read; run again when all are there")


@contextmanager
def _dataset_mistakes(field: tuple[str | int, ...]) -> Iterator[None]:
    """Makes files or options that do not fit the dataset at `field` of the spec a PlanError."""
    try:
        yield
    except ValueError as error:
        raise PlanError(str(error), field) from error
