"""Stop rules: what they say of rows, and where lineages end by what is committed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic_core import ValidationError
from test_lineage import DIGITS, ROOTS, bench, lineage, method, run

from trainables.config import canonical
from trainables.data import load_dataset
from trainables.lineage.bundle import Finished, run_bundle
from trainables.lineage.ending import End, Measured, end_of, ends_of, rules_of, until
from trainables.lineage.loop import run_lineage
from trainables.lineage.stored import stored_files
from trainables.plugins.entry import PluginError
from trainables.pruning import Pruning
from trainables.pruning.stopping import StopRule, stop_rule
from trainables.store import Store, iteration_path
from trainables.store.artifacts import MASK, METRICS, WEIGHTS
from trainables.training.batches import DeviceData

CPU = torch.device("cpu")
HALVED = method("lottery_ticket", ratio=0.5)
"""Its densities are 1, 1/2, 1/4, … of an even number of weights."""


@pytest.fixture(scope="module")
def data() -> DeviceData:
    return DeviceData.of(load_dataset(DIGITS, ROOTS), CPU)


def config_of(function: Any) -> Any:
    """The config class of a function that is a rule."""
    return function.config


def rule(when: str, **options: Any) -> StopRule:
    return Pruning.model_validate({"stop": {"when": when, **options}}).stop[0]


def rows(**columns: list[Any]) -> list[dict[str, Any]]:
    return [dict(zip(columns, each, strict=True)) for each in zip(*columns.values(), strict=True)]


def ends_at(one: StopRule, found: list[dict[str, Any]]) -> int | None:
    """The first iteration with which a lineage of these rows ends."""
    told = (t for t in range(len(found)) if one(found[: t + 1]) is not None)
    return next(told, None)


@pytest.mark.parametrize(
    ("one", "found", "end"),
    [
        (rule("accuracy_below", value=0.8), rows(test_accuracy=[0.9, 0.8, 0.79, 0.9]), 2),
        (rule("accuracy_below", value=0.8), rows(test_accuracy=[0.7, 0.9]), 0),
        (rule("accuracy_below", value=0.5), rows(test_accuracy=[0.9, 0.8, 0.5]), None),
        (rule("accuracy_below", value=0.8, of="validation"),
         rows(test_accuracy=[0.1, 0.1, 0.1], validation_accuracy=[0.9, 0.81, 0.7]), 2),
        (rule("accuracy_below", value=0.8, of="validation"),
         rows(test_accuracy=[0.1], validation_accuracy=[None]), None),
        (rule("density_below", value=0.25), rows(density=[1.0, 0.5, 0.25, 0.125]), 3),
        (rule("density_below", value=0.1), rows(density=[1.0, 0.5]), None),
        # 100 of 1000 go, then 45 of 900 (5 %), then 42 of 855 (4.9 %).
        (rule("ratio_below", value=0.05), rows(params_kept=[1000, 900, 855, 813]), 3),
        (rule("ratio_below", value=0.11), rows(params_kept=[1000, 900, 855, 813]), 1),
        (rule("ratio_below", value=0.01), rows(params_kept=[1000, 900, 855, 813]), None),
        (rule("ratio_below", value=0.01), rows(params_kept=[1000, 900, 900]), 2),
        (rule("ratio_below", value=0.01), rows(params_kept=[10, 0, 0]), 2),
        (rule("pq_index_rises"), rows(pq_index=[0.5, 0.4, 0.4, 0.41]), 3),
        (rule("pq_index_rises"), rows(pq_index=[0.5, 0.6]), 1),
        (rule("pq_index_rises", times=2), rows(pq_index=[0.5, 0.6, 0.4, 0.41, 0.42]), 4),
        (rule("pq_index_rises", times=2), rows(pq_index=[0.5, 0.6, 0.4, 0.41, 0.41]), None),
        (rule("pq_index_rises", times=3), rows(pq_index=[0.1, 0.2, 0.3]), None),
    ],
    ids=str,
)  # fmt: skip
def test_what_rules_say_of_rows(
    one: StopRule, found: list[dict[str, Any]], end: int | None
) -> None:
    assert ends_at(one, found) == end


def test_a_rule_says_why() -> None:
    said = rule("accuracy_below", value=0.8)(rows(test_accuracy=[0.75]))
    assert said == "the test accuracy 0.75 is below 0.8"
    said = rule("pq_index_rises", times=2)(rows(pq_index=[0.25, 0.5, 0.75]))
    assert said == "the PQ Index rose 0.25 to 0.5 to 0.75"


@pytest.mark.parametrize("stop", [
    {"when": "accuracy_below"},
    {"when": "accuracy_below", "value": 80},
    {"when": "accuracy_below", "value": 0.8, "of": "training"},
    {"name": "accuracy_below", "value": 0.8},
    {"when": "pq_index_rises", "times": 0},
    {"when": "ratio_below", "value": 0.5, "name": "density_below"},
    {"when": "later"},
    3,
])  # fmt: skip
def test_what_is_no_rule_is_refused(stop: Any) -> None:
    with pytest.raises(ValidationError):
        Pruning.model_validate({"stop": stop})


def test_rules_are_in_no_key_and_in_the_config() -> None:
    without, ruled = lineage(), lineage(stop=[{"when": "density_below", "value": 0.5}])
    assert (ruled.keys, ruled.id) == (without.keys, without.id)
    assert "stop" not in without.config()["prune"]
    assert ruled.config()["prune"]["stop"] == [{"name": "density_below", "value": 0.5}]


def test_what_is_written_down_reads_as_the_same() -> None:
    prune = Pruning.model_validate(
        {"stop": ["pq_index_rises", {"when": "ratio_below", "value": 0.1}]}
    )
    assert Pruning.model_validate(prune.model_dump(mode="json")) == prune
    assert canonical(Pruning.model_validate({"stop": []})) == canonical(Pruning())


@pytest.fixture(scope="module")
def whole(data: DeviceData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a lineage that no rule has ended."""
    root = tmp_path_factory.mktemp("whole")
    assert len(run(lineage(HALVED, iterations=4), data, root)) == 5
    return root


