"""Provenance: when, where and with what every run of a sweep began; kept in `provenance.json`, and
of a run that is not over in `provenance-<its id>.json`."""

import os
import platform
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from orchestrator.records.files import RecordFile, Time
from orchestrator.sweepfile.secrets import redacted
from orchestrator.version import VERSION
from trainables.store import Store

PACKAGES = ("torch", "torchvision", "ray", "pyarrow", "numpy", "duckdb", "wandb")


DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
"""There is one of these where there is a GPU: NVIDIA's driver, Windows' for Linux, AMD's."""


class Provenance(BaseModel):
    """Versions, hardware, git and command of a run; no environment, which holds secrets.

    Which `run` it is of, and `heard_at`, when that was last heard of, are newer than the rest.
    """

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
    run: str | None = Field(default=None, exclude_if=lambda run: run is None)
    heard_at: Time | None = Field(default=None, exclude_if=lambda time: time is None)

    @property
    def id(self) -> str:
        """What tells the run from the sweep's others."""
        return self.run or self.started_at


PROVENANCE = RecordFile("provenance.json", TypeAdapter(list[Provenance]))


def read_provenance(store: Store, sweep: str) -> list[Provenance]:
    """Every run of the sweep, the oldest first; raises Damaged."""
    found = [file.read(store, sweep) or [] for file in PROVENANCE.each(store, sweep)]
    return by_start(each for runs in found for each in runs)


def by_start(runs: Iterable[Provenance]) -> list[Provenance]:
    """Each of `runs` once, the oldest first."""
    once = {each.id: each for each in runs}
    return sorted(once.values(), key=lambda each: datetime.fromisoformat(each.started_at))


def add_provenance(store: Store, sweep: str, command: Iterable[str], run: str) -> None:
    """Write down that `run` begins."""
    begun = provenance(command).model_copy(update={"run": run})
    PROVENANCE.of(run).write(store, sweep, [begun])


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
