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
    for number, config in enumerate(spec.dataset):
        with _dataset_mistakes(number):
            info = describe_dataset(config, roots)
        resolved.append(ResolvedDataset(config, info, identity(config, info)))
    return tuple(resolved)


def load_datasets(
    datasets: Sequence[ResolvedDataset], plan: Plan, roots: DataRoots
) -> dict[str, Dataset]:
    """Those that the plan trains on, by their identity as JSON; raises as `resolve_datasets`."""
    wanted = {canonical_json(task.lineage.dataset) for task in plan.tasks}
    arrays: dict[str, Dataset] = {}
    for number, found in enumerate(datasets):
        key = canonical_json(found.identity)
        if key in wanted and key not in arrays:
            with _dataset_mistakes(number):
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
def _dataset_mistakes(number: int) -> Iterator[None]:
    """Makes files or options that do not fit the sweep's dataset `number` a PlanError."""
    try:
        yield
    except ValueError as error:
        raise PlanError(str(error), ("dataset", number)) from error
