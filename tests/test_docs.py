"""What the documents show runs as it stands, and the files that they name are there."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from orchestrator.run.planning import wanted_snapshots
from orchestrator.run.sweep import plan_sweep
from orchestrator.sweepfile.yaml_source import load_sweep
from orchestrator.version import VERSION
from trainables.config import canonical_json
from trainables.data import data_roots, load_dataset
from trainables.lineage.bench import Bench
from trainables.lineage.loop import run_lineage
from trainables.store import Store
from trainables.training.batches import DeviceData

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(python|yaml)\n(?:# ([\w-]+\.\w+)\n)?(.*?)^```$", re.MULTILINE | re.DOTALL)
HISTORY = ROOT / "CHANGELOG.md"
DOCUMENTS = sorted({*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")} - {HISTORY})
NAMED = re.compile(
    r"`(?!prunesweep\.json)((?:benchmarks|docs|examples|orchestrator|prunesweep|sweeps|tests|trainables)"
    r"(?:[./]\w+)+)"
)


class Block(NamedTuple):
    """A block of a document: Python or YAML, the file that its first line says it is, its text."""

    kind: str
    file: str
    text: str


def blocks(document: str) -> list[Block]:
    return [Block(*found) for found in BLOCK.findall((ROOT / document).read_text())]


SHOWN = [(name, block) for name in ("README.md", "docs/plugins.md") for block in blocks(name)]


def cases(kind: str, *, files: bool) -> list[object]:
    chosen = [(n, b) for n, b in SHOWN if b.kind == kind and bool(b.file) == files]
    return [pytest.param(*each, id=f"{each[0]}-{i}") for i, each in enumerate(chosen)]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads of one small training wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with all the files that the document shows."""
    monkeypatch.chdir(tmp_path)
    for block in blocks(request.getfixturevalue("document")):
        if block.file:
            Path(block.file).write_text(block.text)
    return tmp_path


@pytest.mark.parametrize(("document", "block"), cases("python", files=False))
def test_a_snippet_runs(document: str, block: Block, folder: Path) -> None:
    exec(compile(block.text, document, "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize(("document", "block"), cases("yaml", files=True))
def test_a_sweep_runs(document: str, block: Block, folder: Path) -> None:
    train(folder / block.file, folder / "store")


@pytest.mark.parametrize(("document", "block"), cases("yaml", files=False))
def test_a_sweep_of_more_than_a_test_can_train_is_planned(
    document: str, block: Block, folder: Path
) -> None:
    Path("shown.yaml").write_text(block.text)
    spec = load_sweep("shown.yaml")
    planned = plan_sweep(spec, Store(str(folder / "store")), data_roots(None, {}))
    assert len(planned.plan.lineages) == 4 * 3 * 3


def train(file: Path, storage: Path) -> None:
    """Train all that the sweep plans, in this process."""
    store, roots, cpu = Store(str(storage)), data_roots(None, {}), torch.device("cpu")
    planned = plan_sweep(load_sweep(file), store, roots)
    data = {
        canonical_json(found.identity): DeviceData.of(load_dataset(found.config, roots), cpu)
        for found in planned.datasets
    }
    snapshots = wanted_snapshots(planned.plan.lineages)
    for lineage in planned.plan.lineages:
        bench = Bench(store, data[canonical_json(lineage.dataset)], cpu, snapshots)
        assert all(run_lineage(lineage, bench))
    assert store.committed("iterations").keys() == planned.plan.to_train


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.name)
def test_what_a_document_names_and_links_to_is_there(document: Path) -> None:
    text = document.read_text()
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (document.parent / link).exists(), link
    for name in NAMED.findall(text):
        assert is_there(name), name


def is_there(name: str) -> bool:
    """Whether a name such as `trainables/config.py` is a file, or `trainables.config.Config` a name
    in a module."""
    if "/" in name:
        return (ROOT / name).exists()
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        place = ROOT.joinpath(*parts[:length])
        for source in (place.with_suffix(".py"), place / "__init__.py"):
            if source.is_file():
                return length == len(parts) or parts[length] in source.read_text()
    return False


def test_the_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    path = ROOT / project["tool"]["hatch"]["version"]["path"]
    assert f'VERSION = "{VERSION}"\n' in path.read_text()
    assert f"\nversion: {VERSION}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## [{VERSION}]" in HISTORY.read_text()
