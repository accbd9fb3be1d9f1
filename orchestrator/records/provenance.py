"""Provenance: when, where and with what every run of a sweep began; kept in `provenance.json`."""

import os
import platform
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter

from orchestrator.records.files import RecordFile, Time
from orchestrator.sweepfile.secrets import redacted
from orchestrator.version import VERSION
from trainables.store import Damaged, Store

PACKAGES = ("torch", "torchvision", "ray", "pyarrow", "numpy", "duckdb", "wandb")


DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
"""There is one of these where there is a GPU: NVIDIA's driver, Windows' for Linux, AMD's."""


class Provenance(BaseModel):
    """Versions, hardware, git and command of a run; no environment, which holds secrets."""

    # What another version has written of earlier runs is written again with them.
    model_config = ConfigDict(extra="allow", frozen=True)

    started_at: Time
    command: list[str]
    git_sha: str | None
    python: str
    packages: dict[str, str | None]
    platform: str
    cpus: int | None
    memory_bytes: int
    gpus: list[str]


PROVENANCE = RecordFile("provenance.json", TypeAdapter(list[Provenance]))


def read_provenance(store: Store, sweep: str) -> list[Provenance]:
    """Every run of the sweep, the oldest first; raises Damaged."""
    return PROVENANCE.read(store, sweep) or []


def add_provenance(store: Store, sweep: str, command: Iterable[str]) -> None:
    """Write down a run that begins; a damaged record of earlier ones is set aside."""
    begun = provenance(command)

    def with_it(runs: list[Provenance] | None) -> list[Provenance]:
        return [*(run for run in runs or () if run != begun), begun]

    try:
        PROVENANCE.update(store, sweep, with_it)
    except Damaged:
        store.set_aside(PROVENANCE.path(sweep))
        PROVENANCE.update(store, sweep, with_it)


def provenance(command: Iterable[str]) -> Provenance:
    """That of a run by this process, which begins now."""
    return Provenance(
        started_at=datetime.now(UTC).isoformat(),
        command=redacted(command),
        git_sha=git_sha(),
        python=platform.python_version(),
        packages={"prunesweep": VERSION} | {name: _version(name) for name in PACKAGES},
        platform=platform.platform(),
        cpus=os.cpu_count(),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        gpus=_gpus(),
    )


def git_sha() -> str | None:
    """The commit of the repository that the working directory is in, `+` when it has changes."""
    try:
        head = _git("rev-parse", "HEAD")
        return head + ("+" if _git("status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return None


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
    if not any(Path(each).exists() for each in DRIVERS):
        return []  # torch would take a second to find none
    import torch

    if not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
