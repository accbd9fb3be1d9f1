"""LineageTrainable: a bundle of lineages as a Ray Tune trial. One step is an iteration of each."""

import os
import socket
import sys
import time
import traceback
import uuid
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune

import trainables
from trainables.data import Dataset
from trainables.errors import Hopeless, UnfitNode
from trainables.lineage.bench import Bench, StoreOptions
from trainables.lineage.bundle import (
    Failed,
    Finished,
    Limit,
    Outcome,
    no_limit,
    run_bundle,
)
from trainables.lineage.cause import Cause
from trainables.lineage.cores import OwnCores
from trainables.lineage.ending import End
from trainables.lineage.keys import Lineage, Measurement
from trainables.lineage.memory import keep_memory
from trainables.lineage.mirror import Mirror, Mirrors
from trainables.lineage.mps_client import without_mps
from trainables.lineage.notice import Notice
from trainables.lineage.time_limit import TimeLimit
from trainables.own_code import own_code
from trainables.plugins.loading import Luggage
from trainables.store import Store, StoreGone
from trainables.store.patience import Patience
from trainables.store.processes import process_name
from trainables.training.batches import DeviceData
from trainables.training.execution import PLAIN, Execution, told


def timeout_report(run: str, lineage: str, attempt: int) -> str:
    """The path in the store of what an attempt that took too long was doing."""
    return f"tmp/timeout-{run}-{lineage}-{attempt}.txt"


@dataclass(frozen=True)
class Work:
    """What every trial of a run is given once: the lineages by id, and how to run them.

    The `luggage` comes first: lineages may be made with its plug-ins.
    `datasets` maps a dataset's identity (canonical JSON) to a reference to its decoded arrays.
    `snapshots` and `branch_points` are those of `Bench`. `run` tells this run from others. An
    iteration that takes longer than `timeout_minutes` ends its worker. `mirrors` shows commits
    elsewhere. `execution` is that of `Bench`. With `pin_cores`, a worker keeps to CPU cores of its
    own. `notice` is the path in the store of the file that tells workers to go.
    """

    luggage: Luggage
    lineages: Mapping[str, Lineage]
    datasets: Mapping[str, ray.ObjectRef]
    snapshots: Mapping[str, frozenset[int]]
    branch_points: frozenset[str]
    storage: str
    keeping: StoreOptions
    cpus: int
    git_sha: str | None
    run: str
    timeout_minutes: float | None
    mirrors: Mirrors | None = None
    execution: Execution = PLAIN
    pin_cores: bool = False
    notice: str = field(default_factory=lambda: f"tmp/{process_name()}-{uuid.uuid4().hex}")
    code: str = field(default_factory=own_code)
    """Of the process that began the run, whose keys say what its code computes."""


class OtherCode(Hopeless):
    """A node has another prunesweep than the process that began the run."""


