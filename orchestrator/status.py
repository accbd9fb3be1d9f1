"""Status: how far a sweep is, read from its records and commits."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from orchestrator.records import existing_sweep
from orchestrator.scheduling import Failure
from orchestrator.sweep import read_failures
from trainables.store import Store, sweep_path

SILENT_SECONDS = 60.0
"""A run whose heartbeat is older has died without saying so."""


@dataclass(frozen=True)
class SweepStatus:
    """`run` is the last heartbeat of the last run, None when there was none."""

    name: str
    state: Literal["finished", "incomplete", "running", "died"]
    lineages: int
    lineages_done: int
    iterations: int
    iterations_stored: int
    failures: tuple[Failure, ...]
    run: dict[str, Any] | None


def sweep_status(store: Store, name: str) -> SweepStatus:
    """The status of the sweep `name`; raises NoSuchSweep or Damaged."""
    sweep = existing_sweep(store, name)
    stored = store.committed("iterations")
    run = store.read_json(f"{sweep_path(name)}/run.json")
    keys = {key for line in sweep.lineages for key in line.keys}
    done = sum(all(key in stored for key in line.keys) for line in sweep.lineages)
    return SweepStatus(
        name=name,
        state=_state(done == len(sweep.lineages), run),
        lineages=len(sweep.lineages),
        lineages_done=done,
        iterations=len(keys),
        iterations_stored=sum(key in stored for key in keys),
        failures=tuple(read_failures(store, name)),
        run=run,
    )


def _state(
    complete: bool, run: dict[str, Any] | None
) -> Literal["finished", "incomplete", "running", "died"]:
    if run is not None and run["state"] == "running":
        age = datetime.now(UTC) - datetime.fromisoformat(run["heartbeat"])
        return "running" if age.total_seconds() < SILENT_SECONDS else "died"
    return "finished" if complete else "incomplete"
