"""`published:` in a sweep file: its mistakes, and what a run keeps of it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from asking import ask
from stored import store_sweep

from orchestrator.records.published import published_cell
from orchestrator.results.opening import open_results
from orchestrator.sweepfile.published import (
    COLUMNS,
    OPTIONAL,
    PublishedCell,
    PublishedError,
    read_published,
)
from orchestrator.sweepfile.yaml_document import SweepFileError
from orchestrator.sweepfile.yaml_source import load_sweep
from trainables.store import Store

COMMAND = str(Path(sys.executable).with_name("prunesweep"))
HEADER = ",".join(column for column in COLUMNS if column not in OPTIONAL)
SNIP = "A paper,1,SNIP,digits,mlp,snip,normal,threshold,0.1,93.01,0.19,"
SYNFLOW = "A paper,1,SynFlow,digits,mlp,synflow,ones,threshold,0.1,95,,chance level"
RANDOM = "A paper,2,Random,digits,mlp,random,,threshold,0.1,10.0,0.0,"
SWEEP = """\
name: s
dataset: digits
model: mlp
published: values/published.csv
train: {epochs: 1, batch_size: 500}
methods:
  - {name: snip, density: 0.1, data: normal}
"""


def written(folder: Path, *lines: str) -> Path:
    file = folder / "published.csv"
    file.write_text("\n".join(lines) + "\n")
    return file


def test_values_are_read_as_they_are_printed(tmp_path: Path) -> None:
    snip, synflow, random = read_published(written(tmp_path, HEADER, SNIP, "", SYNFLOW, RANDOM))
    assert (snip.mean, snip.std, snip.density, snip.data) == (93.01, 0.19, 0.1, "normal")
    assert (synflow.mean, synflow.std, synflow.note) == (95.0, None, "chance level")
    assert (random.data, random.std) == (None, 0.0)


def test_how_many_runs_a_value_is_of_may_be_said(tmp_path: Path) -> None:
    lines = (f"{HEADER},seeds", f"{SNIP},3", f"{SYNFLOW},")
    assert [value.seeds for value in read_published(written(tmp_path, *lines))] == [3, None]


def test_columns_may_be_in_any_order_and_after_a_byte_order_mark(tmp_path: Path) -> None:
    [expected] = read_published(written(tmp_path, HEADER, SNIP))
    turned = (",".join(reversed(line.split(","))) for line in (HEADER, SNIP))
    file = tmp_path / "turned.csv"
    file.write_text("\n".join(turned), encoding="utf-8-sig")
    assert read_published(file) == (expected,)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], ":1: column source is missing; needed: source,table,row,"),
        ([HEADER], ": has no values below its header"),
        ([HEADER.replace("std", "sd"), SNIP], ":1: column std is missing; needed: "),
        ([f"{HEADER},seed", f"{SNIP},1"], ':1: unknown column "seed"; known: source,'),
        ([f"{HEADER},std", f"{SNIP},1"], ":1: column std is there twice; needed: "),
        ([HEADER, SNIP, SYNFLOW + ",5"], ":3: has another number of values than the header"),
        ([HEADER, SNIP[:-1]], ":2: has another number of values than the header"),
        ([HEADER, SNIP.replace("93.01", "high")], ':2: mean is "high": must be a valid number'),
        ([HEADER, SNIP.replace("93.01", "nan")], ':2: mean is "nan": must be a finite number'),
        ([HEADER, SNIP.replace("93.01", "930.1")], ":2: mean is "),
        ([HEADER, SNIP.replace("0.19", "-0.19")], ":2: std is "),
        ([HEADER, SNIP.replace("0.1,", "10,")], ":2: density is "),
        ([HEADER, SNIP.replace("digits", "")], ':2: dataset is "": '),
        ([HEADER, SYNFLOW, SNIP, SNIP], ":4: the same source, table and cell as in line 3; rem"),
        ([HEADER, SNIP, '"unclosed'], ":3: is not CSV: "),
        ([f"{HEADER},seeds", f"{SNIP},0"], ":2: seeds is "),
    ],
)
def test_a_mistake_has_its_line(tmp_path: Path, lines: list[str], message: str) -> None:
    file = written(tmp_path, *lines)
    with pytest.raises(PublishedError) as caught:
        read_published(file)
    assert str(caught.value).startswith(f"{file}{message}")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda file: None, "no such file"),
        (lambda file: file.mkdir(), "is not a file"),
        (lambda file: file.write_bytes(b"\xff\xfe\xfa"), "is not UTF-8 text; save the file as UTF"),
    ],
)
def test_a_file_that_cannot_be_read(
    tmp_path: Path, make: Callable[[Path], Any], message: str
) -> None:
    file = tmp_path / "published.csv"
    make(file)
    with pytest.raises(PublishedError, match=message):
        read_published(file)


def test_a_sweep_file_says_where_it_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "values").mkdir()
    sweep = tmp_path / "s.yaml"
    sweep.write_text(SWEEP)
    published = tmp_path / "values/published.csv"
    with pytest.raises(SweepFileError) as missing:
        load_sweep(sweep)
    assert str(missing.value) == f"{sweep}:4:12: published: {published}: no such file"
    written(tmp_path / "values", HEADER, SNIP.replace("93.01", "high"))
    with pytest.raises(SweepFileError) as malformed:
        load_sweep(sweep)
    assert str(malformed.value).startswith(f"{sweep}:4:12: published: {published}:2: mean is ")
    with pytest.raises(SweepFileError, match=r"^--set published: published: 3 is a number, not"):
        load_sweep(sweep, ["published=3"])
    written(tmp_path / "values", HEADER, SNIP)
    monkeypatch.chdir("/")
    assert load_sweep(sweep.relative_to("/")).published == str(published)
    assert load_sweep(sweep, ["published=null"]).published is None


@pytest.mark.parametrize(
    ("method", "published"),
    [
        ({}, True),
        ({"criterion": "magnitude"}, True),
        ({"criterion": "snip"}, False),
        ({"rewind": {"step": 3}}, True),
    ],
)
def test_a_value_is_of_a_method_with_its_own_criterion(
    tmp_path: Path, method: dict[str, Any], published: bool
) -> None:
    imp = {"name": "imp", "density": 0.1} | method
    record = store_sweep(Store(str(tmp_path)), "s", methods=[imp])
    cell = PublishedCell("digits", "mlp", "imp", "real", "threshold", 0.1)
    assert [published_cell(line) for line in record.lineages] == [cell if published else None]


def test_a_run_keeps_the_values_of_its_cells(tmp_path: Path) -> None:
    """Through real Ray; then the file is gone, and the table still has them."""
    (tmp_path / "values").mkdir()
    (tmp_path / "s.yaml").write_text(SWEEP)
    file = written(tmp_path / "values", HEADER, SNIP, SYNFLOW, RANDOM)

    def prunesweep(*arguments: str) -> str:
        return ask(tmp_path, *arguments, "--storage", "store")

    done = subprocess.run(
        [COMMAND, "run", "s.yaml", "--storage", "store"],
        cwd=tmp_path, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    file.unlink()
    [row] = json.loads(prunesweep("results", "s", "--layout", "paper", "--format", "json"))
    accuracy = open_results(tmp_path / "store", "s").iterations["test_accuracy"][0].as_py()
    assert (row["mean"], row["published_mean"]) == (accuracy, pytest.approx(0.9301))
    assert row["difference"] == pytest.approx(accuracy - 0.9301)
    shown = prunesweep("results", "s", "--layout", "paper")
    assert "93.01 ± 0.19" in shown
    assert "Published values: A paper, table 1." in shown
    # outside the identity of results: nothing is trained again, and nothing shown any more
    again = json.loads(prunesweep("run", "s.yaml", "--set", "published=null", "--json"))
    assert again["planned"] == 0
    assert "93.01" not in prunesweep("results", "s", "--layout", "paper")
