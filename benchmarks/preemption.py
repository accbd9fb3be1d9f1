"""What interruptions cost: steps that are trained twice, with a notice of ten seconds and without.

The same sweep is run twice, and interrupted as often and as deep in its training: once all its
processes are killed, once they are told to go ten seconds before. A plugged-in augmentation, which
is called at every step, counts them.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random

import psutil

COMMAND = str(Path(sys.executable).with_name("prunesweep"))
NOTICE_SECONDS = 10.0
EPOCHS, BATCH_SIZE, EXAMPLES = 80, 10, 1437
STEPS = EPOCHS * -(-EXAMPLES // BATCH_SIZE)
"""Of an iteration."""
SEEDS, PRUNINGS, AT_A_TIME = 2, 2, 2

PLUGIN = """
from prunesweep import augmentation

@augmentation
def counted(images, generator, *, file: str = ""):
    with open(file, "ab", buffering=0) as steps:
        steps.write(b".")
    return images
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--interruptions", type=int, default=4)
    given = parser.parse_args()
    print("| | interruptions | steps in all | trained twice |\n|---|---:|---:|---:|")
    wasted = []
    for name, interrupt in (("killed", _kill), ("told 10 s before", _tell)):
        taken, interruptions = _interrupted(interrupt, given.interruptions)
        needed = STEPS * SEEDS * (PRUNINGS + 1)
        wasted.append(taken - needed)
        print(f"| {name} | {interruptions} | {taken:,} | {taken - needed:,} |", flush=True)
    print(f"\nfewer steps trained twice: {1 - wasted[1] / max(1, wasted[0]):.1%}")


def _interrupted(interrupt: Callable[[list[psutil.Process]], None], most: int) -> tuple[int, int]:
    """The steps that a sweep took which was interrupted up to so often, and how often it was."""
    with tempfile.TemporaryDirectory(prefix="prunesweep-preemption-") as folder:
        at = Path(folder)
        counted = at / "steps"
        counted.touch()
        (at / "counting.py").write_text(PLUGIN)
        (at / "sweep.yaml").write_text(json.dumps(_sweep(counted)))
        depths, interruptions = _depths(most), 0
        while True:
            process = subprocess.Popen(
                [COMMAND, "run", "sweep.yaml", "--storage", "store"], cwd=at,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
            goal = counted.stat().st_size + next(depths, sys.maxsize)
            while process.poll() is None and counted.stat().st_size < goal:
                time.sleep(0.05)
            if process.poll() is not None:
                assert process.returncode == 0, process.returncode
                return counted.stat().st_size, interruptions
            whole = psutil.Process(process.pid)
            interrupt([*whole.children(recursive=True), whole])
            interruptions += 1
            process.wait()


def _depths(most: int) -> Iterator[int]:
    """How many steps a launch takes before it is interrupted: no more than an iteration's of each
    of those at work."""
    drawn = Random(0)
    for _ in range(most):
        yield int(drawn.uniform(0.2, 0.9) * STEPS * AT_A_TIME)


def _sweep(counted: Path) -> dict[str, object]:
    return {
        "name": "preempted",
        "plugins": ["counting.py"],
        "dataset": "digits",
        "model": {"name": "mlp", "hidden": [32]},
        "seeds": list(range(SEEDS)),
        "train": {
            "epochs": EPOCHS,
            "batch_size": BATCH_SIZE,
            "augment": {"name": "counted", "file": str(counted)},
        },
        "prune": {"iterations": PRUNINGS},
        "methods": ["lottery_ticket"],
        "resources": {"max_concurrent": AT_A_TIME},
        "wandb": {"mode": "disabled"},
    }


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _tell(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGTERM)
    psutil.wait_procs(processes, timeout=NOTICE_SECONDS)
    _kill(processes)


if __name__ == "__main__":
    main()
