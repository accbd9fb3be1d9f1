"""What must not change unnoticed: keys, the tables' columns, the commands.

After a change that is meant, `python -m pytest tests/test_golden.py --regenerate-golden` rewrites
the files in tests/golden/; their diff belongs to the change.
"""

import difflib
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pinned_numbers
import pytest

from orchestrator.results.tables import SCHEMAS
from orchestrator.run.datasets import ResolvedDataset
from orchestrator.run.planning import make_plan, sweep_lineages
from orchestrator.sweepfile.schema import sweep_schema
from orchestrator.sweepfile.yaml_source import load_sweep
from trainables.config import default, ledger
from trainables.data import DatasetInfo, data_roots, describe_dataset, identity
from trainables.lineage.keys import Lineage

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden"
PRUNESWEEP = str(Path(sys.executable).with_name("prunesweep"))
PAPER_FILES = sorted([*ROOT.glob("sweeps/sap/*.yaml"), *ROOT.glob("sweeps/sketching/*.yaml")])
COMMANDS = (
    "plan", "run", "submit", "stop", "status", "results", "figures", "report", "dashboard",
    "verify", "export", "list", "doctor", "wandb-sync", "init", "schema", "rm", "mv", "gc", "merge",
    "du",
)  # fmt: skip

KEYS = (
    "A key is the name under which an iteration is stored. A CHANGED KEY MAKES EVERY USER'S STORED"
    " RESULTS UNREACHABLE: all of it is trained again. Only a change of what the code computes"
    " (SCHEMA_VERSION in trainables/lineage/identity.py) may do that."
)
TABLES = "Users' queries name these columns; adding one is harmless, the rest breaks them."
HELP = "Scripts use these commands and flags."
SWEEP_FILES = "Editors check sweep files with it: what was valid has to stay so."
LEDGER = (
    "The ledger says which fields of a config are always in keys, and which are left out where they"
    " have the default they came with. A config's field may come to it, and nothing else may"
    " change: every user's stored results would be unreachable, or taken for others."
)

