"""Successive halving: which cells go on, by rows and by what was written down once."""

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from asking import ask, refused
from smallest import SWEEP as SMALLEST
from stored import lineages_of, store_sweep
from sweeping import ONE_AT_A_TIME, commits, planned, run, store_of, table, write

from orchestrator.errors import PlanError
from orchestrator.records.ends import read_ends, until_ends
from orchestrator.records.recording import record_sweep
from orchestrator.records.rungs import RUNG, Ranked, read_rung
from orchestrator.run.planning import make_plan
from orchestrator.run.ranking import Rung, at_density, decide, ranked
from orchestrator.sweepfile.budget import Rank
from orchestrator.sweepfile.spec import SweepSpec
from trainables.lineage.ending import End, rules_of
from trainables.lineage.keys import Lineage
from trainables.store import Store
from trainables.store.artifacts import WEIGHTS

RATIOS = [0.2, 0.4, 0.6, 0.8]
SWEEP: dict[str, Any] = SMALLEST | {
    "name": "halved",
    "seeds": [0, 1],
    "prune": {"iterations": 4},
    "methods": [{"name": "lottery_ticket", "ratio": RATIOS}],
    "budget": {"rank": {"after_iterations": 1, "every": 2, "keep": "1/2"}},
}
RANK = Rank(after_iterations=1, every=2, keep="1/2")

Rows = dict[str, dict[str, Any]]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(str(tmp_path / "store"))
    store_sweep(store, "halved")
    return store


@pytest.fixture(scope="module")
def lineages() -> tuple[Lineage, ...]:
    """Four cells of two seeds, as a sweep has them: cell for cell, seed for seed."""
    return lineages_of(SweepSpec.model_validate(SWEEP))


def rows(lineages: tuple[Lineage, ...], t: int, *cells: tuple[float | None, ...]) -> Rows:
    """The rows of iteration `t`, by key; a value for each seed of each cell."""
    values = [value for cell in cells for value in cell]
    keys = [line.keys[t] for line in lineages]
    pairs = zip(keys, values, strict=True)
    return {key: {"test_accuracy": value} for key, value in pairs if value is not None}


def ratios(cells: list[Ranked], lineages: tuple[Lineage, ...]) -> list[float]:
    of = {line.id: line.cell.method.model_dump()["ratio"] for line in lineages}
    return [of[cell.lineages[0]] for cell in cells]


def rung_of(lineages: tuple[Lineage, ...], store: Store, **ends: End) -> Rung:
    _, rung = ranked(RANK, lineages, ends, store, "halved")
    assert rung is not None
    return rung


def test_what_is_measured_waits_for_the_last_rung(store: Store) -> None:
    measured = lineages_of(SweepSpec.model_validate(SWEEP | {"measures": ["lmc_consecutive"]}))
    assert all(line.measurements for line in measured)
    rung = rung_of(measured, store)
    assert all(not rung.until(line).measurements for line in measured)


def test_what_is_measured_of_a_lineage_ends_with_it() -> None:
    spec = SweepSpec.model_validate(SWEEP | {"measures": ["lmc_consecutive"]})
    lineages = lineages_of(spec)
    record, first = record_sweep(spec, lineages), lineages[0]
    end = End(first.id, 2, first.keys[2], rules_of(first.cell.prune), "x")
    ended, *others = until_ends(record, {first.id: end}).lineages
    assert [each.iteration for each in ended.measurements or ()] == [1, 2]
    assert all(len(line.measurements or ()) == 4 for line in others)


def test_a_rung_that_is_never_reached_is_refused() -> None:
    budget = {"rank": {"after_iterations": 4, "keep": "1/2"}}
    with pytest.raises(PlanError, match="after iteration 4 nothing goes on") as error:
        lineages_of(SweepSpec.model_validate(SWEEP | {"budget": budget}))
    assert error.value.field == ("budget", "rank", "after_iterations")


