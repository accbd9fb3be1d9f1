"""Records: what a sweep leaves in `sweeps/<name>/` beside its commits."""

import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from orchestrator.records.written import Heartbeat, Provenance, WrittenLineages, read_written
from orchestrator.sweepfile.secrets import redacted
from orchestrator.sweepfile.spec import Cell, SweepSpec, cells, parameter, swept_parameters
from trainables.errors import UserError
from trainables.lineage.keys import Lineage
from trainables.store import Damaged, Store, sweep_path
from trainables.store.storage_format import require_ours

PACKAGES = ("prunesweep", "torch", "torchvision", "ray", "pyarrow", "numpy", "duckdb", "wandb")


@dataclass(frozen=True)
class LineageRecord:
    """One lineage as a reader of results needs it."""

    id: str
    config: dict[str, Any]
    swept: dict[str, Any]
    iterations: tuple[int, ...]
    keys: tuple[str, ...]

    def section_name(self, parameter: str) -> str:
        """The name of the dataset, model or method that has a dotted parameter, else \"\"."""
        return self.config[parameter.partition(".")[0]].get("name", "")


@dataclass(frozen=True)
class SweepRecord:
    """A sweep as it was last run: its resolved file and its lineages."""

    name: str
    spec: dict[str, Any]
    swept: tuple[str, ...]
    lineages: tuple[LineageRecord, ...]

    @cached_property
    def telling(self) -> frozenset[tuple[str, str]]:
        """The swept parameters that tell lineages apart, each with the name (of a dataset, model
        or method) among whose lineages it differs; recipes and pruning have the name \"\"."""
        found: dict[tuple[str, str], set[str]] = {}
        for line in self.lineages:
            for name in self.swept:
                values = found.setdefault((name, line.section_name(name)), set())
                values.add(repr(line.swept[name]))
        return frozenset(at for at, values in found.items() if len(values) > 1)


def record_sweep(spec: SweepSpec, lineages: Sequence[Lineage]) -> SweepRecord:
    """The record of a sweep whose lineages are in the order of its cells."""
    swept = swept_parameters(spec)

    def values(cell: Cell) -> dict[str, Any]:
        return {name: parameter(cell, name) for name in swept}

    return SweepRecord(
        name=spec.name,
        spec=spec.model_dump(mode="json"),
        swept=swept,
        lineages=tuple(
            LineageRecord(
                line.id,
                line.config(),
                values(cell),
                tuple(step.iteration for step in line.steps),
                line.keys,
            )
            for cell, line in zip(cells(spec), lineages, strict=True)
        ),
    )


def write_sweep(store: Store, record: SweepRecord) -> None:
    base = sweep_path(record.name)
    store.write_json(f"{base}/sweep.json", record.spec)
    lineages = {"swept": record.swept, "lineages": [asdict(line) for line in record.lineages]}
    store.write_json(f"{base}/lineages.json", lineages)


def read_sweep(store: Store, name: str) -> SweepRecord | None:
    """The sweep `name` as last run; None when this storage has none. Raises Damaged."""
    base = sweep_path(name)
    spec = read_written(store, f"{base}/sweep.json", dict[str, Any])
    found = read_written(store, f"{base}/lineages.json", WrittenLineages)
    if spec is None or found is None:
        return None
    lineages = tuple(LineageRecord(**vars(line)) for line in found.lineages)
    return SweepRecord(name, spec, found.swept, lineages)


def read_heartbeat(store: Store, name: str) -> dict[str, Any] | None:
    """The last sign of life of the sweep's last run; None before the first. Raises Damaged."""
    found = read_written(store, f"{sweep_path(name)}/run.json", Heartbeat)
    return found and found.model_dump()


def read_provenance(store: Store, name: str) -> list[dict[str, Any]]:
    """Every run of the sweep, the oldest first; raises Damaged."""
    path = f"{sweep_path(name)}/provenance.json"
    return [run.model_dump() for run in read_written(store, path, list[Provenance]) or ()]


def add_provenance(store: Store, name: str, command: Iterable[str]) -> None:
    """Write down a run that begins; a damaged record of earlier ones is set aside."""
    path = f"{sweep_path(name)}/provenance.json"
    try:
        runs = read_provenance(store, name)
    except Damaged:
        store.set_aside(path)
        runs = []
    store.write_json(path, [*runs, provenance(command)])


def git_sha() -> str | None:
    """The commit of the repository that the working directory is in, `+` when it has changes."""
    try:
        head = _git("rev-parse", "HEAD")
        return head + ("+" if _git("status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def provenance(command: Iterable[str]) -> dict[str, Any]:
    """Versions, hardware, git and command of a run; no environment, which holds secrets."""
    return {
        "started_at": datetime.now(UTC).isoformat(),
        "command": redacted(command),
        "git_sha": git_sha(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": _gpus(),
    }


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=Path.cwd(), capture_output=True, text=True, check=True, timeout=10
    )
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _gpus() -> list[str]:
    import torch

    if not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


class NoSuchSweep(UserError, ValueError):
    """The storage has no sweep of that name."""


def existing_sweep(store: Store, name: str) -> SweepRecord:
    """The sweep `name` as last run; raises NoSuchSweep, naming those there are, or Damaged."""
    require_ours(store)
    record = read_sweep(store, name) if name in store.names("sweeps") else None
    if record is None:
        known = ", ".join(store.names("sweeps")) or "none"
        raise NoSuchSweep(
            f"storage {store.location} has no sweep {name!r}; it has: {known}. "
            "Choose another --storage, or run the sweep first"
        )
    return record