Golden: TypeAlias = Callable[[str, str, str], None]


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """Compares text with the golden file of that name; the last argument is why it matters."""

    def compare(name: str, text: str, why: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--regenerate-golden"):
            path.write_text(text)
            return
        expected = path.read_text()
        if text != expected:
            lines = difflib.unified_diff(
                expected.splitlines(), text.splitlines(), f"tests/golden/{name}", "now", n=1
            )
            difference = "\n".join([*lines][:60])
            pytest.fail(
                f"{why}\nIf it is meant: pytest tests/test_golden.py --regenerate-golden\n"
                f"{difference}",
                pytrace=False,
            )

    return compare


def test_every_sweep_file_keeps_its_plan_and_its_keys(golden: Golden) -> None:
    files = sorted((ROOT / "sweeps").rglob("*.yaml"))
    plans = {str(file.relative_to(ROOT)): figures(lineages(file)) for file in files}
    golden("sweeps.json", as_json(plans), KEYS)


@pytest.mark.parametrize("file", PAPER_FILES, ids=lambda f: f"{f.parent.name}/{f.stem}")
def test_a_file_of_a_paper_says_what_it_costs(file: Path) -> None:
    spec, plan = load_sweep(file), figures(lineages(file))
    runs, epochs = f"{plan['to_train']:,}", spec.train[0].epochs
    cost = f"# {plan['lineages']} lineages, {runs} iterations of {epochs} epochs."
    assert cost in file.read_text().splitlines()
    name, all_epochs = file.relative_to(ROOT / "sweeps"), plan["to_train"] * epochs
    row = f"| `{name}` | {plan['lineages']} | {runs} | {all_epochs:,} | "
    assert row in (ROOT / "sweeps/README.md").read_text()


def test_the_quickstart_keeps_every_key(golden: Golden) -> None:
    quickstart = lineages(ROOT / "sweeps/quickstart.yaml")
    golden("quickstart-keys.json", as_json({line.id: line.keys for line in quickstart}), KEYS)


def test_the_ledger_has_every_field_of_every_built_in_config(
    request: pytest.FixtureRequest,
) -> None:
    text = as_json(dict(sorted(extended_ledger().items())))
    path = ROOT / "trainables" / "identity.json"
    if request.config.getoption("--regenerate-golden"):
        path.write_text(text)
    assert path.read_text() == text, LEDGER


def test_the_numbers_of_every_part_are_those_of_its_version(
    request: pytest.FixtureRequest,
) -> None:
    path = GOLDEN / "numbers.json"
    pinned, now = json.loads(path.read_text()), pinned_numbers.all_numbers()
    if request.config.getoption("--regenerate-golden"):
        pinned = pinned_numbers.extended(pinned, now)
        path.write_text(pinned_numbers.as_text(pinned))
    told = "\n".join(pinned_numbers.changes(pinned, now))
    if told:
        pytest.fail(told, pytrace=False)
    assert pinned.keys() == now.keys()


def test_the_tables_keep_their_columns(golden: Golden) -> None:
    text = "".join(f"# {name}\n{schema.to_string()}\n\n" for name, schema in SCHEMAS.items())
    golden("tables.txt", text, TABLES)


def test_the_schema_of_sweep_files_is_that_of_the_code(request: pytest.FixtureRequest) -> None:
    text = json.dumps(sweep_schema(), indent=1, ensure_ascii=False) + "\n"
    path = ROOT / "sweeps" / "schema.json"
    if request.config.getoption("--regenerate-golden"):
        path.write_text(text)
    assert path.read_text() == text, SWEEP_FILES


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_the_help_of_every_command(golden: Golden, command: str, tmp_path: Path) -> None:
    environment = os.environ | {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    shown = subprocess.run(
        [PRUNESWEEP, *command.split(), "--help"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert not shown.stderr
    assert all(len(line) <= 100 for line in shown.stdout.splitlines())
    text = "".join(f"{line.rstrip()}\n" for line in shown.stdout.splitlines())
    golden(f"help-{command or 'prunesweep'}.txt", text, HELP)


def test_every_command_has_its_golden_help() -> None:
    from orchestrator.commands.cli import app

    assert {name for name in app if not name.startswith("-")} == set(COMMANDS)


def extended_ledger() -> dict[str, Any]:
    """The ledger with what it lacks: new configs, and the new fields of those that it has."""
    found = {**ledger()}
    for config in pinned_numbers.built_in_configs():
        fields = sorted(config.model_fields)
        entry = found.get(config.ledger_name(), {"first": fields, "later": {}})
        new = [name for name in fields if name not in entry["first"] + [*entry["later"]]]
        later = entry["later"] | {name: default(config, name) for name in new}
        found[config.ledger_name()] = {"first": entry["first"], "later": later}
    return found


def lineages(file: Path) -> tuple[Lineage, ...]:
    spec = load_sweep(file)
    return sweep_lineages(spec, [resolved(config) for config in spec.datasets])


def resolved(config: Any) -> ResolvedDataset:
    """The dataset; Parquet files, which are not here, are taken to be CIFAR-10's."""
    if config.name == "parquet":
        info = DatasetInfo((3, 32, 32), 10, 50_000, 10_000, fingerprint="0" * 64)
    else:
        info = describe_dataset(config, data_roots(None, {}))
    return ResolvedDataset(config, info, identity(config, info))


def figures(of: Sequence[Lineage]) -> dict[str, Any]:
    """What `plan` counts on an empty store, and one hash over all ids and keys in order."""
    plan = make_plan(of, lambda key: None)
    text = "".join(f"{line.id} {' '.join(line.keys)}\n" for line in of)
    return {
        "lineages": len(of),
        "iterations": plan.rows,
        "shared": plan.shared,
        "to_train": len(plan.to_train),
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
    }


def as_json(value: Any) -> str:
    return json.dumps(value, indent=1) + "\n"
