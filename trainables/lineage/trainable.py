"""LineageTrainable: a lineage as a Ray Tune trial. One step is one iteration."""

import os
import sys
import threading
import traceback
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray import tune

from trainables.config import canonical_json
from trainables.data import Dataset
from trainables.lineage.bench import Bench, StoreOptions
from trainables.lineage.keys import Lineage
from trainables.lineage.loop import run_lineage
from trainables.lineage.mirror import Mirror, Mirrors
from trainables.plugins.loading import Luggage
from trainables.store import Store
from trainables.training.batches import DeviceData

FINISHED: dict[str, Any] = {}
"""What a lineage gives after its last iteration."""


def timeout_report(run: str, lineage: str, attempt: int) -> str:
    """The path in the store of what an attempt that took too long was doing."""
    return f"tmp/timeout-{run}-{lineage}-{attempt}.txt"


@dataclass(frozen=True)
class Work:
    """What every trial of a run is given once: the lineages by id, and how to run them.

    The `luggage` comes first: lineages may be made with its plug-ins.
    `datasets` maps a dataset's identity (canonical JSON) to a reference to its decoded arrays.
    `snapshots` and `branch_points` are those of `Bench`. `run` tells this run from others. A step
    that takes longer than `timeout_minutes` ends its worker. `mirrors` shows commits elsewhere.
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


class LineageTrainable(tune.Trainable):
    """Thin: it picks the lineage, its data and device, and yields to `run_lineage`.

    A trial's config is `{"lineage": id, "attempt": n, "gpus": share of a GPU}`. Nothing of a
    lineage outlives it in the actor but datasets, which are read-only.
    """

    def setup(self, config: dict[str, Any], work: Work | None = None) -> None:
        assert work is not None
        self._work = work
        self._data: dict[tuple[str, torch.device], DeviceData] = {}
        self._iterations: Generator[dict[str, Any] | None] | None = None
        self._mirror: Mirror | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._end()
        return True

    def step(self) -> dict[str, Any]:
        if self._iterations is None:
            self._iterations = self._begin(self.config)
        with self._time_limit():
            metrics = next(self._iterations, FINISHED)
        if metrics is None:
            return {"claimed_elsewhere": True, "done": False, "complete": False}
        if self._mirror is not None:
            self._mirror.committed()
        if metrics is FINISHED:
            return {"done": True, "complete": True}
        shown = ("iteration", "key", "density", "test_accuracy", "train_seconds")
        last = metrics["key"] == self._lineage.keys[-1]
        if last and self._mirror is not None:
            self._mirror.close()
        return {name: metrics[name] for name in shown} | {"done": last, "complete": last}

    def cleanup(self) -> None:
        self._end()
        if self._mirror is not None:
            self._mirror.wait()

    def _end(self) -> None:
        if self._iterations is not None:
            self._iterations.close()
            self._iterations = None
        if self._mirror is not None:
            self._mirror.close()

    @contextmanager
    def _time_limit(self) -> Iterator[None]:
        minutes = self._work.timeout_minutes
        if minutes is None:
            yield
            return
        stuck = threading.get_ident()
        timer = threading.Timer(minutes * 60, self._end_worker, [stuck])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _end_worker(self, thread: int) -> None:
        """Leave behind where `thread` is stuck, and end this process: nothing else would."""
        text = "".join(traceback.format_stack(sys._current_frames()[thread]))
        report = timeout_report(self._work.run, self.config["lineage"], self.config["attempt"])
        try:
            Store(self._work.storage, existing=True).put(report, text.encode())
        finally:
            os._exit(1)

    def _begin(self, config: dict[str, Any]) -> Generator[dict[str, Any] | None]:
        work = self._work
        torch.set_num_threads(work.cpus)
        device = _device(config["gpus"])
        self._lineage = work.lineages[config["lineage"]]
        bench = Bench(
            store=Store(work.storage, existing=True),
            data=self._device_data(self._lineage, device),
            device=device,
            snapshots=work.snapshots,
            branch_points=work.branch_points,
            keeping=work.keeping,
            run=work.run,
            attempt=config["attempt"],
            git_sha=work.git_sha,
        )
        self._mirror = work.mirrors(self._lineage) if work.mirrors else None
        return run_lineage(self._lineage, bench)

    def _device_data(self, lineage: Lineage, device: torch.device) -> DeviceData:
        identity = canonical_json(lineage.dataset)
        if (identity, device) not in self._data:
            self._data.clear()
            dataset: Dataset = ray.get(self._work.datasets[identity])
            self._data[identity, device] = DeviceData.of(dataset, device)
        return self._data[identity, device]


def _device(gpus: float) -> torch.device:
    # Ray leaves every GPU visible to an actor that asked for none.
    if gpus == 0:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise RuntimeError(
            f"this lineage has {gpus:g} of a GPU, but torch finds no CUDA device on this node; "
            "install a CUDA build of torch there, or set resources.gpus_per_lineage: 0"
        )
    torch.cuda.set_per_process_memory_fraction(gpus)
    return torch.device("cuda")
