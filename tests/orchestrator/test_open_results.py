"""The Python API on a real sweep's results, as docs/results.md and the notebook show it."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import polars
import pyarrow as pa
import pytest
from measured import measured, sweep_file
from nbclient import NotebookClient
from nbformat import NotebookNode

import orchestrator
from orchestrator.records.sweep import NoSuchSweep
from orchestrator.results.opening import Results, open_results
from orchestrator.results.paper_tables import paper_table
from orchestrator.results.sweep_tables import QueryError
from orchestrator.results.tables import SCHEMAS, TABLES
from trainables.store import Damaged, StoreError

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs/results.md"
NOTEBOOK = ROOT / "examples/analysis.ipynb"
METHODS = ["one_shot", "lottery_ticket", "sap p=0.5 q=1.0", "sap p=1.0 q=2.0"]


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The storage of sweeps/quickstart.yaml, run by the command; only to be read."""
    storage = tmp_path_factory.mktemp("quickstart") / "store"
    command = [str(Path(sys.executable).with_name("prunesweep")), "run"]
    file = ROOT / "sweeps/quickstart.yaml"
    subprocess.run([*command, str(file), "--storage", str(storage)], check=True, timeout=240)
    return storage


@pytest.fixture(scope="module")
def results(quickstart: Path) -> Results:
    return orchestrator.open_results(quickstart, "quickstart")


def test_the_tables_come_as_arrow_pandas_polars_and_duckdb(results: Results) -> None:
    for name in TABLES:
        table = getattr(results, name)
        assert table.schema.names[: len(SCHEMAS[name])] == SCHEMAS[name].names
        assert results.pandas(name).shape == results.polars(name).shape == table.shape
        assert results.sql(f"SELECT count(*) AS n FROM {name}").to_pylist() == [{"n": len(table)}]
        [counted] = results.duckdb().sql(f"SELECT count(*) FROM {name}").fetchall()
        assert counted == (len(table),)
    assert len(results.iterations) == 8 * 7
    assert results.polars().schema["method_p"] == polars.Float64


def test_labels_name_cells_without_their_seeds(results: Results) -> None:
    assert [*dict.fromkeys(results.labels.values())] == METHODS
    rows = results.sql("SELECT * FROM labels ORDER BY position").to_pylist()
    assert {row["lineage"]: row["label"] for row in rows} == results.labels
    assert [row["variant"] for row in rows[::2]] == METHODS


def test_statistics_are_those_of_the_rows(results: Results) -> None:
    rows = results.statistics("test_loss").to_pylist()
    assert [(row["label"], row["iteration"]) for row in rows] == [
        (label, t) for label in METHODS for t in range(7)
    ]
    frame = results.pandas()
    chosen = frame[(frame["method"] == "lottery_ticket") & (frame["iteration"] == 3)]
    [found] = [r for r in rows if (r["label"], r["iteration"]) == ("lottery_ticket", 3)]
    assert found["mean"] == pytest.approx(chosen["test_loss"].mean())
    assert found["std"] == pytest.approx(chosen["test_loss"].std())
    assert (found["seeds"], found["low"], found["high"]) == (2, None, None)


def test_a_comparison_is_of_the_last_iteration_unless_told(results: Results) -> None:
    last = results.compare("lottery_ticket", "one_shot")
    assert last == results.compare("lottery_ticket", "one_shot", iteration=6)
    means = {row["label"]: row["mean"] for row in results.statistics().to_pylist()}  # t = 6 is last
    assert last.difference == pytest.approx(means["lottery_ticket"] - means["one_shot"])
    at_the_trunk = results.compare("lottery_ticket", "one_shot", iteration=0)
    assert (at_the_trunk.difference, at_the_trunk.differs) == (0, False)


def test_the_paper_table_is_reached_from_it(results: Results) -> None:
    where = "method = 'sap'"
    assert results.paper_table(layout="iterations", where=where) == paper_table(
        results, layout="iterations", where=where
    )
    assert results.paper_table().rows == tuple(METHODS)


@pytest.mark.parametrize("query", ["SELECT nope FROM iterations", "SELECT", "-- nothing"])
def test_sql_that_gives_no_rows_is_a_query_error(results: Results, query: str) -> None:
    with pytest.raises(QueryError):
        results.sql(query)


def test_what_is_not_there(quickstart: Path, tmp_path: Path) -> None:
    with pytest.raises(NoSuchSweep, match="no sweep 'other'; it has: quickstart"):
        open_results(quickstart, "other")
    with pytest.raises(NoSuchSweep, match="it has: none"):
        open_results(tmp_path / "nothing", "quickstart")
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="is not a folder"):
        open_results(tmp_path / "file", "quickstart")


