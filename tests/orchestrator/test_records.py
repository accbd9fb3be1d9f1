"""Records: what was written before is read, and written again as it was."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from stored import store_sweep

from orchestrator.records.failures import FAILURES, Failure
from orchestrator.records.files import RecordFile
from orchestrator.records.heartbeat import RUN
from orchestrator.records.labels import lineage_labels
from orchestrator.records.provenance import PROVENANCE, read_provenance
from orchestrator.records.published import PUBLISHED
from orchestrator.records.runs import begin_run, end_run
from orchestrator.records.sweep import LINEAGES, SPEC, read_sweep, write_sweep
from trainables.store import Store

BEFORE = Path(__file__).parents[1] / "golden/written-before.zip"
SWEEP = "written-before"
FILES: tuple[RecordFile[Any], ...] = (SPEC, LINEAGES, RUN, FAILURES, PROVENANCE, PUBLISHED)
SNIP = {
    "source": "A paper", "table": "1", "row": "SNIP", "dataset": "digits", "model": "mlp",
    "method": "snip", "data": None, "selection": "threshold", "density": 0.1, "mean": 93.01,
    "std": None, "note": "",
}  # fmt: skip


@pytest.fixture
def before(tmp_path: Path) -> Store:
    with zipfile.ZipFile(BEFORE) as packed:
        packed.extractall(tmp_path)
    return Store(str(tmp_path))


def test_a_sweep_that_was_written_before_has_no_other_files_in_its_records(before: Store) -> None:
    assert set(before.names(f"sweeps/{SWEEP}")) == {file.name for file in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_what_was_written_before_is_written_again_byte_for_byte(
    before: Store, tmp_path: Path, file: RecordFile[Any]
) -> None:
    there = tmp_path / file.path(SWEEP)
    written = there.read_bytes()
    found = file.read(before, SWEEP)
    there.unlink()
    file.write(before, SWEEP, found)
    assert there.read_bytes() == written


def test_a_sweep_is_written_as_it_was_read(before: Store, tmp_path: Path) -> None:
    files = [tmp_path / file.path(SWEEP) for file in (SPEC, LINEAGES)]
    written = [file.read_bytes() for file in files]
    record = read_sweep(before, SWEEP)
    assert record is not None
    for file in files:
        file.unlink()
    write_sweep(before, record)
    assert [file.read_bytes() for file in files] == written


def test_a_record_is_what_is_read_of_it(tmp_path: Path) -> None:
    """So that lineages have one name, in the run that records them and wherever else."""
    hidden = [{"name": "mlp", "hidden": widths} for widths in ([8], [8, 4])]
    rewinds = [{"step": 0}, {"step": 3}]
    ticket = {"name": "lottery_ticket", "criterion": ["magnitude", "snip"], "rewind": rewinds}
    made = store_sweep(
        Store(str(tmp_path)), "s", model=hidden, train={"epochs": 1},
        methods=[ticket, {"name": "sap", "p": [0.5, 0.7]}],
    )  # fmt: skip
    read = read_sweep(Store(str(tmp_path)), "s")
    assert read is not None
    assert read == made
    names = [*lineage_labels(made).values()]
    assert names == [*lineage_labels(read).values()]
    assert any("hidden=[8]" in name for name in names)


NORMALIZE = {"mean": [0.5], "std": [0.2]}
ALTERNATIVES = {
    "dataset": [
        "digits", {"name": "digits", "normalize": NORMALIZE},
        {"name": "digits", "subset": 400},
    ],
    "model": ["linear", "mlp", {"name": "mlp", "hidden": [8]}, {"name": "mlp", "init": "openlth"}],
    "train": {
        "epochs": 1, "clip_grad_norm": [None, 1.0], "lr_schedule": ["cosine", "constant"],
        "optimizer": ["adam", "sgd", {"name": "sgd", "lr": 0.01}],
    },
    "methods": ["one_shot", "sap", {"name": "sap", "p": 0.7}, {"name": "sap", "criterion": "snip"}],
    "ablations": [
        "reinit", {"name": "reinit", "at": 1}, {"name": "transport", "seed": 7},
        {"name": "transport", "dataset": {"name": "digits", "subset": 400}},
        {"name": "transport", "dataset": {"name": "digits", "normalize": NORMALIZE}},
    ],
}  # fmt: skip
"""Of each section values that differ in an option, one that only some have, a name, or None."""


@pytest.mark.parametrize("sections", [[name] for name in ALTERNATIVES] + [["dataset", "methods"]])
def test_no_two_lineages_have_one_name(tmp_path: Path, sections: list[str]) -> None:
    """Of what has one name, means are taken."""
    chosen: dict[str, Any] = {name: ALTERNATIVES[name] for name in sections}
    chosen |= {"seeds": [0, 1], "prune": {"iterations": 2}}
    made = store_sweep(Store(str(tmp_path)), "s", **chosen)
    names = lineage_labels(made)
    assert len({*names.values()}) == len({line.keys for line in made.lineages}) == len(names)


def test_failures_and_published_values_are_written_as_they_are(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    failure = Failure("a", 1, 2, "ValueError: no")
    FAILURES.write(store, "s", [failure])
    assert json.loads((tmp_path / "sweeps/s/failures.json").read_text()) == [vars(failure)]
    store.write_json("sweeps/s/published.json", [SNIP])
    found = PUBLISHED.read(store, "s")
    assert found is not None
    PUBLISHED.write(store, "s", found)
    assert json.loads((tmp_path / "sweeps/s/published.json").read_text()) == [SNIP]


def test_a_run_keeps_what_another_version_says_of_earlier_runs(
    before: Store, tmp_path: Path
) -> None:
    file = tmp_path / PROVENANCE.path(SWEEP)
    (earlier,) = json.loads(file.read_text())
    file.write_text(json.dumps([earlier | {"kernel": "6.1"}]))
    begin_run(before, SWEEP, ["prunesweep", "run"], "a", [])
    end_run(before, SWEEP)
    first, second = json.loads(file.read_text())
    assert first == earlier | {"kernel": "6.1"}
    assert set(second) == {*earlier, "run"}
    assert read_provenance(before, SWEEP)[1].command == ["prunesweep", "run"]
