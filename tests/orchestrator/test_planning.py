"""The plan: what is shared, what is missing, who trains it, what it costs, what cannot be run."""

from collections.abc import Collection, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import PlanError
from orchestrator.run.datasets import ResolvedDataset, resolve_datasets
from orchestrator.run.estimates import estimate_seconds, training_group
from orchestrator.run.planning import Plan, Task, make_plan, sweep_lineages, wanted_snapshots
from orchestrator.run.refusals import recipe_steps
from orchestrator.run.sizes import commit_bytes
from orchestrator.sweepfile.spec import SweepSpec
from trainables.data import data_roots
from trainables.lineage.keys import Lineage, make_lineage
from trainables.store.artifacts import MASK, WEIGHTS

T = 3
SWEEP: dict[str, Any] = {
    "name": "planned",
    "dataset": "digits",
    "model": {"name": "mlp", "hidden": [16]},
    "seeds": [0, 1],
    "train": {"epochs": 2, "batch_size": 50},
    "prune": {"iterations": T},
    "methods": ["one_shot", "lottery_ticket", {"name": "sap", "p": [0.5, 0.8]}],
}
WHOLE = frozenset({WEIGHTS, MASK})
WITHOUT_WEIGHTS = frozenset({MASK})


def resolved(spec: SweepSpec) -> tuple[ResolvedDataset, ...]:
    return resolve_datasets(spec, data_roots(None, {}))


def lineages(**changes: Any) -> tuple[Lineage, ...]:
    spec = SweepSpec.model_validate(SWEEP | changes)
    return sweep_lineages(spec, resolved(spec))


def plan(of: Collection[Lineage], stored: Collection[str] = ()) -> Plan:
    """The plan when the commits `stored` are whole."""
    return plan_with(of, dict.fromkeys(stored, WHOLE))


def plan_with(of: Collection[Lineage], files: Mapping[str, Collection[str]]) -> Plan:
    return make_plan(list(of), files.get)


def all_keys(of: Collection[Lineage]) -> set[str]:
    return {key for line in of for key in line.keys}


ALL = lineages()
EVERY = all_keys(ALL)


class TestSharing:
    def test_lineages_of_one_dataset_model_recipe_and_seed_share_the_trunk(self) -> None:
        trunks = {line.cell.seed: set() for line in ALL}
        for line in ALL:
            trunks[line.cell.seed].add(line.keys[0])
        assert [len(keys) for keys in trunks.values()] == [1, 1]
        assert trunks[0] != trunks[1]

    @pytest.mark.parametrize(
        "changes",
        [
            {"dataset": {"name": "digits", "subset": 1000}},
            {"model": {"name": "mlp", "hidden": [17]}},
            {"seeds": [2, 3]},
            {"train": {"epochs": 3, "batch_size": 50}},
        ],
        ids=lambda changes: next(iter(changes)),
    )
    def test_another_dataset_model_seed_or_recipe_shares_nothing(
        self, changes: dict[str, Any]
    ) -> None:
        assert not EVERY & all_keys(lineages(**changes))

    def test_another_scope_shares_the_trunk_only(self) -> None:
        other = all_keys(lineages(prune={"iterations": T, "scope": "layer"}))
        assert EVERY & other == {line.keys[0] for line in ALL}

    def test_what_does_not_decide_numbers_changes_no_key(self) -> None:
        same = lineages(
            name="another",
            resources={"cpus_per_lineage": 2, "retries": 5},
            store={"keep_weights": "last"},
            wandb={"project": "another"},
        )
        assert [line.keys for line in same] == [line.keys for line in ALL]

    def test_the_grid_gives_the_same_lineage_as_the_cell_alone(self) -> None:
        for line in ALL:
            assert make_lineage(line.cell, line.dataset) == line

    def test_ids_are_distinct_and_survive_a_longer_run(self) -> None:
        ids = [line.id for line in ALL]
        assert len(set(ids)) == len(ids)
        assert [line.id for line in lineages(prune={"iterations": T + 2})] == ids

    def test_the_counts(self) -> None:
        planned = plan(ALL)
        # 8 lineages of T + 1 rows; 2 trunks instead of 8
        assert planned.rows == 8 * (T + 1)
        assert planned.shared == 8 - 2
        assert len(planned.to_train) == 8 * T + 2
        assert planned.stored == 0


