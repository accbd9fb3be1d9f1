"""Whole sweeps on `digits`, run by the command, and what there is afterwards."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from asking import ask

from orchestrator.results.tables import MEASURED, TABLES, table_path
from trainables.store import Store, iteration_path
from trainables.store.artifacts import MASK, WEIGHTS

COMMAND = str(Path(sys.executable).with_name("prunesweep"))
TIMES = {"train_seconds", "prune_seconds", "peak_memory_bytes", "attempt", "finished_at"}
"""What two runs of one sweep may differ in."""

SWEEP: dict[str, Any] = {
    "name": "small",
    "dataset": "digits",
    "model": {"name": "mlp", "hidden": [32]},
    "seeds": [0, 1],
    "train": {"epochs": 2, "batch_size": 50},
    "prune": {"iterations": 2},
    "methods": ["one_shot", {"name": "sap", "p": [0.5, 0.9]}],
}
ONE_AT_A_TIME = ("--set", "resources.max_concurrent=1")
"""For tests of something else than concurrency: a second worker takes seconds to start."""


def write(folder: Path, sweep: dict[str, Any]) -> Path:
    """A sweep file; JSON is YAML too."""
    file = folder / f"{sweep['name']}.yaml"
    file.write_text(json.dumps(sweep))
    return file


def start(folder: Path, *arguments: str, own_group: bool = False) -> subprocess.Popen[str]:
    environment = os.environ | {"COLUMNS": "60"}
    return subprocess.Popen(
        [COMMAND, *arguments], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=own_group,
    )  # fmt: skip


def command(folder: Path, *arguments: str, expect: int = 0) -> str:
    process = start(folder, *arguments)
    out, err = process.communicate(timeout=240)
    assert process.returncode == expect, f"exit code {process.returncode}\n{out}\n{err}"
    return out


def run(folder: Path, sweep: dict[str, Any], *arguments: str, expect: int = 0) -> dict[str, Any]:
    """Run `sweep` with the default, relative, storage of `folder`; the summary."""
    out = command(folder, "run", str(write(folder, sweep)), "--json", *arguments, expect=expect)
    return json.loads(out)


def planned(folder: Path, sweep: dict[str, Any]) -> dict[str, Any]:
    return json.loads(ask(folder, "plan", str(write(folder, sweep)), "--json"))


def store_of(folder: Path) -> Store:
    return Store(str(folder / "prunesweep-store"))


def table(folder: Path, sweep: str, name: str) -> pa.Table:
    return pq.read_table(store_of(folder).absolute(table_path(name, sweep)))


def comparable(folder: Path, sweep: str, name: str) -> list[dict[str, Any]]:
    read = table(folder, sweep, name)
    return read.drop_columns(sorted(TIMES & set(read.column_names))).to_pylist()


def wait_for(condition: Callable[[], bool], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def commits(folder: Path) -> set[str]:
    return set(store_of(folder).committed("iterations"))


def claimed(folder: Path) -> list[Path]:
    """The tickets of who trains something; a run claims its records as well."""
    tickets = folder.glob("prunesweep-store/claims/*/*")
    return [ticket for ticket in tickets if re.fullmatch("[0-9a-f]+", ticket.parent.name)]


def assert_equal_results(one: Path, other: Path, sweep: str) -> None:
    """Weights, masks and tables are equal bit for bit, times apart."""
    measured = [name for name in MEASURED if store_of(other).exists(table_path(name, sweep))]
    for name in (*TABLES, *measured):
        assert comparable(one, sweep, name) == comparable(other, sweep, name), name
    for key in commits(other):
        path = iteration_path(key)
        # A measurement has neither.
        for file in {WEIGHTS, MASK} & store_of(other).manifest(path)["files"].keys():
            assert store_of(one).read(path, file) == store_of(other).read(path, file)
