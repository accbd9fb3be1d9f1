"""What `run` refuses before it writes anything."""

import os
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.records.plugins import record_plugins
from orchestrator.run import sweep
from orchestrator.run.planning import PlanError
from orchestrator.run.progress import RunProgress
from orchestrator.sweepfile.yaml_source import load_sweep
from trainables.data import data_roots
from trainables.store import Store, StoreError


def run(folder: Path, text: str) -> None:
    file = folder / "s.yaml"
    file.write_text(f"name: s\ndataset: digits\nmodel: mlp\n{text}")
    spec, store = load_sweep(file), Store(str(folder / "store"))
    roots = data_roots(None, os.environ)
    progress = RunProgress(store, spec.name, Console(stderr=True))
    sweep.run_sweep(spec, store, roots, progress, address=None, command=[])


def test_a_sweep_that_does_not_fit_the_disk_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "commit_bytes", lambda *given: 10**18)
    with pytest.raises(StoreError, match=r"GB free, and this sweep needs about 1000000000.0 GB"):
        run(tmp_path, "methods: [one_shot]")
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("name", ["snip", "imp"])
def test_a_global_method_refuses_another_scope(tmp_path: Path, name: str) -> None:
    with pytest.raises(PlanError, match=f"{name} compares all weights .* exclude") as error:
        run(tmp_path, f"prune: {{scope: layer}}\nmethods: [{{name: {name}, density: 0.1}}]")
    assert error.value.field == ("methods", 0)
    assert not (tmp_path / "store").exists()


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
        return sweep.plan_sweep(load_sweep(file), store, roots).plan.to_train

    keys = planned(PLUGIN)
    record_plugins(store, "s", load_sweep(file).configs)
    assert planned(PLUGIN.replace("width: int = 8", "width: int = 8, depth: int = 1")) == keys
    with pytest.raises(PlanError, match=r"default of width is another .* where it was 8") as error:
        planned(PLUGIN.replace("width: int = 8", "width: int = 16"))
    assert error.value.field == ("plugins",)
    assert not planned(PLUGIN.replace('"1"', '"2"').replace("= 8", "= 16")) & keys
