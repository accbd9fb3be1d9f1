"""Chaos: a sweep that is killed again and again, against the same sweep left alone.

`make chaos KILLS=50 SEED=1` runs a sweep on `digits` to its end, runs it in another storage under
SIGKILLs, launching the same command again whenever the driver has died, and compares the two. With
`STORAGE=s3://` the other one is a bucket, of a server on loopback. A summary goes to stdout, as a
table and as JSON; each kill is a line on stderr.
Exit code 0 when every promise of docs/durability.md that a kill can break was kept.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

from comparing import differences, doubled_rows
from launches import COMMAND
from object_server import ObjectServer
from rich.console import Console
from rich.table import Table
from schedule import schedule
from tormenting import FEW_SECONDS, Run, under_chaos, uninterrupted

NAME = "chaos"
ITERATIONS_PER_KILL = 5

CHECKPOINT_MINUTES = 0.005


def sweep(seeds: int, depth: int) -> dict[str, Any]:
    """Iterations of about a second, in lineages that share trunks or start at initialization."""
    return {
        "name": NAME,
        "dataset": "digits",
        "model": {"name": "mlp", "hidden": [32]},
        "seeds": list(range(seeds)),
        "train": {"epochs": 20, "batch_size": 10},
        "prune": {"iterations": depth},
        "methods": [
            "one_shot",
            "lottery_ticket",
            {"name": "sap", "p": [0.5, 0.9]},
            {"name": "snip", "density": 0.1},
        ],
    }


def chaos(
    folder: Path, kills: int, seed: int, depth: int = 5, storage: str = "store"
) -> dict[str, Any]:
    """The summary of a sweep of lineages of `depth` iterations under `kills` kills; an empty list
    of `problems` is a pass. `storage` is "store", or a bucket with a mirror in `folder`/killed."""
    random = Random(seed)
    of_a_seed = 1 + 4 * depth + 1
    seeds = max(1, kills * ITERATIONS_PER_KILL // of_a_seed)
    iterations = seeds * of_a_seed
    file = folder / f"{NAME}.yaml"
    file.write_text(json.dumps(sweep(seeds, depth)))
    command = ["run", str(file), "--storage"]
    alone = uninterrupted(folder / "alone", [*command, "store"])
    # Where it is interrupted it has checkpoints, which change nothing in the results.
    command += [storage, "--set", f"store.checkpoint_minutes={CHECKPOINT_MINUTES}"]
    kills_to_come = schedule(kills, iterations, random)
    killed = Run(folder / "killed", command, in_bucket=storage != "store")
    under_chaos(killed, kills_to_come, iterations, random)
    return summary(alone, killed, seed, storage)


def summary(alone: Run, killed: Run, seed: int, storage: str) -> dict[str, Any]:
    watcher = killed.watcher
    different = differences(killed.store, alone.store, NAME)
    doubled = doubled_rows(killed.store, NAME)
    unsound = _damage(killed, storage)
    again = watcher.trained_again()
    redone = watcher.redone()
    lost = watcher.broken + [
        f"iteration {key} is missing"
        for key in alone.watcher.iterations().keys() - watcher.iterations().keys()
    ]
    return {
        "seed": seed,
        "kills": len(killed.struck),
        "kills_by_victim": dict(Counter(each.kill.victim for each in killed.struck)),
        "kills_by_moment": dict(Counter(each.kill.moment for each in killed.struck)),
        "commits_cut_in_two": sum(each.torn for each in killed.struck),
        "launches": len(killed.launches) - 1,
        "exit_codes": dict(Counter(str(each.process.returncode) for each in killed.launches)),
        "iterations": len(alone.watcher.iterations()),
        "committed": len(watcher.iterations()),
        "redone": sum(redone.values()),
        "in_flight_at_kills": sum(len(each.in_flight) for each in killed.struck),
        "lost": len(lost),
        "duplicated": len(doubled) + len(again),
        "bit_identical": not different,
        "verify_sound": not unsound,
        "worked_seconds": _beside(killed.worked_seconds, alone.worked_seconds),
        "training_seconds": _beside(killed.training_seconds, alone.training_seconds),
        "wall_seconds": _beside(killed.wall_seconds, alone.wall_seconds),
        "gone_after_seconds": _gone(killed),
        "left_behind": _left_behind(killed),
        "problems": [
            *killed.problems,
            *lost,
            *different,
            *(f"twice in the tables: {row}" for row in doubled),
            *(f"iteration {key} was trained after its commit" for key in again),
            *(f"verify: {damage}" for damage in unsound),
            *_too_much_redone(killed, redone),
            *_wrong_exits(killed),
            *_survivors(killed),
            *_litter(killed),
        ],
    }


@contextmanager
def stored_in(storage: str, folder: Path) -> Iterator[str]:
    """The location of a storage for a sweep that is to be killed in `folder`; of s3:// a bucket of
    a server of its own."""
    if storage != "s3://":
        yield storage
        return
    (folder / "objects").mkdir()
    server = ObjectServer(folder / "objects", mirror=folder / "killed")
    os.environ |= {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any"}
    server.start()
    try:
        yield server.location()
    finally:
        server.kill()


def show(found: dict[str, Any], console: Console) -> None:
    """The summary as a table of names and values."""
    table = Table(box=None, show_header=False)
    for name, value in found.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {_plain(number)}" for key, number in value.items())
        if isinstance(value, list):
            value = "\n".join(value) or "none"
        table.add_row(name.replace("_", " "), _plain(value))
    console.print(table)


def _damage(run: Run, storage: str) -> list[str]:
    verify = [COMMAND, "verify", "--storage", storage, "--json"]
    found = subprocess.run(verify, capture_output=True, text=True, cwd=run.root)
    damage = [] if not found.stdout else json.loads(found.stdout)["damage"]
    sound = found.returncode == 0
    return [str(each) for each in damage] or ([] if sound else [found.stderr.strip()])


def _too_much_redone(run: Run, redone: dict[str, int]) -> list[str]:
    """An iteration is begun again at most as often as it was in flight at a kill."""
    lost = Counter(key for each in run.struck for key in each.in_flight)
    return [
        f"iteration {key} was begun again {count} times, and in flight at {lost[key]} kills"
        for key, count in redone.items()
        if count > lost[key]
    ]


def _wrong_exits(run: Run) -> list[str]:
    """A launch is killed, interrupted, fails with its raylet or a lineage, or finishes."""
    return [
        f"launch {number} ended with exit code {launch.process.returncode}: see {launch.log}"
        for number, launch in enumerate(run.launches)
        if launch.process.returncode not in (-9, 130, 1, 0)
    ]


def _survivors(run: Run) -> list[str]:
    return [
        f"processes of launch {number} were there more than {FEW_SECONDS:g} s after its end"
        for number, launch in enumerate(run.launches)
        if launch.gone.get("engine", math.inf) > FEW_SECONDS
    ]


def _litter(run: Run) -> list[str]:
    """What the last run, which had nothing else to do, should have cleaned away."""
    return [f"{name}/ is not empty" for name in ("tmp", "claims") if _names(run.store / name)]


def _gone(run: Run) -> dict[str, float]:
    """The longest that anything outlived its driver, in seconds."""
    seen = {
        kind: [launch.gone[kind] for launch in run.launches if kind in launch.gone]
        for kind in ("engine", "agents")
    }
    return {kind: round(max(seconds), 1) for kind, seconds in seen.items() if seconds}


def _left_behind(run: Run) -> dict[str, int]:
    """Files and folders that nobody needs any more, in the storage and in temporary folders."""
    left = {
        name: len(_names(run.store / name))
        for name in ("tmp", "claims", "checkpoints", "quarantine")
    }
    sessions = list((run.root / "ray").glob("session_2*"))
    return left | {
        "most in tmp at a time": run.watcher.most_in_tmp,
        "scratch folders": len(_names(run.root / "scratch")),
        "scratch bytes": _bytes([run.root / "scratch"]),
        "Ray sessions": len(sessions),
        "Ray session bytes": _bytes(sessions),
    }


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()] if folder.exists() else []


def _bytes(folders: Iterable[Path]) -> int:
    files = (file for folder in folders for file in folder.rglob("*"))
    return sum(file.lstat().st_size for file in files if file.is_file() and not file.is_symlink())


def _beside(killed: float, alone: float) -> dict[str, float]:
    return {
        "killed": round(killed, 1),
        "alone": round(alone, 1),
        "ratio": round(killed / alone, 2),
    }


def _plain(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=None, help="of the kills; drawn by default")
    parser.add_argument("--storage", choices=["store", "s3://"], default="store")
    parser.add_argument("--keep", action="store_true", help="keep the folder of a run that passed")
    given = parser.parse_args()
    seed = Random().randrange(10**6) if given.seed is None else given.seed
    # Ray puts sockets inside, whose paths must be short.
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    print(f"seed {seed}, {given.kills} kills, in {folder}", file=sys.stderr, flush=True)
    with stored_in(given.storage, folder) as storage:
        found = chaos(folder, given.kills, seed, storage=storage)
    show(found, Console(width=120))
    print(json.dumps(found))
    if found["problems"]:
        print(f"failed; everything is in {folder}", file=sys.stderr)
        return 1
    if not given.keep:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
