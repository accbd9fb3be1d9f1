"""A Slurm of one machine: `sbatch` and `scontrol` as commands, and what starts, warns, kills and
requeues the tasks of arrays as real processes."""

import os
import shlex
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

SBATCH = """#!{python}
import sys
from pathlib import Path
state = Path({state!r})
job = 100 + len(list(state.glob("*.sh")))
(state / f"{{job}}.sh").write_text(sys.stdin.read())
print(f"{{job}};this-cluster" if sys.argv[1:] == ["--parsable"] else f"Submitted batch job {{job}}")
"""

SCONTROL = """#!{python}
import sys
from pathlib import Path
_, verb, task = sys.argv
assert verb == "requeue" and task.isdecimal(), sys.argv
(Path({state!r}) / f"{{task}}.requeue").touch()
"""


@dataclass
class Task:
    """A task of an array: its own job id, and how often it was begun."""

    id: int
    job: int
    index: int
    process: subprocess.Popen[bytes]
    starts: int = 1
    code: int | None = None


@dataclass
class Slurm:
    """In a folder whose `bin` goes to the front of PATH. `attend` is what a controller does all the
    time: look what was submitted, what has ended, and what is to be queued again."""

    folder: Path
    tasks: list[Task] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.bin.mkdir(parents=True)
        for name, text in (("sbatch", SBATCH), ("scontrol", SCONTROL)):
            file = self.bin / name
            file.write_text(text.format(python=sys.executable, state=str(self.folder)))
            file.chmod(0o755)

    @property
    def bin(self) -> Path:
        return self.folder / "bin"

    def attend(self) -> bool:
        """Whether all tasks that were submitted have ended for good."""
        known = {task.job for task in self.tasks}
        for script in self.folder.glob("*.sh"):
            if int(script.stem) not in known:
                self._begin(int(script.stem))
        for task in self.tasks:
            if task.code is None and task.process.poll() is not None:
                again = self.folder / f"{task.id}.requeue"
                if again.exists():
                    again.unlink()
                    self._start_again(task)
                else:
                    task.code = task.process.returncode
        return bool(self.tasks) and all(task.code is not None for task in self.tasks)

    def warn(self, task: Task) -> None:
        """Its time is nearly up: `--signal=B:USR1` is for the batch shell alone."""
        assert options(self._script(task.job))["signal"] == "B:USR1@120"
        os.kill(task.process.pid, signal.SIGUSR1)

    def lose(self, task: Task) -> None:
        """Its machine is gone; it is queued again, as `--requeue` has it."""
        assert "requeue" in options(self._script(task.job))
        kill_all_of(task.process.pid)
        task.process.wait()
        self._start_again(task)

    def close(self) -> None:
        for task in self.tasks:
            if task.process.poll() is None:
                kill_all_of(task.process.pid)
                task.process.wait()

    def _begin(self, job: int) -> None:
        first, last = options(self._script(job))["array"].split("-")
        for index in range(int(first), int(last) + 1):
            id = job if index == int(last) else 1000 * job + index
            self.tasks.append(Task(id, job, index, self._started(id, job, index, 0)))

    def _start_again(self, task: Task) -> None:
        task.process = self._started(task.id, task.job, task.index, task.starts)
        task.starts += 1

    def _started(self, id: int, job: int, index: int, restarts: int) -> "subprocess.Popen[bytes]":
        script = self._script(job)
        told = options(script)
        log = told["output"].replace("%A", str(job)).replace("%a", str(index))
        environment = os.environ | {
            "SLURM_JOB_ID": str(id),
            "SLURM_ARRAY_JOB_ID": str(job),
            "SLURM_ARRAY_TASK_ID": str(index),
            "SLURM_RESTART_COUNT": str(restarts),
            "SLURM_CPUS_ON_NODE": "1",
        }
        with open(log, "ab" if told["open-mode"] == "append" else "wb") as out:
            return subprocess.Popen(
                ["bash", str(script)], cwd=told["chdir"], env=environment, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            )  # fmt: skip

    def _script(self, job: int) -> Path:
        return self.folder / f"{job}.sh"


def options(script: Path) -> dict[str, str]:
    """The long options in a script's directives, which end where its commands begin."""
    found: dict[str, str] = {}
    for line in script.read_text().splitlines()[1:]:
        if not line.startswith("#SBATCH "):
            break
        for option in shlex.split(line.removeprefix("#SBATCH ")):
            name, _, value = option.removeprefix("--").partition("=")
            found[name] = value
    return found


def kill_all_of(pid: int) -> None:
    """End a process and all that it has started, at once."""
    process = psutil.Process(pid)
    for each in [process, *process.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            each.kill()
