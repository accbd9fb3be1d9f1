"""Rows of figures: of very many seeds, some are drawn, and of every method some."""

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from measured import measured, sweep_file

import orchestrator.results.figures.rows
from orchestrator.records.sweep import LineageRecord
from orchestrator.results.figures.rows import (
    State,
    epoch_rows,
    iteration_rows,
    layer_rows,
    some_seeds,
    sparsity_rows,
    spread,
)
from orchestrator.results.opening import Results, open_results
from orchestrator.results.tables import SPARSITY_SCHEMA, table_path
from trainables.store import Store, iteration_path
from trainables.store.artifacts import SPARSITY, encode_table


@pytest.fixture
def results(tmp_path: Path) -> Results:
    methods = [{"name": "snip", "density": [0.5, 0.1]}]
    file = sweep_file(tmp_path, seeds=list(range(9)), methods=methods)
    return measured(tmp_path, file, lambda line, t: {})


def test_of_few_rows_all_seeds_are_drawn(results: Results) -> None:
    ids = {line.id for line in results.record.lineages}
    assert some_seeds(results, ids, 100) == ids


@pytest.mark.parametrize(("most", "each"), [(600, 3), (200, 1)])
def test_of_many_rows_every_method_has_some_seeds(
    results: Results, monkeypatch: pytest.MonkeyPatch, most: int, each: int
) -> None:
    monkeypatch.setattr(orchestrator.results.figures.rows, "MOST", most)
    ids = {line.id for line in results.record.lineages}
    drawn = some_seeds(results, ids, 100)
    assert Counter(results.labels[id] for id in drawn) == {
        "snip density=0.5": each, "snip density=0.1": each,
    }  # fmt: skip
    assert len(iteration_rows(results)) == len(ids)


@pytest.mark.parametrize(("bound", "value"), [("MOST", 100), ("CELLS", 1)])
def test_of_very_many_methods_some_are_drawn(
    results: Results, monkeypatch: pytest.MonkeyPatch, bound: str, value: int
) -> None:
    monkeypatch.setattr(orchestrator.results.figures.rows, bound, value)
    drawn = some_seeds(results, {line.id for line in results.record.lineages}, 100)
    assert {results.labels[id] for id in drawn} == {"snip density=0.5"}


def test_layers_and_epochs_of_some_seeds_are_read_alone(
    results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = {"layers": layer_rows(results), "epochs": epoch_rows(results, [1], 50)}
    monkeypatch.setattr(orchestrator.results.figures.rows, "MOST", 4)
    some = {"layers": layer_rows(results), "epochs": epoch_rows(results, [1], 50)}
    for name, rows in some.items():
        drawn = {row["lineage"] for row in rows}
        assert len(drawn) < 18
        assert rows == [row for row in every[name] if row["lineage"] in drawn]
    assert {"layers", "epochs"}.isdisjoint(vars(results))


@pytest.mark.parametrize("state", ["retrained", "pruned"])
def test_maps_of_a_method_are_of_all_seeds_that_have_the_iteration(
    tmp_path: Path, state: State
) -> None:
    methods = ["one_shot", "lottery_ticket"]
    file = sweep_file(tmp_path, seeds=[0, 1, 2, 3], prune={"iterations": 6}, methods=methods)
    last = {0: 4, 1: 5, 2: 6, 3: 0}

    def until(line: LineageRecord, t: int) -> dict[str, Any] | None:
        return {} if t <= last[line.config["seed"]] else None

    made = measured(tmp_path, file, until)
    for key in {*made.iterations["key"].to_pylist()}:
        add_sparsity(made.store, key)
    made.store.delete_file(table_path("sparsity", "s"))
    seeds: dict[tuple[str, int], set[int]] = {}
    for row in sparsity_rows(open_results(made.store, "s"), 4, state):
        seeds.setdefault((row["label"], row["iteration"]), set()).add(row["seed"])
    assert seeds == {
        (label, t): {seed for seed, end in last.items() if t <= end}
        for label in methods
        for t in ((0, 2, 4, 6) if state == "retrained" else (1, 3, 4, 6))
    }


def add_sparsity(store: Store, key: str) -> None:
    path = iteration_path(key)
    files = {name: store.read(path, name) for name in store.manifest(path)["files"]}
    of_all = {"scope": "global", "layer": None, "p": 0.5, "q": 1.0, "pq_index": 0.1}
    rows = [of_all | {"state": state} for state in ("retrained", "pruned")]
    table = encode_table(pa.Table.from_pylist(rows, SPARSITY_SCHEMA))
    store.replace(path, files | {SPARSITY: table})


def test_spread_has_the_first_and_the_last() -> None:
    assert spread(range(9), 3) == [0, 4, 8]
    assert spread(range(9), 1) == [0]