STOPS = {
    "density": [{"when": "density_below", "value": 0.3}],
    "accuracy": [{"when": "accuracy_below", "value": 0.999}],
    "ratio": [{"when": "ratio_below", "value": 0.6}],
    "several": [
        {"when": "density_below", "value": 0.01},
        {"when": "density_below", "value": 0.3},
        {"when": "accuracy_below", "value": 0.0001},
    ],
}
ENDS = {"density": 2, "accuracy": 0, "ratio": 1, "several": 2}


@pytest.mark.parametrize("name", STOPS)
def test_a_lineage_ends_with_what_it_has_without_rules(
    name: str, data: DeviceData, tmp_path: Path, whole: Path
) -> None:
    one = lineage(HALVED, iterations=4, stop=STOPS[name])
    found = run(one, data, tmp_path)
    assert [row["iteration"] for row in found] == [*range(ENDS[name] + 1)]
    store = Store(str(tmp_path))
    assert store.committed("iterations").keys() == {*one.keys[: ENDS[name] + 1]}
    for key in store.committed("iterations"):
        for file in (WEIGHTS, MASK):
            path = iteration_path(key)
            assert store.read(path, file) == Store(str(whole)).read(path, file)
    # Another look, in the place of the whole lineage too, finds the same end.
    for root in (tmp_path, whole):
        assert run(one, data, root) == []
        end = end_of(one, Measured(Store(str(root)), stored_files(Store(str(root)))))
        assert end is not None
        assert (end.iteration, end.key) == (ENDS[name], one.keys[ENDS[name]])
        assert end.why.startswith(f"{one.cell.prune.stop[1 if name == 'several' else 0].name}: ")


def test_it_makes_no_difference_where_a_run_was_broken_off(
    data: DeviceData, tmp_path: Path
) -> None:
    one = lineage(HALVED, iterations=4, stop=STOPS["density"])
    for _ in range(3):
        broken = run_lineage(one, bench(data, tmp_path))
        assert next(broken) is not None
        broken.close()  # with what is committed, whose news nobody has heard
    assert run(one, data, tmp_path) == []
    assert len(Store(str(tmp_path)).committed("iterations")) == 3


def test_without_its_rules_it_goes_on(data: DeviceData, tmp_path: Path) -> None:
    for stop, expected in ((STOPS["ratio"], [0, 1]), (STOPS["density"], [2]), ([], [3, 4])):
        found = run(lineage(HALVED, iterations=4, stop=stop), data, tmp_path)
        assert [row["iteration"] for row in found] == expected


