"""Paper tables: laid out and computed by hand, what is missing, and every format."""

import csv
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow.parquet as pq
import pytest
from measured import Measures, measured, sweep_file

from orchestrator.commands import cli
from orchestrator.records.published import published_cell
from orchestrator.records.sweep import LineageRecord
from orchestrator.results.figures.rows import iteration_rows
from orchestrator.results.opening import Results, open_results
from orchestrator.results.paper_tables import PaperTable, paper_table
from orchestrator.results.paper_text import paper_rows, paper_text
from orchestrator.results.query import summary
from orchestrator.results.rendering import TextTable, as_latex, as_markdown
from orchestrator.results.sweep_tables import QueryError
from orchestrator.sweepfile.published import cell_of, read_published
from trainables.store import iteration_path
from trainables.store.artifacts import METRICS

SKETCHING = Path(__file__).parents[2] / "sweeps/sketching"

SNIP = {
    "seeds": [0, 1, 2],
    "methods": [{"name": "snip", "density": [0.1, 0.02], "data": ["normal", "sparse", "real"]}],
}
ACCURACIES = {
    ("normal", 0.1): (0.80, 0.81, 0.82),
    ("sparse", 0.1): (0.90, 0.92, 0.91),
    ("real", 0.1): (0.915, 0.90, 0.912),
    ("normal", 0.02): (0.50, 0.60, 0.70),
    ("sparse", 0.02): (0.55, 0.58, 0.79),
    ("real", 0.02): (0.40, 0.70, 0.60),
}
"""At 10 %, sparse and real are alike and normal is ten points below; at 2 % all is noise."""

Make: TypeAlias = Callable[..., Results]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """The results of a sweep on digits with the given sections and measures."""

    def make(measures: Measures, failed: Callable[[str], bool] = bool, **sections: Any) -> Results:
        return measured(tmp_path, sweep_file(tmp_path, **sections), measures, failed)

    return make


def never(id: str) -> bool:
    return False


def snip(line: LineageRecord, t: int) -> dict[str, Any]:
    method = line.config["method"]
    values = ACCURACIES[method["data"], method["density"]]
    return {"density": method["density"], "test_accuracy": values[line.config["seed"]]}


def texts(table: PaperTable) -> list[tuple[str, ...]]:
    return [*paper_text(table).rows]


# --- at a density


def test_methods_by_density(make: Make) -> None:
    table = paper_table(make(snip, never, **SNIP))
    assert table.rows == ("snip data=normal", "snip data=sparse", "snip data=real")
    assert [(c.names, c.density) for c in table.columns] == [(("10 %",), 0.1), (("2 %",), 0.02)]
    cell = table.cells[0][1]
    assert cell is not None
    # 50, 60 and 70 %: the squares of the deviations add up to 200, over n - 1 = 2
    assert (cell.mean, cell.std) == (pytest.approx(0.6), pytest.approx(0.1))
    assert (cell.n, cell.seeds, cell.density) == (3, 3, pytest.approx(0.02))
    assert cell.values == {0: 0.5, 1: 0.6, 2: 0.7}
    assert texts(table) == [
        ("snip data=normal", "81.00 ± 1.00", "60.00 ± 10.00"),
        ("snip data=sparse", "91.00 ± 1.00", "64.00 ± 13.08"),
        ("snip data=real", "90.90 ± 0.79", "56.67 ± 15.28"),
    ]
    assert table.title == (
        "s, digits, mlp: test accuracy in %, mean ± standard deviation over 3 seeds"
    )


def test_marked_is_what_is_best_or_not_told_apart_from_it(make: Make) -> None:
    table = paper_table(make(snip, never, **SNIP))
    best = [[cell is not None and cell.best for cell in row] for row in table.cells]
    # At 10 % sparse - normal is 10, 11, 9 points: t = 17. At 2 % nothing is told apart.
    assert best == [[False, False], [True, False], [True, False]]
    assert paper_text(table).bold == {(1, 1), (2, 1)}
    assert table.notes == (
        "Marked: no method that keeps no more weights is better by more than noise "
        "(t-test over seeds, 5 %); so a mean may be marked beside a better one that is not, of "
        "more weights or more spread.",
    )


def test_or_the_best_means_alone_are_marked(make: Make) -> None:
    table = paper_table(make(snip, never, **SNIP), mark="best")
    # 91.00 beside 90.90, and 64.00 where nothing is told apart.
    assert paper_text(table).bold == {(1, 1), (1, 2)}
    assert table.notes == ("Marked: the best mean of a column.",)
    losses = paper_table(make(snip, never, **SNIP), metric="test_loss", mark="best")
    assert not paper_text(losses).bold  # which are all the same


