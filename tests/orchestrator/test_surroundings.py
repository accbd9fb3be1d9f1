"""What is around a command, such as a job's variables and folders, does not decide its results."""

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mirrored import command, environment, offline_folders, records, storage
from smallest import SWEEP

from orchestrator.commands.doctor import examine
from orchestrator.run import ray_folder
from orchestrator.tracking.service import SURROUNDING
from trainables.store import Store

AGENT = {
    "WANDB_MODE": "offline", "WANDB_SWEEP_ID": "xyz9", "WANDB_RUN_ID": "abc123",
    "WANDB_RUN_GROUP": "theirs", "WANDB_NAME": "theirs", "WANDB_NOTES": "theirs",
    "WANDB_TAGS": "theirs", "WANDB_JOB_TYPE": "theirs", "WANDB_PROJECT": "theirs",
    "WANDB_ENTITY": "us", "WANDB_RESUME": "must", "WANDB_DIR": "/nowhere",
    "WANDB_USE_DOT_WANDB": "true", "WANDB__SKIP_TRANSACTION_LOG": "true", "WANDB_LAUNCH": "true",
}  # fmt: skip
"""What `wandb agent` and the like set for what they start."""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in surroundings that are all against it: one, as it starts Ray."""
    folder = tmp_path_factory.mktemp("surrounded")
    temporary = folder / ("long" * 25)
    temporary.mkdir()
    file = folder / "s.yaml"
    file.write_text(json.dumps(SWEEP | {"methods": ["one_shot", "lottery_ticket"]}))
    surroundings: dict[str, Any] = AGENT | {"TMPDIR": str(temporary), "PYTHONIOENCODING": "ascii"}
    out, err = command(folder, "run", str(file), **surroundings)
    (folder / "out").write_text(out)
    (folder / "err").write_text(err)
    return folder


class TestARun:
    def test_shows_each_lineage_as_a_run_of_its_own(self, done: Path) -> None:
        folders = offline_folders(done, "s")
        assert len(folders) == 2
        for each in folders:
            lineage = each.parents[1].name
            assert (each / f"run-{lineage}.wandb").stat().st_size > 0
        run = next(each["run"] for each in records(folders[0]) if "run" in each)
        lineage = folders[0].parents[1].name
        assert (run["run_id"], run["display_name"], run["run_group"]) == (lineage, lineage, "s")
        assert (run["project"], run["entity"]) == ("prunesweep", "us")
        assert "theirs" not in json.dumps(run)
        marks = {name.rpartition("-")[0] for name in marked(storage(done), "s")}
        assert marks == {each.parents[1].name for each in folders}

    def test_finds_ray_a_short_folder_and_says_so(self, done: Path) -> None:
        said = (done / "err").read_text().splitlines()
        (told,) = (line for line in said if line.startswith(f"{done}/longlong"))
        folder = told.partition("; Ray uses ")[2].removesuffix(" until the run ends")
        assert folder.startswith("/tmp/prunesweep-")
        assert not Path(folder).exists()

    def test_says_all_it_has_to_say(self, done: Path) -> None:
        out = (done / "out").read_text(encoding="ascii")
        assert "+- std" in out
        assert "lottery_ticket" in out


def marked(store: Path, sweep: str) -> list[str]:
    return Store(str(store)).names(f"wandb/{sweep}/sent")


LATE = """
import json, os
from dataclasses import asdict
from orchestrator.records.sweep import existing_sweep
from orchestrator.tracking.mirroring import sync
from orchestrator.tracking.service import wandb
from trainables.store import Store

wandb()
os.environ |= {late}
store = Store("prunesweep-store")
sent = sync(existing_sweep(store, "s"), store, project=None, entity=None, mode="offline",
            again=False, told=lambda done, of: None)
print(json.dumps(asdict(sent)))
"""
"""Variables that come when those around have been put aside: a plug-in may set them."""


class TestAnotherRunThanWasAskedFor:
    def test_is_a_problem_and_not_marked_as_sent(self, done: Path, tmp_path: Path) -> None:
        shutil.copytree(storage(done), storage(tmp_path))
        shutil.rmtree(storage(tmp_path) / "wandb")
        late = {"WANDB_SWEEP_ID": "xyz9", "WANDB_RUN_ID": "abc123"}
        script = [sys.executable, "-c", LATE.replace("{late}", repr(late))]
        home = environment(tmp_path / "home")
        shown = subprocess.run(
            script, cwd=tmp_path, env=home, capture_output=True, text=True, timeout=120
        )
        sent = json.loads(shown.stdout.splitlines()[-1])
        assert (sent["sent"], sent["left"]) == (0, 2)
        assert "W&B began the run abc123 of the sweep xyz9, and not " in sent["problem"]
        assert marked(storage(tmp_path), "s") == []


class TestTheDoctor:
    """Agrees with `run` about where Ray's sockets go."""

    def ray(self, tmp_path: Path) -> tuple[bool, str]:
        checks = {each.name: each for each in examine(Store(str(tmp_path / "store")), {})}
        return checks["ray"].ok, checks["ray"].found

    def test_on_a_temporary_folder_of_the_usual_length(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TMPDIR", "/tmp")
        ok, found = self.ray(tmp_path)
        assert ok
        assert "sockets" not in found

    def test_on_a_long_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TMPDIR", "/tmp/" + "long" * 20)
        ok, found = self.ray(tmp_path)
        assert ok
        assert found.endswith(f"below /tmp: /tmp/{'long' * 20} is too long for them")

    def test_where_there_is_no_short_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TMPDIR", "/tmp/" + "long" * 20)
        monkeypatch.setattr(ray_folder, "SHORT", ("/proc/1", "/nowhere"))
        ok, found = self.ray(tmp_path)
        assert not ok
        assert "set RAY_TMPDIR to a folder of your own with at most 39 characters" in found


class TestRaysFolder:
    def test_is_private_and_goes_when_it_is_done_with(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TMPDIR", "/tmp/" + "long" * 20)
        monkeypatch.delenv("RAY_TMPDIR", raising=False)
        with ray_folder.ray_folder():
            folder = Path(os.environ["RAY_TMPDIR"])
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            assert ray_folder.short_enough(str(folder))
        assert not folder.exists()
        assert "RAY_TMPDIR" not in os.environ

    @pytest.mark.parametrize("fits", [True, False])
    def test_is_its_own_as_long_as_its_sockets_can_be(self, tmp_path: Path, fits: bool) -> None:
        longest = ray_folder.LONGEST_SOCKET - ray_folder.BELOW
        folder = "/" + "a" * (longest - 1 + (not fits))
        assert ray_folder.short_enough(folder) is fits
        path = folder + "/ray/session_2026-01-31_12-00-00_123456_4194304/sockets/plasma_store"
        reason = "No such file" if fits else "too long"
        with socket.socket(socket.AF_UNIX) as tried, pytest.raises(OSError, match=reason):
            tried.bind(path)


def test_no_variable_about_another_run_reaches_wandb() -> None:
    code = "from orchestrator.tracking.service import wandb; wandb(); import os, json; "
    code += "print(json.dumps([name for name in os.environ if name.startswith('WANDB_')]))"
    around = {f"WANDB_{name}": "1" for name in SURROUNDING}
    kept = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_ENTITY": "us", "WANDB_MODE": "offline"}
    shown = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **around, **kept}, capture_output=True
    )
    left = set(json.loads(shown.stdout))
    assert left >= kept.keys()
    assert not left & around.keys()