def test_damaged_published_values_are_said_to_be(tmp_path: Path) -> None:
    file = sweep_file(tmp_path, methods=[{"name": "snip", "density": 0.1}])
    results = measured(tmp_path, file, lambda line, t: {})
    path = Path(results.store.absolute("sweeps/s/published.json"))
    assert (results.published, path.read_text()) == ((), "[]\n")
    for content in ('[{"mean": 1}]', "[1]", '{"mean": 1}', "[", "3"):
        path.write_text(content)
        with pytest.raises(Damaged, match=r"published\.json"):
            open_results(tmp_path / "store", "s").paper_table()


GRID: dict[str, Any] = {
    "dataset": [{"name": "digits", "subset": [100, 200]}],
    "model": ["mlp", "linear"],
    "train": {
        "optimizer": [{"name": "sgd", "nesterov": [True, False]}, "adam"],
        "lr_schedule": ["constant", {"name": "step", "milestones": [[1], [1, 2]]}],
        "epochs": 3,
    },
    "prune": {"iterations": 0, "scope": ["global", "layer"]},
    "methods": ["one_shot", {"name": "sap", "p": [0.5, 0.9]}],
    "seeds": [3, 4],
}


def test_labels_tell_every_cell_apart_by_the_shortest_names(tmp_path: Path) -> None:
    results = measured(tmp_path, sweep_file(tmp_path, **GRID), lambda line, t: {})
    labels = [*results.labels.values()]
    assert len(labels) == 2 * len(set(labels)) == 2 * 2 * 2 * 3 * 3 * 2 * 3
    assert labels[0] == (
        "mlp one_shot subset=100 optimizer=sgd nesterov=true lr_schedule=constant scope=global"
    )
    assert labels[-1] == (
        "linear sap subset=200 optimizer=adam lr_schedule=step milestones=[1, 2] scope=layer p=0.9"
    )
    table = results.paper_table()
    assert (len(table.rows), len(table.columns)) == (2 * 3, 2 * 2 * 3 * 3)
    assert table.columns[0].names == (
        "digits subset=100", "mlp", "optimizer=sgd nesterov=true lr_schedule=constant",
        "iteration 0",
    )  # fmt: skip
    assert all(cell is not None and cell.n == 2 for row in table.cells for cell in row)


# --- docs/results.md


def documented(table: str) -> list[str]:
    """The names in the first column of the section about `table`."""
    [section] = re.findall(rf"^## `{table}`.*?(?=^## )", DOCS.read_text(), re.M | re.S)
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("|")]
    return [name for row in rows for name in re.findall(r"`(\w+)`", row)]


@pytest.mark.parametrize("table", TABLES)
def test_every_column_is_documented_and_nothing_else(table: str) -> None:
    assert sorted(documented(table)) == sorted(SCHEMAS[table].names)


def test_the_examples_run(
    quickstart: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.symlink(quickstart, "prunesweep-store")
    names: dict[str, Any] = {}
    examples = re.findall(r"^```python\n(.*?)^```", DOCS.read_text(), re.M | re.S)
    assert len(examples) == 3
    for example in examples:
        exec(example, names)
    assert isinstance(names["results"].iterations, pa.Table)
    assert names["compared"].test in ("paired t", "Welch t", None)
    assert names["table"].rows == tuple(METHODS[1:])


# --- examples/analysis.ipynb, in a kernel


def executed(storage: Path, monkeypatch: pytest.MonkeyPatch) -> list[NotebookNode]:
    monkeypatch.setenv("PRUNESWEEP_STORAGE", str(storage))
    monkeypatch.delenv("PRUNESWEEP_SWEEP", raising=False)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(
        notebook, timeout=240, resources={"metadata": {"path": str(NOTEBOOK.parent)}}
    )
    client.execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cell: NotebookNode) -> str:
    [output] = cell.outputs
    return output["text"] if output.output_type == "stream" else output["data"]["text/plain"]


def test_the_notebook_runs(quickstart: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, pivot, layers, statistics, compared, figure, table = executed(quickstart, monkeypatch)
    assert "'sap p=0.5 q=1.0'" in shown(opened)
    assert [*shown(pivot).splitlines()[0].split()][:3] == ["label", "one_shot", "lottery_ticket"]
    assert len(shown(pivot).splitlines()) == 2 + 7
    assert len(shown(layers).splitlines()) == 1 + 4 * 3
    assert len(shown(statistics).splitlines()) == 1 + 4
    assert "difference=" in shown(compared)
    [drawn] = figure.outputs
    page = drawn["data"]["text/html"]
    assert "vegaEmbed" in page
    assert page.count('"label": "one_shot"') == 7
    assert "lottery_ticket [(0." in shown(table)


def test_the_notebook_is_kept_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert [cell.outputs for cell in notebook.cells if cell.cell_type == "code"] == [[]] * 7