def test_what_all_rows_have_is_said(make: Make) -> None:
    methods = [
        {"name": "snip", "density": [0.1, 0.02], "data": "sparse", "selection": "sampled"},
        {"name": "imp", "density": 0.1, "data": "random", "ratio": 0.9},
        {"name": "sap", "criterion": {"name": "snip", "examples": 64}, "p": [0.5, 0.7]},
    ]
    table = paper_table(make(halves, never, methods=methods, prune={"iterations": 1}))
    options = (
        "Options of all rows: snip data=sparse selection=sampled; imp data=random ratio=0.9; "
        "sap criterion=snip criterion.data=real criterion.examples=64."
    )
    assert {*table.notes} >= {options}
    assert options in paper_text(table).notes
    layered = make(halves, never, methods=["sap"], prune={"scope": "layer", "iterations": 1})
    assert "Options of all rows: sap scope=layer." in paper_table(layered).notes


def test_an_option_that_means_nothing_is_in_no_label(make: Make) -> None:
    drawn = {"name": "snip", "density": 0.1, "selection": "sampled"}
    rounds = [{"rounds": 1}, {"rounds": 100, "schedule": "linear"}, {"rounds": 100}]
    methods = [
        {"name": "snip", "density": 0.1},
        drawn,
        {**drawn, "sampled_rounds": "every"},
        *({"name": "magnitude", "density": 0.1, **each} for each in rounds),
    ]
    assert paper_table(make(halves, never, methods=methods)).rows == (
        "snip selection=threshold",
        "snip selection=sampled sampled_rounds=last",
        "snip selection=sampled sampled_rounds=every",
        "magnitude rounds=1",
        "magnitude rounds=100 schedule=linear",
        "magnitude rounds=100 schedule=exponential",
    )
    # Where it alone tells two lineages apart, they are not taken for one.
    idle = {"name": "snip", "density": 0.1, "sampled_rounds": ["last", "every"]}
    assert paper_table(make(halves, never, methods=[idle])).rows == (
        "snip sampled_rounds=last", "snip sampled_rounds=every",
    )  # fmt: skip


def halves(line: LineageRecord, t: int) -> dict[str, Any]:
    return {"density": 0.5, "test_accuracy": 0.5}


def test_a_result_is_trained_on_real_data(make: Make) -> None:
    """Of `data: random`, the iterations that find the mask are no results, whoever chooses."""
    methods = [{"name": "imp", "density": 0.4, "ratio": 0.5, "data": "random"}]

    def measures(until: int) -> Callable[[LineageRecord, int], dict[str, Any] | None]:
        def of(line: LineageRecord, t: int) -> dict[str, Any] | None:
            return {"test_accuracy": 0.7 if t in line.on_data else 0.1} if t <= until else None

        return of

    done = make(measures(3), never, methods=methods)
    assert [line.on_data for line in done.record.lineages] == [{3}]
    cell = {"mean": 0.7, "seeds": 1}
    for where in (None, "iteration > 0"):
        (found,) = paper_rows(paper_table(done, where=where)).to_pylist()
        assert {name: found[name] for name in cell} == cell
    by_iteration = paper_table(done, layout="iterations")
    assert texts(by_iteration) == [("3", "100.0", "70.00")]
    assert "Iterations trained on random data are left out." in by_iteration.notes
    assert summary(done, last=True)["test_accuracy"].to_pylist() == [0.7]
    assert summary(done)["inputs"].to_pylist() == ["random", "random", "random", "real"]
    assert done.compare("imp", "imp").difference == 0
    assert done.sql("SELECT count(*) AS n FROM inputs WHERE inputs = 'random'")["n"][0].as_py() == 3
    rows = iteration_rows(done)
    assert [row["outcome"] for row in rows] == [row["on_data"] for row in rows]
    assert [row["on_data"] for row in rows] == [False, False, False, True]
    # On the way, and where only such iterations are asked for, there is no result.
    assert len(summary(done, where="iteration < 3", last=True)) == 0
    assert paper_table(done, where="iteration < 3").rows == ()
    on_the_way = make(measures(2), never, methods=methods, seeds=[1])
    assert len(summary(on_the_way, last=True)) == 0
    assert texts(paper_table(on_the_way)) == [("imp", "— (not run)")]