class LineageTrainable(tune.Trainable):
    """Thin: it picks the lineages, their data and device, and yields to `run_bundle`.

    A trial's config is `{"attempts": {lineage's id: number of the attempt}, "gpus": share of a
    GPU that it was given, "memory": how much of the GPU's memory it may use, "mps": whether it may
    use MPS}`; a step is a round of the bundle, whose result has a report of each lineage, and for
    how many seconds the storage was `silent` while nothing was trained. Nothing of a lineage
    outlives it in the actor but datasets, which are read-only. A step raises Interrupted once the
    worker is told to go.
    """

    def setup(self, config: dict[str, Any], work: Work | None = None) -> None:
        assert work is not None
        keep_memory()
        self._work = work
        self._data: dict[tuple[str, torch.device], DeviceData] = {}
        self._rounds: Generator[dict[str, Outcome]] | None = None
        self._patience = Patience()
        self._mirrors: dict[str, Mirror] = {}
        self._cores = OwnCores.taken(work.cpus) if work.pin_cores else None
        self._notice = Notice()
        self._listens = False

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._end()
        return True

    def step(self) -> dict[str, Any]:
        began = time.monotonic()
        if self._rounds is None:
            with _nodes_faults():
                self._rounds = self._begin(self.config)
        waited = self._patience.waited()
        outcomes = next(self._rounds, {})
        reports = {id: self._report(id, outcome) for id, outcome in outcomes.items()}
        # While something trains, claims may wait for the storage.
        idle = time.monotonic() - began - max(map(_trained_seconds, reports.values()), default=0.0)
        silent = min(self._patience.waited() - waited, max(0.0, idle))
        done = all(map(_is_last, reports.values()))
        return {"reports": reports, "done": done, "silent": silent}

    def cleanup(self) -> None:
        mirrors = list(self._mirrors.values())
        self._end()
        self._notice.close()
        if self._cores is not None:
            self._cores.release()
        for mirror in mirrors[:1]:  # one waits for all that was told in this process
            mirror.wait()

    def _end(self) -> None:
        if self._rounds is not None:
            self._rounds.close()
            self._rounds = None
        for mirror in self._mirrors.values():
            mirror.close()
        self._mirrors = {}

    def _report(self, id: str, outcome: Outcome) -> dict[str, Any]:
        """What the driver is told of a lineage."""
        if outcome is None:
            return {"claimed_elsewhere": True}
        if isinstance(outcome, Failed):
            return _failure(outcome)
        lineage = self._work.lineages[id]
        if isinstance(outcome, Measurement):
            measured = {"measured": outcome.measure.label}
            return measured | {"iteration": lineage.steps[outcome.index].iteration}
        mirror = self._mirrors.get(id)
        if mirror is not None:
            mirror.committed()
        if isinstance(outcome, Finished):
            return {"complete": True} | self._ended(mirror, outcome.end)
        shown = ("iteration", "key", "density", "test_accuracy", "train_seconds", "prune_seconds")
        last = outcome["key"] == lineage.keys[-1]
        if last and mirror is not None:
            mirror.close()
        row = {name: outcome[name] for name in shown}
        complete = last and not lineage.measurements
        return row | {"complete": complete, "notices": told()}

    def _ended(self, mirror: Mirror | None, end: End | None) -> dict[str, Any]:
        if end is None:
            return {}
        if mirror is not None:
            mirror.ended(end.key)
            mirror.close()
        return {"end": end}

    def _begin(self, config: dict[str, Any]) -> Generator[dict[str, Outcome]]:
        work = self._work
        _require_same_code(work.code)
        torch.set_num_threads(work.cpus)
        if not config["mps"]:
            without_mps()
        device = _device(config["gpus"], config["memory"])
        store = Store(work.storage, True, work.keeping.patience_minutes)
        self._patience = store.patience
        self._listen()
        benches = [
            (work.lineages[id], self._bench(work.lineages[id], attempt, device, store))
            for id, attempt in config["attempts"].items()
        ]
        if work.mirrors:
            self._mirrors = {lineage.id: work.mirrors(lineage) for lineage, _ in benches}
        return run_bundle(benches, self._time_limit(store))

    def _listen(self) -> None:
        """Hear from now on that this worker is to go."""
        if not self._listens:
            self._listens = True
            self._notice.listen()
            node = ray.get_runtime_context().get_node_id()
            self._notice.watch(Store(self._work.storage, existing=True), self._work.notice, node)

    def _bench(self, lineage: Lineage, attempt: int, device: torch.device, store: Store) -> Bench:
        work = self._work
        data = self._device_data(lineage, device)
        return Bench(
            store=store,
            data=data[0],
            elsewhere=data[-1],
            device=device,
            snapshots=work.snapshots,
            branch_points=work.branch_points,
            keeping=work.keeping,
            run=work.run,
            attempt=attempt,
            git_sha=work.git_sha,
            execution=work.execution,
            is_told=self._notice.is_given,
        )

    def _time_limit(self, store: Store) -> Limit:
        minutes, waited = self._work.timeout_minutes, store.patience.waited
        return no_limit if minutes is None else TimeLimit(minutes * 60, self._end_worker, waited)

    def _end_worker(self, thread: int, lineages: Sequence[Lineage]) -> None:
        """Leave behind where `thread` is stuck, and end this process: nothing else would."""
        text = "".join(traceback.format_stack(sys._current_frames()[thread]))
        store = Store(self._work.storage, existing=True)
        try:
            for lineage in lineages:
                attempt = self.config["attempts"][lineage.id]
                path = timeout_report(self._work.run, lineage.id, attempt)
                store.put(path, text.encode())
        finally:
            os._exit(1)

    def _device_data(self, lineage: Lineage, device: torch.device) -> list[DeviceData]:
        """The data of the datasets that the lineage is trained on; that of others is let go."""
        wanted = [(identity, device) for identity in lineage.trained_on]
        self._data = {key: each for key, each in self._data.items() if key in wanted}
        for identity, _ in wanted:
            if (identity, device) not in self._data:
                dataset: Dataset = ray.get(self._work.datasets[identity])
                self._data[identity, device] = DeviceData.of(dataset, device)
        return [self._data[key] for key in wanted]


@contextmanager
def _nodes_faults() -> Iterator[None]:
    """What fails before anything is trained is the node's fault, but for too much data."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise _unfit(error) from error


def _unfit(error: Exception) -> UnfitNode:
    why = f"{type(error).__name__}: {error}"
    message = f"nothing can be trained on the node {socket.gethostname()}: {why}"
    return UnfitNode(message, isinstance(error, Hopeless))


def _require_same_code(code: str) -> None:
    """Numbers of another code would be stored under the keys of this one."""
    if own_code() != code:
        raise OtherCode(
            f"the node {socket.gethostname()} has another prunesweep than the one that began this "
            f"run (code {own_code()} in {Path(trainables.__file__).parent}, and there {code}); "
            "install the same on all nodes, and run again"
        )


def _device(gpus: float, memory: float) -> torch.device:
    # Ray leaves every GPU visible to an actor that asked for none.
    if gpus == 0:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise RuntimeError(
            f"this lineage has {gpus:g} of a GPU, but torch finds no CUDA device on this node; "
            "install a CUDA build of torch there, or set resources.gpus_per_lineage: 0"
        )
    torch.cuda.set_per_process_memory_fraction(memory)
    return torch.device("cuda")


def _trained_seconds(report: dict[str, Any]) -> float:
    return report.get("train_seconds", 0.0) + report.get("prune_seconds", 0.0)


def _is_last(report: dict[str, Any]) -> bool:
    return bool(report.get("complete") or "failed" in report)


def _failure(failed: Failed) -> dict[str, Any]:
    error = failed.error
    if isinstance(error, torch.AcceleratorError) and not isinstance(error, torch.OutOfMemoryError):
        raise error  # the device is of no more use to this process
    if isinstance(error, StoreGone):
        raise _unfit(error) from error
    text = "".join(traceback.format_exception(error))
    return {"failed": Cause.of(text, error), "fused": failed.fused}
