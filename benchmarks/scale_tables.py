"""What commands take of large storages: CPU seconds and peak memory, each in a process of its own.

`python benchmarks/scale_tables.py 1000 10000 150000` makes a storage of about so many iterations,
one after the other, and prints a table. Its commits are written by the store's own code, with a
small network's weights and measures that are made up; what is synced to the disk otherwise is not,
as it may be lost. `--folder` is where they are made and deleted (about 50 kB an iteration), and
`--plot FILE.png` draws the table.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeAlias

import altair as alt
import numpy as np
import pyarrow as pa

from orchestrator.records.recording import record_sweep
from orchestrator.records.sweep import SweepRecord, write_sweep
from orchestrator.results.tables import SPARSITY_SCHEMA
from orchestrator.run.datasets import resolve_datasets
from orchestrator.run.planning import sweep_lineages
from orchestrator.sweepfile.yaml_source import load_sweep
from trainables.data import data_roots
from trainables.lineage.identity import snapshot_key
from trainables.lineage.metrics import METRICS_SCHEMA
from trainables.lineage.schemas import EPOCH_SCHEMA, LAYER_SCHEMA
from trainables.models import build_model, prunable
from trainables.sparsity.masks import dense_masks
from trainables.store import Store, iteration_path, snapshot_path
from trainables.store.artifacts import (
    EPOCHS,
    LAYERS,
    MASK,
    METRICS,
    SPARSITY,
    WEIGHTS,
    encode_masks,
    encode_table,
    encode_tensors,
)
from trainables.store.storage_format import mark

Measurements: TypeAlias = dict[str, dict[int, tuple[float, float]]]
"""CPU seconds and megabytes of each command, by the number of iterations."""

METHODS, ITERATIONS, EPOCHS_EACH = 10, 15, 10
GRID = [(round(0.1 * p, 1), round(1 + 0.1 * q, 1)) for p in range(1, 11) for q in range(11)]
VARIANTS = 256
"""Different measures: so many that the tables compress as those of real ones do."""
NAME = "scale"


def sweep_text(lineages: int) -> str:
    return json.dumps(
        {
            "name": NAME,
            "dataset": "digits",
            "model": {"name": "mlp", "hidden": [8]},
            "seeds": list(range(lineages // METHODS)),
            "train": {"epochs": EPOCHS_EACH, "batch_size": 50},
            "prune": {"iterations": ITERATIONS},
            "methods": [{"name": "sap", "gamma": list(range(1, METHODS + 1))}],
            "wandb": {"mode": "disabled"},
        }
    )


def make_storage(folder: Path, lineages: int) -> SweepRecord:
    """A finished sweep of so many lineages, as a run leaves it but for its tables."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "sweep.yaml"
    file.write_text(sweep_text(lineages))
    spec = load_sweep(file)
    found = sweep_lineages(spec, resolve_datasets(spec, data_roots(None, {})))
    record = record_sweep(spec, found)
    store = mark(Store(str(folder / "store")))
    write_sweep(store, record)
    rows = {
        key: (number, t)
        for number, line in enumerate(record.lineages)
        for t, key in zip(line.iterations, line.keys, strict=True)
    }
    trunks = sorted({snapshot_key(line.trunk, 0) for line in found})
    os.fsync = lambda descriptor: None
    with ProcessPoolExecutor() as pool:
        made = partial(commit_all, store.location)
        for _ in pool.map(made, _in_parts([*rows.items()])):
            pass
        for _ in pool.map(partial(snapshot_all, store.location), _in_parts(trunks)):
            pass
    return record


def _in_parts(items: Sequence[Any], size: int = 500) -> Iterator[Sequence[Any]]:
    return (items[at : at + size] for at in range(0, len(items), size))


def commit_all(location: str, rows: Sequence[tuple[str, tuple[int, int]]]) -> None:
    os.fsync = lambda descriptor: None
    store = Store(location)
    for key, (number, t) in rows:
        store.commit(iteration_path(key), files(key, number, t))


def snapshot_all(location: str, keys: Sequence[str]) -> None:
    os.fsync = lambda descriptor: None
    for number, key in enumerate(keys):
        Store(location).commit(snapshot_path(key), {WEIGHTS: weights(number % VARIANTS)})