@pytest.mark.parametrize("methods", [
    [{"name": "lottery_ticket", "ratio": 0.5}],
    [{"name": "lottery_ticket", "ratio": 0.5}, {"name": "random", "density": 0.5}],
])  # fmt: skip
def test_a_cell_that_nothing_is_compared_with_is_refused(methods: list[Any]) -> None:
    sweep = SWEEP | {"methods": methods, "budget": {"rank": {"after_iterations": 1}}}
    with pytest.raises(PlanError, match="one cell alone goes on after iteration 1") as error:
        lineages_of(SweepSpec.model_validate(sweep))
    assert error.value.field == ("budget", "rank")


def test_a_budget_that_ends_has_no_measures() -> None:
    budget = {"trainings": 5}
    with pytest.raises(PlanError, match="without the limits of the budget"):
        lineages_of(SweepSpec.model_validate(SWEEP | {"budget": budget, "measures": ["lmc"]}))


def test_the_best_means_go_on(lineages: tuple[Lineage, ...], store: Store) -> None:
    rung = rung_of(lineages, store)
    assert (rung.iteration, len(rung.cells)) == (1, 4)
    # Means 0.5, 0.7, 0.6 and 0.65; the best single value is of the worst cell.
    found = rows(lineages, 1, (0.1, 0.9), (0.7, 0.7), (0.6, 0.6), (0.8, 0.5))
    cells = rung.decided(found.get)
    assert ratios(cells, lineages) == [0.4, 0.8, 0.6, 0.2]
    assert [cell.goes_on for cell in cells] == [True, True, False, False]
    assert [cell.mean for cell in cells] == pytest.approx([0.7, 0.65, 0.6, 0.5])
    ends = decide(rung, store, "halved", found.get)
    gone = {line.id for line in lineages if line.cell.method.model_dump()["ratio"] in (0.2, 0.6)}
    assert ends.keys() == gone
    assert {end.iteration for end in ends.values()} == {1}
    assert "rank: test_accuracy 0.6 is number 3 of 4 cells, of which 2 go on" in {
        end.why for end in ends.values()
    }
    # The next rung is among those that are left, and all know of it from the record.
    known, following = ranked(RANK, lineages, {}, store, "halved")
    assert known == ends
    assert following is not None
    assert (following.iteration, len(following.cells)) == (3, 2)
    found |= rows(lineages, 3, (None, None), (0.3, 0.5), (None, None), (0.4, 0.6))
    ends |= decide(following, store, "halved", found.get)
    known, none = ranked(RANK, lineages, {}, store, "halved")
    assert (known, none) == (ends, None)
    left = {line.id for line in lineages} - known.keys()
    assert left == {line.id for line in following.cells[1]}


@pytest.mark.parametrize(("keep", "kept"), [
    ("1/2", 2), ("1/3", 1), ("2/3", 2), (0.25, 1), (0.75, 3), ("1/100", 1), ("99/100", 3),
])  # fmt: skip
def test_of_a_share_the_whole_cells_go_on_and_at_least_one(keep: Any, kept: int) -> None:
    assert Rank(after_iterations=1, keep=keep).kept(4) == kept
    assert Rank(after_iterations=1, keep="1/3").kept(9) == 3


def test_equal_cells_go_on_in_their_order_and_one_without_a_value_last(
    lineages: tuple[Lineage, ...], store: Store
) -> None:
    found = rows(lineages, 1, (None, None), (0.5, 0.5), (0.5, 0.5), (None, 0.6))
    cells = rung_of(lineages, store).decided(found.get)
    assert ratios(cells, lineages) == [0.8, 0.4, 0.6, 0.2]
    assert [cell.mean for cell in cells] == [0.6, 0.5, 0.5, None]


