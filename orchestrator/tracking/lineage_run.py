"""A lineage as a Weights & Biases run, filled from its commits.

What is done here may fail and may take long; mirroring.py keeps both from the lineages.
"""

import fcntl
import os
import shutil
import sys
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy

from orchestrator.tracking.destination import Tracking
from orchestrator.tracking.history import iteration_rows
from orchestrator.tracking.service import end_service, reason, wandb
from trainables.store import Damaged, Store, iteration_path
from trainables.store.artifacts import MASK, WEIGHTS, read_masks, read_tensors
from trainables.store.storage_format import require_there

if TYPE_CHECKING:
    from orchestrator.tracking.service import Run

TRIAL_INIT_SECONDS, INIT_SECONDS = 8.0, 20.0
"""What a run has to begin: in a trial with a server, without which it goes offline, and else."""
FINISH_SECONDS = 60.0
"""What it gets to take what is left when a run ends."""

QUIET: dict[str, Any] = {
    "silent": True,
    "quiet": True,
    "console": "off",
    "disable_code": True,
    "disable_git": True,
    "save_code": False,
    "sagemaker_disable": True,
    "label_disable": True,
    "symlink": False,
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
}
"""No output, no code, no system metrics, no run of SageMaker's: what W&B shows is what the store
has."""

ROOM_BYTES = 16 << 20
"""With less free space W&B's files might be torn, of which it says nothing."""

AXES = {"iteration": "iteration/*", "epoch": "epoch/*"}
BINS = 64


class AnotherRun(Exception):
    """W&B has begun, or kept, another run than it was asked for."""


