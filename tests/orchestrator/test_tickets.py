"""Networks of a sweep in Python: on a small sweep of digits, trained in this process."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from asking import ask, refused
from PIL import Image
from pydantic import TypeAdapter
from torch import nn

from orchestrator.records.datasets import record_datasets
from orchestrator.records.sweep import NoSuchLineage, write_sweep
from orchestrator.results.opening import Results, open_results
from orchestrator.results.tickets import NoTicket
from orchestrator.run.planned_sweep import plan_sweep
from orchestrator.sweepfile.yaml_source import load_sweep
from trainables.config import canonical_json
from trainables.data import DatasetConfig, Split, data_roots, load_dataset
from trainables.lineage.bench import Bench
from trainables.lineage.keeping import StoreOptions
from trainables.lineage.loop import run_lineage
from trainables.models import build_model
from trainables.sparsity.effective import effective_masks
from trainables.store import Store
from trainables.store.storage_format import mark
from trainables.training.batches import DeviceData, Examples

DOCUMENT = Path(__file__).parents[2] / "docs/tickets.md"
DIGITS = TypeAdapter(DatasetConfig).validate_python("digits")
ROOTS, CPU = data_roots(None, {}), torch.device("cpu")
SWEEP: dict[str, Any] = {
    "name": "first",
    "dataset": {"name": "digits", "subset": 300},
    "model": {"name": "mlp", "hidden": [64]},
    "seeds": [0, 1],
    "train": {"epochs": 2, "batch_size": 50},
    "prune": {"iterations": 2},
    "methods": [
        {"name": "lottery_ticket", "ratio": 0.6},
        "sap",
        {"name": "snip", "density": [0.3, 0.1]},
    ],
}


def train(folder: Path, sweep: dict[str, Any], **keeping: Any) -> Path:
    """The storage of the sweep, trained and recorded."""
    file = folder / f"{sweep['name']}.yaml"
    file.write_text(json.dumps(sweep))
    store = mark(Store(str(folder / "prunesweep-store")))
    planned = plan_sweep(load_sweep(file), store, ROOTS)
    loaded = {
        canonical_json(found.identity): load_dataset(found.config, ROOTS)
        for found in planned.datasets
    }
    write_sweep(store, planned.record)
    record_datasets(store, sweep["name"], planned.datasets_record, loaded)
    for line in planned.plan.lineages:
        data = DeviceData.of(loaded[canonical_json(line.dataset)], CPU)
        bench = Bench(store, data, CPU, keeping=StoreOptions(**keeping))
        assert all(run_lineage(line, bench))
    return folder / "prunesweep-store"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tickets")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    train(folder, SWEEP)
    train(folder, SWEEP | {"name": "second", "seeds": [0, 2], "methods": ["sap"]})
    torch.set_num_threads(before)
    return folder


@pytest.fixture(scope="module")
def results(folder: Path) -> Results:
    return open_results(folder / "prunesweep-store", "first")


def accuracy(network: nn.Module, data: Examples) -> torch.Tensor:
    logits = network(data.normalized(data.images))
    return (logits.argmax(1) == data.labels).float().mean()


def test_a_ticket_is_what_was_trained(results: Results) -> None:
    line = results.lineage("lottery_ticket seed 1")
    assert (line.label, len(line), line.iterations) == ("lottery_ticket seed 1", 3, (0, 1, 2))
    assert [ticket.iteration for ticket in line] == [0, 1, 2]
    assert line[-1].key == line[2].key == line.record.keys[2]
    for ticket in line:
        metrics, mask, weights = ticket.metrics(), ticket.mask(), ticket.weights()
        assert metrics["key"] == ticket.key
        assert sum(int(each.sum()) for each in mask.values()) == metrics["params_kept"]
        assert all((weights[name][~each] == 0).all() for name, each in mask.items())
        network = ticket.model()
        assert not network.training
        for name, value in network.state_dict().items():
            assert torch.equal(value, weights[name])
        effective = effective_masks(network, mask, (1, 8, 8))
        assert effective is not None
        found = sum(int(each.sum()) for each in effective.values())
        assert found == metrics["params_effective"]
    with pytest.raises(NoTicket, match="has no committed iteration 3"):
        line[3]


def test_a_module_of_ones_own_takes_the_weights_and_the_mask(results: Results) -> None:
    ticket = results.lineage("lottery_ticket seed 1")[2]
    mine = nn.Sequential()
    mine.add_module("flatten", nn.Flatten())
    mine.add_module("hidden1", nn.Linear(64, 64))
    mine.add_module("relu1", nn.ReLU())
    mine.add_module("classifier", nn.Linear(64, 10))
    assert ticket.model(mine) is mine
    images = torch.rand(5, 1, 8, 8)
    assert torch.equal(mine(images), ticket.model()(images))


def test_initial_weights_are_those_of_the_seed_stored_or_not(
    results: Results, folder: Path, tmp_path: Path
) -> None:
    ticket = results.lineage("lottery_ticket seed 1")[2]
    config = load_sweep(folder / "first.yaml").model[0]
    expected = build_model(config, (1, 8, 8), 10, seed=1).state_dict()
    shutil.copytree(folder / "prunesweep-store", tmp_path / "store")
    shutil.rmtree(tmp_path / "store/snapshots")
    again = open_results(tmp_path / "store", "first").lineage("lottery_ticket seed 1")[2]
    for initial in (ticket.initial(), again.initial()):
        assert initial.keys() == expected.keys()
        assert all(torch.equal(initial[name], value) for name, value in expected.items())


def test_a_lineage_is_found_by_its_label_or_by_columns(results: Results) -> None:
    line = results.lineage(method="snip", method_density=0.1, seed=1)
    assert line.id == results.lineage("snip density=0.1 seed 1").id
    assert line.id == results.lineage("snip density=0.1", seed=1).id
    assert line.id == results.lineage(line.id[-10:]).id
    with pytest.raises(NoSuchLineage, match=r"2 lineages of first match method='lottery_ticket'; "):
        results.lineage(method="lottery_ticket")
    with pytest.raises(NoSuchLineage, match=r"no lineage of first match seed=7; give one, such as"):
        results.lineage(seed=7)
    with pytest.raises(NoSuchLineage, match=r"no column 'sead'; they have .*seed"):
        results.lineage(sead=1)


def test_what_is_evaluated_is_what_was_measured(results: Results) -> None:
    calls: list[nn.Module] = []

    def counted(network: nn.Module, data: Examples) -> torch.Tensor:
        assert not torch.is_grad_enabled()
        calls.append(network)
        return accuracy(network, data)

    table = results.evaluate(counted)
    assert table.num_rows == 2 * (3 + 3 + 1 + 1)
    assert table.column_names == [*results.iterations.column_names, "result"]
    assert np.allclose(table["result"], table["test_accuracy"])
    assert len(calls) == len({*table["key"].to_pylist()}) == 2 * (1 + 2 + 2 + 1 + 1)


def test_some_lineages_another_split_and_several_numbers(results: Results) -> None:
    def several(network: nn.Module, data: Examples) -> dict[str, Any]:
        return {"examples": len(data), "right": float(accuracy(network, data))}

    table = results.evaluate(several, on="train", lineages=["lottery_ticket", "sap seed 0"])
    assert table.num_rows == 3 * 3
    assert {*table["examples"].to_pylist()} == {300}
    one = results.lineage("sap seed 0")
    assert table["lineage"].to_pylist().count(one.id) == 3
    with pytest.raises(ValueError, match="'seed', which is a column of iterations"):
        results.evaluate(lambda network, data: {"seed": 1}, lineages=one.id)
    with pytest.raises(ValueError, match="no split 'tests'; choose one of test, train"):
        results.evaluate(accuracy, on="tests")
    with pytest.raises(NoTicket, match="has no validation split"):
        results.evaluate(accuracy, on="validation")


def test_of_several_sweeps_each_ticket_is_one(results: Results, folder: Path) -> None:
    both = open_results(folder / "prunesweep-store", "first", "second")
    table = both.evaluate(accuracy, lineages=["sap"])
    assert table.num_rows == 3 * 3
    assert np.allclose(table["result"], table["test_accuracy"])
    assert both.lineage("sap seed 1")[2].key == results.lineage("sap seed 1")[2].key
    with pytest.raises(NoSuchLineage):
        results.lineage("sap seed 2")


def test_any_other_data_is_handed_on(results: Results) -> None:
    images = Split(np.zeros((3, 1, 8, 8), np.uint8), np.zeros(3, np.int64))

    def seen(network: nn.Module, data: Any) -> bool:
        return data is images

    table = results.evaluate(seen, on=images, lineages="lottery_ticket seed 0")
    assert table["result"].to_pylist() == [True] * 3


def test_weights_that_were_not_kept_are_no_tickets(tmp_path: Path) -> None:
    methods = [{"name": "lottery_ticket", "ratio": 0.5}]
    sweep = SWEEP | {"seeds": [0], "methods": methods, "train": {"epochs": 1, "batch_size": 300}}
    storage = train(tmp_path, sweep, keep_weights="last")
    results = open_results(storage, "first")
    line = results.lineage("lottery_ticket")
    kept = [ticket.iteration for ticket in line]
    assert kept == [0, 2]
    assert results.evaluate(accuracy)["iteration"].to_pylist() == kept
    with pytest.raises(NoTicket, match=r"were not kept \(store.keep_weights\)"):
        line[1].weights()
    assert line[1].mask().keys() == line[2].mask().keys()
    ask(tmp_path, "export", "first", "--all", "--output", "out")
    assert sorted(each.parent.name for each in tmp_path.glob("out/*/*/config.json")) == ["0", "2"]
    told = refused(tmp_path, "export", "first", "--all", "--iteration", "1", "--output", "out")
    assert "first has no iteration 1 whose weights are stored" in told


PLUGIN = """
from prunesweep import Shape, model
from torch import nn

