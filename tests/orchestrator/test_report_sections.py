"""The report's sections of ablations, barriers, effective weights and lineages that ended early."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from asking import ask
from measured import measured, sweep_file
from playwright.sync_api import Page, expect
from stored import lineages_of

from orchestrator.records.ends import ENDS
from orchestrator.records.failures import FAILURES, Failure
from orchestrator.records.sweep import LineageRecord
from orchestrator.results.figures import FIGURES
from orchestrator.results.figures.connectivity import barrier_rows
from orchestrator.results.opening import Results, open_results
from orchestrator.results.report import write_report
from orchestrator.results.tables import MEASURED
from orchestrator.sweepfile.yaml_source import load_sweep
from trainables.lineage.ending import End, rules_of
from trainables.store import iteration_path
from trainables.store.artifacts import encode_table, measured_file

SECTIONS: dict[str, Any] = {
    "seeds": [0, 1, 2],
    "prune": {"iterations": 2, "stop": [{"when": "density_below", "value": 0.01}]},
    "methods": ["lottery_ticket", {"name": "snip", "density": 0.05}],
}
ABLATED: dict[str, Any] = SECTIONS | {
    "prune": {"iterations": 2},
    "ablations": ["shuffle_layers", {"name": "reinit", "at": [1, 2]}],
    "exclude": [{"method": "snip", "ablation": "reinit"}],
    "measures": [{"name": "lmc", "rewind": [0, 5], "iterations": [1, 2]}, "lmc_consecutive"],
    "store": {"keep_weights": "all"},
}
LOST = {0: 0.10, 1: 0.08, 2: 0.12}
"""By seed, what an ablation takes of the accuracy."""


def measures(line: LineageRecord, t: int) -> dict[str, Any]:
    lost = LOST[line.config["seed"]] if "ablation" in line.config else 0.0
    density = 0.05 if line.config["method"]["name"] == "snip" else 0.5**t
    effective = density * (0.6 if density < 0.1 else 1)
    return {"density": density, "density_effective": effective, "test_accuracy": 0.9 - lost}


def open_report(results: Results, folder: Path, open_page: Callable[[str], Page]) -> Page:
    write_report(results, folder / "s.html")
    return open_page((folder / "s.html").as_uri())


def rows(page: Page, table: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in row.locator("th, td").all_inner_texts()]
        for row in page.locator(f'[data-table="{table}"] tbody tr').all()
    ]


def shown(page: Page) -> set[str]:
    names = {"ablations", "connectivity", "effective", "ends"}
    return {name for name in names if page.locator(f"#h-{name}").is_visible()}


def measure_lines(results: Results, file: Path) -> None:
    """Commit a barrier of each measurement; its error is a hundredth of the seed, the iteration and
    the step together."""
    for line in lineages_of(load_sweep(file)):
        for each in line.measurements:
            step = getattr(each.measure, "rewind", None)
            seed, t = line.cell.seed, line.steps[each.index].iteration
            row = dict.fromkeys(MEASURED["connectivity"].names) | {
                "measure": each.measure.name, "rewind": step, "one": 1, "other": 2,
                "what": "barrier", "test_error": (seed + t + (step or 0)) / 100,
            }  # fmt: skip
            table = pa.Table.from_pylist([row], MEASURED["connectivity"])
            files = {measured_file("connectivity"): encode_table(table)}
            results.store.commit(iteration_path(each.key), files)


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("everything")
    file = sweep_file(folder, **ABLATED)
    results = measured(folder, file, measures)
    measure_lines(results, file)
    return open_results(results.store, "s")


def test_each_section_has_its_rows_and_follows_the_boxes(
    everything: Results, tmp_path: Path, open_page: Callable[[str], Page]
) -> None:
    page = open_report(everything, tmp_path, open_page)
    assert shown(page) == {"ablations", "connectivity", "effective"}
    ablated = ["90.00", "80.00", "-10.00 ± 2.00", "0.013", "3"]
    assert rows(page, "ablations") == [
        ["lottery_ticket", "shuffle_layers", "2", "25.0", *ablated],
        ["lottery_ticket", "reinit at=1", "1", "50.0", *ablated],
        ["lottery_ticket", "reinit at=2", "2", "25.0", *ablated],
        ["snip", "shuffle_layers", "1", "5.00", *ablated],
    ]
    assert rows(page, "barriers") == [
        ["lottery_ticket", "k = 0", "2.00 ± 1.00", "3.00 ± 1.00"],
        ["k = 5", "7.00 ± 1.00", "8.00 ± 1.00"],
        ["consecutive iterations", "2.00 ± 1.00", "3.00 ± 1.00"],
        ["snip", "k = 0", "2.00 ± 1.00", "–"],
        ["k = 5", "7.00 ± 1.00", "–"],
    ]
    assert rows(page, "effective") == [
        ["snip", "1", "5.00", "3.00", "60.0", "90.00", "3"],
        ["snip shuffle_layers", "1", "5.00", "3.00", "60.0", "80.00", "3"],
    ]
    assert [row[0] for row in rows(page, "glance")] == ["lottery_ticket", "snip"]
    for figure, section in (("ablations", "ablation"), ("effective", "effective"),
                            ("barriers", "connectivity")):  # fmt: skip
        page.locator(f"#{section}-figures #figure-{figure}").scroll_into_view_if_needed()
        page.wait_for_selector(f"#figure-{figure}[data-drawn] svg")
    # Without a seed there is no test, as it is of all.
    page.locator('[data-dimension="seed"] input').nth(2).uncheck()
    assert rows(page, "ablations")[0][4:] == ["90.00", "81.00", "-9.00 ± 1.41", "2"]
    assert rows(page, "barriers")[0][2:] == ["1.50 ± 0.71", "2.50 ± 0.71"]
    page.locator('[data-dimension="method"] label').filter(
        has=page.locator("input"), has_text="shuffle_layers"
    ).first.locator("input").uncheck()
    assert [row[1] for row in rows(page, "ablations")] == [
        "reinit at=1", "reinit at=2", "shuffle_layers",
    ]  # fmt: skip


@pytest.mark.parametrize("method", ["lottery_ticket", "one_shot"])
def test_a_barrier_between_methods_is_there_while_both_are(
    tmp_path: Path, open_page: Callable[[str], Page], method: str
) -> None:
    methods = ["lottery_ticket", "one_shot"]
    file = sweep_file(
        tmp_path, methods=methods, prune={"iterations": 1}, measures=["lmc_methods"],
        store={"keep_weights": "all"},
    )  # fmt: skip
    results = measured(tmp_path, file, measures)
    measure_lines(results, file)
    page = open_report(open_results(results.store, "s"), tmp_path, open_page)
    page.locator("#figure-method-barriers").scroll_into_view_if_needed()
    marks = page.locator("#figure-method-barriers svg .mark-symbol.role-mark path")
    expect(marks).to_have_count(1)
    page.locator('[data-dimension="method"] label', has_text=method).locator("input").uncheck()
    expect(marks).to_have_count(0)


def test_a_sweep_without_them_has_no_such_section(
    tmp_path: Path, open_page: Callable[[str], Page]
) -> None:
    file = sweep_file(tmp_path, **SECTIONS)
    results = measured(tmp_path, file, lambda line, t: {"density_effective": 1.0})
    assert shown(open_report(results, tmp_path, open_page)) == set()
    for name in ("ablations", "effective", "barriers"):
        assert FIGURES[name].draw(results) is None


def test_lineages_that_ended_early_say_by_what_and_why(
    tmp_path: Path, open_page: Callable[[str], Page]
) -> None:
    ranked = SECTIONS | {"budget": {"rank": {"after_iterations": 1}}}
    ranked["methods"] = [*ranked["methods"], "one_shot"]
    file = sweep_file(tmp_path, **ranked)
    results = measured(tmp_path, file, lambda line, t: measures(line, t) if t < 2 else None)
    first, second, third, *_ = lineages_of(load_sweep(file))
    whys = ("rank: test_accuracy 0.9 is number 2", "density_below: it keeps <b>little</b>: 0.5 %")
    ends = [
        End(line.id, 1, line.keys[1], rules_of(line.cell.prune), why)
        for line, why in zip((first, second), whys, strict=True)
    ]
    ENDS.write(results.store, "s", ends)
    failure = Failure(third.id, 2, 2, "Traceback\nValueError: diverged")
    FAILURES.write(results.store, "s", [failure])
    page = open_report(open_results(results.store, "s"), tmp_path, open_page)
    assert shown(page) == {"effective", "ends"}
    assert page.locator("#ends-summary").inner_text() == (
        "3 of 9 lineages: 1 by ranking, 1 by stop rule density_below, 1 by failure."
    )
    assert rows(page, "ends") == [
        ["ranking", "lottery_ticket", "0", "1", "50.0", "90.00", whys[0].partition(": ")[2]],
        ["stop rule density_below", "lottery_ticket", "1", "1", "50.0", "90.00",
         whys[1].partition(": ")[2]],
        ["failure", "lottery_ticket", "2", "2", "50.0", "90.00", "ValueError: diverged"],
    ]  # fmt: skip
    assert rows(page, "glance")[0][1] == "2/3\n1 failed\n2 ended early"


def test_the_page_shows_the_density_that_is_asked_for(
    everything: Results, tmp_path: Path, open_page: Callable[[str], Page]
) -> None:
    storage, output = everything.store.location, str(tmp_path / "s.html")
    given = ("--storage", storage, "--output", output, "--weights", "effective")
    ask(tmp_path, "report", "s", *given)
    page = open_page((tmp_path / "s.html").as_uri())
    assert "by share of effective weights" in page.locator("main section").first.inner_text()
    (found,) = (row for row in rows(page, "glance") if row[0] == "snip")
    assert found[-1] == "90.00 ± 0.00\nat 3.00 %"
    page.locator("#figure-trade-off").scroll_into_view_if_needed()
    page.wait_for_selector("#figure-trade-off[data-drawn] svg")
    axis = page.locator("#figure-trade-off svg .role-axis-title text").all_text_contents()
    assert "Effective weights" in axis


def test_rows_of_barriers_say_what_is_between(everything: Results) -> None:
    found = barrier_rows(everything)
    assert list(dict.fromkeys(row["between"] for row in found)) == [
        "k = 0", "k = 5", "consecutive iterations",
    ]  # fmt: skip
    assert len(found) == 3 * (3 * 2 + 2)