def test_records_from_before_know_what_was_trained_on_noise(make: Make) -> None:
    methods = ["sap", {"name": "imp", "density": 0.4, "ratio": 0.5, "data": "random"}]
    (first, second) = make(halves, never, methods=methods).record.lineages
    before = [replace(line, noise=None) for line in (first, second)]
    assert [line.on_data for line in before] == [first.on_data, second.on_data]
    plugged = {**second.config["method"], "name": "mine", "code": "0"}
    unknown = replace(before[1], config={**second.config, "method": plugged})
    assert unknown.on_data == {*unknown.iterations}


def test_one_seed_has_no_spread_and_nothing_to_test(make: Make) -> None:
    table = paper_table(make(snip, never, **SNIP | {"seeds": [0]}))
    assert texts(table)[0] == ("snip data=normal", "80.00", "50.00")
    assert not any(cell is None or cell.best for row in table.cells for cell in row)
    assert table.title.endswith("test accuracy in %, one seed")
    assert table.notes == ()


def test_of_losses_the_lowest_is_best(make: Make) -> None:
    def losses(line: LineageRecord, t: int) -> dict[str, Any]:
        return {"test_loss": 1 - snip(line, t)["test_accuracy"]}

    table = paper_table(make(losses, never, **SNIP), metric="test_loss")
    assert texts(table)[1][1] == "0.0900 ± 0.0100"
    assert paper_text(table).bold == {(1, 1), (2, 1)}


def test_a_metric_that_is_none_is_refused(make: Make) -> None:
    with pytest.raises(ValueError, match="no metric 'accuracy'; choose one of train_loss, tra"):
        paper_table(make(snip, never, **SNIP), metric="accuracy")


# --- what is missing


FATES = {
    ("normal", 0.1): ("", "", "failed"),
    ("sparse", 0.1): ("failed", "failed", "failed"),
    ("real", 0.1): ("not run", "not run", "not run"),
    ("normal", 0.02): ("damaged", "", ""),
    ("sparse", 0.02): ("", "no value", ""),
    ("real", 0.02): ("", "not run", "failed"),
}
"""What becomes of seeds 0, 1 and 2."""


def fate(line: LineageRecord) -> str:
    method = line.config["method"]
    return FATES[method["data"], method["density"]][line.config["seed"]]


def test_what_is_missing_shows_with_its_reason(make: Make) -> None:
    def measures(line: LineageRecord, t: int) -> dict[str, Any] | None:
        if fate(line) in ("failed", "not run"):
            return None
        value = {"test_accuracy": float("nan")} if fate(line) == "no value" else {}
        return snip(line, t) | value

    lines = make(lambda line, t: None, never, **SNIP).record.lineages
    fates = {line.id: fate(line) for line in lines}
    results = make(measures, lambda id: fates[id] == "failed", **SNIP)
    damaged = next(line for line in lines if fate(line) == "damaged")
    file = Path(results.store.absolute(iteration_path(damaged.keys[0]))) / METRICS
    file.write_bytes(file.read_bytes()[:-1])
    shutil.rmtree(results.store.absolute("tables"))
    assert texts(paper_table(open_results(results.store, "s"))) == [
        ("snip data=normal", "80.50 ± 0.71 (2 of 3 seeds, 1 failed)",
         "65.00 ± 7.07 (2 of 3 seeds, 1 damaged)"),
        ("snip data=sparse", "— (failed)", "67.00 ± 16.97 (2 of 3 seeds, 1 no value)"),
        ("snip data=real", "— (not run)", "40.00 (1 of 3 seeds, 1 not run, 1 failed)"),
    ]  # fmt: skip


def test_an_excluded_cell_is_empty(make: Make) -> None:
    excluded = {"exclude": [{"method.data": "sparse", "method.density": 0.02}]}
    table = paper_table(make(snip, never, **SNIP | excluded))
    assert table.cells[1][1] is None
    assert texts(table)[1] == ("snip data=sparse", "91.00 ± 1.00", "")


def test_a_sweep_of_which_nothing_ran(make: Make) -> None:
    table = paper_table(make(lambda line, t: None, never, **SNIP))
    assert {text for row in texts(table) for text in row[1:]} == {"— (not run)"}


# --- by iteration

ITERATIVE = {"seeds": [0, 1, 2], "prune": {"iterations": 2}, "methods": ["one_shot", "sap"]}
MEASURES = {
    ("one_shot", 0): (1.0, 0.90), ("one_shot", 1): (0.8, 0.88), ("one_shot", 2): (0.64, 0.85),
    ("sap", 0): (1.0, 0.90), ("sap", 1): (0.7, 0.89), ("sap", 2): (0.7, 0.88),
}  # fmt: skip


