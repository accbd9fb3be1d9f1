"""Sweeps whose lineages stop rules end: what is trained, and what every view says of it."""

import json
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from asking import ask, refused
from measured import measured, sweep_file
from smallest import SWEEP as SMALLEST
from sweeping import ONE_AT_A_TIME, commits, planned, run, store_of, table, write

from orchestrator.records.ends import ENDS, read_ends
from orchestrator.records.status import sweep_status
from orchestrator.records.sweep import read_sweep
from orchestrator.results.compacting import rows_by_key
from orchestrator.results.figures.rows import is_outcome
from orchestrator.results.opening import open_results
from orchestrator.results.report import report_payload, resolved_yaml
from orchestrator.results.tables import table_path
from orchestrator.run.planned_sweep import plan_sweep
from orchestrator.storage.merging import merge
from orchestrator.sweepfile.yaml_source import load_sweep
from trainables.data import data_roots
from trainables.lineage.ending import End, Measured
from trainables.store import Store, iteration_path

STOP = [{"when": "accuracy_below", "value": 0.01}, {"when": "density_below", "value": 0.3}]
SWEEP: dict[str, Any] = SMALLEST | {
    "name": "ruled",
    "prune": {"iterations": 5, "stop": STOP},
    "methods": [
        {"name": "lottery_ticket", "ratio": 0.5},  # 1, 1/2, 1/4
        {"name": "one_shot", "ratio": 0.2},  # to 0.328 at the fifth
    ],
}
FREE = SWEEP | {"name": "free", "prune": {"iterations": 5}}
WHY = "density_below: the density 0.25 is below 0.3"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """A folder in which the sweep has run, with what `plan` said before and the run after."""
    folder = tmp_path_factory.mktemp("done")
    before = planned(folder, SWEEP)
    return folder, before, run(folder, SWEEP, *ONE_AT_A_TIME)


def trained_again(folder: Path, sweep: dict[str, Any], *options: str) -> dict[str, Any]:
    """A run that has nothing to train; the summary."""
    return json.loads(ask(folder, "run", str(write(folder, sweep)), "--json", *options))


def test_only_what_comes_before_the_end_is_trained(
    done: tuple[Path, dict[str, Any], dict[str, Any]],
) -> None:
    folder, before, summary = done
    assert (before["to_train"], before["may_end_before"]) == (11, 2)
    # The trunk, five of one_shot, and two of lottery_ticket instead of five.
    assert len(commits(folder)) == 8
    (stopped,) = summary["stopped"]
    assert stopped["lineage"].startswith("lottery_ticket-")
    assert (stopped["iteration"], stopped["why"]) == (2, WHY)
    assert summary["failures"] == []


def test_every_view_sees_the_same_end(
    done: tuple[Path, dict[str, Any], dict[str, Any]],
) -> None:
    folder, _, summary = done
    (lineage,) = (each["lineage"] for each in summary["stopped"])
    plan = planned(folder, SWEEP)
    assert (plan["to_train"], plan["lineages_complete"], plan["may_end_before"]) == (0, 2, 0)
    assert (plan["iterations"], plan["stored"]) == (9, 8)
    assert [end["lineage"] for end in plan["stopped"]] == [lineage]
    status = json.loads(ask(folder, "status", "ruled", "--json"))
    assert (status["state"], status["lineages_done"]) == ("finished", 2)
    assert (status["iterations"], status["iterations_stored"]) == (8, 8)
    assert status["stopped"] == [{"lineage": lineage, "iteration": 2, "why": WHY}]
    assert f"done: lottery_ticket ends with iteration 2: {WHY}" in ask(folder, "status", "ruled")
    rows = table(folder, "ruled", "iterations").to_pylist()
    assert {(row["lineage"] == lineage, row["iteration"]): row["stopped"] for row in rows} == {
        **{(True, t): WHY if t == 2 else None for t in range(3)},
        **{(False, t): None for t in range(6)},
    }
    results = open_results(store_of(folder), "ruled")
    payload = report_payload(results)
    assert payload["state"] == "finished"
    paper = results.paper_table()
    assert all(cell is None or cell.note is None for row in paper.cells for cell in row)
    assert "all sound" in ask(folder, "verify")


def test_a_run_again_trains_nothing_and_without_rules_goes_on(
    done: tuple[Path, dict[str, Any], dict[str, Any]],
) -> None:
    folder, _, summary = done
    again = trained_again(folder, SWEEP)
    assert (again["planned"], again["stopped"]) == (0, summary["stopped"])
    free = planned(folder, FREE)
    assert (free["to_train"], free["stored"], free["stopped"]) == (3, 8, [])
    listed = ask(folder, "plan", str(write(folder, SWEEP)), "--list")
    assert "complete, 1 of them ended early" in listed
    assert "at most" not in listed
    at_most = SWEEP | {"prune": {"iterations": 9, "stop": STOP[:1]}}
    listed = ask(folder, "plan", str(write(folder, at_most)), "--list")
    assert "at most 20 (2 lineages may end earlier)" in listed
    assert "≤ 10" in listed