@model
def tiny(shape: Shape, classes: int, *, width: int = 5) -> nn.Module:
    activation = nn.{activation}()
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), activation, nn.Linear(width, 10))
"""


def test_a_network_of_a_plug_in_needs_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tickets_lab.py").write_text(PLUGIN.replace("{activation}", "ReLU"))
    given = {"plugins": ["tickets_lab.py"], "model": {"name": "tiny", "width": 7}, "seeds": [0]}
    storage = train(tmp_path, SWEEP | given | {"methods": [{"name": "snip", "density": 0.5}]})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NoTicket, match=r"model tiny .* open_results\(…, plugins="):
        open_results(storage, "first").lineage("snip")[-1].model()
    results = open_results(storage, "first", plugins=["tickets_lab.py"])
    table = results.evaluate(accuracy)
    assert np.allclose(table["result"], table["test_accuracy"])
    Path("tickets_lab.py").write_text(PLUGIN.replace("{activation}", "Tanh"))
    with pytest.raises(NoTicket, match="other code"):
        open_results(storage, "first", plugins=["tickets_lab.py"]).lineage("snip")[-1].model()


def test_a_dataset_of_files_is_found_where_it_was(tmp_path: Path) -> None:
    """With a test image that is a training image too, as it was allowed."""
    draws = np.random.default_rng(0)
    for place in ("train/cat", "train/dog", "test/cat", "test/dog"):
        (tmp_path / "pets" / place).mkdir(parents=True)
        for i in range(6):
            image = Image.fromarray(draws.integers(0, 256, (8, 8), np.uint8))
            image.save(tmp_path / "pets" / place / f"{i}.png")
    shutil.copy(tmp_path / "pets/train/cat/0.png", tmp_path / "pets/test/cat/0.png")
    dataset = {"name": "image_folder", "path": str(tmp_path / "pets"), "overlap": 1}
    storage = train(tmp_path, SWEEP | {"dataset": dataset, "methods": ["one_shot"], "seeds": [0]})
    table = open_results(storage, "first").evaluate(accuracy)
    assert np.allclose(table["result"], table["test_accuracy"])
    ask(tmp_path, "export", "first", "one_shot", "--output", "out")
    assert json.loads((tmp_path / "out/config.json").read_text())["class_names"] == ["cat", "dog"]
    (tmp_path / "pets/test/dog/5.png").unlink()
    with pytest.raises(NoTicket, match="image_folder that is here is not the one of"):
        open_results(storage, "first").evaluate(accuracy)


# export


def test_all_tickets_are_exported(results: Results, folder: Path) -> None:
    ask(folder, "export", "first", "--all", "--output", "all")
    rows = results.iterations.to_pylist()
    assert len([*folder.glob("all/*/*")]) == len(rows)
    for row in rows:
        place = folder / "all" / row["lineage"] / str(row["iteration"])
        assert {file.name for file in place.iterdir()} == {
            "weights.safetensors", "mask.safetensors", "config.json"
        }  # fmt: skip
        told = json.loads((place / "config.json").read_text())
        line = results.lineage(row["lineage"])
        assert {n: told[n] for n in ("dataset", "model", "method", "train", "prune", "seed")} == (
            line.config
        )
        assert told["label"] == line.label
        assert told["metrics"]["test_accuracy"] == row["test_accuracy"]
        assert told["metrics"]["params_effective"] == row["params_effective"]
        assert len(told["normalization"]["mean"]) == 1
        assert (told["input_shape"], told["classes"], told["class_names"]) == ([1, 8, 8], 10, None)
    told = ask(folder, "export", "first", "sap seed 0", "--output", "one").split()
    assert {Path(name).name for name in told} == {
        "weights.safetensors", "mask.safetensors", "state_dict.pt", "model.json", "config.json"
    }  # fmt: skip
    config = json.loads((folder / "one/config.json").read_text())
    model = json.loads((folder / "one/model.json").read_text())
    assert config | model == config


@pytest.mark.parametrize("arguments", [[], ["sap seed 0", "--all"]])
def test_one_lineage_or_all(folder: Path, arguments: list[str]) -> None:
    told = refused(folder, "export", "first", *arguments, "--output", "neither")
    assert "give a lineage to export, or --all and none" in told
    assert not (folder / "neither").exists()


def test_nothing_is_exported_into_the_storage(folder: Path) -> None:
    told = refused(folder, "export", "first", "--all", "--output", "prunesweep-store/new")
    assert "is inside of the storage" in told
    assert not (folder / "prunesweep-store/new").exists()


# docs/tickets.md


def test_the_document_runs(folder: Path, results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    """With three lines of PyTorch, a network is as good as it was measured."""
    monkeypatch.chdir(folder)
    text = DOCUMENT.read_text()
    *notebook, plain = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    names: dict[str, Any] = {}
    for example in notebook:
        exec(example, names)
    table = names["table"].to_pandas()
    assert len(table) == 3 * 3
    assert np.allclose(table["accuracy_0"], table["test_accuracy"])
    assert (table["accuracy_60"] < 1).all()
    (command,) = re.findall(r"^```sh\nprunesweep (.*)\n```", text, re.M)
    ask(folder, *command.split())
    assert "prunesweep" not in plain
    ticket = results.lineage("lottery_ticket seed 1")[2]
    alone: dict[str, Any] = {}
    exec(plain.replace("LINEAGE", ticket.lineage.id), alone)
    told = json.loads(Path("tickets", ticket.lineage.id, "2/config.json").read_text())
    found = against(alone["network"], told["normalization"])
    assert found == pytest.approx(told["metrics"]["test_accuracy"])


def against(network: Callable[[torch.Tensor], torch.Tensor], scale: dict[str, Any]) -> float:
    """The accuracy on digits of a network whose images are normalized so."""
    test = load_dataset(DIGITS, ROOTS).test
    mean, std = (torch.tensor(scale[name])[:, None, None] for name in ("mean", "std"))
    logits = network((torch.from_numpy(test.images) / 255 - mean) / std)
    return float((logits.argmax(1).numpy() == test.labels).mean())