def iterative(line: LineageRecord, t: int) -> dict[str, Any]:
    """SAP is better than one shot at every iteration > 0, with fewer weights only at t = 1."""
    density, accuracy = MEASURES[line.config["method"]["name"], t]
    seed = line.config["seed"]
    noise = 0.0001 * t * (seed if line.config["method"]["name"] == "sap" else seed**2)
    return {"density": density, "test_accuracy": accuracy + 0.01 * seed + noise}


def test_the_last_iteration_has_the_weights_that_remain(make: Make) -> None:
    text = paper_text(paper_table(make(iterative, never, **ITERATIVE)))
    assert text.headings == (
        ("", "iteration 2", "iteration 2"),
        ("method", "remaining %", "accuracy %"),
    )
    assert text.rows == (("one_shot", "64.0", "86.03 ± 1.04"), ("sap", "70.0", "89.02 ± 1.02"))


def test_a_cell_is_compared_with_what_keeps_no_more_weights(make: Make) -> None:
    """At t = 2, one shot is three points below SAP and keeps fewer weights: neither is beaten. At
    t = 1 SAP has fewer weights and is better."""
    results = make(iterative, never, **ITERATIVE)
    assert paper_text(paper_table(results)).bold == frozenset()
    by_iteration = paper_text(paper_table(results, layout="iterations"))
    assert by_iteration.bold == {(1, 4)}


def test_why_nothing_is_marked_is_said(make: Make) -> None:
    told = paper_table(make(iterative, never, **ITERATIVE)).notes[-1]
    assert told.startswith(
        "Nothing is marked: each is the best of those that keep no more weights (t-test over seeds"
    )


def test_nothing_is_marked_where_all_is_noise(make: Make) -> None:
    def alike(line: LineageRecord, t: int) -> dict[str, Any]:
        place = line.config["seed"] + len(line.config["method"]["name"])
        return {"density": 0.5, "test_accuracy": 0.5 + 0.1 * (place % 3)}

    told = paper_table(make(alike, never, **ITERATIVE)).notes[-1]
    assert told.startswith("Nothing is marked: no difference is more than noise (t-test over seeds")


def test_a_rival_that_is_best_by_noise_hides_none_that_is_better(make: Make) -> None:
    """Of one seed nothing is told apart; normal is ten points below real all the same."""

    def measures(line: LineageRecord, t: int) -> dict[str, Any] | None:
        lucky = line.config["method"]["data"] == "sparse"
        if lucky and line.config["seed"] > 0:
            return None
        return snip(line, t) | ({"test_accuracy": 0.99} if lucky else {})

    table = paper_table(make(measures, never, **SNIP), where="method_density = 0.1")
    assert [[cell is not None and cell.best for cell in row] for row in table.cells] == [
        [False], [True], [True],
    ]  # fmt: skip


def test_iterations_by_method(make: Make) -> None:
    table = paper_table(make(iterative, never, **ITERATIVE), layout="iterations")
    assert paper_text(table).headings == (
        ("", "one_shot", "one_shot", "sap", "sap"),
        ("t", "remaining %", "accuracy %", "remaining %", "accuracy %"),
    )
    assert texts(table) == [
        ("0", "100.0", "91.00 ± 1.00", "100.0", "91.00 ± 1.00"),
        ("1", "80.0", "89.02 ± 1.02", "70.0", "90.01 ± 1.01"),
        ("2", "64.0", "86.03 ± 1.04", "70.0", "89.02 ± 1.02"),
    ]


def test_methods_with_and_without_a_density_side_by_side(make: Make) -> None:
    def measures(line: LineageRecord, t: int) -> dict[str, Any]:
        name = line.config["method"]["name"]
        return iterative(line, t) if name == "sap" else {"density": 0.1, "test_accuracy": 0.5}

    methods = {"methods": ["sap", {"name": "snip", "density": 0.1}]}
    results = make(measures, never, **ITERATIVE | methods)
    text = paper_text(paper_table(results))
    assert text.headings[0] == ("", "10 %", "iteration 2", "iteration 2")
    assert text.rows == (("sap", "", "70.0", "89.02 ± 1.02"), ("snip", "50.00 ± 0.00", "", ""))
    # a method at initialization has one iteration, t = 1
    by_iteration = paper_text(paper_table(results, layout="iterations"))
    assert [row[0] for row in by_iteration.rows] == ["0", "1", "2"]
    assert [row[-1] for row in by_iteration.rows] == ["", "50.00 ± 0.00", ""]