class LineageRun:
    """The W&B run of one lineage: opened, filled from the store as often as wanted, closed.

    A result is one of the iterations `on_data`, which are trained on real data.

    `problem` says what went wrong, after which nothing more happens. `busy`: another process is at
    it. `falls_back`: a server that cannot be used makes it an offline run.
    """

    def __init__(
        self,
        tracking: Tracking,
        lineage: str,
        config: dict[str, Any],
        keys: tuple[str, ...],
        on_data: Collection[int],
        falls_back: bool,
    ) -> None:
        self.problem: str | None = None
        self.busy = False
        self._tracking, self._to = tracking, tracking.to
        self._lineage, self._config, self._keys = lineage, config, keys
        self._on_data = on_data
        self._falls_back = falls_back
        self._store = Store(tracking.storage, existing=True)
        self._folder = tracking.folder(lineage)
        self._run: Run | None = None
        self._lock: int | None = None
        self._sent: list[dict[str, Any]] = []
        self._epochs = 0

    def attempt(self, task: Callable[[], None]) -> None:
        """Do `task`, one of the methods below, unless something has gone wrong before."""
        if self.problem is not None or self.busy:
            return
        try:
            task()
        except BaseException as error:
            self._note(error)
            self._run = None
            end_service(1)
            self._unlock()

    def open(self) -> None:
        require_there(self._store)  # it would be made anew, as a folder for W&B's files
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(self._folder)
        if self._lock is None:
            self.busy = True
            return
        if self._falls_back and _here().down:
            self._to = self._to.offline()
        try:
            self._run = self._begin()
        except Exception as error:
            if not self._falls_back or self._to.mode == "offline":
                raise
            self._note(error)
            self.problem, _here().down = None, True
            end_service(1)  # it still has a run of this name
            self._to = self._to.offline()
            self._run = self._begin()
        for axis, metrics in AXES.items():
            self._run.define_metric(axis)
            self._run.define_metric(metrics, step_metric=axis)

    def fill(self) -> None:
        """Send the committed iterations that were not sent yet, up to the first that is missing."""
        self._require_room()
        while len(self._sent) < len(self._keys):
            key = self._keys[len(self._sent)]
            if self._run is None or not self._store.is_committed(iteration_path(key)):
                return
            try:
                rows = iteration_rows(self._store, key, self._epochs)
                extras = _histograms(self._store, key) if self._tracking.options.histograms else {}
            except Damaged:
                return  # the lineage itself sets it aside and trains it again
            self._log(rows, extras)
            self._epochs += len(rows)
            self._sent.append(rows[-1])

    def end(self, key: str) -> None:
        """The iteration with that key is the last one."""
        self._keys = self._keys[: self._keys.index(key) + 1]

    def close(self) -> None:
        """Finish the W&B run and leave a mark of what it was sent."""
        if self._run is None:
            return
        self.fill()
        run, self._run = self._run, None
        complete = len(self._sent) == len(self._keys)
        run.summary.update(summary(self._sent, self._on_data) | {"complete": complete})
        if complete and self._tracking.options.log_ticket:
            self._log_ticket(run)
        run.finish(exit_code=0 if complete else 1)
        self._require_room()
        self._require_kept(run)
        if self._to.mode == "online":
            shutil.rmtree(self._root, ignore_errors=True)
        if self._sent:
            self._leave_mark()
        self._unlock()

    @property
    def _root(self) -> Path:
        """Where W&B makes its folder `wandb`; online it is there until all is sent."""
        return self._folder / "online" if self._to.mode == "online" else self._folder

    @property
    def _patience(self) -> float:
        online = self._to.mode == "online"
        return TRIAL_INIT_SECONDS if self._falls_back and online else INIT_SECONDS

    def _begin(self) -> "Run":
        # An earlier process's files are superseded: all that is committed is sent again.
        shutil.rmtree(self._root / "wandb", ignore_errors=True)
        self._root.mkdir(exist_ok=True)
        tracking, config = self._tracking, self._config
        names = [config[part]["name"] for part in ("method", "dataset", "model")]
        tags = dict.fromkeys(tag[:64] for tag in (tracking.sweep, *names, *tracking.options.tags))
        host = {"base_url": self._to.host} if self._to.host else {}
        module = wandb()
        run = module.init(
            project=self._to.project,
            entity=self._to.entity,
            id=self._lineage,
            name=self._lineage,
            group=tracking.sweep,
            job_type=names[0],
            tags=list(tags),
            config=config | {"sweep": tracking.sweep, "label": tracking.labels[self._lineage]},
            resume="allow",
            mode=self._to.mode,
            dir=self._root,
            settings=module.Settings(
                **QUIET,
                **host,
                reinit="create_new",
                init_timeout=self._patience,
                finish_timeout=FINISH_SECONDS,
                finish_timeout_raises=True,
                stop_fn=_ignore,
            ),
        )
        self._require_asked_for(run)
        return run

    def _require_asked_for(self, run: "Run") -> None:
        """Raise AnotherRun unless W&B began the run it was asked for: settings from elsewhere go
        before what it is asked for, which would show lineages as one."""
        if run.id != self._lineage or run.sweep_id is not None:
            of = f" of the sweep {run.sweep_id}" if run.sweep_id else ""
            raise AnotherRun(f"W&B began the run {run.id}{of}, and not {self._lineage}")
        if not Path(run.dir).resolve().is_relative_to(self._root.resolve()):
            raise AnotherRun(f"W&B began a run in {run.dir}, and not in {self._root}")

    def _require_kept(self, run: "Run") -> None:
        """Raise AnotherRun when an offline run is not where it will be looked for."""
        file = Path(run.dir).parent / f"run-{self._lineage}.wandb"
        if self._to.mode == "offline" and not (file.is_file() and file.stat().st_size):
            raise AnotherRun(f"W&B has left nothing at {file}")

    def _log(self, rows: list[dict[str, Any]], extras: dict[str, Any]) -> None:
        """A row's step is the number of epochs before it, so that a row has one step for ever: W&B
        says how far the run has come, and what it has is not sent again."""
        assert self._run is not None
        for step, row in enumerate([*rows[:-1], rows[-1] | extras], self._epochs):
            if step >= self._run.starting_step:
                self._run.log(row, step=step, commit=True)

    def _log_ticket(self, run: "Run") -> None:
        """The final weights and mask, as an artifact; nothing where the weights were not kept."""
        path = iteration_path(self._keys[-1])
        if WEIGHTS not in self._store.manifest(path)["files"]:
            return
        masks = read_masks(self._store, path)
        files = {
            WEIGHTS: self._store.read(path, WEIGHTS),
            MASK: safetensors.numpy.save({n: m.numpy().astype("u1") for n, m in masks.items()}),
        }
        artifact = wandb().Artifact(f"ticket-{self._lineage}", type="ticket")
        folder = self._root / "wandb" / "ticket"
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (folder / name).write_bytes(data)
            artifact.add_file(str(folder / name), name, skip_cache=True, policy="immutable")
        run.log_artifact(artifact)

    def _require_room(self) -> None:
        if shutil.disk_usage(self._folder).free < ROOM_BYTES:
            raise OSError(f"{self._folder} has no room left")

    def _leave_mark(self) -> None:
        tracking = replace(self._tracking, to=self._to)
        key = self._keys[len(self._sent) - 1]
        reached = {"to": str(self._to), "iteration": self._sent[-1]["iteration"]}
        mark = tracking.mark(self._lineage, key)
        self._store.write_json(f"{tracking.base}/sent/{mark}", reached)
        if self._to == self._tracking.to:
            self._store.delete_file(tracking.problem_path(self._lineage))

    def _note(self, error: BaseException) -> None:
        """Keep the first line of what went wrong; a process with trials says it once."""
        self.problem = f"{type(error).__name__}: {reason(error)}"
        if self._falls_back and not _here().complained:
            _here().complained = True
            print(f"prunesweep: W&B: {self.problem}; the lineage goes on", file=sys.stderr)
        note = {"run": self._tracking.run, "problem": self.problem}
        with suppress(Exception):
            self._store.write_json(self._tracking.problem_path(self._lineage), note)

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _ignore() -> None:
    """W&B's stop button would interrupt the process, in which another lineage may be by then."""


