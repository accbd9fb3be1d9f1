"""Rows of figures: of very many seeds, some are drawn, and of every method some."""

from collections import Counter
from pathlib import Path

import pytest
from measured import measured, sweep_file

import orchestrator.results.figures.rows
from orchestrator.results.figures.rows import iteration_rows, some_seeds, spread
from orchestrator.results.opening import Results


@pytest.fixture
def results(tmp_path: Path) -> Results:
    methods = [{"name": "snip", "density": [0.5, 0.1]}]
    file = sweep_file(tmp_path, seeds=list(range(9)), methods=methods)
    return measured(tmp_path, file, lambda line, t: {})


def test_of_few_rows_all_seeds_are_drawn(results: Results) -> None:
    ids = {line.id for line in results.record.lineages}
    assert some_seeds(results, ids, 100) == ids


@pytest.mark.parametrize(("most", "each"), [(600, 3), (1, 1)])
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


def test_spread_has_the_first_and_the_last() -> None:
    assert spread(range(9), 3) == [0, 4, 8]
    assert spread(range(9), 1) == [0]