def test_a_condition_chooses_iterations(make: Make) -> None:
    results = make(iterative, never, **ITERATIVE)
    early = paper_text(paper_table(results, where="iteration <= 1 and seed > 0"))
    assert early.headings[0][1] == "iteration 1"
    assert early.rows == (("one_shot", "80.0", "89.53 ± 0.73"), ("sap", "70.0", "90.52 ± 0.71"))
    assert paper_table(results, where="method = 'sap'").rows == ("sap",)
    dense = paper_text(paper_table(results, where="density > 0.65"))
    assert dense.headings[0][1] == "last iteration"
    assert [row[1] for row in dense.rows] == ["80.0", "70.0"]
    nothing = paper_table(results, where="seed = 7")
    assert (nothing.rows, nothing.columns) == ((), ())
    assert nothing.notes == ("No iteration is chosen.",)


def test_a_condition_that_ends_before_a_density_has_no_value_of_it(make: Make) -> None:
    def measures(line: LineageRecord, t: int) -> dict[str, Any]:
        return {"density": 0.5**t, "test_accuracy": 0.9 - t / 10}

    methods = [{"name": "imp", "density": 0.125, "ratio": 0.5}]
    results = make(measures, never, methods=methods)
    assert [column.names for column in paper_table(results).columns] == [("12.5 %",)]
    early = paper_text(paper_table(results, where="iteration < 3"))
    assert early.headings[0][1:] == ("iteration 2", "iteration 2")
    assert early.rows == (("imp", "25.0", "70.00"),)


def test_a_condition_reaches_what_was_not_run(make: Make) -> None:
    def measures(line: LineageRecord, t: int) -> dict[str, Any] | None:
        return iterative(line, t) if t < 2 else None

    results = make(measures, never, **ITERATIVE)
    assert texts(paper_table(results, where="method = 'sap'")) == [("sap", "", "— (not run)")]
    assert texts(paper_table(results, where="iteration < 2 and method = 'sap'")) == [
        ("sap", "70.0", "90.01 ± 1.01")
    ]


def test_a_condition_on_what_is_not_measured_yet_is_open(make: Make) -> None:
    """Seed 0 is not at its last iteration, which may be chosen too."""

    def measures(line: LineageRecord, t: int) -> dict[str, Any] | None:
        return iterative(line, t) if t < 2 or line.config["seed"] > 0 else None

    results = make(measures, never, **ITERATIVE)
    chosen = "method = 'sap' and density <= 1"
    (((cell,),)) = paper_table(results, where=chosen).cells
    assert cell is not None
    assert (cell.n, cell.note) == (cell.seeds, "1 may not be at the last iteration yet")
    early = paper_table(results, where=f"iteration < 2 and {chosen}").cells
    assert [cell.note for row in early for cell in row if cell] == [None]


@pytest.mark.parametrize("where", ["colour = 'red'", "seed =", "max(seed) > 1", "'x'", ""])
def test_a_condition_that_makes_no_sense_is_a_query_error(make: Make, where: str) -> None:
    with pytest.raises(QueryError, match="Error: "):
        paper_table(make(iterative, never, **ITERATIVE), where=where)


# --- several datasets, models and recipes


def test_columns_are_what_lineages_share_before_they_are_pruned(make: Make) -> None:
    def measures(line: LineageRecord, t: int) -> dict[str, Any]:
        depth, lr = len(line.config["model"]["hidden"]), line.config["train"]["optimizer"]["lr"]
        return {"test_accuracy": 0.5 + 0.1 * depth + lr}

    grid: dict[str, Any] = {
        "model": {"name": "mlp", "hidden": [[8], [8, 8]]},
        "train": {"optimizer": {"name": "sgd", "lr": [0.1, 0.2]}},
        "prune": {"scope": ["global", "layer"], "iterations": 0},
        "methods": ["one_shot", "sap"],
    }
    table = paper_table(make(measures, never, **grid))
    assert table.levels == ("model", "train", "density")
    assert [column.names for column in table.columns] == [
        ("mlp hidden=[8]", "lr=0.1", "iteration 0"),
        ("mlp hidden=[8]", "lr=0.2", "iteration 0"),
        ("mlp hidden=[8, 8]", "lr=0.1", "iteration 0"),
        ("mlp hidden=[8, 8]", "lr=0.2", "iteration 0"),
    ]
    assert table.rows == (
        "one_shot scope=global", "sap scope=global", "one_shot scope=layer", "sap scope=layer",
    )  # fmt: skip
    assert texts(table)[3][2::2] == ("70.00", "80.00", "80.00", "90.00")
    assert table.title.startswith("s, digits: test accuracy")


# --- beside published values


def sketching(folder: Path, name: str, measures: Measures) -> Results:
    """One of the papers' sweeps, with chosen measures."""
    return measured(folder, SKETCHING / f"{name}.yaml", measures, never)