def files(key: str, number: int, t: int) -> dict[str, bytes]:
    variant = (number * 17 + t) % VARIANTS
    row = metrics(variant) | {
        "key": key,
        "iteration": t,
        "density": 0.8**t,
        "density_target": None,
        "params_kept": round(592 * 0.8**t),
        "finished_at": datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number * 16 + t),
    }
    return {
        WEIGHTS: weights(variant),
        MASK: masks(variant),
        METRICS: encode_table(pa.Table.from_pylist([row], METRICS_SCHEMA)),
        LAYERS: layers(variant, t),
        EPOCHS: epochs(variant),
        SPARSITY: sparsity(variant, t > 0),
    }


@cache
def metrics(variant: int) -> dict[str, Any]:
    random = np.random.default_rng(variant)
    numbers = {
        field.name: random.random() if field.type == pa.float64() else int(random.integers(1, 600))
        for field in METRICS_SCHEMA
        if field.type in (pa.float64(), pa.int64())
    }
    empty = dict.fromkeys(METRICS_SCHEMA.names)
    return empty | numbers | {"device": "cpu", "host": "somewhere", "params_prunable": 592}


@cache
def weights(variant: int) -> bytes:
    return encode_tensors(_model(variant).state_dict())


@cache
def masks(variant: int) -> bytes:
    return encode_masks(dense_masks(prunable(_model(variant))))


def _model(seed: int) -> Any:
    spec = load_model()
    return build_model(spec, (1, 8, 8), 10, seed)


@cache
def load_model() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "sweep.yaml"
        file.write_text(sweep_text(METHODS))
        return load_sweep(file).model[0]


@cache
def layers(variant: int, t: int) -> bytes:
    sizes = {name: weight.numel() for name, weight in prunable(_model(0)).items()}
    rows = [
        {"layer": name, "kept": round(size * 0.8**t), "total": size}
        | _floats(LAYER_SCHEMA, variant, n)
        for n, (name, size) in enumerate(sizes.items())
    ]
    return encode_table(pa.Table.from_pylist(rows, LAYER_SCHEMA))


@cache
def epochs(variant: int) -> bytes:
    rows = [
        {"epoch": e, "step": 29 * e} | _floats(EPOCH_SCHEMA, variant, e)
        for e in range(1, EPOCHS_EACH + 1)
    ]
    return encode_table(pa.Table.from_pylist(rows, EPOCH_SCHEMA))


def _floats(schema: pa.Schema, *seed: int) -> dict[str, float]:
    random = np.random.default_rng(seed)
    return {field.name: random.random() for field in schema if field.type == pa.float64()}


@cache
def sparsity(variant: int, pruned: bool) -> bytes:
    table = grid(pruned)
    numbers = np.random.default_rng(variant).random(len(table))
    return encode_table(table.set_column(5, "pq_index", pa.array(numbers)))


@cache
def grid(pruned: bool) -> pa.Table:
    names = [*prunable(_model(0))]
    scopes = [("global", None), *((s, n) for n in names for s in ("layer", "neuron"))]
    states = ["retrained", "pruned"] if pruned else ["retrained"]
    rows = [
        {"state": state, "scope": scope, "layer": layer, "p": p, "q": q}
        for state in states
        for scope, layer in scopes
        for p, q in GRID
    ]
    return pa.Table.from_pylist(rows, SPARSITY_SCHEMA)


COMMANDS = {
    "plan": ["plan", "{file}"],
    "tables from nothing, and `results --last`": ["results", NAME, "--last"],
    "`results --last`": ["results", NAME, "--last"],
    "tables after a lineage more": ["results", NAME, "--last"],
    "`run`, nothing to train": ["run", "{file}"],
    "`status`": ["status", NAME],
    "`verify`": ["verify"],
    "`report`": ["report", NAME, "--output", "{folder}/report.html"],
}


