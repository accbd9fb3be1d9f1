"""sweeps/sketching/published.csv: complete, plausible, and every row a cell of a sweep file."""

import csv
import json
import re
from argparse import Namespace
from collections import Counter
from importlib.util import module_from_spec, spec_from_file_location
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import TypeAlias

import pytest

from orchestrator.sweepfile.published import read_published
from orchestrator.sweepfile.spec import cells
from orchestrator.sweepfile.yaml_source import load_sweep
from trainables.pruning import Method
from trainables.pruning.parts import Selects, ToDensity

FOLDER = Path(__file__).parents[1] / "sweeps/sketching"
COLUMNS = (
    "source", "table", "row", "dataset", "model", "method", "data", "selection", "density",
    "mean", "std", "note", "seeds",
)  # fmt: skip
CELL = ("dataset", "model", "method", "data", "selection", "density")
PAPER, SYNFLOW = "arXiv:2305.17559", "ganguli-lab/Synaptic-Flow"
DOUBTFUL = "the CIFAR-100 ResNet-20 rows seem to mix single and double width"

Row: TypeAlias = dict[str, str]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    with (FOLDER / "published.csv").open(newline="") as file:
        reader = csv.DictReader(file)
        assert tuple(reader.fieldnames or ()) == COLUMNS
        return list(reader)


def test_the_tables_are_complete(rows: list[Row]) -> None:
    # methods x models x datasets x densities
    assert Counter((row["source"], row["table"]) for row in rows) == {
        (PAPER, "1"): 8 * 2 * 2 * 3,
        (PAPER, "2"): 8 * 2 * 2 * 3,
        (PAPER, "3"): 2 * 2 * 1 * 3,
        (PAPER, "4"): 2 * 2 * 2 * 3,
        (SYNFLOW, "stored results"): 4 * 2 * 1 * 4,
    }
    repeated = Counter(tuple(row[name] for name in ("source", "table", *CELL)) for row in rows)
    assert max(repeated.values()) == 1


def chosen(method: Method) -> tuple[str, str, float]:
    """The data that it scores with, its selection and its density."""
    assert isinstance(method, Selects)
    assert isinstance(method, ToDensity)
    return getattr(method, "data", ""), method.selection, method.density


def test_every_row_is_a_cell_of_a_sweep_file(rows: list[Row]) -> None:
    swept = {
        (cell.dataset.name, cell.model.name, cell.method.name, *chosen(cell.method))
        for file in FOLDER.glob("*.yaml")
        for cell in cells(load_sweep(file))
    }
    published = {(*(row[name] for name in CELL[:-1]), float(row["density"])) for row in rows}
    assert not published - swept


def test_the_values_are_plausible(rows: list[Row]) -> None:
    chance = {"cifar10": 10.0, "cifar100": 1.0, "tiny_imagenet": 0.5}
    for row in rows:
        mean = float(row["mean"])
        assert chance[row["dataset"]] <= mean < 95, row
        assert ("chance level" in row["note"]) == (mean == chance[row["dataset"]]), row
        assert not row["std"] or 0 <= float(row["std"]) < 16, row
        assert ("spread over 5 points" in row["note"]) == (float(row["std"] or 0) > 5), row
    without_std = {row["table"] for row in rows if not row["std"] and "chance" not in row["note"]}
    assert without_std == {"3", "stored results"}


def test_doubtful_rows_say_so(rows: list[Row]) -> None:
    for row in rows:
        doubtful = (row["dataset"], row["model"]) == ("cifar100", "resnet20")
        assert (DOUBTFUL in row["note"]) == doubtful


def test_tables_1_and_4_agree_on_the_rows_they_share(rows: list[Row]) -> None:
    values = {
        table: {
            tuple(row[name] for name in CELL): (float(row["mean"]), float(row["std"]))
            for row in rows
            if row["table"] == table and row["method"] == "snip" and row["std"]
        }
        for table in ("1", "4")
    }
    shared = values["1"].keys() & values["4"].keys()
    assert len(shared) == 2 * 2 * 3
    assert all(values["1"][cell] == values["4"][cell] for cell in shared)