def a_point_above(spread: float = 0) -> Measures:
    """At every seed one point above what is published, and nothing where nothing is."""
    values = read_published(SKETCHING / "published.csv")
    means = {cell_of(value): value.mean for value in values[::-1]}

    def measures(line: LineageRecord, t: int) -> dict[str, Any] | None:
        cell = published_cell(line)
        assert cell is not None
        if cell not in means:
            return None
        accuracy = (means[cell] + 1 + spread * (line.config["seed"] - 1)) / 100
        return {"density": cell.density, "test_accuracy": accuracy}

    return measures


def test_published_values_stand_beside_ours(tmp_path: Path) -> None:
    table = paper_table(sketching(tmp_path, "table1_cifar10", a_point_above()))
    text = paper_text(table)
    assert len(table.rows) == 10
    assert [line[:5] for line in text.headings] == [
        ("", "vgg19", "vgg19", "vgg19", "vgg19"),
        ("", "10 %", "10 %", "10 %", "10 %"),
        ("method", "ours", "published", "difference", "z"),
    ]
    row = dict(zip(table.rows, text.rows, strict=True))["snip selection=sampled data=sparse"]
    assert row[1:4] == ("94.16 ± 0.00", "93.16 ± 0.36", "+1.00")
    cells = [cell for row in table.cells for cell in row if cell is not None and cell.mean]
    assert [cell.difference for cell in cells] == [pytest.approx(0.01)] * 48
    assert "Published values: arXiv:2305.17559, table 1." in table.notes
    assert table.remarks == ()


def test_a_difference_is_counted_in_standard_errors(tmp_path: Path) -> None:
    """One point, with deviations of 0.3 and 0.36 over 3 runs each: √(0.03 + 0.0432) = 0.2706."""
    table = paper_table(sketching(tmp_path, "table1_cifar10", a_point_above(spread=0.3)))
    text = paper_text(table)
    assert text.headings[2][1:5] == ("ours", "published", "difference", "z")
    row = dict(zip(table.rows, text.rows, strict=True))["snip selection=sampled data=sparse"]
    assert row[1:5] == ("94.16 ± 0.30", "93.16 ± 0.36", "+1.00", "+3.7, outside 2σ")
    first = paper_rows(table).to_pylist()[0]
    assert first["z"] == pytest.approx(1 / (0.3**2 / 3 + 0.19**2 / 3) ** 0.5)


def test_what_published_values_say_of_themselves_is_a_note(tmp_path: Path) -> None:
    table = paper_table(sketching(tmp_path, "table2_cifar100", a_point_above()))
    mixed = "the CIFAR-100 ResNet-20 rows seem to mix single and double width"
    spread = "spread over 5 points: some seeds did not train"
    assert table.remarks == (spread, mixed, f"{mixed}; chance level: the net did not train")
    text = paper_text(table)
    assert text.notes[-3:] == tuple(f"[{i}] {each}." for i, each in enumerate(table.remarks, 1))
    vgg, resnet = (dict(zip(table.rows, text.rows, strict=True))["random"][i] for i in (2, 14))
    assert vgg == "66.02 ± 0.13"
    assert resnet == "51.09 ± 0.43 [2]"


def test_a_sweep_whose_cells_nobody_published_says_so(make: Make) -> None:
    published = {"published": str(SKETCHING / "published.csv")}
    table = paper_table(make(snip, never, **SNIP | published))
    assert table.notes[-1] == "No published value is about a cell of this sweep."
    assert paper_text(table).headings == (("method", "10 %", "2 %"),)


def test_the_records_hold_only_what_is_about_the_sweep(tmp_path: Path) -> None:
    results = sketching(tmp_path, "table3", lambda line, t: None)
    written = json.loads((tmp_path / "store/sweeps/sketching-table3/published.json").read_text())
    assert [value["table"] for value in written] == ["3"] * 12
    assert [value.model_dump() for value in results.published] == written
    table = paper_table(results)
    first = "synflow selection=threshold"
    assert texts(table)[0][:4] == (first, "— (not run)", "58.30", "")


# --- as text and as rows

LABEL = "synflow selection=threshold data=ones"
AWKWARD = TextTable(
    headings=(("", "a_b", "a_b", "c"), ("m", "10 %", "x|y", "z")),
    rows=(("one_shot", "1 ± 2", "<b>*", "$5 & #1"), ("~^\\{}", "— (failed)", "χ−γ", '_x_\n"')),
    right=frozenset({1, 2, 3}),
    bold=frozenset({(0, 1)}),
    title="50 % of A_B",
    notes=("[1] a note & more.",),
)