def measured(folder: Path, arguments: Sequence[str]) -> tuple[float, float]:
    """CPU seconds of a command of prunesweep, and the megabytes that it had at most."""
    given = [each.format(file=folder / "sweep.yaml", folder=folder) for each in arguments]
    command = [sys.executable, "-c", "from orchestrator.commands.cli import main; main()", *given]
    process = os.posix_spawn(
        sys.executable,
        command,
        os.environ | {"PRUNESWEEP_STORAGE": str(folder / "store")},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 1, str(folder / "output"), os.O_CREAT | os.O_RDWR, 0o600)
        ],
    )
    _, status, usage = os.wait4(process, 0)
    if os.waitstatus_to_exitcode(status):
        sys.exit(f"{' '.join(command)} failed")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e3


def rows_of(folder: Path, lineages: int, only: Sequence[str]) -> Iterator[tuple[str, float, float]]:
    began = time.perf_counter()
    record = make_storage(folder, lineages)
    print(f"made in {time.perf_counter() - began:.0f} s", file=sys.stderr)
    for name, arguments in COMMANDS.items():
        if only and not any(each in name for each in only):
            continue
        if "a lineage more" in name:
            hidden = folder / "hidden"
            last = record.lineages[-1].keys[-ITERATIONS:]
            hidden.mkdir()
            for key in last:
                os.rename(folder / "store" / iteration_path(key), hidden / key)
            measured(folder, arguments)
            for key in last:
                os.rename(hidden / key, folder / "store" / iteration_path(key))
        seconds, megabytes = measured(folder, arguments)
        print(f"{lineages} {name}: {seconds:.1f} s, {megabytes:.0f} MB", file=sys.stderr)
        yield name, seconds, megabytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("iterations", nargs="+", type=int)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    found: Measurements = {}
    for iterations in given.iterations:
        lineages = max(METHODS, round(iterations / ITERATIONS / METHODS) * METHODS)
        folder = Path(tempfile.mkdtemp(prefix="prunesweep-scale-", dir=given.folder)) / "sweep"
        try:
            for name, *numbers in rows_of(folder, lineages, given.only):
                found.setdefault(name, {})[iterations] = (numbers[0], numbers[1])
            report = folder / "report.html"
            if report.exists():
                print(f"report: {report.stat().st_size / 1e6:.1f} MB", file=sys.stderr)
        finally:
            if not given.keep:
                shutil.rmtree(folder.parent)
    print(markdown(given.iterations, found))
    if given.plot:
        drawn(found).save(given.plot, ppi=150)


def markdown(sizes: Sequence[int], found: Measurements) -> str:
    lines = [
        "| command | " + " | ".join(f"{size:,} iterations" for size in sizes) + " |",
        "|---|" + "---:|" * len(sizes),
    ]
    for name, each in found.items():
        cells = [f"{each[s][0]:.1f} s, {each[s][1]:,.0f} MB" for s in sizes]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def drawn(found: Measurements) -> alt.HConcatChart:
    """CPU seconds and megabytes of each command over the number of iterations."""
    rows = [
        {"command": _plain(name), "iterations": size, "seconds": took[0], "MB": took[1]}
        for name, each in found.items()
        for size, took in each.items()
    ]
    lines = alt.Chart(alt.Data(values=rows)).mark_line(point=True)

    def axis(what: str, title: str, places: Sequence[float]) -> dict[str, Any]:
        logarithmic = alt.Scale(type="log", nice=False)
        return {"shorthand": what, "scale": logarithmic, "title": title,
                "axis": alt.Axis(values=[*places])}  # fmt: skip

    iterations = alt.X(**axis("iterations:Q", "iterations stored", [1e3, 1e4, 1e5]))
    names = [_plain(name) for name in COMMANDS]
    colour = alt.Color("command:N", sort=names, title=None, legend=alt.Legend(labelLimit=300))
    panels = {
        "CPU seconds": ("seconds:Q", [0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]),
        "peak memory, MB": ("MB:Q", [100, 200, 300, 500, 700, 1000]),
    }
    drawn = (
        lines.encode(iterations, alt.Y(**axis(what, title, places)), colour)
        for title, (what, places) in panels.items()
    )
    return alt.hconcat(*(panel.properties(width=300, height=260) for panel in drawn))


def _plain(name: str) -> str:
    return name.replace("`", "")


if __name__ == "__main__":
    main()
