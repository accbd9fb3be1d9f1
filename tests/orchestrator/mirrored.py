"""Sweeps that are mirrored in W&B, run by the command, and what W&B was shown of them."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from local_wandb import LocalWandb

from orchestrator import open_results
from orchestrator.tracking.history import EPOCH_COLUMNS, ITERATION_COLUMNS
from trainables.store import Store

COMMAND = str(Path(sys.executable).with_name("prunesweep"))
CANARY = "0123456789abcdef0123456789abcdef0badcafe"
"""A key of the right shape, to be found nowhere."""

SWEEP: dict[str, Any] = {
    "name": "small",
    "dataset": "digits",
    "model": {"name": "mlp", "hidden": [16]},
    "train": {"epochs": 2, "batch_size": 100},
    "prune": {"iterations": 2},
    "methods": ["lottery_ticket", {"name": "sap", "p": 0.5}],
    "wandb": {"project": "pruning", "tags": ["mine"]},
    "resources": {"max_concurrent": 1},
}
"""One lineage after the other: a second worker takes seconds to start, and seconds for W&B."""
ONE = SWEEP | {"name": "one", "methods": ["one_shot"], "prune": {"iterations": 1}}
LONGER = SWEEP | {"name": "longer", "train": {"epochs": 20, "batch_size": 10}}
"""Long enough (about 1 s an iteration) to be interrupted in the middle."""

Rows = list[dict[str, Any]]


def login(url: str) -> dict[str, Any]:
    """Variables that say where W&B is and who asks, to be given on as keywords."""
    return {"WANDB_BASE_URL": url, "WANDB_API_KEY": CANARY}


def environment(home: Path, **variables: str) -> dict[str, str]:
    """Without any login to W&B; what wandb keeps for itself goes to `home`."""
    home.mkdir(exist_ok=True)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "NETRC", "XDG"))}
    return kept | {"HOME": str(home), "COLUMNS": "150"} | variables


def start(folder: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [COMMAND, *arguments], cwd=folder, env=environment(folder / "home", **variables),
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def command(folder: Path, *arguments: str, expect: int = 0, **variables: str) -> tuple[str, str]:
    process = start(folder, *arguments, **variables)
    out, err = process.communicate(timeout=280)
    assert process.returncode == expect, f"exit code {process.returncode}\n{out}\n{err}"
    return out, err


def write(folder: Path, sweep: dict[str, Any], **wandb: Any) -> str:
    """A sweep file; JSON is YAML too."""
    file = folder / f"{sweep['name']}.yaml"
    file.write_text(json.dumps(sweep | {"wandb": sweep["wandb"] | wandb}))
    return str(file)


def sync(folder: Path, name: str, *options: str, expect: int = 0, **env: str) -> dict[str, Any]:
    return json.loads(
        command(folder, "wandb-sync", name, *options, "--json", expect=expect, **env)[0]
    )


def storage(folder: Path) -> Path:
    return folder / "prunesweep-store"


def offline_folders(folder: Path, sweep: str) -> list[Path]:
    return sorted(storage(folder).glob(f"wandb/{sweep}/*/wandb/offline-run-*"))


def records(offline_folder: Path) -> Rows:
    """Everything in an offline run, read by wandb itself."""
    shown = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(offline_folder)],
        env=environment(offline_folder.parents[4] / "home", WANDB_MODE="offline"),
        capture_output=True, text=True, check=True, timeout=240,
    )  # fmt: skip
    return [json.loads(line) for line in shown.stdout.splitlines()]


def history(offline_folder: Path) -> Rows:
    return [each["history"]["item"] for each in records(offline_folder) if "history" in each]


def expected_rows(folder: Path, sweep: str) -> dict[str, Rows]:
    """What each lineage's W&B run should have, made from the tables of the sweep."""
    results = open_results(str(storage(folder)), sweep)
    epochs, measures = results.epochs.to_pylist(), results.iterations.to_pylist()
    expected: dict[str, Rows] = {line.id: [] for line in results.record.lineages}
    for epoch in epochs:
        rows = expected[epoch["lineage"]]
        rows.append({"_step": len(rows), "epoch": len(rows) + 1,
                     "epoch/iteration": epoch["iteration"]})  # fmt: skip
        rows[-1] |= {f"epoch/{c}": epoch[c] for c in EPOCH_COLUMNS if epoch[c] is not None}
    for at in measures:
        last = [r for r in expected[at["lineage"]] if r["epoch/iteration"] == at["iteration"]][-1]
        last |= {"iteration": at["iteration"]}
        last |= {f"iteration/{c}": at[c] for c in ITERATION_COLUMNS if at[c] is not None}
    return expected


def assert_mirrored(folder: Path, sweep: str) -> None:
    """Every lineage has one offline run, with exactly the rows of the tables, each once."""
    expected = expected_rows(folder, sweep)
    folders = offline_folders(folder, sweep)
    assert [f.parents[1].name for f in folders] == sorted(expected)
    for each in folders:
        found = history(each)
        assert plain(found) == expected[each.parents[1].name]


def plain(rows: Rows) -> Rows:
    """Rows without W&B's clocks."""
    clocks = ("_timestamp", "_runtime")
    return [{k: v for k, v in row.items() if k not in clocks} for row in rows]


def server_rows(server: LocalWandb) -> dict[str, Rows]:
    for run in server.runs.values():
        assert len(run.steps) == len(set(run.steps)), "a step was sent twice"
    return {name: plain(run.history) for name, run in server.runs.items()}


def wait_for(condition: Callable[[], Any], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def commits(folder: Path) -> int:
    return len(Store(str(storage(folder))).committed("iterations"))


def assert_secret(secret: str, *outputs: str, **folders: Path) -> None:
    for output in outputs:
        assert secret not in output
    for folder in folders.values():
        for file in folder.rglob("*"):
            if file.is_file():
                assert secret.encode() not in file.read_bytes(), file


def core_processes(folder: Path) -> list[int]:
    """W&B's services that have `folder` open."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"wandb-core" in (process / "cmdline").read_bytes():
                links = [os.readlink(link) for link in (process / "fd").iterdir()]
                found += [int(process.name)] if any(str(folder) in link for link in links) else []
        except OSError:
            continue
    return found