def test_markdown_as_github_reads_it() -> None:
    assert as_markdown(AWKWARD).splitlines() == [
        "50 % of A_B",
        "",
        r"| m | a_b, 10 % | a_b, x\|y | c, z |",
        "| --- | --: | --: | --: |",
        r"| one_shot | **1 ± 2** | \<b>\* | $5 & #1 |",
        r'| ~^\\{} | — (failed) | χ−γ | \_x\_ " |',
        "",
        r"\[1\] a note & more.",
    ]


def test_latex_with_booktabs() -> None:
    assert as_latex(AWKWARD).splitlines() == [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        r"\caption{50 \% of A\_B}",
        r"\begin{tabular}{lrrr}",
        r"\toprule",
        r" & \multicolumn{2}{c}{a\_b} & c \\",
        r"\cmidrule(lr){2-3}",
        r"m & 10 \% & x\textbar{}y & z \\",
        r"\midrule",
        r"one\_shot & \textbf{1 $\pm$ 2} & \textless{}b\textgreater{}* & \$5 \& \#1 \\",
        r"\textasciitilde{}\textasciicircum{}\textbackslash{}\{\} & --- (failed) & "
        r"$\chi$$-$$\gamma$ & \_x\_ \textquotedbl{} \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\par\smallskip{\footnotesize [1] a note \& more.}",
        r"\end{table}",
    ]


def test_no_row_is_an_argument_of_the_line_break_before_it() -> None:
    r"""As `\\[64]` and `\\*` would be; columns have lists, such as `model_hidden`."""
    rows = ("a",), ("[64, 32]",), ("*",)
    lines = as_latex(TextTable((("[b]",),), rows, frozenset(), title="t")).splitlines()
    ends = [line.endswith(r"\\") or line == r"\midrule" for line in lines]
    after = [line for line, end in zip(lines[1:], ends, strict=False) if end]
    assert [line for line in after if line.startswith(("[", "*"))] == []
    assert r"{}[64, 32] \\" in lines


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(tmp_path: Path) -> None:
    published = paper_table(sketching(tmp_path, "table1_cifar100", a_point_above()))
    tables = as_latex(AWKWARD) + as_latex(paper_text(published))
    preamble = r"\documentclass{article}\usepackage{booktabs}\usepackage[T1]{fontenc}"
    document = preamble + r"\begin{document}" + tables + r"\end{document}"
    (tmp_path / "paper.tex").write_text(document)
    done = subprocess.run(
        ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "paper.tex"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]


def test_rows_for_programs(make: Make) -> None:
    rows = paper_rows(paper_table(make(snip, never, **SNIP)))
    assert len(rows) == 6
    assert rows.to_pylist()[1] == {
        "method": "snip data=normal", "density_target": 0.02, "density": pytest.approx(0.02),
        "mean": pytest.approx(0.6), "std": pytest.approx(0.1), "seeds": 3, "seeds_planned": 3,
        "best": False, "note": None, "published_mean": None, "published_std": None,
        "difference": None, "z": None,
    }  # fmt: skip


def test_rows_of_iterations_and_of_published_values(make: Make, tmp_path: Path) -> None:
    by_iteration = paper_table(make(iterative, never, **ITERATIVE), layout="iterations")
    rows = paper_rows(by_iteration).select(["iteration", "method", "density"]).to_pylist()
    assert rows[-1] == {"iteration": 2, "method": "sap", "density": pytest.approx(0.7)}
    published = paper_table(sketching(tmp_path, "table1_cifar10", a_point_above()))
    first = paper_rows(published).to_pylist()[0]
    assert (first["method"], first["model"]) == (LABEL, "vgg19")
    assert first["published_mean"] == pytest.approx(0.9301)
    assert first["difference"] == pytest.approx(0.01)


# --- the command


