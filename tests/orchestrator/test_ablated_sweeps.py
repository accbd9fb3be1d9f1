"""Ablations in a sweep: what is planned, trained once, named, told apart and set side by side."""

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from asking import ask, refused
from measured import measured, sweep_file
from PIL import Image
from stored import snapshots_of, store_sweep

from orchestrator.errors import PlanError
from orchestrator.records.datasets import DatasetRecord, record_datasets
from orchestrator.records.joined import join
from orchestrator.records.labels import labels
from orchestrator.records.published import published_cell
from orchestrator.records.recording import record_sweep
from orchestrator.records.sweep import LineageRecord, write_sweep
from orchestrator.results.figures.kept import histogram_rows, norm_rows
from orchestrator.results.figures.rows import cell_columns
from orchestrator.results.opening import Results, open_results
from orchestrator.results.query import answer
from orchestrator.results.report import report_payload
from orchestrator.results.sweep_tables import QueryError
from orchestrator.results.tickets import NoTicket
from orchestrator.run.datasets import load_datasets, resolve_datasets
from orchestrator.run.planning import branch_points, make_plan, sweep_lineages
from orchestrator.storage.naming import named_by
from orchestrator.sweepfile.spec import SweepSpec
from orchestrator.sweepfile.yaml_source import load_sweep
from trainables.data import DataRoots, data_roots
from trainables.lineage.bench import Bench
from trainables.lineage.keys import Lineage, make_lineage
from trainables.lineage.loop import lineage_events
from trainables.sparsity.masks import kept_counts
from trainables.store import Store, iteration_path
from trainables.store.artifacts import MASK, WEIGHTS, read_masks
from trainables.training.batches import DeviceData
from trainables.training.progress import State
from trainables.training.run import Training

ROOT = Path(__file__).parents[2]
ROOTS: DataRoots = data_roots(None, {})
SECTIONS: dict[str, Any] = {
    "seeds": [0, 1],
    "prune": {"iterations": 2},
    "methods": [{"name": "sap", "p": [0.5, 0.8]}],
    "ablations": ["shuffle_layers", {"name": "transport", "seed": [7, 8]}],
}


def spec_of(**sections: Any) -> SweepSpec:
    written = {"name": "s", "dataset": "digits", "model": "mlp"} | SECTIONS | sections
    return SweepSpec.model_validate({n: each for n, each in written.items() if each is not None})


def lineages_of(**sections: Any) -> tuple[Lineage, ...]:
    spec = spec_of(**sections)
    return sweep_lineages(spec, resolve_datasets(spec, ROOTS))


def record_labels(**sections: Any) -> list[str]:
    spec = spec_of(**sections)
    record = record_sweep(spec, lineages_of(**sections))
    return [*dict.fromkeys(labels(record).values())]


# The sweep file and the plan


def test_every_cell_is_there_without_an_ablation_and_with_each() -> None:
    assert len(lineages_of()) == 2 * 2 * (1 + 3)
    assert record_labels() == [
        f"sap p={p}{ablation}" for p in (0.5, 0.8)
        for ablation in ("", " shuffle_layers", " transport seed=7", " transport seed=8")
    ]  # fmt: skip


def test_what_an_ablation_branches_off_is_planned_once() -> None:
    plain, found = lineages_of(ablations=None), lineages_of()
    plan = make_plan(found, lambda key: None)
    keys = {key for line in plain for key in line.keys}
    new = plan.to_train - keys
    assert keys < plan.to_train
    assert len(new) == len(plan.to_train) - len(keys) == 2 * 2 * 3
    assert plan.rows == sum(len(line.keys) for line in plain) + len(new)
    # One trunk for both p, as without.
    assert plan.shared == make_plan(plain, lambda key: None).shared == 2
    for task in plan.tasks:
        if task.lineage.cell.ablation is not None:
            assert task.after == task.lineage.keys[-2]