class TestOnlyWhatIsMissing:
    def test_more_iterations(self) -> None:
        longer = lineages(prune={"iterations": T + 2})
        planned = plan(longer, EVERY)
        assert planned.to_train == {key for line in longer for key in line.keys[T + 1 :]}
        assert {task.first for task in planned.tasks} == {T + 1}

    def test_fewer_iterations(self) -> None:
        assert not plan(lineages(prune={"iterations": T - 1}), EVERY).tasks

    def test_one_more_seed(self) -> None:
        more = lineages(seeds=[0, 1, 2])
        planned = plan(more, EVERY)
        assert planned.to_train == {k for line in more if line.cell.seed == 2 for k in line.keys}

    def test_one_more_method(self) -> None:
        methods = [*SWEEP["methods"], {"name": "lottery_ticket", "ratio": 0.5}]
        more = lineages(methods=methods)
        planned = plan(more, EVERY)
        assert len(planned.tasks) == 2
        assert planned.to_train == all_keys(more) - EVERY
        assert {task.first for task in planned.tasks} == {1}

    def test_everything_stored(self) -> None:
        planned = plan(ALL, EVERY)
        assert not planned.tasks
        assert not planned.to_train
        assert planned.stored == len(EVERY)
        assert planned.rows == planned.stored + planned.shared

    @given(st.lists(st.integers(0, T + 1), min_size=len(ALL), max_size=len(ALL)))
    @settings(max_examples=200, deadline=None)
    def test_any_stored_prefixes_leave_their_complement(self, lengths: list[int]) -> None:
        prefixes = zip(ALL, lengths, strict=True)
        assert_complement({key for line, length in prefixes for key in line.keys[:length]})

    @given(st.sets(st.sampled_from(sorted(EVERY))))
    @settings(max_examples=200, deadline=None)
    def test_holes_too_leave_their_complement(self, stored: set[str]) -> None:
        assert_complement(stored)

    def test_a_damaged_trunk_alone_is_one_iteration(self) -> None:
        trunk = ALL[0].keys[0]
        planned = plan(ALL, EVERY - {trunk})
        assert planned.to_train == {trunk}
        group = training_group(ALL[0].config())
        assert estimate_seconds(planned, {group: 10.0}, 1) == 10.0

    @given(
        st.dictionaries(st.sampled_from(sorted(EVERY)), st.sampled_from([WHOLE, WITHOUT_WEIGHTS]))
    )
    @settings(max_examples=200, deadline=None)
    def test_after_training_a_plan_nothing_is_left(self, files: dict[str, frozenset[str]]) -> None:
        planned = plan_with(ALL, files)
        again = plan_with(ALL, files | dict.fromkeys(planned.to_train, WHOLE))
        assert not again.tasks
        assert not again.to_train


def assert_complement(stored: set[str]) -> None:
    planned = plan(ALL, stored)
    assert planned.to_train == EVERY - stored
    assert planned.stored == len(stored)
    assert planned.rows == sum(len(line.keys) for line in ALL)


class TestWeightsThatWereNotKept:
    LINE = next(line for line in ALL if line.cell.method.name == "lottery_ticket")

    def planned(self, *files: frozenset[str]) -> Plan:
        """The plan of one lineage whose first iterations have these files."""
        return plan_with([self.LINE], dict(zip(self.LINE.keys, files, strict=False)))

    def test_a_finished_lineage_needs_none(self) -> None:
        assert not self.planned(*[WITHOUT_WEIGHTS] * (T + 1)).tasks

    def test_a_missing_child_needs_its_parent_again_and_that_one_its_own(self) -> None:
        planned = self.planned(WHOLE, WITHOUT_WEIGHTS, WITHOUT_WEIGHTS)
        assert planned.to_train == set(self.LINE.keys[1:])
        assert planned.tasks[0].first == 1

    def test_a_parent_with_weights_stays(self) -> None:
        planned = self.planned(WITHOUT_WEIGHTS, WITHOUT_WEIGHTS, WHOLE)
        assert planned.to_train == {self.LINE.keys[T]}

    def test_down_to_the_trunk(self) -> None:
        planned = self.planned(WITHOUT_WEIGHTS)
        assert planned.to_train == set(self.LINE.keys)

    @given(st.lists(st.sampled_from([WHOLE, WITHOUT_WEIGHTS, None]), min_size=1, max_size=T + 1))
    @settings(deadline=None)
    def test_what_is_trained_is_what_is_missing_or_what_a_missing_child_needs(
        self, files: list[frozenset[str] | None]
    ) -> None:
        keys = self.LINE.keys
        held = {key: found for key, found in zip(keys, files, strict=False) if found is not None}
        to_train = plan_with([self.LINE], held).to_train
        for key, child in zip(keys, (*keys[1:], None), strict=True):
            needed = child in to_train and WEIGHTS not in held.get(key, ())
            assert (key in to_train) == (key not in held or needed)


class TestTasks:
    def test_each_missing_iteration_belongs_to_the_first_lineage_that_needs_it(self) -> None:
        tasks = plan(ALL).tasks
        owners = {line.cell.seed: line for line in reversed(ALL)}  # of the trunks
        for task in tasks:
            assert task.first == 0
            trunk = task.lineage.keys[0]
            assert task.after == (None if task.lineage is owners[task.lineage.cell.seed] else trunk)

    def test_no_task_waits_for_what_is_stored(self) -> None:
        trunks = {line.keys[0] for line in ALL}
        assert all(task.after is None and task.first == 1 for task in plan(ALL, trunks).tasks)

    def test_a_lineage_waits_for_the_last_iteration_of_the_shorter_one_inside_it(self) -> None:
        long = lineages(prune={"iterations": T + 2})[0]
        planned = plan([ALL[0], long])
        assert planned.tasks == (Task(ALL[0], 0, None), Task(long, 0, ALL[0].keys[T]))
        assert planned.to_train == set(long.keys)
        assert planned.shared == T + 1

    @given(st.permutations(ALL), st.sets(st.sampled_from(sorted(EVERY))))
    @settings(deadline=None)
    def test_tasks_in_order_never_wait_for_a_later_one(
        self, order: list[Lineage], stored: set[str]
    ) -> None:
        committed: set[str] = set()
        planned = plan(order, stored)
        for task in planned.tasks:
            assert task.after is None or task.after in committed
            committed.update(planned.to_train.intersection(task.lineage.keys))
        assert committed == planned.to_train

    def test_snapshots_that_a_trunk_leaves(self) -> None:
        rewound = lineages(methods=["one_shot", {"name": "lottery_ticket", "rewind": {"step": 5}}])
        assert wanted_snapshots(rewound) == {
            line.keys[0]: frozenset({0, 5})
            for line in rewound
            if line.cell.method.name == "one_shot"
        }


