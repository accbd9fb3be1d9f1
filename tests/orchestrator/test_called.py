"""Hints that are to be copied call prunesweep as it was called."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.commands.called import as_called, called

SCRIPT = Path(sys.executable).with_name("prunesweep")


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A shell that finds no prunesweep; this process was called by the path to one."""
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "run"])
    monkeypatch.chdir(tmp_path)
    return monkeypatch


def test_where_a_shell_finds_it_the_name_is_enough(shell: pytest.MonkeyPatch) -> None:
    shell.setenv("PATH", f"{SCRIPT.parent}{os.pathsep}/usr/bin")
    assert called() == "prunesweep"
    assert as_called("`prunesweep gc`") == "`prunesweep gc`"


def test_where_a_shell_finds_none_it_is_the_path(shell: pytest.MonkeyPatch) -> None:
    assert called() == str(SCRIPT)
    assert as_called("run `prunesweep gc`") == f"run `{SCRIPT} gc`"
    shell.chdir(SCRIPT.parents[1])
    assert called() == "bin/prunesweep"
    shown = subprocess.run(f"{called()} --version", shell=True, capture_output=True, text=True)
    assert shown.returncode == 0


def test_where_a_shell_finds_another_it_is_the_path(
    shell: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = tmp_path / "prunesweep"
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    shell.setenv("PATH", str(tmp_path))
    assert called() == str(SCRIPT)


def test_who_calls_the_module_is_told_the_name(shell: pytest.MonkeyPatch) -> None:
    shell.setattr(sys, "argv", ["cli.py"])
    assert called() == "prunesweep"
