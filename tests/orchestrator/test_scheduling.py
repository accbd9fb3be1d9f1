"""Who runs when, without Ray: the searcher is asked and told as Tune does."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.run.cluster import Cluster
from orchestrator.run.planning import Plan, PlanError, make_plan, sweep_lineages
from orchestrator.run.scheduling import Failure, _Lineages, concurrency
from orchestrator.run.sweep import resolve_datasets
from orchestrator.sweepfile.spec import Resources
from orchestrator.sweepfile.yaml_source import load_sweep
from trainables.data import data_roots

IMP = "methods: [lottery_ticket, {name: imp, density: [0.5, 0.3, 0.2]}]"


class Listener:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.gave_up: list[str] = []

    def started(self, lineage: str, attempt: int) -> None: ...

    def committed(self, lineage: str, result: dict[str, Any]) -> None: ...

    def finished(self, lineage: str) -> None: ...

    def stopping(self) -> None: ...

    def failed(self, failure: Failure, retried: bool) -> None:
        if not retried:
            self.gave_up.append(failure.lineage)


def planned(folder: Path, text: str) -> Plan:
    file = folder / "s.yaml"
    head = "name: s\ndataset: {name: digits, subset: 100}\nmodel: mlp\n"
    file.write_text(f"{head}train: {{epochs: 2, batch_size: 50}}\n{text}")
    spec, roots = load_sweep(file), data_roots(None, {})
    return make_plan(sweep_lineages(spec, resolve_datasets(spec, roots)), {}.get)


def test_what_shares_a_failed_iteration_is_given_up_with_it_and_so_on(tmp_path: Path) -> None:
    plan = planned(tmp_path, IMP)
    listener = Listener()
    lineages = _Lineages(plan.tasks, gpus=0, retries=0, observer=listener)
    assert lineages.suggest("first")["lineage"] == plan.lineages[0].id
    assert lineages.suggest("second") is None
    lineages.trial_failed("first", "it broke")
    # IMP's densities wait for each other's iterations, not for the trunk that failed.
    assert listener.gave_up == [lineage.id for lineage in plan.lineages]
    assert lineages.suggest("third") == _Lineages.FINISHED


def test_a_lineage_is_released_by_the_commit_it_waits_for(tmp_path: Path) -> None:
    plan = planned(tmp_path, "prune: {iterations: 1}\nmethods: [one_shot, lottery_ticket]")
    lineages = _Lineages(plan.tasks, gpus=0, retries=0, observer=Listener())
    lineages.suggest("first")
    assert lineages.suggest("second") is None
    trunk, last = plan.lineages[0].keys
    lineages.on_trial_result("first", {"key": trunk})
    assert lineages.suggest("second")["lineage"] == plan.lineages[1].id
    lineages.on_trial_complete("first", {"key": last, "complete": True})
    lineages.on_trial_complete("second", {"complete": True})
    assert lineages.suggest("third") == _Lineages.FINISHED
    assert not lineages.unfinished


def test_a_lineage_has_to_fit_on_one_node() -> None:
    nodes = Cluster(cpus=3, gpus=0, nodes=((2, 0), (1, 0)))
    assert concurrency(Resources(cpus_per_lineage=3), nodes) == 0
    assert concurrency(Resources(cpus_per_lineage=2), nodes) == 1
    assert concurrency(Resources(), nodes) == 3
    two = Cluster(cpus=8, gpus=2, nodes=((4, 1), (4, 1)))
    assert concurrency(Resources(gpus_per_lineage=1 / 3), two) == 6


@pytest.mark.parametrize(
    ("text", "message", "field"),
    [
        (
            "methods: [{name: snip, density: 0.1}]",
            "examples: 256 .* 100",
            ("methods", 0, "examples"),
        ),
        (
            "methods: [one_shot]\nexclude: []",
            "best_validation needs a held-out part",
            ("train", 0, "keep"),
        ),
    ],
)
def test_what_could_not_run_is_refused_by_the_plan(
    tmp_path: Path, text: str, message: str, field: tuple[Any, ...]
) -> None:
    keep = "train.keep=best_validation" if field[0] == "train" else "train.keep=last"
    file = tmp_path / "s.yaml"
    file.write_text(f"name: s\ndataset: {{name: digits, subset: 100}}\nmodel: mlp\n{text}\n")
    spec, roots = load_sweep(file, [keep]), data_roots(None, {})
    with pytest.raises(PlanError, match=message) as error:
        sweep_lineages(spec, resolve_datasets(spec, roots))
    assert error.value.field == field


def test_an_excluded_cell_is_not_checked(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(
        "name: s\ndataset: [digits, {name: digits, subset: 100}]\nmodel: mlp\n"
        "methods: [{name: snip, density: 0.1}]\nexclude: [{dataset.subset: 100}]\n"
    )
    spec, roots = load_sweep(file), data_roots(None, {})
    assert len(sweep_lineages(spec, resolve_datasets(spec, roots))) == 1