def test_what_a_rule_has_ended_before_counts_with_its_last(
    lineages: tuple[Lineage, ...], store: Store
) -> None:
    first = lineages[0]
    end = End(first.id, 0, first.keys[0], rules_of(first.cell.prune), "x")
    rung = rung_of(lineages, store, **{first.id: end})
    found = rows(lineages, 1, (None, 0.5), (0.4, 0.4), (0.3, 0.3), (0.2, 0.2))
    found[first.keys[0]] = {"test_accuracy": 0.1}
    assert ratios(rung.decided(found.get), lineages) == [0.4, 0.2, 0.6, 0.8]
    assert first.id not in rung.waits_for({key: [] for key in found}.get)
    assert rung.waits_for({}.get) == [line.id for line in lineages[1:]]
    # A cell of which nothing goes on is none to be compared.
    ends = {line.id: End(line.id, 1, line.keys[1], "[]", "x") for line in lineages[:2]}
    assert len(rung_of(lineages, store, **ends).cells) == 3
    ends = {line.id: End(line.id, 1, line.keys[1], "[]", "x") for line in lineages[:6]}
    assert ranked(RANK, lineages, ends, store, "halved") == (ends, None)


def test_what_is_written_first_holds(lineages: tuple[Lineage, ...], store: Store) -> None:
    rung = rung_of(lineages, store)
    one = rows(lineages, 1, (0.9, 0.9), (0.8, 0.8), (0.1, 0.1), (0.1, 0.1))
    other = rows(lineages, 1, (0.1, 0.1), (0.1, 0.1), (0.8, 0.8), (0.9, 0.9))
    ends = decide(rung, store, "halved", one.get)
    assert decide(rung, store, "halved", other.get) == ends
    file = RUNG.of(rung.name).path("halved")
    whole = store.peek(file)
    store.write(file, b"[{")
    assert ranked(RANK, lineages, {}, store, "halved") == ({}, rung)
    assert decide(rung, store, "halved", one.get) == ends
    assert store.peek(file) == whole


def test_another_ranking_is_another_decision(lineages: tuple[Lineage, ...], store: Store) -> None:
    found = rows(lineages, 1, (0.9, 0.9), (0.8, 0.8), (0.1, 0.1), (0.1, 0.1))
    decide(rung_of(lineages, store), store, "halved", found.get)
    for rank, lines in (
        (Rank(after_iterations=1, every=2, keep="1/3"), lineages),
        (RANK, lineages[:6]),
    ):
        ends, rung = ranked(rank, lines, {}, store, "halved")
        assert ends == {}
        assert rung is not None
    assert ranked(None, lineages, {}, store, "halved") == ({}, None)


def test_a_plan_counts_at_most_and_a_stage_ends_at_its_rung(
    lineages: tuple[Lineage, ...], store: Store
) -> None:
    rung = rung_of(lineages, store)
    plan = make_plan(lineages, {}.get, rung=rung)
    assert len(plan.may_end) == 8
    # Two trunks, and four iterations of each lineage; up to the rung, one of each.
    assert len(plan.to_train) == 2 + 8 * 4
    stage = make_plan([rung.until(line) for line in plan.so_far], {}.get)
    assert len(stage.to_train) == 2 + 8
    assert rung.waits_for({key: [WEIGHTS] for key in stage.to_train}.get) == []


