"""What `run` refuses before it writes anything."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from asking import ask
from measured import SOME_METRICS, measured, sweep_file
from rich.console import Console

from orchestrator.errors import PlanError
from orchestrator.records.plugins import record_plugins
from orchestrator.run import planned_sweep
from orchestrator.run.planned_sweep import plan_sweep
from orchestrator.run.progress import RunProgress
from orchestrator.run.sweep import run_sweep
from orchestrator.sweepfile.yaml_source import load_sweep
from trainables.data import data_roots
from trainables.store import Store, StoreError


def run(folder: Path, text: str) -> None:
    file = folder / "s.yaml"
    file.write_text(f"name: s\ndataset: digits\nmodel: mlp\n{text}")
    spec, store = load_sweep(file), Store(str(folder / "store"))
    roots = data_roots(None, os.environ)
    progress = RunProgress(store, spec.name, Console(stderr=True))
    run_sweep(spec, store, roots, progress, address=None, command=[])


def test_a_sweep_that_does_not_fit_the_disk_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planned_sweep, "commit_bytes", lambda *given: 10**18)
    with pytest.raises(StoreError, match=r"GB free, and this sweep needs about 1000000000.0 GB"):
        run(tmp_path, "methods: [one_shot]")
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("name", ["snip", "imp", "set", "rigl"])
def test_a_global_method_refuses_another_scope(tmp_path: Path, name: str) -> None:
    with pytest.raises(PlanError, match=f"{name} decides itself which .* exclude") as error:
        run(tmp_path, f"prune: {{scope: layer}}\nmethods: [{{name: {name}, density: 0.1}}]")
    assert error.value.field == ("methods", 0)
    assert not (tmp_path / "store").exists()


GRID: dict[str, Any] = {
    "seeds": [0, 1],
    "prune": {"iterations": 2},
    "methods": ["one_shot", {"name": "sap", "p": [0.5, 0.7]}],
}


class TestAnotherGridUnderAStoredName:
    """What has results leaves a sweep only when that is asked for."""

    @pytest.fixture
    def stored(self, tmp_path: Path) -> Store:
        file = sweep_file(tmp_path, **GRID)
        return measured(tmp_path, file, lambda line, t: SOME_METRICS).store

    def leaving(self, folder: Path, store: Store, **sections: Any) -> str | None:
        spec = load_sweep(sweep_file(folder, **GRID | sections))
        return plan_sweep(spec, store, data_roots(None, os.environ)).leaving

    def test_is_refused(
        self, tmp_path: Path, stored: Store, capsys: pytest.CaptureFixture[str]
    ) -> None:
        sweep_file(tmp_path, **GRID | {"methods": ["one_shot"], "seeds": [0]})
        before = {file: file.stat().st_mtime_ns for file in (tmp_path / "store").rglob("*")}
        assert ask(tmp_path, "run", "sweep.yaml", "--storage", "store", expect=2) == ""
        said = capsys.readouterr().err
        assert said.startswith(
            "prunesweep: sweep.yaml:1:10: name: 5 of 6 lineages (one_shot seed 1, sap p=0.5 seed 0,"
        )
        assert said.endswith(
            "would leave the sweep s; what is stored of them stays; give another name, or "
            "--replace\n"
        )
        assert before == {f: f.stat().st_mtime_ns for f in (tmp_path / "store").rglob("*")}
        planned = json.loads(ask(tmp_path, "plan", "sweep.yaml", "--storage", "store", "--json"))
        assert planned["notices"][0].startswith("5 of 6 lineages")

    def test_is_run_when_asked_for(self, tmp_path: Path, stored: Store) -> None:
        sweep_file(tmp_path, **GRID | {"methods": ["one_shot"], "wandb": {"mode": "disabled"}})
        out = ask(tmp_path, "run", "sweep.yaml", "--storage", "store", "--replace", "--json")
        assert json.loads(out)["lineages"] == 2
        assert self.leaving(tmp_path, stored) is None

    def test_shorter_lineages_are_another_grid(self, tmp_path: Path, stored: Store) -> None:
        found = self.leaving(tmp_path, stored, prune={"iterations": 1})
        assert found is not None
        assert found.startswith("the last iterations of 6 lineages would leave the sweep s")

    @pytest.mark.parametrize(
        "sections",
        [
            {},
            {"seeds": [0, 1, 2]},
            {"prune": {"iterations": 3}},
            {"methods": [*GRID["methods"], "lottery_ticket"]},
            {"name": "other", "methods": ["one_shot"]},
        ],
    )
    def test_adding_to_it_is_none(
        self, tmp_path: Path, stored: Store, sections: dict[str, Any]
    ) -> None:
        assert self.leaving(tmp_path, stored, **sections) is None

    @pytest.mark.parametrize("iterations", [1, 3])
    def test_an_ablation_of_another_last_iteration_is_another_grid(
        self, tmp_path: Path, iterations: int
    ) -> None:
        sections = {"ablations": ["reinit"], "methods": ["sap"], "seeds": [0]}
        file = sweep_file(tmp_path, **GRID | sections)
        store = measured(tmp_path, file, lambda line, t: SOME_METRICS).store
        sections["prune"] = {"iterations": iterations}
        found = self.leaving(tmp_path, store, **sections)
        assert found is not None
        assert "1 ablation of another iteration (to keep it, say at: 2) would leave" in found
        sections["ablations"] = [{"name": "reinit", "at": [1, 2]}]
        assert iterations == 1 or self.leaving(tmp_path, store, **sections) is None

    def test_what_has_no_results_leaves_in_silence(self, tmp_path: Path) -> None:
        file = sweep_file(tmp_path, **GRID)
        store = measured(tmp_path, file, lambda line, t: None).store
        assert self.leaving(tmp_path, store, methods=["lottery_ticket"]) is None

    def test_nor_does_a_cell_whose_code_has_changed(self, tmp_path: Path) -> None:
        (tmp_path / "lab.py").write_text(PLUGIN)
        mine = {"model": "mine", "plugins": ["lab.py"]}
        file = sweep_file(tmp_path, **GRID | mine)
        store = measured(tmp_path, file, lambda line, t: SOME_METRICS).store
        (tmp_path / "lab.py").write_text(PLUGIN.replace('"1"', '"2"'))
        assert self.leaving(tmp_path, store, **mine) is None


PLUGIN = """
__version__ = "1"
from prunesweep import Shape, model
from torch import nn

@model
def mine(shape: Shape, classes: int, *, width: int = 8) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Linear(width, classes))
"""


def test_a_default_that_changed_under_one_version_of_a_plug_in_is_refused(tmp_path: Path) -> None:
    lab, file = tmp_path / "lab.py", tmp_path / "s.yaml"
    file.write_text(
        "name: s\nplugins: [lab.py]\ndataset: digits\nmodel: mine\nmethods: [one_shot]\n"
    )
    store, roots = Store(str(tmp_path / "store")), data_roots(None, os.environ)

    def planned(source: str) -> frozenset[str]:
        lab.write_text(source)
        return plan_sweep(load_sweep(file), store, roots).plan.to_train

    keys = planned(PLUGIN)
    record_plugins(store, "s", load_sweep(file).configs)
    assert planned(PLUGIN.replace("width: int = 8", "width: int = 8, depth: int = 1")) == keys
    with pytest.raises(PlanError, match=r"default of width is another .* where it was 8") as error:
        planned(PLUGIN.replace("width: int = 8", "width: int = 16"))
    assert error.value.field == ("plugins",)
    assert not planned(PLUGIN.replace('"1"', '"2"').replace("= 8", "= 16")) & keys