@pytest.mark.parametrize(
    ("table", "cell", "value"),
    [
        ("1", "cifar10 vgg19 synflow ones threshold 0.1", "93.01 0.19"),
        ("1", "cifar10 vgg19 snip sparse sampled 0.1", "93.16 0.36"),
        ("1", "cifar10 resnet20 snip normal sampled 0.05", "83.59 0.4"),
        ("1", "cifar100 vgg19 snip normal threshold 0.02", "1.00 "),
        ("1", "cifar100 resnet20 synflow chi sampled 0.02", "24.35 0.72"),
        ("2", "cifar10 resnet20 random  threshold 0.02", "10.0 "),
        ("2", "cifar10 vgg19 grasp normal threshold 0.1", "92.23 0.95"),
        ("2", "cifar10 resnet20 imp real threshold 0.1", "89.63 0.24"),
        ("2", "cifar100 vgg19 imp random threshold 0.02", "54.81 6.87"),
        ("3", "tiny_imagenet tiny_wide_resnet18 synflow ones sampled 0.05", "58.84 "),
        ("4", "cifar100 vgg19 snip real threshold 0.02", "56.05 13.97"),
        ("stored results", "cifar10 vgg16 synflow ones threshold 0.001", "80.39 "),
    ],
)
def test_values_read_in_the_tables(rows: list[Row], table: str, cell: str, value: str) -> None:
    [found] = [
        f"{row['mean']} {row['std']}"
        for row in rows
        if row["table"] == table and " ".join(row[name] for name in CELL) == cell
    ]
    assert found == value


def test_the_table_of_sweeps_has_every_file_with_its_size() -> None:
    """The sizes are those that the golden plans pin."""
    sweeps = FOLDER.parent
    plans = json.loads((FOLDER.parents[1] / "tests/golden/sweeps.json").read_text())
    rows = re.findall(
        r"^\| `(\S+)` \| ([\d,]+) \| ([\d,]+) \|", (sweeps / "README.md").read_text(), re.MULTILINE
    )
    assert {name for name, *_ in rows} == {
        file.relative_to(sweeps).as_posix() for file in sweeps.glob("*/*.yaml")
    }
    for name, *sizes in rows:
        plan = plans[f"sweeps/{name}"]
        assert [plan["lineages"], plan["to_train"]] == [int(n.replace(",", "")) for n in sizes]


@pytest.mark.parametrize("file", sorted(FOLDER.parent.glob("*/*.yaml")), ids=lambda f: f.stem)
def test_a_sweep_file_says_its_size(file: Path) -> None:
    plan = json.loads((FOLDER.parents[1] / "tests/golden/sweeps.json").read_text())[
        file.relative_to(FOLDER.parents[1]).as_posix()
    ]
    said = f"# {plan['lineages']:,} lineages, {plan['to_train']:,} iterations of "
    assert said in file.read_text()


@pytest.fixture(scope="module")
def reproduce() -> ModuleType:
    path = FOLDER.parents[1] / "benchmarks/reproduce.py"
    spec = spec_from_file_location("reproduce", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("table", "dataset", "model", "density", "lineages"),
    [
        ("1", "cifar10", "resnet20", 0.05, 3 * 8),
        ("2", "cifar10", "vgg19", 0.02, 3 * 8),
        ("3", "tiny_imagenet", "tiny_resnet18", 0.1, 3 * 2),
        ("4", "cifar100", "vgg19", 0.1, 3 * 2),
        ("stored results", "cifar10", "vgg11", 0.001, 3 * 4),
    ],
)
def test_every_row_can_be_run_by_itself(
    reproduce: ModuleType, tmp_path: Path, table: str, dataset: str, model: str,
    density: float, lineages: int,
) -> None:  # fmt: skip
    given = Namespace(
        table=table, dataset=dataset, model=model, density=density, method=None, seeds=None,
        epochs=None,
    )  # fmt: skip
    wanted = reproduce.chosen(read_published(FOLDER / "published.csv"), given)
    file = tmp_path / "s.yaml"
    file.write_text(json.dumps(reproduce.sweep_of(wanted, given)))
    found = [*cells(load_sweep(file))]
    assert len(found) == lineages
    assert {cell.seed for cell in found} == {0, 1, 2}


@pytest.mark.parametrize("table", ["1", "2", "3", "4", "stored results"])
def test_all_that_is_asked_for_is_run_or_nothing(reproduce: ModuleType, table: str) -> None:
    """Another dataset of the table may be in another file."""
    values = read_published(FOLDER / "published.csv")
    models = {value.model for value in values if value.table == table}
    for dataset, model in product((None, "cifar10"), (None, *sorted(models))):
        given = Namespace(
            table=table, dataset=dataset, model=model, density=0.1, method=None, seeds=1,
            epochs=None,
        )  # fmt: skip
        wanted = reproduce.chosen(values, given)
        if len({(value.dataset, value.model) for value in wanted}) > 1:
            with pytest.raises(SystemExit, match="choose with --dataset and --model"):
                reproduce.sweep_of(wanted, given)
        elif wanted:
            assert len(reproduce.sweep_of(wanted, given)["methods"]) == len(wanted)