def test_ablations_of_a_finished_sweep_train_nothing_else() -> None:
    stored = {key: {WEIGHTS} for line in lineages_of(ablations=None) for key in line.keys}
    plan = make_plan(lineages_of(), stored.get)
    assert plan.to_train == {line.keys[-1] for line in lineages_of() if line.cell.ablation}
    assert {task.after for task in plan.tasks} == {None}


def test_the_grid_gives_the_same_lineage_as_the_cell_alone() -> None:
    for line in lineages_of():
        assert make_lineage(line.cell, line.dataset) == line


def test_an_iteration_may_be_an_axis_and_is_told() -> None:
    ablations = [{"name": "reinit", "at": [1, 2]}]
    assert record_labels(ablations=ablations, methods=["sap"]) == [
        "sap", "sap reinit at=1", "sap reinit at=2",
    ]  # fmt: skip
    found = lineages_of(ablations=ablations, methods=["sap"], seeds=[0])
    assert [[step.iteration for step in line.own_steps] for line in found] == [[0, 1, 2], [1], [2]]


def test_cells_that_differ_in_what_a_method_makes_nothing_of_have_ablations_each() -> None:
    """As they are two lineages without: what they share is trained once."""
    sections = {
        "prune": {"iterations": 1, "rewind_batchnorm": [True, False]},
        "methods": [{"name": "snip", "density": 0.5}], "seeds": [0], "ablations": ["reinit"],
    }  # fmt: skip
    found = lineages_of(**sections)
    assert len({line.id for line in found}) == len(found) == 4
    assert len(make_plan(found, lambda key: None).to_train) == 2


def test_sweeps_as_one_tell_their_ablations_apart() -> None:
    parts = []
    for name, seed, step in (("a", 0, 0), ("b", 1, 2)):
        spec = spec_of(
            name=name, seeds=[seed], methods=["lottery_ticket"],
            ablations=[{"name": "rewind_lr", "step": step}],
        )  # fmt: skip
        parts.append(record_sweep(spec, sweep_lineages(spec, resolve_datasets(spec, ROOTS))))
    joined = join(parts)
    ablated = [line.id for line in joined.lineages if "ablation" in line.config]
    assert len({labels(joined)[id] for id in ablated}) == 2


def test_no_published_value_is_of_an_ablation() -> None:
    snip = {"name": "snip", "density": 0.2}
    spec = spec_of(methods=[snip, snip | {"layer_densities": "erk"}], ablations=["reinit"])
    record = record_sweep(spec, sweep_lineages(spec, resolve_datasets(spec, ROOTS)))
    assert sum(published_cell(line) is not None for line in record.lineages) == len(spec.seeds)


def test_conditions_know_ablations() -> None:
    transport = {"ablation": "transport", "method.p": 0.8}
    exclude = [transport, {"ablation.seed": 8}]
    assert record_labels(exclude=exclude) == [
        "sap p=0.5", "sap p=0.5 shuffle_layers", "sap p=0.5 transport", "sap p=0.8",
        "sap p=0.8 shuffle_layers",
    ]  # fmt: skip


def test_weights_that_ablations_read_are_branch_points() -> None:
    found = lineages_of(seeds=[0], methods=["lottery_ticket"], ablations=["finetune"])
    assert branch_points(found) == {found[0].keys[1]}
    assert branch_points(lineages_of(seeds=[0], methods=["sap"], ablations=["reinit"])) == set()


def test_a_sweep_names_what_its_ablations_are_made_of(tmp_path: Path) -> None:
    sections = {"methods": [{"name": "lottery_ticket", "rewind": {"step": 3}}]}
    store = Store(str(tmp_path))
    record = store_sweep(store, "s", **(SECTIONS | sections))
    found, names = lineages_of(**sections), named_by(store, record)
    assert names.iterations == {key for line in found for key in line.keys}
    assert names.snapshots >= snapshots_of(found)


FILE = {"prune": {"iterations": 2}, "methods": ["one_shot", {"name": "snip", "density": 0.5}]}