def _locked(folder: Path) -> int | None:
    """A lock on a folder, which ends with this process at the latest; None when another has it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        pass  # a file system without locks
    return descriptor


def summary(sent: list[dict[str, Any]], on_data: Collection[int]) -> dict[str, Any]:
    """The last iteration, and the one that is best on the test set, of a run's iteration rows
    trained on real data."""
    found = [row for row in sent if row["iteration"] in on_data]
    if not found:
        return {}
    last, best = found[-1], max(found, key=lambda row: row["iteration/test_accuracy"])
    final = ("density", "params_kept", "test_accuracy", "test_loss", "pq_index", "gini")
    return {
        **{f"final_{name}": last.get(f"iteration/{name}") for name in final},
        "final_iteration": last["iteration"],
        "best_test_accuracy": best["iteration/test_accuracy"],
        "best_iteration": best["iteration"],
        "best_density": best["iteration/density"],
    }


def _histograms(store: Store, key: str) -> dict[str, Any]:
    """How densely each output unit of a layer is kept, layer by layer, and the magnitudes of the
    kept weights, where the weights were kept."""
    path = iteration_path(key)
    masks = read_masks(store, path)
    shares = {name: mask.flatten(1).double().mean(1).numpy() for name, mask in masks.items()}
    counts = {f"mask/{name}": np.histogram(each, BINS, (0, 1)) for name, each in shares.items()}
    if WEIGHTS in store.manifest(path)["files"]:
        weights = read_tensors(store, path)
        kept = np.concatenate([weights[name][mask].abs().numpy() for name, mask in masks.items()])
        if kept.size:
            counts["magnitude"] = np.histogram(kept, BINS, (0, kept.max()))
    histogram = wandb().Histogram
    return {f"histogram/{name}": histogram(np_histogram=each) for name, each in counts.items()}


@dataclass
class _Here:
    """What this process has found out. `down`: the server could not be used, so that what follows
    stays offline. `complained`: a problem was told."""

    down: bool = False
    complained: bool = False


@cache
def _here() -> _Here:
    return _Here()
