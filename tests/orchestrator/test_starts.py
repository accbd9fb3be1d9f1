"""Commands start fast: what one has no use for is not imported."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from asking import ask

from orchestrator.version import VERSION

GOLDEN = Path(__file__).parents[1] / "golden"
FILE, SWEEP = GOLDEN / "written-before.yaml", "written-before"

HEAVY = (
    "torch", "torchvision", "ray", "wandb", "scipy", "sklearn", "altair", "pandas", "duckdb",
    "pyarrow.compute", "urllib.request",
)  # fmt: skip

WITHOUT_ANY = (
    ["--version"],
    ["--help"],
    ["run", "--help"],
    *(["list", what] for what in ("methods", "criteria", "models", "datasets", "optimizers",
                                  "lr_schedules", "losses", "augmentations", "stop_rules")),
    ["status", SWEEP],
    ["status", SWEEP, "--json"],
    ["status", "another"],
    ["verify"],
    ["plan", str(FILE)],
    ["plan", str(FILE), "--set", "train.epochs=nine"],
)  # fmt: skip

WITH_DUCKDB = (
    ["results", SWEEP],
    ["results", SWEEP, "--last", "--format", "csv"],
    ["results", SWEEP, "--sql", "SELECT layer, avg(kept) FROM layers JOIN labels USING (lineage) "
                                "GROUP BY layer"],
    ["run", str(FILE)],
)  # fmt: skip

COMMANDS = """
import json, sys
from orchestrator.commands import cli

for command in json.loads(sys.argv[1]):
    sys.argv[1:] = command
    try:
        cli.main()
    except SystemExit as exit:
        print(exit.code or 0, *sorted(set(sys.modules) & {heavy}), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with all of a sweep, and its tables."""
    folder = tmp_path_factory.mktemp("stored")
    with zipfile.ZipFile(GOLDEN / "written-before.zip") as packed:
        packed.extractall(folder / "prunesweep-store")
    ask(folder, "results", SWEEP)
    return folder


@pytest.mark.parametrize(
    ("commands", "imported"),
    [(WITHOUT_ANY, ""), (WITH_DUCKDB, "duckdb")],
)
def test_a_command_that_trains_nothing_imports_only_what_it_needs(
    stored: Path, commands: tuple[list[str], ...], imported: str
) -> None:
    script = COMMANDS.replace("{heavy}", repr(set(HEAVY)))
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(commands)],
        cwd=stored, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    said = [line for line in done.stderr.splitlines() if line[:1].isdigit()]
    assert len(said) == len(commands), done.stderr
    for command, line in zip(commands, said, strict=True):
        code, _, found = line.partition(" ")
        assert set(found.split()) <= set(imported.split()), command
        wrong = command[-1] in ("another", "train.epochs=nine")
        assert code == ("2" if wrong else "0"), done.stderr


def test_the_version_is_that_of_the_code(tmp_path: Path) -> None:
    """Also of a checkout that is not installed."""
    code = "from orchestrator.commands.cli import app; app('--version')"
    checkout = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(checkout)!r}); {code}"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout == f"{VERSION}\n"


LINEAGE = """
import sys
import torch
from orchestrator.run.planning import sweep_lineages
from orchestrator.run.datasets import resolve_datasets
from orchestrator.sweepfile.yaml_source import load_sweep
from trainables.data import data_roots, load_dataset
from trainables.lineage.bench import Bench
from trainables.lineage.loop import run_lineage
from trainables.store import Store
from trainables.store.storage_format import mark
from trainables.training.batches import DeviceData

torch.set_num_threads(1)
spec, roots, device = load_sweep(sys.argv[1]), data_roots(None, {}), torch.device("cpu")
data = DeviceData.of(load_dataset(spec.dataset[0], roots), device)
for lineage in sweep_lineages(spec, resolve_datasets(spec, roots)):
    *_, last = run_lineage(lineage, Bench(mark(Store("trained")), data, device))
    assert last["key"] == lineage.keys[-1]
print(*sorted(set(sys.modules) & {"torch._dynamo", "sympy", "scipy", "ray", "wandb"}))
"""


def test_a_lineage_imports_no_compiler(tmp_path: Path) -> None:
    """torch's takes a second of every worker."""
    file = tmp_path / "s.yaml"
    optimizers = [{"name": "sgd", "nesterov": False}, {"name": "adam"}]
    file.write_text(
        json.dumps(
            {
                "name": "s",
                "dataset": {"name": "digits", "subset": 100},
                "model": {"name": "mlp", "hidden": [8]},
                "train": {"epochs": 1, "batch_size": 50, "optimizer": optimizers},
                "prune": {"iterations": 1},
                "methods": ["sap", {"name": "snip", "density": 0.1, "examples": 50}],
            }
        )
    )
    done = subprocess.run(
        [sys.executable, "-c", LINEAGE, str(file)],
        cwd=tmp_path, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
