"""Rows of figures: of very many seeds, some are drawn, and of every method some."""

from collections import Counter
from pathlib import Path

import pytest
from measured import measured, sweep_file

import orchestrator.results.figures.rows
from orchestrator.results.figures.rows import (
    epoch_rows,
    iteration_rows,
    layer_rows,
    some_seeds,
    spread,
)
from orchestrator.results.opening import Results


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


def test_spread_has_the_first_and_the_last() -> None:
    assert spread(range(9), 3) == [0, 4, 8]
    assert spread(range(9), 1) == [0]