class TestEstimates:
    """Seed 0 alone: 4 lineages, 1 trunk and 4 × 3 further iterations."""

    LINES = tuple(line for line in ALL if line.cell.seed == 0)
    GROUP = training_group(LINES[0].config())

    @pytest.mark.parametrize(
        ("concurrent", "seconds"),
        [
            (1, 10.0 * (1 + 4 * T)),  # one after the other
            (2, 10.0 * (1 + 4 * T) / 2),
            (100, 10.0 * (T + 1)),  # never below the longest lineage
        ],
    )
    def test_iterations_times_seconds(self, concurrent: int, seconds: float) -> None:
        assert estimate_seconds(plan(self.LINES), {self.GROUP: 10.0}, concurrent) == seconds

    def test_nothing_to_train_takes_no_time(self) -> None:
        assert estimate_seconds(plan(ALL, EVERY), {}, 1) == 0.0

    def test_unknown_as_long_as_one_group_is(self) -> None:
        both = (*self.LINES, *lineages(train={"epochs": 9}))
        assert estimate_seconds(plan(both), {self.GROUP: 10.0}, 1) is None

    def test_groups_have_their_own_times(self) -> None:
        other = lineages(train={"epochs": 9}, seeds=[0], methods=["one_shot"])
        times = {self.GROUP: 10.0, training_group(other[0].config()): 1.0}
        seconds = estimate_seconds(plan((*self.LINES[:1], *other)), times, 1)
        assert seconds == (T + 1) * 11.0

    def test_seed_method_and_scope_do_not_change_the_group(self) -> None:
        every = (*ALL, *lineages(prune={"iterations": 9, "scope": "neuron"}))
        assert {training_group(line.config()) for line in every} == {self.GROUP}

    def test_bytes_grow_with_what_is_kept(self) -> None:
        spec = SweepSpec.model_validate(SWEEP)
        planned = plan(ALL)
        kept = [commit_bytes(planned, resolved(spec), keep) for keep in ("all", "last")]
        weights = 4 * (64 * 16 + 16 + 16 * 10 + 10)
        # `last` holds two iterations' weights of each lineage: of T + 1 where the trunk is its own
        assert kept[0] - kept[1] == weights * (2 * (T - 1) + 6 * (T - 2))
        assert commit_bytes(plan(ALL, EVERY), resolved(spec), "all") == 0


class TestWhatCannotBeRun:
    def test_rewinding_past_the_end_of_training(self) -> None:
        spec = SweepSpec.model_validate(SWEEP)
        (dataset,) = resolved(spec)
        steps = recipe_steps(spec.train[0], dataset.info)
        assert steps == 2 * 29  # ⌈1437 / 50⌉ = 29
        lineages(methods=[{"name": "lottery_ticket", "rewind": {"step": steps - 1}}])
        with pytest.raises(PlanError) as caught:
            lineages(methods=["sap", {"name": "lottery_ticket", "rewind": {"step": steps}}])
        assert caught.value.field == ("methods", 1, "rewind", "step")
        for part in ("step 58", "2 epochs", "digits", "58 steps", "up to 57"):
            assert part in str(caught.value)

    def test_the_shortest_recipe_limits_the_rewinding(self) -> None:
        train = {"epochs": [5, 2], "batch_size": 50}
        with pytest.raises(PlanError, match="up to 57"):
            lineages(train=train, methods=[{"name": "lottery_ticket", "rewind": {"step": 100}}])

    def test_a_model_too_deep_for_the_images(self) -> None:
        spec = SweepSpec.model_validate(SWEEP | {"model": ["mlp", "vgg11"]})
        datasets = resolved(spec)
        planned = plan(sweep_lineages(spec, datasets))
        with pytest.raises(PlanError, match="vgg11 pools a 1x8x8 image") as caught:
            commit_bytes(planned, datasets, "all")
        assert caught.value.field == ("model",)
        assert "at least 16x16 pixels; choose a dataset with larger images" in str(caught.value)

    def test_more_held_out_than_there_is(self) -> None:
        spec = SweepSpec.model_validate(
            SWEEP | {"dataset": ["digits", {"name": "digits", "holdout": 1437}]}
        )
        with pytest.raises(PlanError, match="at most 1436") as caught:
            resolved(spec)
        assert caught.value.field == ("dataset", 1)