def test_ends_follow_from_what_is_committed(
    done: tuple[Path, dict[str, Any], dict[str, Any]], tmp_path: Path
) -> None:
    """As after the death of a run whose last news nobody wrote down, and after other rules."""
    folder, _, _ = done
    store = store_of(folder)
    ends = read_ends(store, "ruled")
    for told in ([], [End("x", 1, "k", "[]", "w")]):
        ENDS.write(store, "ruled", told)
        assert json.loads(ask(folder, "status", "ruled", "--json"))["state"] == "incomplete"
        assert planned(folder, SWEEP)["to_train"] == 0
        trained_again(folder, SWEEP)
        assert read_ends(store, "ruled") == ends
    # Of other rules an end says nothing.
    other = SWEEP | {"prune": {"iterations": 5, "stop": {"when": "density_below", "value": 0.6}}}
    (notice,) = planned(folder, other)["notices"]
    assert "the last iterations of 2 lineages would leave the sweep ruled" in notice
    trained_again(folder, other, "--replace")
    assert [end.iteration for end in read_ends(store, "ruled").values()] == [1, 3]
    assert len(table(folder, "ruled", "iterations")) == 2 + 4
    trained_again(folder, SWEEP)
    assert read_ends(store, "ruled") == ends


def test_tables_tell_what_commits_do_and_nothing_of_what_was_set_aside(
    done: tuple[Path, dict[str, Any], dict[str, Any]], tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    copytree(done[0], folder)
    store = store_of(folder)
    rows = rows_by_key(store, "ruled")
    row_of = Measured(store, lambda key: ())
    assert rows.keys() == commits(folder)
    assert all(row_of(key) == row for key, row in rows.items())
    (end,) = read_ends(store, "ruled").values()
    store.set_aside(iteration_path(end.key))
    assert rows_by_key(store, "ruled").keys() == rows.keys() - {end.key}
    # The lineage has no end without the row that says so.
    assert planned(folder, SWEEP)["to_train"] == 4
    assert json.loads(ask(folder, "status", "ruled", "--json"))["state"] == "incomplete"
    store.write(table_path("iterations", "ruled"), b"no table")
    assert rows_by_key(store, "ruled") == {}
    assert planned(folder, SWEEP)["to_train"] == 4


def test_ends_are_merged_with_their_sweep(
    done: tuple[Path, dict[str, Any], dict[str, Any]], tmp_path: Path
) -> None:
    store, other = Store(str(tmp_path / "other")), store_of(done[0])
    ends = read_ends(other, "ruled")
    merge(store, other)
    assert read_ends(store, "ruled") == ends
    store.delete_file(ENDS.path("ruled"))
    merge(store, other)
    assert read_ends(store, "ruled") == ends
    assert sweep_status(store, "ruled").state == "finished"


def test_the_records_have_the_sweep_at_its_longest(
    done: tuple[Path, dict[str, Any], dict[str, Any]], tmp_path: Path
) -> None:
    folder, _, _ = done
    record = read_sweep(store_of(folder), "ruled")
    assert record is not None
    assert {len(line.keys) for line in record.lineages} == {6}
    text = resolved_yaml(record)
    file = tmp_path / "resolved.yaml"
    file.write_text(text)
    assert load_sweep(file).prune == load_sweep(write(tmp_path, SWEEP)).prune
    ask(folder, "gc")
    assert "all sound" in ask(folder, "verify")
    assert len(commits(folder)) == 8


def test_what_was_stopped_above_its_density_has_no_value_there(tmp_path: Path) -> None:
    imp = {"name": "imp", "ratio": 0.5, "density": [0.1, 0.5]}  # four iterations, and one
    stop = {"when": "density_below", "value": 0.3}
    file = sweep_file(tmp_path, methods=[imp], prune={"iterations": 9, "stop": stop})
    measured(tmp_path, file, lambda line, t: {"density": 0.5**t})
    store = Store(str(tmp_path / "store"))
    plan = plan_sweep(load_sweep(file), store, data_roots(None, {})).plan
    assert [end.iteration for end in plan.ends.values()] == [2]
    ENDS.write(store, "s", [*plan.ends.values()])
    results = open_results(store, "s")
    (cells,) = results.paper_table().cells
    assert [(cell and cell.mean, cell and cell.note) for cell in cells] == [
        (0.9, None),
        (None, "stopped"),
    ]
    outcomes = [is_outcome(line, line.iterations[-1]) for line in results.record.lineages]
    assert outcomes == [False, True]
    # Rules do not tell lineages apart: sweeps with other ones are one with this.
    prune = {"iterations": 9}
    free = sweep_file(tmp_path, name="free", methods=[imp], seeds=[1], prune=prune)
    measured(tmp_path, free, lambda line, t: {"density": 0.5**t})
    both = open_results(store, "s", "free")
    assert {*both.labels.values()} == {"imp density=0.1", "imp density=0.5"}


@pytest.mark.parametrize(("stop", "said"), [
    ({"when": "accuracy_below", "value": 0.5, "of": "validation"},
     "accuracy_below of validation needs a held-out part of digits; set dataset.holdout"),
    ({"when": "accuracy_below"}, "prune.stop.0.value: is missing; add value: …"),
    ({"when": "acuracy_below", "value": 0.5}, 'did you mean "accuracy_below"?'),
    ({"value": 0.5}, "say which stop rule: add when: …"),
    ({"when": "ratio_below", "valu": 0.5}, 'unknown key "valu"; did you mean "value"?'),
    ([{"when": "ratio_below", "value": [0.1, 0.2]}], "this cannot be an axis, give one value"),
    ([[{"when": "ratio_below", "value": value}] for value in (0.1, 0.2)],
     "stop rules are no part of what a lineage is, so no axis; put others into a sweep of their"),
])  # fmt: skip
def test_what_is_wrong_with_a_rule_is_told(tmp_path: Path, stop: Any, said: str) -> None:
    sweep = SWEEP | {"prune": {"iterations": 2, "stop": stop}}
    told = refused(tmp_path, "plan", str(write(tmp_path, sweep)))
    assert said in told
    assert "ruled.yaml:" in told
    assert not (tmp_path / "prunesweep-store").exists()
