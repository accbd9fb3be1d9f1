"""What the documents show runs as it stands, and the files that they name are there."""

import importlib
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from asking import ask
from jsonschema import Draft202012Validator
from measured import measured, sweep_file
from ruamel.yaml import YAML
from sweeping import command

from orchestrator.commands.cli import app
from orchestrator.run.planned_sweep import plan_sweep
from orchestrator.run.planning import wanted_snapshots
from orchestrator.sweepfile.schema import sweep_schema
from orchestrator.sweepfile.yaml_source import load_sweep
from orchestrator.version import VERSION
from trainables.config import canonical_json
from trainables.data import data_roots, load_dataset
from trainables.lineage.bench import Bench
from trainables.lineage.loop import run_lineage
from trainables.plugins import loading
from trainables.store import Store
from trainables.training.batches import DeviceData

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(
    r"^```(python|yaml|sh)\n(?:# ([\w-]+\.\w+)\n)?(.*?)^```$", re.MULTILINE | re.DOTALL
)
SPAN = re.compile(r"`(prunesweep [^`]+)`|^(?:\$ )?((?:prunesweep|make) .*)$", re.MULTILINE)
HISTORY = ROOT / "CHANGELOG.md"
DOCUMENTS = sorted({*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")} - {HISTORY})
NAMED = re.compile(
    r"`(?!prunesweep\.json)((?:benchmarks|cluster|docs|examples|orchestrator|prunesweep|sweeps|tests|trainables)"
    r"(?:[./]\w+)+)"
)


SCHEMA = Draft202012Validator(sweep_schema())


class Block(NamedTuple):
    """A block of a document: Python, YAML or commands, the file that its first line says it is, its
    text."""

    kind: str
    file: str
    text: str


def relative(file: Path) -> str:
    return str(file.relative_to(ROOT))


def blocks(document: str) -> list[Block]:
    return [Block(*found) for found in BLOCK.findall((ROOT / document).read_text())]


SHOWN = [(file, block) for file in map(relative, DOCUMENTS) for block in blocks(file)]


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


@pytest.fixture
def stored(folder: Path) -> None:
    """The default storage there has the sweep whose results documents show: nobody trained it."""
    file = sweep_file(folder, **QUICKSTART)
    measured(folder, file, lambda line, t: {"density": 0.8**t})
    (folder / "store").rename("prunesweep-store")


QUICKSTART = {
    "name": "quickstart",
    "seeds": [0, 1],
    "prune": {"iterations": 2},
    "methods": ["one_shot", "lottery_ticket", {"name": "sap", "p": [0.5, 0.9]}],
}


@pytest.mark.parametrize(("document", "block"), cases("python", files=True))
def test_a_file_is_imported_as_it_is_shown(
    document: str, block: Block, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(folder)
    # Another test may have had a file, or a plug-in, of this name.
    monkeypatch.setattr(loading, "_SOURCES", loading._Sources())
    finders = [each for each in sys.meta_path if not isinstance(each, loading._Sources)]
    monkeypatch.setattr(sys, "meta_path", finders)
    for other in folder.glob("*.py"):
        monkeypatch.delitem(sys.modules, other.stem, raising=False)
    before = {*sys.modules}
    importlib.import_module(block.file.removesuffix(".py"))
    for name in {*sys.modules} - before:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


TUTORIAL = "docs/tutorial.md"
TICKETS = "docs/tickets.md"
"""Of networks, which have to be trained: tests/orchestrator/test_tickets.py runs it."""
SNIPPETS = {name for name, block in SHOWN if block.kind == "python" and not block.file}


@pytest.mark.parametrize("document", sorted(SNIPPETS - {TUTORIAL, TICKETS}))
def test_the_snippets_of_a_document_run_one_after_the_other(
    document: str, folder: Path, stored: None
) -> None:
    names = {"__name__": "__main__"}
    for block in blocks(document):
        if block.kind == "python" and not block.file:
            exec(compile(block.text, document, "exec"), names)


@pytest.mark.parametrize(("document", "block"), cases("yaml", files=True))
def test_a_sweep_runs(document: str, block: Block, folder: Path) -> None:
    train(folder / block.file, folder / "store")


@pytest.mark.parametrize(("document", "block"), cases("yaml", files=False))
def test_a_part_of_a_sweep_is_valid(document: str, block: Block) -> None:
    shown = YAML(typ="safe", pure=True).load(block.text)
    sweep = {"name": "s", "dataset": "digits", "model": "mlp", "methods": ["sap"]} | shown
    assert [error.message for error in SCHEMA.iter_errors(sweep)] == []


def test_the_sweep_of_the_readme_is_planned(tmp_path: Path) -> None:
    block = next(block for block in blocks("README.md") if block.kind == "yaml" and not block.file)
    file = tmp_path / "shown.yaml"
    file.write_text(block.text)
    planned = plan_sweep(load_sweep(file), Store(str(tmp_path / "store")), data_roots(None, {}))
    assert len(planned.plan.lineages) == 4 * 3 * 3


# Commands


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.name)
def test_the_commands_and_options_that_a_document_names_are_there(document: Path) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for found in SPAN.finditer(document.read_text()):
        words = re.split(r"[\s=]+", (found[1] or found[2]).partition("#")[0])
        if words[0] == "make":
            assert words[1] in targets, found[0]
        elif re.fullmatch("[a-z][a-z-]+", words[1]):
            options = {word for word in words[2:] if re.fullmatch("--[a-z-]+", word)}
            assert options <= options_of(words[1]), found[0]


@cache
def options_of(command: str) -> frozenset[str]:
    """The options of a command; KeyError where there is none."""
    arguments = app[command].assemble_argument_collection()
    return frozenset({name for argument in arguments for name in argument.names} | {"--help"})


def test_the_tutorial_runs(folder_of_tutorial: Path) -> None:
    """All of it, less what installs, and with fewer epochs and workers."""
    shown = {block.kind: [] for block in blocks(TUTORIAL)}
    for block in blocks(TUTORIAL):
        shown[block.kind].append(block.text)
    for line in (line for text in shown["sh"] for line in text.splitlines()):
        words = shlex.split(line)
        if words[0] != "prunesweep":
            continue
        if words[1] == "run":
            command(folder_of_tutorial, *words[1:], *FEWER)
        else:
            ask(folder_of_tutorial, *words[1:])
        if words[1] == "export":
            exec(shown["python"][0], {})
    for name in ("first.html", "figures/retrained.pdf", "table.tex", "tickets/model.json"):
        assert (folder_of_tutorial / name).stat().st_size
    begun = YAML(typ="safe", pure=True).load((folder_of_tutorial / "first.yaml").read_text())
    (part,) = (YAML(typ="safe", pure=True).load(text) for text in shown["yaml"])
    sections = {name: begun[name] | part[name] for name in ("train", "prune")}
    assert begun | part | sections == begun


FEWER = ("--set", "train.epochs=1", "--set", "resources.max_concurrent=1")


@pytest.fixture
def folder_of_tutorial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


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
    for link, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)", text):
        target = document.parent / link if link else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), f"{link}#{anchor}"
    for name in NAMED.findall(text):
        assert is_there(name), name


def anchors(document: Path) -> set[str]:
    """The anchors of the headings of a document."""
    titles = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", title.lower()).strip().replace(" ", "-") for title in titles}


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
