"""The datasets of a sweep: what is known of each, and their arrays."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import PlanError
from orchestrator.sweepfile.spec import SweepSpec
from trainables.config import canonical_json
from trainables.data import (
    DataRoots,
    Dataset,
    DatasetInfo,
    describe_dataset,
    identity,
    load_dataset,
)


@dataclass(frozen=True)
class ResolvedDataset:
    """A dataset of the sweep: its config, what is known of it, its identity as JSON values, and the
    path of its field in the spec."""

    config: Any
    info: DatasetInfo
    identity: dict[str, Any]
    field: tuple[str | int, ...] = ("dataset", 0)


def resolve_datasets(spec: SweepSpec, roots: DataRoots) -> tuple[ResolvedDataset, ...]:
    """What is known of each dataset of the sweep; raises PlanError or DatasetNotFound."""
    resolved = []
    for config, field in spec.datasets.items():
        with _dataset_mistakes(field):
            info = describe_dataset(config, roots)
        resolved.append(ResolvedDataset(config, info, identity(config, info), field))
    return tuple(resolved)


def load_datasets(
    datasets: Sequence[ResolvedDataset], wanted: Collection[str], roots: DataRoots
) -> dict[str, Dataset]:
    """Those `wanted`, by their identity as JSON; raises as `resolve_datasets`."""
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
