"""The table `scores`: there where commits have scores, and nothing where they have none."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from measured import measured, sweep_file

from orchestrator.commands.verify import verify_store
from orchestrator.results.opening import Results, open_results
from orchestrator.results.tables import SCHEMAS, table_path
from trainables.lineage.schemas import SCORE_SCHEMA
from trainables.store import Store, iteration_path
from trainables.store.artifacts import SCORES, encode_table

METHODS = [{"name": "synflow", "density": [0.5, 0.1]}]
ROW: dict[str, Any] = {
    "layer": "hidden1.weight", "index": 3, "score": 0.5, "kept": True, "kept_by_threshold": False,
}  # fmt: skip


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return measured(tmp_path, sweep_file(tmp_path, methods=METHODS), lambda line, t: {})


def add_scores(store: Store, key: str) -> None:
    path = iteration_path(key)
    files = {name: store.read(path, name) for name in store.manifest(path)["files"]}
    scores = encode_table(pa.Table.from_pylist([ROW], SCORE_SCHEMA))
    store.replace(path, files | {SCORES: scores})


def test_commits_without_scores_leave_no_file(results: Results) -> None:
    assert results.scores.equals(SCHEMAS["scores"].empty_table())
    assert results.sql("SELECT * FROM scores").num_rows == 0
    assert not results.store.exists(table_path("scores", "s"))
    assert verify_store(results.store).damage == ()


def test_scores_of_commits_are_rows_of_the_table(results: Results) -> None:
    _, second = results.record.lineages
    add_scores(results.store, second.keys[0])
    # The commit has a file that the tables do not know of.
    assert verify_store(results.store).behind == ("s",)
    again = open_results(results.store, "s")
    assert again.scores.to_pylist() == [{"lineage": second.id, "iteration": 1} | ROW]
    assert again.sql("SELECT label FROM scores JOIN labels USING (lineage)").to_pylist() == [
        {"label": "synflow density=0.1"}
    ]
    verified = verify_store(results.store)
    assert (verified.damage, verified.behind) == ((), ())
    both = open_results(results.store, "s", "s")
    assert both.scores.equals(again.scores)


@pytest.mark.parametrize("missing", [False, True])
def test_a_damaged_table_of_scores_is_found_and_mended(results: Results, missing: bool) -> None:
    add_scores(results.store, results.record.lineages[0].keys[0])
    sound = open_results(results.store, "s").scores
    path = table_path("scores", "s")
    results.store.delete_file(path) if missing else results.store.write(path, b"nothing")
    (found,) = verify_store(results.store).damage
    assert found.path == path
    assert open_results(results.store, "s").scores.equals(sound)
    assert verify_store(results.store).damage == ()