@pytest.mark.parametrize(
    ("measured", "value"),
    [
        ([(1.0, 0.9), (0.5, 0.8), (0.2, 0.7), (0.1, 0.1)], 0.7),  # measured there
        ([(1.0, 0.9), (0.4, 0.8), (0.1, 0.6)], 0.7),  # 0.2 is half-way, by ratios
        ([(1.0, 0.9), (0.4, 0.8), (0.1, 0.6), (0.3, 0.1)], 0.7),  # the first to come to it
        ([(0.15, 0.5), (0.1, 0.4)], 0.5),  # nothing is known of before
        ([(1.0, 0.9), (0.4, 0.8), (0.2001, 0.7)], 0.7),  # but for whole weights
        ([(1.0, 0.9), (0.4, 0.8), (0.2001, 0.7), (0.1, 0.1)], 0.7),
        ([(1.0, 0.9), (0.4, 0.8), (0.21, 0.7)], None),
        ([(1.0, 0.9), (0.4, 0.8)], None),  # not there yet
        ([(1.0, 0.9), (0.4, 0.8), (0.0, 0.1)], None),  # collapsed
        ([(1.0, 0.9), (0.4, None), (0.1, 0.6)], None),
        ([(1.0, 0.9), (0.4, 0.8), (0.1, None)], None),
        ([], None),
    ],
)
def test_the_value_at_a_density_is_on_the_line_through_the_iterations(
    measured: list[tuple[float, float | None]], value: float | None
) -> None:
    found = at_density(measured, 0.2)
    assert found == (value if value is None else pytest.approx(value))


def test_cells_are_compared_at_one_density(lineages: tuple[Lineage, ...], store: Store) -> None:
    """At the rung each has another density; what prunes most is not the worst for that."""
    rank = Rank(after_iterations=2, by="test_accuracy", at_density=0.3, keep="1/2")
    _, rung = ranked(rank, lineages, {}, store, "halved")
    assert rung is not None
    found: Rows = {}
    for line in lineages:
        ratio = line.cell.method.model_dump()["ratio"]
        for t, key in enumerate(line.keys[:3]):
            kept = (1 - ratio) ** t
            # All lie on one line, but that 0.8 is better by a point, and 0.6 worse.
            found[key] = {"density": kept, "test_accuracy": 0.9 + 0.1 * math.log(kept)
                          + {0.8: 0.01, 0.6: -0.01}.get(ratio, 0.0)}  # fmt: skip
    cells = rung.decided(found.get)
    # 0.2 has 64 % left at the rung, and no value at 30 %; 0.4 has 36 %.
    assert ratios(cells, lineages) == [0.8, 0.6, 0.2, 0.4]
    line = 0.9 + 0.1 * math.log(0.3)
    assert [cell.mean for cell in cells] == [
        pytest.approx(line + 0.01), pytest.approx(line - 0.01), None, None,
    ]  # fmt: skip
    by_iteration = replace(rung, rank=Rank(after_iterations=2, keep="1/2"))
    assert ratios(by_iteration.decided(found.get), lineages) == [0.2, 0.4, 0.6, 0.8]
    ends = decide(rung, store, "halved", found.get)
    assert (
        "rank: test_accuracy no value at density 0.3 is number 3 of 4 cells, of which 2 go on"
        in {end.why for end in ends.values()}
    )
    # Written once: whoever comes later goes on alike, whatever the rows say then.
    assert ranked(rank, lineages, {}, store, "halved") == (ends, None)
    other = Rank(after_iterations=2, at_density=0.2, keep="1/2")
    assert ranked(other, lineages, {}, store, "halved")[0] == {}


def test_what_has_failed_after_the_density_has_no_value(
    lineages: tuple[Lineage, ...], store: Store
) -> None:
    rank = Rank(after_iterations=2, at_density=0.3, keep="1/2")
    _, rung = ranked(rank, lineages, {}, store, "halved")
    assert rung is not None
    keys = {key for line in lineages for key in line.keys[:2]}
    found = {key: {"density": 0.2, "test_accuracy": 0.9} for key in keys}
    assert [cell.values for cell in rung.decided(found.get)] == [()] * 4


def test_decisions_without_a_density_are_called_as_ever(lineages: tuple[Lineage, ...]) -> None:
    rung = Rung(1, RANK, (lineages[:2],), {})
    ids = [[line.id for line in lineages[:2]]]
    told = '[1,{"after_iterations":1,"by":"test_accuracy","every":2,"keep":"1/2"},'
    digest = hashlib.sha256(f"{told}{json.dumps(ids, separators=(',', ':'))}]".encode())
    assert rung.name == f"0001-{digest.hexdigest()[:16]}"


