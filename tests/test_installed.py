"""The package as a user installs it: from a wheel, in a folder that is no checkout."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from asking import ask

ROOT = Path(__file__).parents[1]
SCRIPT = """
import json, sys
from contextlib import suppress
from orchestrator.commands.cli import main

for arguments in json.loads(sys.argv[1]):
    sys.argv = ["prunesweep", *arguments]
    with suppress(SystemExit):
        main()
    print()
"""
"""Several commands in one process, which imports everything once."""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages of the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    built = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
         "--wheel-dir", str(folder), str(ROOT)],
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "packages")
    return folder / "packages"


def prunesweep(installed: Path, folder: Path, *commands: list[str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(commands)],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_has_all_that_is_shipped_and_nothing_else(installed: Path) -> None:
    top = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert top == {"orchestrator", "prunesweep", "trainables"}
    shipped = installed / "orchestrator" / "shipped"
    for file in (path for path in (ROOT / "sweeps").rglob("*") if path.is_file()):
        assert (shipped / file.relative_to(ROOT / "sweeps")).read_bytes() == file.read_bytes()


def test_examples_and_a_first_sweep_from_any_folder(installed: Path, tmp_path: Path) -> None:
    told = prunesweep(
        installed,
        tmp_path,
        ["list", "examples", "--json"],
        ["plan", "quickstart", "--json"],
        ["init"],
        ["plan", "sweep.yaml", "--json"],
    )
    examples, quickstart, _, first = told.split("\n\n", maxsplit=3)
    files = {each["name"]: Path(each["file"]) for each in json.loads(examples)}
    assert files["quickstart"] == installed / "orchestrator" / "shipped" / "quickstart.yaml"
    assert "sketching/table1_cifar10" in files
    assert json.loads(quickstart)["lineages"] == 8
    assert json.loads(first)["to_train"] == 20
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.yaml"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_commands(
    shell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "ZDOTDIR"):
        monkeypatch.setenv(name, str(tmp_path))
    ask(tmp_path, "--install-completion", "--shell", shell)
    written = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert any("wandb-sync" in text and "quarantine" in text for text in written)
