"""Numbers that two decimal places cannot tell apart stay apart, and from zero, wherever they are
shown; programs get every digit."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import altair as alt
import pyarrow.parquet as pq
import pytest
import vl_convert
from asking import ask
from measured import measured, sweep_file
from playwright.sync_api import Page, expect

from orchestrator.results.figures.curves import density
from orchestrator.results.opening import open_results
from orchestrator.results.rendering import decimals
from orchestrator.results.report import write_report

DENSITIES = [0.1, 0.0002, 0.0001, 0.00012345678, 0.00012345679]
METHODS = [{"name": "magnitude", "density": each} for each in DENSITIES]
DEVIATION = 0.00003
"""Of accuracies, as a fraction: three thousandths of a percent."""

Asked = Callable[..., str]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    train = {"epochs": 1, "batch_size": 500}
    file = sweep_file(folder, seeds=[0, 1], train=train, methods=METHODS)
    measured(
        folder,
        file,
        lambda line, t: {
            "density": line.config["method"]["density"],
            "density_target": line.config["method"]["density"],
            "test_accuracy": 0.5 + DEVIATION * line.config["seed"] * 2**0.5,
        },
    )
    return folder


@pytest.fixture
def asked(store: Path) -> Asked:
    return lambda *arguments: ask(store, "results", "s", "--storage", "store", *arguments)


@pytest.mark.parametrize("last", [(), ("--last",)], ids=["every", "last"])
class TestTheSummary:
    def test_has_every_digit_for_programs(
        self, asked: Asked, tmp_path: Path, last: tuple[str, ...]
    ) -> None:
        expected = pytest.approx(DENSITIES, rel=1e-12)
        rows = json.loads(asked(*last, "--format", "json"))
        assert [row["density"] for row in rows] == expected
        deviations = [row["test_accuracy_std"] for row in rows]
        assert deviations == pytest.approx([DEVIATION] * 5, rel=1e-9)
        rows = [*csv.DictReader(io.StringIO(asked(*last, "--format", "csv")))]
        assert [float(row["density"]) for row in rows] == expected
        asked(*last, "--format", "parquet", "--output", str(tmp_path / "t"))
        assert pq.read_table(tmp_path / "t")["density"].to_pylist() == expected

    @pytest.mark.parametrize("form", ["table", "markdown", "latex"])
    def test_has_significant_digits_for_people(
        self, asked: Asked, last: tuple[str, ...], form: str
    ) -> None:
        said = asked(*last, "--format", form)
        for shown in ("10.00", " 0.02 ", " 0.01 ", "0.0123", " 0.003 "):
            assert shown in said


@pytest.mark.parametrize("form", ["table", "markdown", "latex"])
def test_headings_of_a_papers_table_stay_apart(asked: Asked, form: str) -> None:
    said = asked("--layout", "paper", "--format", form).replace("\\", "")
    for heading in ("10 %", "0.02 %", "0.01 %", "0.012345678 %", "0.012345679 %"):
        assert heading in said
    assert said.count("0.003") == len(DENSITIES)


def test_a_papers_table_by_iteration_shows_what_remains(asked: Asked) -> None:
    said = asked("--layout", "iterations", "--format", "markdown")
    for shown in ("| 10.0 |", "| 0.02 |", "| 0.01 |", "| 0.0123 |"):
        assert shown in said


def test_methods_have_labels_of_their_own(asked: Asked) -> None:
    rows = json.loads(asked("--format", "json"))
    assert [row["method"] for row in rows] == [f"magnitude density={each}" for each in DENSITIES]


def test_axes_have_a_label_for_each_tick() -> None:
    axis = density([{"density": 1e-9, "iteration": 1}, {"density": 1.0}]).axis()
    chart = alt.Chart(alt.Data(values=[{"d": each} for each in axis["values"]]))
    drawn = chart.mark_point().encode(alt.X("d:Q", axis=axis, scale=alt.Scale(type="log")))
    svg = vl_convert.vegalite_to_svg(drawn.to_json())
    for label in (">0.01%<", ">0.0001%<", ">0.0000001%<"):
        assert label in svg


def test_the_report_shows_them_apart(
    store: Path, tmp_path: Path, open_page: Callable[..., Page]
) -> None:
    write_report(open_results(str(store / "store"), "s"), tmp_path / "s.html")
    page = open_page((tmp_path / "s.html").as_uri())
    paper = page.locator('[data-table="paper"]')
    for text in ("0.012345678 %", "0.012345679 %", "50.00 ± 0.003"):
        expect(paper).to_contain_text(text)
    iterations = page.locator('[data-table="iterations"]')
    for text in ("0.0200", "0.0100", "0.0123"):
        expect(iterations).to_contain_text(text)


@pytest.mark.parametrize(
    ("value", "places", "significant", "text"),
    [
        (12.345, 2, 2, "12.35"),
        (0.5, 2, 2, "0.50"),
        (0.0042, 2, 2, "0.0042"),
        (-0.0042, 2, 2, "-0.0042"),
        (1.234, 1, 3, "1.23"),
        (0.02, 2, 3, "0.02"),
        (3e-8, 2, 3, "3e-08"),
        (0.0, 2, 2, "0.00"),
        (-1e-16, 2, 2, "0.00"),
        (float("nan"), 2, 2, "nan"),
    ],
)
def test_decimals(value: float, places: int, significant: int, text: str) -> None:
    assert decimals(value, places, significant) == text