@pytest.mark.parametrize(("rank", "more", "said"), [
    ({"after_iterations": 1, "at_density": 1}, {}, "budget.rank.at_density: 1 is out of range"),
    ({"after_iterations": 1, "at_density": 0.2, "every": 1}, {}, "leave out every"),
    ({"after_iterations": 0}, {}, "budget.rank.after_iterations: 0 is out of range"),
    ({"keep": "1/2"}, {}, "budget.rank.after_iterations: is missing"),
    ({"after_iterations": 1, "keep": "3/2"}, {}, "must be greater than 0 and less than 1"),
    ({"after_iterations": 1, "keep": "half"}, {}, "must be a share such as 1/3 or 0.25"),
    ({"after_iterations": 1, "by": "validation_accuracy"}, {}, "needs a held-out part of digits"),
    ({"after_iterations": 1}, {"store": {"keep_weights": "none"}}, "set store.keep_weights: last"),
])  # fmt: skip
def test_what_is_no_ranking_is_told(
    tmp_path: Path, rank: dict[str, Any], more: dict[str, Any], said: str
) -> None:
    sweep = SWEEP | {"budget": {"rank": rank}} | more
    assert said in refused(tmp_path, "plan", str(write(tmp_path, sweep)))


@pytest.mark.long
def test_a_run_halves_and_one_that_is_broken_off_decides_the_same(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
    run(whole, SWEEP, *ONE_AT_A_TIME)
    # Up to the first rung, to the second, and to the end: 2 + 8, 4 · 2, 2.
    assert len(commits(whole)) == 20
    for trainings in (5, 10, 13, 20):
        stop = SWEEP["budget"] | {"trainings": trainings}
        run(broken, SWEEP | {"budget": stop}, *ONE_AT_A_TIME, expect=130 if trainings < 20 else 0)
        assert len(commits(broken)) == trainings
    assert commits(broken) == commits(whole)
    ends = [read_ends(store_of(folder), "halved") for folder in (whole, broken)]
    assert ends[0] == ends[1]
    assert sorted(end.iteration for end in ends[0].values()) == [1] * 4 + [3] * 2
    names = [name for name in store_of(whole).names("sweeps/halved") if name.startswith("rung-")]
    assert len(names) == 2
    for name in names:
        rung = name.removeprefix("rung-").removesuffix(".json")
        cells = [read_rung(store_of(folder), "halved", rung) for folder in (whole, broken)]
        assert cells[0] == cells[1]
    assert planned(whole, SWEEP)["to_train"] == 0
    status = json.loads(ask(whole, "status", "halved", "--json"))
    assert (status["state"], status["lineages_done"], len(status["stopped"])) == ("finished", 8, 6)
    found = table(whole, "halved", "iterations").to_pylist()
    assert sum(row["stopped"] is not None for row in found) == 6
    assert len(found) == 4 * 2 + 2 * 4 + 2 * 5


def test_what_a_rule_ends_at_a_rung_has_ended(tmp_path: Path) -> None:
    """It has come to the end of what is trained before the rung: its worker looks no further."""
    sweep = SWEEP | {"seeds": [0], "prune": {"iterations": 2}}
    sweep["prune"]["stop"] = [{"when": "density_below", "value": 0.5}]
    run(tmp_path, sweep, *ONE_AT_A_TIME)
    ends = read_ends(store_of(tmp_path), "halved")
    whys = {end.why.partition(":")[0]: end.iteration for end in ends.values()}
    assert (len(ends), whys) == (3, {"density_below": 1, "rank": 1})
    status = json.loads(ask(tmp_path, "status", "halved", "--json"))
    assert (status["state"], status["lineages_done"], len(status["stopped"])) == ("finished", 4, 3)
    rows = table(tmp_path, "halved", "iterations").to_pylist()
    assert sum(row["stopped"] is not None for row in rows) == 3
