"""What `run` refuses before it writes anything."""

import os
from pathlib import Path

import pytest
from rich.console import Console

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
