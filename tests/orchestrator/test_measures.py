"""`measures:` of a sweep: what is measured, planned, recorded and shown, without training."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from asking import ask, refused
from measured import measured, sweep_file
from stored import lineages_of, store_sweep
from sweeping import ONE_AT_A_TIME, run

from orchestrator.commands.dashboard import _version
from orchestrator.commands.verify import verify_store
from orchestrator.records.damage import noted_damage
from orchestrator.records.ends import until_ends
from orchestrator.records.joined import join
from orchestrator.records.recording import record_sweep
from orchestrator.records.status import sweep_status
from orchestrator.records.sweep import LINEAGES, read_sweep, write_sweep
from orchestrator.results.figures import FIGURES
from orchestrator.results.figures.connectivity import barrier_rows
from orchestrator.results.opening import Results, open_results
from orchestrator.results.tables import MEASURED, SCHEMAS, table_path
from orchestrator.run.estimates import estimate_seconds, training_group
from orchestrator.run.planned_sweep import _left
from orchestrator.run.planning import make_plan, wanted_snapshots
from orchestrator.run.preparing import to_check
from orchestrator.run.queue import EXCUSED, Queue
from orchestrator.storage.collecting import collect
from orchestrator.storage.naming import named_by
from orchestrator.sweepfile.spec import SweepSpec, cells
from trainables.lineage.cause import Cause
from trainables.lineage.ending import End, rules_of
from trainables.lineage.identity import snapshot_key
from trainables.lineage.keys import Measurement
from trainables.measurements.interpolation import alphas
from trainables.store import Store, iteration_path
from trainables.store.artifacts import MASK, WEIGHTS, encode_table, measured_file
from trainables.store.index import StoreIndex

WHOLE = frozenset({WEIGHTS})
SWEEP: dict[str, Any] = {
    "name": "s",
    "dataset": "digits",
    "model": "mlp",
    "prune": {"iterations": 2},
    "methods": ["one_shot", "lottery_ticket"],
    "measures": [{"name": "lmc", "points": 30, "copies": 2, "rewind": [0, 100, 500]}],
}


def spec(**sections: Any) -> SweepSpec:
    return SweepSpec.model_validate(SWEEP | sections)


# What is asked for


def test_a_list_of_steps_stands_for_measures_and_not_for_cells() -> None:
    asked: Any = spec().measures
    assert [(each.name, each.rewind) for each in asked] == [("lmc", k) for k in (0, 100, 500)]
    assert len([*cells(spec())]) == len([*cells(spec(measures=[]))]) == 2
    assert [each.name for each in spec(measures="lmc_consecutive").measures] == ["lmc_consecutive"]


def test_what_is_measured_changes_no_lineage() -> None:
    with_, without = lineages_of(spec()), lineages_of(spec(measures=[]))
    assert [(line.id, line.keys) for line in with_] == [(line.id, line.keys) for line in without]


def test_a_measure_that_another_has_in_it_is_no_mistake() -> None:
    all_, more = (lineages_of(spec(measures=each))
                  for each in (["lmc"], ["lmc", {"name": "lmc", "iterations": [2]}]))  # fmt: skip
    assert [line.measurements for line in more] == [line.measurements for line in all_]


MANY_METHODS = {
    "methods": [{"name": "lottery_ticket", "ratio": [n / 2000 for n in range(1, 1002)]}]
}
MISTAKES: list[tuple[Any, dict[str, Any], str]] = [
    ({"name": "lmc", "rewind": 10**6}, {}, "measures.0.rewind: digits: step 1000000 is past"),
    ({"name": "lmc", "rewind": [0, 10**6]}, {}, "measures.0.rewind.1: digits: step 1000000"),
    ({"name": "lmc", "train_examples": 2000}, {}, "train_examples: digits: 2000 is more than"),
    ({"name": "lmc", "iterations": [7]}, {}, "measures.0: lmc measures no iteration"),
    ("lmc_consecutive", {"methods": [{"name": "random", "density": 0.5}]}, "measures.0: "
     "lmc_consecutive measures no iteration of any lineage; give a method that has some"),
    ({"name": "intrinsic_dimension", "dimensions": [10**6, 10**7]}, {},
     "measures.0.dimensions: mlp: 1000000 directions are more than its"),
    ({"name": "lmc", "points": 2}, {}, "measures.0.points: 2 is out of range"),
    ({"name": "lmd"}, {}, 'measures.0: unknown measure "lmd"; did you mean "lmc"'),
    ({"name": "lmc", "rewinds": 2}, {}, 'unknown key "rewinds"; did you mean "rewind"'),
    (["lmc", {"name": "lmc", "rewind": 0}], {}, "measures.1: means the same as measures.0"),
    ("representations", {}, "representations compares lineages that differ in the seed alone"),
    (
        "representations", {"seeds": [*range(1500)], "methods": ["one_shot"]},
        "measures.0: representations would compare 3,372,750 pairs of tickets, more than "
        "1,000,000; give fewer seeds, or the measure fewer iterations",
    ),
    (
        ["lmc", {"name": "lmc_methods", "iterations": [1, 2], "points": 3}], MANY_METHODS,
        "measures.1: lmc_methods would compare 1,001,000 pairs of tickets",
    ),
    (
        "representations", {"seeds": [0, 1], "store": {"keep_weights": "last"}},
        "set store.keep_weights: all",
    ),
    ("lmc_consecutive", {"store": {"keep_weights": "last"}}, "set store.keep_weights: all"),
]  # fmt: skip


@pytest.mark.parametrize(("measures", "sections", "said"), MISTAKES)
def test_a_mistake_is_told_with_its_place_and_nothing_is_written(
    tmp_path: Path, measures: Any, sections: dict[str, Any], said: str
) -> None:
    listed = measures if isinstance(measures, list) else [measures]
    file = sweep_file(tmp_path, **(SWEEP | sections | {"measures": listed}))
    told = refused(tmp_path, "plan", str(file)).replace("\n", " ")
    assert said in told
    assert "sweep.yaml:1:" in told
    assert [*tmp_path.iterdir()] == [file]


# The plan


def test_measurements_are_planned_and_those_of_what_is_shared_count_once() -> None:
    lineages = lineages_of(spec(measures=[{"name": "lmc", "iterations": [0, 2]}]))
    planned = make_plan(lineages, lambda key: None)
    # The trunk's, which both share, and one of each at iteration 2.
    assert len(planned.to_measure) == 3
    keys = {key for line in lineages for key in line.keys}
    planned = make_plan(lineages, dict.fromkeys(keys, WHOLE).get)
    assert not planned.to_train
    assert [task.first for task in planned.tasks] == [3, 3]
    assert planned.complete == 0
    planned = make_plan(lineages, dict.fromkeys(keys | planned.to_measure, WHOLE).get)
    assert (planned.tasks, planned.complete) == ((), 2)


def test_a_copy_is_expected_to_take_as_long_as_an_iteration() -> None:
    lineages = lineages_of(spec(measures=[{"name": "lmc", "iterations": [2], "copies": 3}]))
    seconds = {training_group(lineages[0].config()): 10.0}
    planned = make_plan(lineages, lambda key: None)
    assert estimate_seconds(planned, seconds, 1) == 10.0 * (5 + 2 * 3)


def test_the_trunk_leaves_the_weights_that_copies_start_from() -> None:
    (trunk,) = {line.trunk for line in lineages_of(spec())}
    assert wanted_snapshots(lineages_of(spec())) == {trunk: frozenset({0, 100, 500})}


@pytest.mark.parametrize("rewound", ["weights", "learning_rate", "nothing"])
@pytest.mark.parametrize(("iterations", "more"), [([0], set()), ([0, 2], {7})])
def test_the_trunk_leaves_the_weights_that_dimensions_are_of_whatever_is_rewound(
    rewound: str, iterations: list[int], more: set[int]
) -> None:
    method = {"name": "lottery_ticket", "rewind": {"step": 7, "rewound": rewound}}
    dimension = {"name": "intrinsic_dimension", "dimensions": [5], "iterations": iterations}
    (one,) = lineages_of(spec(methods=[method], measures=[dimension]))
    own = {7} if rewound == "weights" else {0}
    assert wanted_snapshots([one]) == {one.trunk: own | more}


def test_a_plan_says_how_much_there_is_to_measure(tmp_path: Path) -> None:
    file = sweep_file(tmp_path, **SWEEP)
    assert json.loads(ask(tmp_path, "plan", str(file), "--json"))["to_measure"] == 15
    assert "measurements   15 to make" in ask(tmp_path, "plan", str(file))
    plain = sweep_file(tmp_path, **(SWEEP | {"measures": []}))
    assert "measurements" not in ask(tmp_path, "plan", str(plain))


PAIRS: dict[str, Any] = {
    "seeds": [0, 1], "methods": ["lottery_ticket"],
    "measures": [{"name": "representations", "iterations": [1, 2]}],
}  # fmt: skip


def test_a_pair_is_planned_once_and_with_the_lineage_that_is_still_to_come() -> None:
    one, other = lineages_of(spec(**PAIRS))
    assert len(make_plan([one, other], lambda key: None).to_measure) == 2
    planned = make_plan([one, other], dict.fromkeys(one.keys, WHOLE).get)
    assert [task.lineage.id for task in planned.tasks] == [other.id]
    assert len(planned.to_measure) == 2
    there = {*one.keys, *other.keys}
    planned = make_plan([one, other], dict.fromkeys(there, WHOLE).get)
    assert (planned.to_train, len(planned.tasks)) == (frozenset(), 2)
    planned = make_plan([one, other], dict.fromkeys(there | planned.to_measure, WHOLE).get)
    assert (planned.tasks, planned.alone) == ((), frozenset())


def test_a_pair_of_which_one_is_not_trained_is_not_planned_and_that_is_told() -> None:
    one, other = lineages_of(spec(**PAIRS))
    planned = make_plan([one, other], lambda key: None, leaving={other.id})
    assert (planned.to_measure, len(planned.alone)) == (frozenset(), 2)
    assert [each.lineage.measurements for each in planned.tasks] == [()]
    # What is there of it is compared all the same.
    there = {*one.keys, *other.keys[:2]}
    planned = make_plan([one, other], dict.fromkeys(there, WHOLE).get, leaving={other.id})
    assert (len(planned.to_measure), len(planned.alone)) == (1, 1)
    assert [each.lineage.id for each in planned.tasks] == [one.id]
    (notice,) = (each for each in _left(planned) if "compare" in each)
    assert "1 of the measurements that compare two tickets" in notice


def test_a_ticket_whose_weights_are_gone_is_trained_again_only_by_whom_it_is_of() -> None:
    one, other = lineages_of(spec(**PAIRS))
    without = dict.fromkeys({*one.keys, *other.keys}, frozenset({MASK})).get
    assert make_plan([one, other], without).to_train == {*one.keys, *other.keys}
    planned = make_plan([one, other], without, leaving={other.id})
    assert (planned.to_train, planned.to_measure, len(planned.alone)) == (set(), set(), 2)


def test_who_is_left_has_left_nothing_that_others_measure() -> None:
    one, other = lineages_of(spec(**PAIRS))
    there = dict.fromkeys({*one.keys, *other.keys}, WHOLE).get
    planned = make_plan([one, other], there, leaving={other.id})
    assert ([each.lineage.id for each in planned.tasks], planned.left) == ([one.id], ())
    assert make_plan([one, other], there, leaving={one.id, other.id}).left == (one.id, other.id)


def test_tickets_that_are_compared_are_checked_before(tmp_path: Path) -> None:
    one, other = lineages_of(spec(**PAIRS))
    store = Store(str(tmp_path))
    for key in {*one.keys, *other.keys}:
        store.commit(iteration_path(key), {WEIGHTS: b"weights"})
    index = StoreIndex(store)
    planned = make_plan([one, other], index.files_of, leaving={other.id})
    assert {iteration_path(key) for line in (one, other) for key in line.keys[1:]} <= {
        *to_check(planned, index)
    }


def test_what_is_measured_of_several_sweeps_as_one_is_all_there() -> None:
    """Whichever comes first, and whoever has what a pair is compared with."""
    names = {"dataset": "digits", "model": "mlp", "seeds": [0], "prune": {"iterations": 1}}
    sap, snip = {"name": "sap"}, {"name": "lottery_ticket"}
    alone = spec(name="alone", **names, methods=[sap], measures=[])
    both = spec(name="both", **names, methods=[sap, snip], measures=["lmc_methods"])
    records = [record_sweep(each, lineages_of(each)) for each in (alone, both)]
    for order in (records, records[::-1]):
        joined = join(order)
        assert {line.config["method"]["name"] for line in joined.lineages} == {
            "sap", "lottery_ticket"
        }  # fmt: skip
        assert [len(line.measurements) for line in joined.lineages if line.measurements] == [1]
        for part in joined.joined:
            assert until_ends(part, {}) == part


def test_a_pair_of_which_one_has_ended_before_is_not_measured_and_no_part_of_the_record() -> None:
    sweep = spec(
        **PAIRS, prune={"iterations": 2, "stop": [{"when": "density_below", "value": 0.1}]}
    )
    one, other = lineages_of(sweep)
    end = End(one.id, 1, one.keys[1], rules_of(one.cell.prune), "why")
    there = dict.fromkeys({*one.keys[:2], *other.keys}, WHOLE).get
    planned = make_plan([one, other], there, ends={one.id: end})
    assert (len(planned.to_measure), len(planned.alone)) == (1, 1)
    record = record_sweep(sweep, [one, other])
    assert [len(line.measurements or ()) for line in record.lineages] == [0, 2]
    ended = until_ends(record, {one.id: end})
    assert [each.iteration for each in ended.lineages[1].measurements or ()] == [1]
    assert until_ends(record, {}) == record


class Listener:
    def __init__(self) -> None:
        self.told: list[Any] = []

    def __getattr__(self, event: str) -> Any:
        return lambda *what: self.told.append((event, *what))


def test_a_lineage_is_finished_when_it_is_measured() -> None:
    (line, *_) = lineages_of(spec(methods=["one_shot"]))
    planned = make_plan([line], dict.fromkeys(line.keys, WHOLE).get)
    listener: Any = Listener()
    queue = Queue(planned.tasks, lambda key: None, 0, 0, listener)
    queue.hand_out("t")
    queue.reported("t", {line.id: {"measured": "lmc from step 0", "iteration": 2}})
    assert listener.told[-1] == ("measured", line.id, "lmc from step 0", 2)
    assert queue.unfinished
    queue.reported("t", {line.id: {"complete": True}})
    queue.ended("t")
    assert not queue.unfinished


def test_a_measurement_is_progress_of_a_lineage_whose_nodes_are_lost() -> None:
    (line, *_) = lineages_of(spec(methods=["one_shot"]))
    planned = make_plan([line], dict.fromkeys(line.keys, WHOLE).get)
    listener: Any = Listener()
    queue = Queue(planned.tasks, dict.fromkeys(line.keys, WHOLE).get, 0, 0, listener)
    for loss in range(3 * EXCUSED):
        queue.hand_out(f"t{loss}")
        queue.reported(f"t{loss}", {line.id: {"measured": "lmc from step 0", "iteration": 2}})
        queue.excused(f"t{loss}", Cause("its node was lost"))
    assert not queue.failures


# What is stored


def test_a_record_names_what_is_measured_and_one_without_is_as_it_was(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    record = store_sweep(store, "s", **{k: SWEEP[k] for k in ("methods", "measures")})
    assert read_sweep(store, "s") == record
    lineages = lineages_of(spec(prune={"iterations": 1}))
    keys = {each.key for line in lineages for each in line.measurements}
    assert keys
    assert keys < named_by(store, record).iterations
    snapshots = {snapshot_key(lineages[0].trunk, step) for step in (0, 100, 500)}
    assert snapshots <= named_by(store, record).snapshots
    store_sweep(store, "plain", methods=SWEEP["methods"])
    text = store.peek(f"sweeps/plain/{LINEAGES.name}")
    assert text is not None
    assert b"measurements" not in text


def test_measurements_are_collected_when_no_sweep_has_them_any_more(tmp_path: Path) -> None:
    store, sections = Store(str(tmp_path)), {k: SWEEP[k] for k in ("methods", "measures")}
    record = store_sweep(store, "s", **sections)
    keys = {each.key for line in record.lineages for each in line.measurements or ()}
    for key in keys:
        store.commit(iteration_path(key), {"measurement.json": b"{}"})
    assert collect(store).leftovers == ()
    store_sweep(store, "s", methods=SWEEP["methods"])
    gone = {each.path for each in collect(store).leftovers if each.what == "iterations"}
    assert gone == {iteration_path(key) for key in keys}


# What is shown

ROW = dict.fromkeys(MEASURED["connectivity"].names) | {
    "measure": "lmc", "rewind": 0, "one": 1, "other": 2, "what": "barrier", "test_error": 0.25,
}  # fmt: skip


def measurements(results: Results) -> list[Measurement]:
    sweep = spec(measures=results.record.spec["measures"])
    return [each for line in lineages_of(sweep) for each in line.measurements]


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """Of a sweep whose iterations are stored, and of whose measurements none is."""
    sections = SWEEP | {"measures": [{"name": "lmc", "iterations": [0, 1]}]}
    return measured(tmp_path, sweep_file(tmp_path, **sections), lambda line, t: {})


def make(results: Results, each: Measurement) -> None:
    table = pa.Table.from_pylist([ROW], MEASURED["connectivity"])
    files = {measured_file("connectivity"): encode_table(table)}
    results.store.commit(iteration_path(each.key), files)


def test_without_measurements_there_is_an_empty_table_and_no_file(results: Results) -> None:
    assert results.connectivity.equals(SCHEMAS["connectivity"].empty_table())
    assert results.sql("SELECT * FROM connectivity").num_rows == 0
    assert not results.store.exists(table_path("connectivity", "s"))


def test_a_table_that_is_not_there_has_the_columns_that_are_asked_for(results: Results) -> None:
    assert results.table("connectivity", ["lineage", "test_error"]).column_names == [
        "lineage", "test_error"
    ]  # fmt: skip


def test_who_asks_for_no_table_is_told_which_there_are(results: Results) -> None:
    with pytest.raises(
        ValueError, match=r"no table 'conectivity'; choose one of: .*, connectivity"
    ):
        results.pandas("conectivity")


def test_a_page_is_drawn_anew_for_a_measurement(results: Results) -> None:
    status, stored = sweep_status(results.store, "s"), {*results.store.committed("iterations")}
    before = _version(results.record, stored, status)
    assert _version(results.record, stored | {measurements(results)[0].key}, status) != before


def test_a_measurement_is_rows_of_every_lineage_that_has_it(results: Results) -> None:
    shared, other, _ = {each.key: each for each in measurements(results)}.values()
    make(results, shared)
    again = open_results(results.store, "s")
    lineages = [line.id for line in again.record.lineages]
    rows = again.connectivity.to_pylist()
    assert rows == [{"lineage": id, "iteration": 0} | ROW for id in lineages]
    make(results, other)
    assert verify_store(results.store).behind == ("s",)
    again = open_results(results.store, "s")
    assert [row["iteration"] for row in again.connectivity.to_pylist()] == [0, 1, 0]
    found = again.sql(
        "SELECT label, iteration, rewind, one, other, test_error FROM connectivity "
        "JOIN labels USING (lineage) WHERE what = 'barrier' AND layer IS NULL AND iteration = 1"
    )
    assert found.to_pylist() == [
        {"label": "one_shot", "iteration": 1, "rewind": 0, "one": 1, "other": 2, "test_error": 0.25}
    ]
    verified = verify_store(results.store)
    assert (verified.damage, verified.behind) == ((), ())
    assert open_results(results.store, "s", "s").connectivity.equals(again.connectivity)


def test_the_rows_of_a_pair_are_the_second_ones_and_say_whose_the_first_is(tmp_path: Path) -> None:
    results = measured(tmp_path, sweep_file(tmp_path, **(SWEEP | PAIRS)), lambda line, t: {})
    one, other = lineages_of(SweepSpec.model_validate(SWEEP | PAIRS))
    row = dict.fromkeys(MEASURED["representations"].names) | {"one": 0, "other": 1, "units": 7}
    assert sweep_status(results.store, "s").measurements == 2
    for each in other.measurements:
        table = pa.Table.from_pylist([row], MEASURED["representations"])
        files = {measured_file("representations"): encode_table(table)}
        results.store.commit(iteration_path(each.key), files)
    assert sweep_status(results.store, "s").state == "finished"
    found = open_results(results.store, "s").table("representations").to_pylist()
    whose = {"lineage": other.id, "with_lineage": one.id}
    assert found == [row | whose | {"iteration": t} for t in (1, 2)]
    keys = {each.key for each in other.measurements}
    assert keys < named_by(results.store, results.record).iterations


def test_what_is_measured_in_two_ways_is_not_averaged(tmp_path: Path) -> None:
    """Neither in figures nor in the report."""
    both = {"name": "lmc", "iterations": [1], "batchnorm": ["recompute", "average"]}
    sections = SWEEP | {"measures": [both, {"name": "lmc", "iterations": [2]}]}
    results = measured(tmp_path, sweep_file(tmp_path, **sections), lambda line, t: {})
    errors = {"recompute": 0.2, "average": 0.6}
    for each in measurements(results):
        asked: Any = each.measure
        row = ROW | {"batchnorm": asked.batchnorm, "test_error": errors[asked.batchnorm]}
        table = pa.Table.from_pylist([row], MEASURED["connectivity"])
        files = {measured_file("connectivity"): encode_table(table)}
        results.store.commit(iteration_path(each.key), files)
    again = open_results(results.store, "s")
    found = {(row["between"], row["iteration"], row["test_error"]) for row in barrier_rows(again)}
    assert found == {
        ("k = 0, batchnorm: recompute", 1, 0.2), ("k = 0, batchnorm: average", 1, 0.6),
        ("k = 0, batchnorm: recompute", 2, 0.2),
    }  # fmt: skip
    chart = FIGURES["instability"].draw(again)
    assert chart is not None
    (drawn,) = chart.to_dict()["datasets"].values()
    assert {(row["setting"].rpartition(", ")[2], row["test_error"]) for row in drawn} == {
        ("batchnorm: recompute", 0.2), ("batchnorm: average", 0.6),
    }  # fmt: skip


@pytest.mark.parametrize("names", [("s",), ("s", "s")])
def test_a_line_that_several_measures_have_counts_once(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    """Of three copies the lines are those of two, and two more; of more points, a barrier is
    higher."""
    asked = {"name": "lmc", "iterations": [1], "copies": [2, 3], "points": [3, 5]}
    results = measured(
        tmp_path, sweep_file(tmp_path, **(SWEEP | {"measures": [asked]})), lambda line, t: {}
    )
    heights = {(1, 2): 0.1, (1, 3): 0.2, (2, 3): 0.6}
    for each in measurements(results):
        measure: Any = each.measure
        rows = [
            ROW | {"one": one, "other": other, "what": what, "alpha": alpha, "test_error": error}
            for (one, other), height in heights.items()
            if other <= measure.copies
            for what, alpha, error in (
                *(("point", at, height * at) for at in alphas(measure.points)),
                ("barrier", None, height if measure.points == 5 else 0.1),
            )
        ]
        table = pa.Table.from_pylist(rows, MEASURED["connectivity"])
        files = {measured_file("connectivity"): encode_table(table)}
        results.store.commit(iteration_path(each.key), files)
    again = open_results(results.store, *names)
    assert [row["test_error"] for row in barrier_rows(again)] == pytest.approx([0.3, 0.3])
    drawn = {}
    for figure in ("instability", "connectivity"):
        chart = FIGURES[figure].draw(again)
        assert chart is not None
        (drawn[figure],) = chart.to_dict()["datasets"].values()
    assert [row["test_error"] for row in drawn["instability"]] == pytest.approx([0.3, 0.3])
    along = [(row["alpha"], row["test_error"]) for row in drawn["connectivity"]]
    assert sorted(along) == [
        (at, pytest.approx(0.3 * at)) for at in alphas(5) for _ in results.record.lineages
    ]


@pytest.mark.parametrize("order", [("s", "other"), ("other", "s")])
def test_what_either_of_two_sweeps_measures_of_a_lineage_is_there_once(
    tmp_path: Path, order: tuple[str, str]
) -> None:
    store = Store(str(tmp_path / "store"))
    for name, measures in (
        ("s", [{"name": "lmc", "iterations": [1], "rewind": [0, 5]}]),
        ("other", [{"name": "lmc", "iterations": [1], "rewind": [0, 9]}, "intrinsic_dimension"]),
    ):
        sections = SWEEP | {"name": name, "measures": measures}
        results = measured(tmp_path, sweep_file(tmp_path, **sections), lambda line, t: {})
        for each in measurements(results):
            asked: Any = each.measure
            row = ROW | {"rewind": asked.rewind} if asked.name == "lmc" else {"what": "point"}
            table = pa.Table.from_pylist([row], MEASURED[asked.table])
            files = {measured_file(asked.table): encode_table(table)}
            if not store.is_committed(iteration_path(each.key)):
                store.commit(iteration_path(each.key), files)
    together = open_results(store, *order)
    ids = {line.id for line in together.record.lineages}
    assert len(ids) == 2
    found = together.connectivity.select(["lineage", "iteration", "rewind"]).to_pylist()
    assert sorted((row["lineage"], row["rewind"]) for row in found) == sorted(
        (id, k) for id in ids for k in (0, 5, 9)
    )
    assert together.table("connectivity", ["lineage"]).num_rows == len(found)
    counted = together.sql("SELECT count(*) AS n FROM connectivity").to_pylist()
    assert counted == [{"n": len(found)}]
    # That of each iteration, which one of the sweeps alone has.
    assert together.table("intrinsic_dimension").num_rows == 2 * 3


def test_a_damaged_table_is_mended_and_a_damaged_measurement_is_told_and_left_out(
    results: Results, tmp_path: Path
) -> None:
    first, second, *_ = measurements(results)
    make(results, first)
    make(results, second)
    sound = open_results(results.store, "s").connectivity
    results.store.write(table_path("connectivity", "s"), b"nothing")
    assert open_results(results.store, "s").connectivity.equals(sound)
    path = iteration_path(second.key)
    (tmp_path / "store" / path / measured_file("connectivity")).write_bytes(b"nothing")
    (found,) = verify_store(results.store).damage
    assert found.path == path
    assert "lmc from step 0 of iteration 1 of one_shot" in found.meaning
    make(results, measurements(results)[3])
    left = open_results(results.store, "s").connectivity
    assert [row["iteration"] for row in left.to_pylist()] == [0, 0, 1]
    assert noted_damage(results.store) == {path}


def test_a_sweep_is_finished_when_all_is_measured(results: Results) -> None:
    assert sweep_status(results.store, "s").state == "incomplete"
    *some, last = measurements(results)
    for each in some:
        make(results, each)
    assert sweep_status(results.store, "s").lineages_done == 1
    make(results, last)
    assert sweep_status(results.store, "s").state == "finished"


def test_the_status_says_how_far_a_sweep_is_measured(results: Results, tmp_path: Path) -> None:
    make(results, measurements(results)[0])
    status = json.loads(ask(tmp_path, "status", "s", "--storage", "store", "--json"))
    assert (status["measurements_stored"], status["measurements"]) == (1, 3)
    assert "committed, measurements 1/3" in ask(tmp_path, "status", "s", "--storage", "store")


def test_what_is_measured_no_more_leaves_the_tables(results: Results) -> None:
    make(results, measurements(results)[0])
    open_results(results.store, "s")
    assert results.store.exists(table_path("connectivity", "s"))
    without = spec(measures=[])
    write_sweep(results.store, record_sweep(without, lineages_of(without)))
    assert open_results(results.store, "s").connectivity.num_rows == 0
    assert not results.store.exists(table_path("connectivity", "s"))


def test_a_run_measures_what_is_trained_and_measures_nothing_twice(tmp_path: Path) -> None:
    """Through Ray; then more is asked for, and the copies of before stay as they are."""
    sweep: dict[str, Any] = {
        "name": "s", "dataset": {"name": "digits", "subset": 100},
        "model": {"name": "mlp", "hidden": [8]}, "train": {"epochs": 1, "batch_size": 50},
        "prune": {"iterations": 1}, "methods": ["one_shot"], "seeds": [0, 1],
        "measures": [
            {"name": "lmc", "points": 3}, {"name": "lmc_consecutive", "points": 3},
            {"name": "intrinsic_dimension", "dimensions": [5]}, "representations",
        ],
    }  # fmt: skip
    summary = run(tmp_path, sweep, *ONE_AT_A_TIME)
    assert (summary["planned"], summary["to_measure"], summary["failures"]) == (4, 12, [])
    results = open_results(tmp_path / "prunesweep-store", "s")
    assert results.connectivity.num_rows == 6 * 5
    assert results.table("intrinsic_dimension").num_rows == 4 * 2
    assert results.table("representations").num_rows == 2
    assert sweep_status(results.store, "s").state == "finished"
    plan = json.loads(ask(tmp_path, "plan", "s.yaml", "--json"))
    assert (plan["to_train"], plan["to_measure"]) == (0, 0)