def test_the_last_iteration_is_no_end(whole: Path) -> None:
    one = lineage(HALVED, iterations=2, stop=STOPS["density"])
    assert end_of(one, Measured(Store(str(whole)), stored_files(Store(str(whole))))) is None


@pytest.mark.parametrize(("keep", "expected"), [("last", [0, 2]), ("none", [])])
def test_of_a_lineage_that_was_ended_the_last_weights_are_those_at_its_end(
    data: DeviceData, tmp_path: Path, keep: str, expected: list[int]
) -> None:
    one = lineage(HALVED, iterations=4, stop=STOPS["density"])
    run(one, data, tmp_path, keep_weights=keep)
    files = stored_files(Store(str(tmp_path)))
    kept = [t for t in range(3) if WEIGHTS in (files(one.keys[t]) or ())]
    # The trunk's own weights go when the whole run has ended.
    assert [t for t in kept if t or keep == "last"] == expected
    assert run(one, data, tmp_path, keep_weights=keep) == []


def test_what_is_trained_on_noise_ends_nothing(data: DeviceData, tmp_path: Path) -> None:
    noisy = method("imp", ratio=0.5, density=0.25, rewind={"step": 0}, data="random")
    one = lineage(noisy, stop=[{"when": "accuracy_below", "value": 1.0}, "pq_index_rises"])
    found = run(one, data, tmp_path)
    assert len(found) == len(one.keys) == 4


def test_a_bundle_tells_where_lineages_end(data: DeviceData, tmp_path: Path) -> None:
    ruled = lineage(HALVED, iterations=3, stop=STOPS["ratio"])
    other = lineage(HALVED, iterations=3, seed=1)
    benches = [(each, bench(data, tmp_path)) for each in (ruled, other)]
    outcomes = [found for one in run_bundle(benches) for found in one.items()]
    (end,) = [found.end for id, found in outcomes if id == ruled.id and isinstance(found, Finished)]
    assert end is not None
    assert (end.iteration, end.rules) == (1, rules_of(ruled.cell.prune))
    assert sum(id == other.id and isinstance(found, dict) for id, found in outcomes) == 4


def test_ends_of_many_are_found_at_once_and_damage_is_none(
    data: DeviceData, tmp_path: Path
) -> None:
    lineages = [lineage(HALVED, seed=seed, stop=STOPS["ratio"]) for seed in (0, 1)]
    for one in lineages:
        run(one, data, tmp_path)
    store = Store(str(tmp_path))
    found = ends_of([*lineages, lineage(seed=2)], Measured(store, stored_files(store)))
    assert {id: end.iteration for id, end in found.items()} == {line.id: 1 for line in lineages}
    assert [len(until(line, found[line.id]).keys) for line in lineages] == [2, 2]
    damaged = tmp_path / iteration_path(lineages[0].keys[1]) / METRICS
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert ends_of(lineages, Measured(store, stored_files(store))).keys() == {lineages[1].id}
    # Who trains it sets that aside, trains it again, and comes to the same end.
    assert [row["iteration"] for row in run(lineages[0], data, tmp_path)] == [1]
    assert ends_of(lineages, Measured(store, stored_files(store))) == found


def test_a_rule_of_ones_own(whole: Path) -> None:
    @stop_rule
    def heavier(found: Any, *, than: float) -> str | None:
        return f"{len(found)} rows" if found[-1]["density"] < than else None

    @stop_rule
    def odd(found: Any) -> Any:
        return True

    @stop_rule
    def broken(found: Any) -> None:
        raise KeyError("no such column")

    def end(one: Any) -> End | None:
        ruled = lineage(HALVED, iterations=4)
        cell = replace(ruled.cell, prune=Pruning(iterations=4, stop=(one,)))
        store = Store(str(whole))
        return end_of(replace(ruled, cell=cell), Measured(store, stored_files(store)))

    found = end(config_of(heavier)(name="heavier", than=0.5))
    assert found is not None
    assert (found.iteration, found.why) == (2, "heavier: 3 rows")
    with pytest.raises(PluginError, match="odd gives bool; it must be why"):
        end(config_of(odd)(name="odd"))
    with pytest.raises(PluginError, match="broken: KeyError: 'no such column'"):
        end(config_of(broken)(name="broken"))
