"""examples/analysis.ipynb, run in a kernel on the results of a real sweep."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

NOTEBOOK = Path(__file__).parents[2] / "examples/analysis.ipynb"


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
