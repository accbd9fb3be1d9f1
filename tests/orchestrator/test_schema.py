"""The JSON Schema of sweep files: it takes what a run takes, and finds wrong names and types."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from asking import ask
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

from orchestrator.sweepfile.schema import sweep_schema
from orchestrator.sweepfile.shipped import description, shipped_sweeps
from orchestrator.sweepfile.yaml_document import SweepFileError
from orchestrator.sweepfile.yaml_source import load_sweep
from trainables.plugins.loading import load_plugins
from trainables.plugins.source import read_plugin

ROOT = Path(__file__).parents[2]
SHIPPED = shipped_sweeps()
SMALLEST: dict[str, Any] = {"name": "s", "dataset": "digits", "model": "mlp", "methods": ["sap"]}
SCHEMA = Draft202012Validator(sweep_schema())


def read(file: Path) -> Any:
    return YAML(typ="safe", pure=True).load(file.read_text())


def mistakes(sweep: Any, schema: Draft202012Validator = SCHEMA) -> list[str]:
    return [error.message for error in schema.iter_errors(sweep)]


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA.schema)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_sweep_is_valid_and_names_the_schema(name: str) -> None:
    file = SHIPPED[name]
    assert mistakes(read(file)) == []
    first, label = file.read_text().splitlines()[0], "# yaml-language-server: $schema="
    assert first.startswith(label)
    schema = (file.parent / first.removeprefix(label)).resolve()
    assert schema == ROOT / "sweeps" / "schema.json"


VALID: dict[str, dict[str, Any]] = {
    "names with options": {"dataset": {"name": "digits", "subset": 100}, "model": {"name": "mlp"}},
    "axes of names": {"model": ["mlp", {"name": "mlp", "hidden": [8]}]},
    "a list that is one value": {"model": {"name": "mlp", "hidden": [8, 8]}},
    "an axis of such lists": {"model": {"name": "mlp", "hidden": [[8, 8], [8]]}},
    "axes of sections": {"train": [{"epochs": 1}, {"epochs": [2, 3]}]},
    "axes inside": {"train": {"optimizer": {"name": "sgd", "lr": [0.1, 1]}}},
    "axes of parts": {"train": {"optimizer": ["adam", {"name": "sgd", "momentum": 0.5}]}},
    "one method": {"methods": "sap"},
    "criteria": {"methods": [{"name": "sap", "criterion": ["magnitude", {"name": "snip"}]}]},
    "rewinding": {"methods": [{"name": "lottery_ticket", "rewind": {"step": [0, 5]}}]},
    "one seed": {"seeds": 3},
    "a part whose name is left out": {"train": {"augment": {"horizontal_flip": True}}},
    "no value": {"train": {"clip_grad_norm": None}},
    "what is no axis": {
        "exclude": [{"method": "sap", "seed": [1]}], "resources": {"gpus_per_lineage": "auto"},
        "store": {"keep_weights": "last"}, "wandb": {"mode": "offline", "tags": ["a"]},
        "data_root": "data", "seeds": [0, 1],
    },
}  # fmt: skip


@pytest.mark.parametrize("sections", VALID.values(), ids=VALID)
def test_what_a_run_takes_is_valid(sections: dict[str, Any], tmp_path: Path) -> None:
    sweep = SMALLEST | sections
    file = tmp_path / "s.yaml"
    file.write_text(json.dumps(sweep))
    load_sweep(file)
    assert mistakes(sweep) == []


WRONG: dict[str, dict[str, Any]] = {
    "an unknown key": {"epochs": 5},
    "an unknown key inside": {"train": {"epoch": 5}},
    "an unknown option": {"model": {"name": "mlp", "width": 5}},
    "an unknown name": {"model": "mpl"},
    "an unknown name among others": {"methods": ["sap", "sup"]},
    "an option of another": {"methods": [{"name": "one_shot", "p": 0.5}]},
    "no name": {"methods": [{"ratio": 0.5}]},
    "a name that is an axis": {"model": {"name": ["mlp", "cnn"]}},
    "an option that is missing": {"methods": ["snip"]},
    "text for a number": {"train": {"epochs": "5"}},
    "a number out of range": {"methods": [{"name": "one_shot", "ratio": 2}]},
    "a seed that is none": {"seeds": [-1]},
    "the same twice": {"seeds": [1, 1]},
    "an empty axis": {"seeds": []},
    "a choice that is none": {"prune": {"scope": "globally"}},
    "an axis where there is none": {"resources": {"cpus_per_lineage": [1, 2]}},
    "a value of a section for the section": {"train": 5},
}


@pytest.mark.parametrize("sections", WRONG.values(), ids=WRONG)
def test_what_a_run_refuses_is_not_valid(sections: dict[str, Any], tmp_path: Path) -> None:
    sweep = SMALLEST | sections
    file = tmp_path / "s.yaml"
    file.write_text(json.dumps(sweep))
    with pytest.raises(SweepFileError):
        load_sweep(file)
    assert mistakes(sweep)


@pytest.mark.parametrize("key", SMALLEST)
def test_a_key_that_is_missing(key: str) -> None:
    assert mistakes({name: value for name, value in SMALLEST.items() if name != key})


def test_the_entries_of_a_plug_in(tmp_path: Path) -> None:
    sweep = read(ROOT / "examples" / "plugins" / "sweep.yaml")
    assert mistakes(sweep)
    plugins = [read_plugin(each, ROOT / "examples" / "plugins") for each in sweep["plugins"]]
    schema = sweep_schema(load_plugins(plugins))
    assert mistakes(sweep, Draft202012Validator(schema)) == []


# Sweep files that are there already, and a first one


def test_an_example_is_run_by_its_name_from_any_folder(tmp_path: Path) -> None:
    assert json.loads(ask(tmp_path, "plan", "quickstart", "--json"))["lineages"] == 8
    (tmp_path / "quickstart").write_text(json.dumps(SMALLEST))
    assert json.loads(ask(tmp_path, "plan", "quickstart", "--json"))["lineages"] == 1


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("quikstart", "did you mean 'quickstart'? `prunesweep list examples` shows them"),
        ("sap/fig22", "did you mean 'sap/fig2'?"),
        ("zzz", "there is no such file, and no example of that name; `prunesweep list examples`"),
        ("quickstart.yaml", "quickstart.yaml: no such file"),
        ("my-swep.yml", "my-swep.yml: no such file; did you mean 'my-sweep.yaml'?"),
        ("my-sweep", "did you mean 'my-sweep.yaml'?"),
    ],
)
def test_neither_a_file_nor_an_example(
    name: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my-sweep.yaml").write_text(json.dumps(SMALLEST))
    ask(tmp_path, "plan", name, expect=2)
    assert told in capsys.readouterr().err


def test_the_examples_are_listed(tmp_path: Path) -> None:
    shown = ask(tmp_path, "list", "examples")
    found = json.loads(ask(tmp_path, "list", "examples", "--json"))
    assert [each["name"] for each in found] == [*SHIPPED]
    for name, file in SHIPPED.items():
        assert name in shown
        assert description(file).endswith(".")
        assert "schema" not in description(file)


def test_a_first_sweep_file_is_valid_and_can_be_run(tmp_path: Path) -> None:
    assert ask(tmp_path, "init").startswith("sweep.yaml is a sweep called sweep;")
    ask(tmp_path, "init", "my first.yaml")
    for name, sweep in (("sweep.yaml", "sweep"), ("my first.yaml", "my-sweep")):
        written = read(tmp_path / name)
        assert mistakes(written) == []
        assert written["name"] == sweep
        planned = json.loads(ask(tmp_path, "plan", name, "--json"))
        assert (planned["sweep"], planned["lineages"], planned["to_train"]) == (sweep, 6, 20)
    ask(tmp_path, "schema", "--output", "prunesweep.schema.json")
    assert json.loads((tmp_path / "prunesweep.schema.json").read_text()) == SCHEMA.schema
    assert json.loads(ask(tmp_path, "schema")) == SCHEMA.schema


def test_defaults_are_listed_as_a_sweep_file_has_them(tmp_path: Path) -> None:
    listed = json.loads(ask(tmp_path, "list", "measures", "--json"))
    options = {each["name"]: each["options"] for each in listed}
    assert {"layerwise=false", "train_examples=null", "points=30"} <= {*options["lmc"]}
    assert "dimensions=[100, 200, 400, 800, 1600]" in options["intrinsic_dimension"]


@pytest.mark.parametrize(
    ("option", "shown"),
    [
        ("Callable = print", "<built-in function print>"),
        ("type = int", "<class 'int'>"),
        ("Side = Side.LEFT", "Side.LEFT"),
        ("tuple[int, ...] = (1, 2)", "[1, 2]"),
        ("list[int] = [1]", "[1]"),
    ],
)
def test_a_plug_in_is_listed_and_described_whatever_its_options(
    tmp_path: Path, option: str, shown: str
) -> None:
    (tmp_path / "lab.py").write_text(
        "from collections.abc import Callable\nfrom enum import Enum\n"
        "from prunesweep import model\nclass Side(Enum):\n    LEFT = 'left'\n"
        f"@model\ndef mine(shape, classes, *, size: {option}): ...\n"
    )
    listed = json.loads(ask(tmp_path, "list", "models", "--plugin", "lab.py", "--json"))
    assert shown in next(each["options"] for each in listed if each["name"] == "mine")[-1]
    schema = Draft202012Validator(json.loads(ask(tmp_path, "schema", "--plugin", "lab.py")))
    assert mistakes(SMALLEST | {"model": "mine"}, schema) == []


def test_what_a_first_sweep_file_has_in_comments_can_be_taken(tmp_path: Path) -> None:
    ask(tmp_path, "init")
    lines = (tmp_path / "sweep.yaml").read_text().splitlines()
    options = [i for i, line in enumerate(lines) if re.match(r" *# \w+: [{[]", line)]
    assert len(options) == 6
    for i in options:
        taken = [*lines[:i], lines[i].replace("# ", "", 1), *lines[i + 1 :]]
        (tmp_path / "taken.yaml").write_text("\n".join(taken))
        ask(tmp_path, "plan", "taken.yaml")


@pytest.mark.parametrize("file", ["there.yaml", "nowhere/x.yaml", "."])
def test_a_first_sweep_file_takes_no_place(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there.yaml").write_text("mine")
    ask(tmp_path, "init", file, expect=2)
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["there.yaml"]
    assert (tmp_path / "there.yaml").read_text() == "mine"