@pytest.fixture
def results(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Runs `prunesweep results s` on the iterative sweep, in this process; what it prints."""
    make(iterative, never, **ITERATIVE)

    def results(*arguments: str, expect: int = 0) -> str:
        command = ["prunesweep", "results", "s", "--storage", str(tmp_path / "store"), *arguments]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as exit:
            cli.main()
        out, err = capsys.readouterr()
        assert exit.value.code == expect, err
        assert not (out and err)
        return out or err

    return results


def test_the_command_in_every_layout_and_format(
    results: Callable[..., str], tmp_path: Path
) -> None:
    for layout, rows in (("summary", 6), ("paper", 2), ("iterations", 6)):
        arguments = ("--layout", layout, "--format")
        assert len(json.loads(results(*arguments, "json"))) == rows
        assert len([*csv.DictReader(io.StringIO(results(*arguments, "csv")))]) == rows
        file = tmp_path / "out.parquet"
        assert results(*arguments, "parquet", "--output", str(file)) == ""
        assert len(pq.read_table(file)) == rows
        assert "| --- |" in results(*arguments, "markdown")
        assert r"\toprule" in results(*arguments, "latex")
        assert "one_shot" in results(*arguments, "table")


def test_the_summary_can_be_filtered_and_last(results: Callable[..., str]) -> None:
    where = ("--where", "method = 'sap' and iteration >= 1")
    rows = json.loads(results(*where, "--format", "json"))
    assert [(row["method"], row["iteration"]) for row in rows] == [("sap", 1), ("sap", 2)]
    [last] = json.loads(results(*where, "--last", "--format", "json"))
    deviation = last.pop("test_accuracy_std")
    assert last.pop("test_accuracy") == pytest.approx(0.8902, abs=0.0001)
    assert deviation == pytest.approx(0.0102, abs=0.00005)
    assert last == {"method": "sap", "iterations": 2, "pruned_test_accuracy": None, "seeds": 3,
                    "density": pytest.approx(0.7)}  # fmt: skip
    assert json.loads(results("--where", "false", "--format", "json")) == []
    # every lineage has a last iteration of its own
    uneven = ("--where", "method = 'sap' and (seed = 0 or iteration < 2)", "--last")
    rows = json.loads(results(*uneven, "--format", "json"))
    assert [(row["iterations"], row["seeds"]) for row in rows] == [(1, 2), (2, 1)]


def test_a_table_that_is_piped_is_as_wide_as_it_needs_to_be(results: Callable[..., str]) -> None:
    sql = "SELECT repeat('wide ', 100) AS wide, 1 AS one"
    heading, row = results("--sql", sql).splitlines()
    assert heading.split() == ["wide", "one"]
    assert row.split() == ["wide"] * 100 + ["1"]


ODD = """
SELECT 'nan'::DOUBLE AS nan, '-inf'::FLOAT AS inf, NULL AS none, sum(seed) AS large,
       [1.5, 'nan'::DOUBLE] AS list, {'a': 1} AS struct, '[bold]x[/y]' AS markup,
       INTERVAL 1 DAY AS day, '\\x01'::BLOB AS bytes, DATE '2026-01-31' AS date,
       1.5::DECIMAL(4, 2) AS d
FROM iterations
"""


def test_odd_values_in_every_format(results: Callable[..., str], tmp_path: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    [row] = json.loads(results("--sql", ODD, "--format", "json"), parse_constant=refuse)
    assert row | {"day": ""} == {
        "nan": None, "inf": None, "none": None, "large": 18, "list": [1.5, None],
        "struct": {"a": 1}, "markup": "[bold]x[/y]", "day": "", "bytes": "01",
        "date": "2026-01-31", "d": 1.5,
    }  # fmt: skip
    [line] = csv.DictReader(io.StringIO(results("--sql", ODD, "--format", "csv")))
    assert (line["nan"], line["none"], line["list"]) == ("nan", "", "[1.5, null]")
    assert (line["struct"], line["large"]) == ('{"a": 1}', "18")
    assert "[bold]x[/y]" in results("--sql", ODD)
    assert r"\[bold\]x\[/y\]" in results("--sql", ODD, "--format", "markdown")
    file = tmp_path / "odd.parquet"
    results("--sql", ODD, "--format", "parquet", "--output", str(file))
    assert pq.read_table(file).column("markup").to_pylist() == ["[bold]x[/y]"]
    assert r"\bottomrule" in results("--sql", ODD, "--format", "latex")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--where", "nope = 1"), 'Referenced column "nope" not found'),
        (("--layout", "paper", "--where", "seed ="), "Parser Error"),
        (("--sql", "SELECT 1", "--last"), "leave out --where, --last, --layout"),
        (("--sql", "SELECT 1", "--layout", "paper"), "leave out --where, --last, --layout"),
        (("--layout", "iterations", "--last"), "leave out --last"),
        (("--sql", "SELECT 1 AS a, 2 AS a", "--format", "json"), '2 columns are named "a"'),
        (("--layout", "paper", "--output", "/nowhere/x"), "cannot write /nowhere/x"),
    ],
)
def test_a_mistake_is_one_message(
    results: Callable[..., str], arguments: tuple[str, ...], message: str
) -> None:
    shown = results(*arguments, expect=2)
    assert shown.startswith("prunesweep: ")
    assert message in shown
    assert "Traceback" not in shown
