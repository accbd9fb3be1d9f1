"""The density of the effective weights, in the place of that of the kept ones."""

import json
from pathlib import Path
from typing import Any

import pytest
from asking import ask, refused
from measured import measured, sweep_file

from orchestrator.results.opening import NotMeasured, Results, open_results
from orchestrator.results.paper_text import paper_text

TICKET = {"name": "lottery_ticket", "ratio": 0.2}
SNIP = {"name": "snip", "density": 0.1}
KEPT = {("lottery_ticket", 0): 1.0, ("lottery_ticket", 1): 0.8, ("snip", 1): 0.1}
EFFECTIVE = {("lottery_ticket", 0): 1.0, ("lottery_ticket", 1): 0.5, ("snip", 1): 0.03}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("effective")
    file = sweep_file(folder, seeds=[0, 1], methods=[TICKET, SNIP], prune={"iterations": 1})
    measured(folder, file, lambda line, t: densities(line.config["method"]["name"], t))
    return folder


def densities(method: str, t: int) -> dict[str, Any]:
    at = (method, t or min(each for name, each in KEPT if name == method))
    return {"density": KEPT[at], "density_effective": EFFECTIVE[at]}


@pytest.fixture
def results(folder: Path) -> Results:
    return open_results(folder / "store", "s", weights="effective")


def test_the_summary_and_papers_table_have_it(folder: Path) -> None:
    def rows(*options: str) -> list[dict[str, Any]]:
        options = ("--storage", "store", "--format", "json", *options)
        return json.loads(ask(folder, "results", "s", *options))

    for layout in (), ("--layout", "iterations"), ("--layout", "paper"):
        kept, effective = rows(*layout), rows(*layout, "--weights", "effective")
        assert [row["density"] for row in kept if row["density"] < 1]
        for one, other in zip(kept, effective, strict=True):
            (at,) = [at for at, density in KEPT.items() if density == one["density"]]
            expected = {"density_effective": EFFECTIVE[at]}
            assert {n: v for n, v in other.items() if n not in one} == expected
            assert "density" not in other


def test_people_are_told_which_weights_are_meant(results: Results, folder: Path) -> None:
    table = results.paper_table()
    text = paper_text(table)
    assert str(text.headings).count("effective %") == 2
    cells = {each for row in text.rows for each in row}
    assert {"3", "50.0"} <= cells
    assert any("effective" in note for note in table.notes)
    shown = ask(folder, "results", "s", "--storage", "store", "--weights", "effective")
    assert "effective %" in shown
    assert "remaining %" not in shown


def test_figures_have_it_on_their_axes(folder: Path) -> None:
    def drawn(*options: str) -> dict[str, Any]:
        arguments = ("--figure", "trade-off", "--format", "json", "--storage", "store")
        ask(folder, "figures", "s", "--output", "figures", *arguments, *options)
        return json.loads((folder / "figures/trade-off.json").read_text())

    kept, effective = drawn(), drawn("--weights", "effective")
    assert ("Remaining weights" in str(kept), "Effective weights" in str(kept)) == (True, False)
    assert "Remaining weights" not in str(effective)
    (rows,) = effective["datasets"].values()
    assert {(row["label"], row["density_effective"]) for row in rows if row["outcome"]} == {
        (method, density) for (method, _), density in EFFECTIVE.items()
    }


def test_where_nothing_has_measured_it_that_is_said(tmp_path: Path) -> None:
    measured(tmp_path, sweep_file(tmp_path, methods=[SNIP]), lambda line, t: {})
    with pytest.raises(NotMeasured):
        open_results(tmp_path / "store", "s", weights="effective")
    with pytest.raises(ValueError, match="no weights 'efective'; choose one of kept, effective"):
        open_results(tmp_path / "store", "s", weights="efective")  # pyright: ignore
    told = refused(tmp_path, "results", "s", "--storage", "store", "--weights", "effective")
    assert "no iteration of s has a density_effective" in told
