"""Submitting: a sweep as a Slurm array, whose tasks are runs that divide it among them."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.commands.called import NAME, called
from orchestrator.commands.streams import complain
from trainables.errors import UserError

if TYPE_CHECKING:
    from orchestrator.run.planned_sweep import PlannedSweep
    from trainables.store import Store

WARNED_SECONDS = 120
"""Before its time is up, Slurm warns a task."""

SCRIPT = """\
#!/bin/bash
{directives}

{command} &
run=$!
# Warned that its time is up, the run keeps its state between two steps and ends.
trap 'warned=1; kill -USR1 "$run"' USR1
# What Slurm ends itself, it tells the run as well.
trap : TERM
wait "$run"; code=$?
while [ "$code" -gt 128 ] && kill -0 "$run" 2>/dev/null; do wait "$run"; code=$?; done
# 130 says interrupted: the task is queued again, and goes on from there.
if [ -n "$warned" ] && [ "$code" -gt 128 ]; then exec scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
"""


class SubmitError(UserError):
    """The job queue is not there, or has refused; the message says why."""


@dataclass(frozen=True)
class Job:
    """A Slurm array of so many `runs` of a sweep, and what each of them asks for: what is None, or
    not among the `more` options of sbatch, is left to Slurm.

    `arguments` are those of the command, all of whose paths hold in `folder`.
    """

    sweep: str
    arguments: Sequence[str]
    folder: Path
    runs: int = 1
    time: str | None = None
    partition: str | None = None
    cpus: int | None = None
    gpus: str | None = None
    more: Sequence[str] = ()

    @property
    def logs(self) -> Path:
        """The folder that the tasks write to."""
        return self.folder / f"slurm-{self.sweep}"

    @property
    def script(self) -> str:
        """What sbatch is given. Raises SubmitError."""
        options = {
            "job-name": self.sweep,
            "array": f"0-{self.runs - 1}",
            "chdir": str(self.folder),
            "output": f"{self.logs}/%A_%a.log",
            "open-mode": "append",
            "signal": f"B:USR1@{WARNED_SECONDS}",
            "time": self.time,
            "partition": self.partition,
            "cpus-per-task": self.cpus,
            "gpus": self.gpus,
        }
        directives = [*self._directives(options)]
        if any("\n" in each for each in directives):
            raise SubmitError(f"{self.folder}: sbatch takes no line break; work in another folder")
        return SCRIPT.format(
            directives="\n".join(f"#SBATCH {each}" for each in directives),
            command=shlex.join([this_prunesweep(), *self.arguments]),
        )

    def _directives(self, options: Mapping[str, object]) -> Iterator[str]:
        yield from (
            shlex.quote(f"--{name}={value}") for name, value in options.items() if value is not None
        )
        yield "--requeue"
        if self.more:
            yield shlex.join(self.more)

    def submit(self) -> str:
        """Have Slurm queue the array; its job id. Raises SubmitError, and has written nothing."""
        if shutil.which("sbatch") is None:
            raise SubmitError(
                "there is no sbatch here; submit where Slurm's commands are, or take the script "
                "there that --dry-run shows"
            )
        there = self.logs.exists()
        self.logs.mkdir(exist_ok=True)
        done = subprocess.run(
            ["sbatch", "--parsable"], input=self.script, capture_output=True, text=True, check=False
        )
        if done.returncode:
            if not there:
                with suppress(OSError):
                    self.logs.rmdir()
            raise SubmitError(f"sbatch has refused: {(done.stderr or done.stdout).strip()}")
        return done.stdout.strip().partition(";")[0]


def show_submitted(job: Job, id: str | None, planned: PlannedSweep, store: Store) -> None:
    """What was submitted, and how to follow it; what is to be known of the sweep, on standard
    error."""
    for notice in planned.notices:
        complain(notice)
    if id is None:
        print("nothing to train: the store has every iteration; nothing was submitted")
        return
    runs = "a run" if job.runs == 1 else f"{job.runs} runs"
    on = f"{job.sweep} --storage {shlex.quote(store.location)}"
    print(f"job {id}: {runs} of {job.sweep} for {len(planned.plan.to_train)} iterations")
    print(f"logs:  {job.logs}/{id}_*.log")
    print(f"watch: {called()} status {on} --watch")
    print(f"stop:  {called()} stop {on}, which leaves what is queued: scancel {id}")


def this_prunesweep() -> str:
    """What calls this prunesweep from any folder."""
    this = Path(sys.argv[0]).absolute()
    beside = Path(sys.executable).with_name(NAME)
    return str(this if this.name == NAME and this.exists() else shutil.which(NAME) or beside)
