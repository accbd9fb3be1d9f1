"""Submitting to Slurm: what it is given, and what is refused before it is given anything. That
arrays end as they should is in `test_interruptions.py`."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from asking import ask, refused
from slurm import Slurm, options
from sweeping import SWEEP, write


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    made = Slurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{made.bin}{os.pathsep}{os.environ['PATH']}")
    yield made
    made.close()


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The working folder, whose name a shell would take apart."""
    folder = tmp_path / "it's here; now"
    folder.mkdir()
    return folder


def test_the_script_says_what_was_asked_for_and_a_shell_can_read_it(here: Path) -> None:
    file = write(here, SWEEP)
    script = ask(
        here, "submit", str(file), "--slurm", "--array", "4", "--time", "2:00:00",
        "--gpus", "a100:1", "--cpus", "8", "--partition", "long", "--storage", "s t",
        "--set", "train.epochs=3", "--dry-run", "--", "-A", "lab", "--mem=16G",
    )  # fmt: skip
    shown = here / "script.sh"
    shown.write_text(script)
    given = options(shown)
    assert (given["array"], given["job-name"], given["time"]) == ("0-3", "small", "2:00:00")
    assert (given["gpus"], given["cpus-per-task"], given["partition"]) == ("a100:1", "8", "long")
    assert (given["chdir"], given["mem"]) == (str(here), "16G")
    assert given["output"] == f"{here}/slurm-small/%A_%a.log"
    assert subprocess.run(["bash", "-n", str(shown)], check=False).returncode == 0
    (line,) = (each for each in script.splitlines() if each.endswith(" &"))
    told = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {line.removesuffix(' &')}"], capture_output=True, text=True
    )
    assert told.stdout.splitlines()[1:] == [
        "run", str(file), f"--storage={here}/s t", "--set=train.epochs=3",
    ]  # fmt: skip
    assert sorted(each.name for each in here.iterdir()) == ["script.sh", "small.yaml"]


def test_what_cannot_be_run_is_not_submitted(here: Path, slurm: Slurm) -> None:
    wrong = write(here, SWEEP | {"name": "wrong", "methods": ["snippy"]})
    assert "snippy" in refused(here, "submit", str(wrong), "--slurm")
    absent = write(
        here, SWEEP | {"name": "absent", "dataset": {"name": "image_folder", "path": "x"}}
    )
    refused(here, "submit", str(absent), "--slurm")
    fine = write(here, SWEEP)
    assert "--slurm" in refused(here, "submit", str(fine))
    refused(here, "submit", str(fine), "--slurm", "--array", "0")
    assert not [*slurm.folder.glob("*.sh"), *here.glob("slurm-*")]


def test_what_slurm_refuses_leaves_nothing(here: Path, slurm: Slurm) -> None:
    file = write(here, SWEEP)
    (slurm.bin / "sbatch").write_text("#!/bin/sh\necho 'invalid partition' >&2\nexit 1\n")
    assert "invalid partition" in refused(here, "submit", str(file), "--slurm")
    assert [each.name for each in here.iterdir()] == ["small.yaml"]


def test_without_slurm_it_is_said(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(here))
    assert "no sbatch here" in refused(here, "submit", str(write(here, SWEEP)), "--slurm")
    assert [each.name for each in here.iterdir()] == ["small.yaml"]