@pytest.mark.parametrize(
    ("ablations", "told"),
    [
        (["shufle_layers"], "ablations.0: unknown ablation \"shufle_layers\"; did you mean"),
        ([{"name": "transport"}], "ablations.0: transport needs a seed, a dataset, or both"),
        ([{"name": "reinit", "at": 0}], "ablations.0.at: 0 is out of range: it must be at least 1"),
        (["reinit", "finetune"], "finetune of snip: snip prunes initial weights, so there are no "
         "trained ones to go on from; correct it, or exclude it there: exclude: [{method: snip, "
         "ablation: finetune}]"),
        ([{"name": "reinit", "at": 2}], "reinit of snip: there is no iteration 2 to branch off: it "
         "has 1 to 1; correct it, or exclude it there: exclude: [{method: snip, ablation: reinit, "
         "ablation.at: 2}]"),
        ([{"name": "transport", "seed": 0}], "seed 0 on digits is where the mask was found"),
        ([{"name": "reinit", "at": [1, 1]}], "1 is listed twice"),
        ([{"name": "rewind_lr", "step": [0, 99999]}], "ablations.0.step.1: step 99999 is past the "
         "end of training"),
        (["reinit", {"name": "reinit"}], "means the same as ablations.0"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_its_place(
    ablations: list[Any], told: str, tmp_path: Path
) -> None:
    sweep_file(tmp_path, ablations=ablations, **FILE)
    said = refused(tmp_path, "plan", "sweep.yaml", "--storage", "store")
    assert told in " ".join(said.split())
    assert "sweep.yaml:" in said
    assert not (tmp_path / "store").exists()


def test_the_last_iteration_and_its_number_are_one() -> None:
    spec = spec_of(methods=["sap"], ablations=["reinit", {"name": "reinit", "at": 2}])
    with pytest.raises(PlanError, match="remove one") as error:
        sweep_lineages(spec, resolve_datasets(spec, ROOTS))
    assert (error.value.field, error.value.repeats) == (("ablations", 1), ("ablations", 0))


@pytest.mark.parametrize(
    ("what", "options"),
    [
        (
            "prune.stop",
            {"prune": {"iterations": 2, "stop": {"when": "density_below", "value": 0.5}}},
        ),
        ("budget.rank", {"budget": {"rank": {"after_iterations": 1, "keep": 0.5}}}),
    ],
)
def test_what_may_never_be_trained_has_no_ablations(what: str, options: dict[str, Any]) -> None:
    spec = spec_of(methods=["sap"], ablations=["reinit"], **options)
    with pytest.raises(
        PlanError, match=f"{what} may leave untrained; put them in a sweep"
    ) as error:
        sweep_lineages(spec, resolve_datasets(spec, ROOTS))
    assert error.value.field == ("ablations",)


def test_a_mask_that_does_not_fit_a_dataset_is_refused(tmp_path: Path) -> None:
    ablations = [{"name": "transport", "dataset": "mnist"}]
    sweep_file(tmp_path, ablations=ablations, prune={"iterations": 1}, methods=["one_shot"])
    said = " ".join(refused(tmp_path, "plan", "sweep.yaml", "--storage", "store").split())
    assert "ablations.0: a mask of mlp on digits does not fit it on mnist: " in said
    assert "is 128x64 on the one and 128x784 on the other" in said


# All of them, to the end


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Two threads of one small training wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


STARTS: dict[str, State] = {}
"""By the key of each iteration of the example, the weights that its training started from."""


@pytest.fixture(scope="module")
def example(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The example's lineages, trained in this process as a run would train them, but shorter."""
    root = tmp_path_factory.mktemp("ablations")
    spec = load_sweep(ROOT / "sweeps/ablations.yaml", ["train.epochs=2", "seeds=[0,1]"])
    datasets = resolve_datasets(spec, ROOTS)
    lineages = sweep_lineages(spec, datasets)
    plan = make_plan(lineages, lambda key: None)
    arrays = load_datasets(datasets, plan.trained_on, ROOTS)
    cpu = torch.device("cpu")
    data = {identity: DeviceData.of(each, cpu) for identity, each in arrays.items()}
    store, trained = Store(str(root)), 0
    for line in lineages:
        on = [data[identity] for identity in line.trained_on]
        bench = Bench(store, on[0], cpu, elsewhere=on[-1], branch_points=branch_points(lineages))
        trained += watched(line, replace(bench, keeping=spec.store))
    assert trained == len(plan.to_train)
    write_sweep(store, record_sweep(spec, lineages))
    known = [DatasetRecord(each.identity, None, each.info) for each in datasets]
    record_datasets(store, spec.name, known, arrays)
    return open_results(store, spec.name)


def watched(line: Lineage, bench: Bench) -> int:
    """Train a lineage, and keep what each training starts from; how many there were."""
    events, progress, count = lineage_events(line, bench), None, 0
    begun: State = {}
    while True:
        try:
            event = events.send(progress)
        except StopIteration:
            return count
        progress = None
        if isinstance(event, Training):
            begun = {name: each.clone() for name, each in event.model.state_dict().items()}
            progress = event.finish()
        elif isinstance(event, dict):
            STARTS[event["key"]] = begun
            count += 1


def test_the_example_has_every_ablation_with_as_many_weights_in_each_layer(
    example: Results,
) -> None:
    tables = example.sql("SELECT lineage, ablation, key, iteration, config FROM iterations")
    rows = tables.to_pylist()
    assert len({row["ablation"] for row in rows}) == 1 + 7
    originals = {
        (row["config"], row["iteration"]): row["key"] for row in rows if row["ablation"] is None
    }
    for row in rows:
        if row["ablation"] is not None:
            config = json.loads(row["config"])
            assert config.pop("ablation")["name"] == row["ablation"]
            of = originals[json.dumps(config, sort_keys=True), row["iteration"]]
            kept = [read_masks(example.store, iteration_path(key)) for key in (of, row["key"])]
            assert kept_counts(kept[0]) == kept_counts(kept[1])


def test_the_example_keeps_the_weights_that_it_says(example: Results) -> None:
    """Those of last iterations, and those that ablations read."""
    for line in example.record.lineages:
        files = example.store.manifest(iteration_path(line.keys[-1]))["files"]
        assert WEIGHTS in files
        assert MASK in files


def test_tickets_know_where_an_ablation_was_trained(example: Results) -> None:
    reinit = example.lineage(method="lottery_ticket", ablation="reinit", seed=0)
    assert reinit.trained_on == reinit.config["dataset"]
    moved = [
        line for line in example.record.lineages
        if line.config.get("ablation", {}).get("dataset", {}).get("subset") == 700
    ]  # fmt: skip
    assert moved
    for line in moved:
        there = example.lineage(line.id).trained_on
        assert there["subset"] == 700
        assert there != line.config["dataset"]


def test_tickets_of_ablations_have_what_these_were_trained_from(example: Results) -> None:
    """But the weights after 20 steps of another seed or dataset, which nobody keeps."""
    told: dict[str, int] = {}
    stored = example.store.sizes("")
    for record in example.record.lineages:
        name, method = (record.config.get(n, {}).get("name") for n in ("ablation", "method"))
        if name is None:
            continue
        ticket = example.lineage(record.id)[-1]
        if (name, method) == ("transport", "lottery_ticket"):
            with pytest.raises(NoTicket, match="after 20 training steps, which are not stored"):
                ticket.initial()
            continue
        found, expected = ticket.initial(), STARTS[ticket.key]
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[n], expected[n]) for n in found), (name, method)
        told[name] = told.get(name, 0) + 1
    assert told == {
        "shuffle_layers": 4, "random_same_layers": 4, "reinit": 4, "invert_scores": 4,
        "finetune": 2, "rewind_lr": 2, "transport": 4,
    }  # fmt: skip
    assert example.store.sizes("") == stored


def test_what_an_ablation_was_trained_from_may_be_gone(example: Results, tmp_path: Path) -> None:
    shutil.copytree(example.store.location, tmp_path / "store")
    store = Store(str(tmp_path / "store"))
    results = open_results(store, "ablations")
    finetuned = results.lineage(method="lottery_ticket", ablation="finetune", seed=0)[-1]
    base = results.lineage("lottery_ticket seed 0")
    store.drop_file(iteration_path(base.record.keys[-2]), WEIGHTS)
    with pytest.raises(NoTicket, match="began with the weights of iteration 4, which are not"):
        finetuned.initial()


def test_ablations_stand_beside_what_they_are_of(example: Results) -> None:
    found = example.ablations().to_pylist()
    assert {row["seeds"] for row in found} == {2}
    for row in found:
        assert row["difference"] == pytest.approx(row["ablated"] - row["original"])
    shown = ask(
        Path.cwd(), "results", example.record.name, "--layout", "ablations",
        "--storage", example.store.location,
    )  # fmt: skip
    assert "lottery_ticket  shuffle_layers" in shown


def test_accuracies_on_another_test_set_stand_apart(example: Results) -> None:
    """Here as if the transport were to mnist; the example's is to fewer training examples."""
    there = {"name": "mnist"}

    def elsewhere(line: LineageRecord) -> LineageRecord:
        if "dataset" not in line.config.get("ablation", {}):
            return line
        moved = line.config | {"ablation": line.config["ablation"] | {"dataset": there}}
        return replace(line, config=moved)

    lines = tuple(map(elsewhere, example.record.lineages))
    assert {line.elsewhere for line in example.record.lineages} == {None}
    assert {line.elsewhere for line in lines} == {None, "mnist"}
    results = replace(example, record=replace(example.record, lineages=lines))
    rows = [row for row in results.ablations().to_pylist() if "mnist" in row["ablation"]]
    assert [row["method"] for row in rows] == ["lottery_ticket", "snip"]
    for row in rows:
        assert (row["difference"], row["p_value"], row["test"]) == (None, None, None)
        assert row["original"] is not None is not row["ablated"]
    columns = {column.names[0] for column in results.paper_table().columns}
    assert columns == {"digits", "mnist"}
    drawn_in = {id: cell["setting"].split()[0] for id, cell in cell_columns(results).items()}
    assert drawn_in == {line.id: line.elsewhere or "digits" for line in lines}


def test_what_goes_from_several_datasets_to_several_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three datasets of one name, masks of two on the others."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    noise = np.random.default_rng(0).integers(0, 255, (3, 2, 2, 4, 4), np.uint8)
    for index in np.ndindex(noise.shape[:3]):
        folder, split, number = "abc"[index[0]], ("train", "test")[index[1]], index[2]
        path = tmp_path / folder / split / f"class {number}" / "0.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(noise[index]).save(path)
    a, b, c = ({"name": "image_folder", "path": str(tmp_path / name)} for name in "abc")

    def accuracy(line: LineageRecord, t: int) -> dict[str, Any]:
        to = line.swept["ablation.dataset.path"] or line.swept["dataset.path"]
        from_a = line.swept["dataset.path"] == a["path"]
        return {"test_accuracy": 0.1 * "abc".index(Path(to).name) + 0.5 * from_a}

    file = sweep_file(
        tmp_path, dataset=[a, b], train={"epochs": 1, "batch_size": 1}, prune={"iterations": 1},
        methods=["lottery_ticket"], seeds=[0, 1],
        ablations=[{"name": "transport", "dataset": [b, c]}],
        exclude=[{"dataset.path": b["path"], "ablation.dataset.path": b["path"]}],
    )  # fmt: skip
    results = measured(tmp_path, file, accuracy)
    table = results.paper_table()
    found = [cell for row in table.cells for cell in row if cell is not None]
    assert sorted(cell.mean or 0.0 for cell in found) == pytest.approx([0.1, 0.2, 0.5, 0.6, 0.7])
    assert {(cell.n, cell.seeds) for cell in found} == {(2, 2)}
    # What is compared is of one test set: a's and b's masks on c.
    columns = {column.names[0].rpartition("/")[2]: j for j, column in enumerate(table.columns)}
    assert sum(row[columns["c"]] is not None for row in table.cells) == 2
    panels = {(cell["setting"], cell["variant"]) for cell in cell_columns(results).values()}
    assert len(panels) == len(found) == len({*results.labels.values()})


def test_figures_of_initial_weights_leave_ablations_out(example: Results) -> None:
    """They may begin with other weights than the trunk's."""
    ablated = {line.id for line in example.record.lineages if "ablation" in line.config}
    rows = [*histogram_rows(example), *norm_rows(example)]
    assert rows
    assert not ablated & {row["lineage"] for row in rows}


# Tables


ACCURACIES = {None: [0.9, 0.92, 0.94], "shuffle_layers": [0.8, 0.83, 0.85], "transport": [0.9] * 3}


def some(line: LineageRecord, t: int) -> dict[str, Any] | None:
    ablation = line.config.get("ablation", {"name": None})
    seed = line.config["seed"]
    if ablation["name"] == "transport" and seed == 2:
        return None
    accuracy = ACCURACIES[ablation["name"]][seed] + t / 100
    return {"test_accuracy": accuracy, "density": 0.5, "density_effective": 0.4}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("tables")
    ablations = ["shuffle_layers", {"name": "transport", "seed": 7}]
    sections = SECTIONS | {"seeds": [0, 1, 2], "methods": ["sap"], "ablations": ablations}
    return measured(folder, sweep_file(folder, **sections), some)


def test_a_difference_is_of_the_seeds_that_have_both(results: Results) -> None:
    shuffled, moved = results.ablations().to_pylist()
    assert (shuffled["method"], shuffled["ablation"]) == ("sap", "shuffle_layers")
    assert (shuffled["iteration"], shuffled["seeds"]) == (2, 3)
    assert shuffled["original"] == pytest.approx(0.94)
    assert shuffled["difference"] == pytest.approx(-0.28 / 3)
    # Differences of -0.10, -0.09 and -0.09.
    assert shuffled["test"] == "paired t"
    assert shuffled["p_value"] == pytest.approx(0.00127, rel=0.01)
    assert (moved["seeds"], moved["original"]) == (2, pytest.approx(0.93))
    assert moved["difference"] == pytest.approx(-0.01)


def test_what_is_not_finite_counts_for_neither(tmp_path: Path) -> None:
    def odd(line: LineageRecord, t: int) -> dict[str, Any]:
        return {"test_accuracy": math.nan if line.config["seed"] == 1 and t == 1 else 0.5}

    sections = SECTIONS | {"methods": ["sap"], "ablations": [{"name": "reinit", "at": [1, 2]}]}
    found = measured(tmp_path, sweep_file(tmp_path, **sections), odd)
    first, second = found.ablations().to_pylist()
    assert (first["seeds"], first["original"], first["ablated"]) == (1, 0.5, 0.5)
    assert second["seeds"] == 2
    json.dumps(report_payload(found), allow_nan=False)


def test_conditions_choose_ablations_and_others_are_refused(results: Results) -> None:
    shown = answer(results, layout="ablations", where="ablation = 'transport'")
    assert [row["ablation"] for row in shown.table.to_pylist()] == ["transport"]
    assert shown.text.headings[0][-4:] == ("difference", "p", "test", "seeds")
    for options in ({"last": True}, {"mark": "best"}, {"where": "nothing = 1"}):
        with pytest.raises(QueryError):
            answer(results, layout="ablations", **options)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("where", [None, "seed < 2"])
def test_the_density_is_that_of_the_weights_that_are_shown(
    results: Results, where: str | None
) -> None:
    shown = answer(replace(results, weights="effective"), layout="ablations", where=where)
    assert shown.table["density_effective"].to_pylist() == pytest.approx([0.4, 0.4])
    assert "density" not in shown.table.column_names
    assert "effective %" in shown.text.headings[0]
    assert (
        answer(results, layout="ablations", where=where).table["density"].to_pylist() == [0.5] * 2
    )


def test_any_metric_is_compared(results: Results) -> None:
    assert results.ablations("density").to_pylist()[0]["difference"] == 0
    with pytest.raises(ValueError, match="no metric 'nothing'"):
        results.ablations("nothing")


@pytest.mark.parametrize(
    "prune", [{"iterations": 3}, {"iterations": 2, "stop": {"when": "density_below", "value": 0.1}}]
)
@pytest.mark.parametrize("order", [("s", "other"), ("other", "s")])
def test_in_several_sweeps_as_one_ablations_stand_beside_the_longest_of_what_they_are_of(
    prune: dict[str, Any], order: tuple[str, str], tmp_path: Path
) -> None:
    """Whose length, and stop rules, are those of another sweep."""
    sections = SECTIONS | {"methods": ["sap"], "ablations": ["shuffle_layers"]}
    alone = measured(tmp_path, sweep_file(tmp_path, **sections), some)
    plain = sections | {"name": "other", "prune": prune, "ablations": []}
    measured(tmp_path, sweep_file(tmp_path, **plain), some)
    together = open_results(alone.store, *order)
    assert together.ablations().num_rows == 1
    assert together.ablations().equals(alone.ablations())


def test_an_ablation_on_the_way_to_a_density_is_in_no_column_of_it(tmp_path: Path) -> None:
    methods = [{"name": "imp", "density": [0.25, 0.125], "ratio": 0.5}]
    ablations = ["shuffle_layers", {"name": "shuffle_layers", "at": 1}]
    sections = {"methods": methods, "ablations": ablations, "seeds": [0, 1]}

    def at(line: LineageRecord, t: int) -> dict[str, Any]:
        return {"density": 0.5**t, "test_accuracy": 0.9 - t / 10 - line.config["seed"] / 100}

    found = measured(tmp_path, sweep_file(tmp_path, **sections), at)
    table = found.paper_table()
    assert [column.names for column in table.columns] == [
        ("25 %",), ("12.5 %",), ("iteration 1",)
    ]  # fmt: skip
    shown = {
        row: [cell and (cell.density, round(cell.mean or 0, 3), cell.n) for cell in cells]
        for row, cells in zip(table.rows, table.cells, strict=True)
    }
    there = [(0.25, 0.695, 2), (0.125, 0.595, 2), None]
    on_the_way = [None, None, (0.5, 0.795, 2)]
    labels = [name for name in shown if "shuffle_layers" in name]
    assert len(labels) == 3
    assert shown.pop("imp") == there
    for name, cells in shown.items():
        assert cells == (there if "density" not in name else on_the_way), name
    # The page finds the cells of the lineages that are selected.
    there = [cell.lineages for cells in table.cells for cell in cells if cell is not None]
    assert sorted(id for each in there for id in each.values()) == sorted(found.labels)


def test_what_was_trained_on_noise_has_no_row(tmp_path: Path) -> None:
    methods = [{"name": "imp", "density": 0.5, "ratio": 0.5, "data": "random"}]
    file = sweep_file(tmp_path, methods=methods, ablations=[{"name": "reinit", "at": [1, 2]}])
    found = measured(tmp_path, file, lambda line, t: {}).ablations().to_pylist()
    assert [(row["ablation"], row["seeds"]) for row in found] == [("reinit at=2", 1)]


def test_who_has_none_is_told(tmp_path: Path) -> None:
    plain = measured(tmp_path, sweep_file(tmp_path, methods=["sap"]), lambda line, t: {})
    with pytest.raises(QueryError, match="it has no ablations"):
        answer(plain, layout="ablations")


def test_other_rows_have_null(results: Results) -> None:
    counted = results.sql(
        "SELECT ablation, count(*) AS n FROM iterations GROUP BY ALL ORDER BY ablation NULLS FIRST"
    )
    assert counted.to_pylist() == [
        {"ablation": None, "n": 9}, {"ablation": "shuffle_layers", "n": 3},
        {"ablation": "transport", "n": 2},
    ]  # fmt: skip
