"""How long a report takes of a sweep of 10,000 iterations: writing it, and opening it in Chromium.

The sweep is made up, with the real schemas: three scopes, five methods and 22 seeds of T = 30 on
digits. Opening is the time from the command to go there until the page's tables are filled and the
figures that are in view are drawn; the browser has started before.
"""

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from playwright.sync_api import Page, ViewportSize, sync_playwright

from orchestrator.records.columns import identity_row
from orchestrator.records.recording import record_sweep
from orchestrator.records.status import sweep_status
from orchestrator.records.sweep import LineageRecord, SweepRecord, write_sweep
from orchestrator.results.opening import Results
from orchestrator.results.report import write_report
from orchestrator.results.tables import SCHEMAS, table_path
from orchestrator.run.datasets import resolve_datasets
from orchestrator.run.planning import sweep_lineages
from orchestrator.sweepfile.yaml_source import load_sweep
from trainables.data import data_roots
from trainables.store import STORE_FORMAT, Store, iteration_path

SWEEP = """\
name: large
dataset: digits
model: {name: mlp, hidden: [128, 64]}
seeds: %s
train: {epochs: 10, batch_size: 50}
prune: {iterations: 30, scope: [global, layer, neuron]}
methods: [one_shot, lottery_ticket, {name: sap, p: [0.3, 0.5, 0.9]}]
"""
SEEDS = 22
LAYERS = {"hidden1.weight": 8192, "hidden2.weight": 8192, "classifier.weight": 640}
GRID = [(round(0.1 * p, 1), round(1 + 0.1 * q, 1)) for p in range(1, 11) for q in range(11)]


def synthetic_results(folder: Path, seeds: int = SEEDS, sweep: str = SWEEP) -> Results:
    """The sweep `large` in a store of its own: its record, its tables, and commits of no files."""
    store = Store(str(folder / "store"))
    file = folder / "large.yaml"
    file.write_text(sweep % list(range(seeds)))
    spec = load_sweep(file)
    datasets = resolve_datasets(spec, data_roots(None, {}))
    record = record_sweep(spec, sweep_lineages(spec, datasets))
    write_sweep(store, record)
    for key in {key for line in record.lineages for key in line.keys}:
        commit = folder / "store" / iteration_path(key)
        commit.mkdir(parents=True)
        (commit / "manifest.json").write_text(json.dumps({"format": STORE_FORMAT, "files": {}}))
    (folder / "store" / "tables").mkdir()
    for name, table in tables(record).items():
        pq.write_table(table, store.absolute(table_path(name, record.name)))
    statuses = (sweep_status(store, record.name),)
    return Results(store, record, statuses, store.committed("iterations"))


def tables(record: SweepRecord) -> dict[str, pa.Table]:
    """The four tables of `record`, of made-up numbers; of `sparsity`, the global index alone."""
    rows = [(line, t) for line in record.lineages for t in line.iterations]
    iterations = pa.Table.from_pylist(list(iteration_rows(record)), SCHEMAS["iterations"])
    for name in record.swept:
        values = pa.array([line.swept.get(name) for line, _ in rows])
        iterations = iterations.append_column(name.replace(".", "_"), values)
    return {
        "iterations": iterations,
        "layers": details(
            "layers", rows, [{"layer": each, "total": LAYERS[each]} for each in LAYERS]
        ),
        "epochs": details("epochs", rows, [{"epoch": e, "step": 29 * e} for e in range(1, 11)]),
        "sparsity": details(
            "sparsity",
            rows,
            [
                {"state": state, "scope": "global", "layer": None, "p": p, "q": q}
                for state in ("retrained", "pruned")
                for p, q in GRID
            ],
        ),
    }


def iteration_rows(record: SweepRecord) -> Iterator[dict[str, Any]]:
    random = np.random.default_rng(0)
    total = sum(LAYERS.values())
    schema = SCHEMAS["iterations"]
    finished = datetime(2026, 1, 1, tzinfo=UTC)
    for number, line in enumerate(record.lineages):
        keep = 0.75 + 0.04 * (number // SEEDS % 5)
        for t, key in zip(line.iterations, line.keys, strict=True):
            finished += timedelta(seconds=3)
            numbers = dict(zip(schema.names, random.random(len(schema)) / 10, strict=True))
            floats = {n: numbers[n] for n in schema.names if schema.field(n).type == pa.float64()}
            kept = round(total * keep**t)
            yield identity_row(record.name, line) | floats | {
                "key": key,
                "iteration": t,
                "density": kept / total,
                "density_target": None,
                "params_prunable": total,
                "params_kept": kept,
                "test_accuracy": 0.98 - 0.01 * random.random() - 0.2 * (t / 30) ** 4,
                "macs_dense": total,
                "macs_kept": kept,
                "train_seconds": 2 + random.random(),
                "peak_memory_bytes": 500_000_000 + int(1e6 * random.random()),
                "attempt": 1,
                "device": "cpu",
                "host": "somewhere",
                "finished_at": finished,
            }  # fmt: skip


def details(
    name: str, rows: list[tuple[LineageRecord, int]], each: list[dict[str, Any]]
) -> pa.Table:
    """The table `name` with the rows `each` for every iteration; the other numbers are random."""
    random = np.random.default_rng(0)
    count = len(rows) * len(each)
    columns: dict[str, Any] = {
        "lineage": np.repeat([line.id for line, _ in rows], len(each)),
        "iteration": np.repeat([t for _, t in rows], len(each)),
    }
    for field in SCHEMAS[name]:
        if field.name in columns:
            continue
        if field.name in each[0]:
            values = pa.array([row[field.name] for row in each], field.type)
            columns[field.name] = values.take(np.tile(np.arange(len(each)), len(rows)))
        elif field.type == pa.float64():
            columns[field.name] = random.random(count)
        else:
            columns[field.name] = random.integers(1, 600, count)
    return pa.table(columns).cast(SCHEMAS[name])


def opening_seconds(page: Page, file: Path) -> tuple[float, float]:
    """Seconds until the page of `file` has its tables and the figures in view, and how many of
    them its main thread was at work, which other processes do not add to."""
    chromium = page.context.new_cdp_session(page)
    chromium.send("Performance.enable", {"timeDomain": "threadTicks"})
    began = time.perf_counter()
    page.goto(file.as_uri())
    page.wait_for_selector('[data-table="iterations"] tbody tr')
    page.wait_for_selector("#glance-figure [data-drawn]")
    seconds = time.perf_counter() - began
    metrics = chromium.send("Performance.getMetrics")["metrics"]
    return seconds, next(each["value"] for each in metrics if each["name"] == "TaskDuration")


def main() -> None:
    chromium = shutil.which("chromium") or sys.exit("this needs Chromium")
    with tempfile.TemporaryDirectory() as folder:
        results = synthetic_results(Path(folder))
        file = Path(folder) / "large.html"
        began = time.perf_counter()
        write_report(results, file)
        written = time.perf_counter() - began
        rows = len(results.iterations)
        print(f"{written:7.2f} s  writing the report of {rows:,} iterations")
        print(f"{file.stat().st_size / 1e6:7.2f} MB its size")
        with sync_playwright() as playwright:
            arguments = ["--no-sandbox"]
            browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
            view = ViewportSize(width=1400, height=1000)
            times = [opening_seconds(browser.new_page(viewport=view), file) for _ in range(5)]
        whole, at_work = (sorted(each) for each in zip(*times, strict=True))
        print(f"{whole[2]:7.2f} s  opening it, median of {[round(t, 2) for t in whole]}")
        print(f"{at_work[2]:7.2f} s  of these, its main thread at work")


if __name__ == "__main__":
    main()
