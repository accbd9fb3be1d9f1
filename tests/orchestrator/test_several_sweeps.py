"""Several sweeps shown as one: what is counted once, and what tells lineages apart."""

import csv
import io
import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asking import ask
from measured import measured, sweep_file
from PIL import Image

from orchestrator.records.joined import join
from orchestrator.records.sweep import LineageRecord, SweepRecord, write_sweep
from orchestrator.results.figures import FIGURES
from orchestrator.results.opening import Results, open_results
from orchestrator.results.query import summary
from orchestrator.results.report import report_payload

AT_INIT: dict[str, Any] = {
    "name": "at-init",
    "seeds": [0, 1],
    "methods": [
        {"name": "synflow", "density": [0.5, 0.1], "selection": ["threshold", "sampled"]},
        {"name": "random", "density": 0.1},
    ],
}
IMP: dict[str, Any] = {
    "name": "imp",
    "seeds": [0, 1, 2],
    "methods": [
        {"name": "imp", "density": 0.1, "ratio": 0.5},
        {"name": "random", "density": 0.1},
    ],
}


def measures(line: LineageRecord, t: int) -> dict[str, Any]:
    density = line.config["method"].get("density")
    return {"density": density or 1.0, "density_target": density, "test_accuracy": 0.5 + t / 100}


def stored(folder: Path, *sweeps: dict[str, Any]) -> list[Results]:
    return [measured(folder, sweep_file(folder, **sweep), measures) for sweep in sweeps]


def opened(folder: Path, *sweeps: dict[str, Any]) -> Results:
    """The sweeps as one, once they are stored."""
    one = stored(folder, *sweeps)[0]
    return open_results(one.store, *(sweep["name"] for sweep in sweeps))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("several")


@pytest.fixture(scope="module")
def both(folder: Path) -> Results:
    return opened(folder, AT_INIT, IMP)


def seeds_of(results: Results) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for line in results.record.lineages:
        found.setdefault(results.labels[line.id], []).append(line.config["seed"])
    return found


def test_a_lineage_of_both_sweeps_counts_once(both: Results) -> None:
    assert seeds_of(both) == {
        "synflow density=0.5 selection=threshold": [0, 1],
        "synflow density=0.5 selection=sampled": [0, 1],
        "synflow density=0.1 selection=threshold": [0, 1],
        "synflow density=0.1 selection=sampled": [0, 1],
        "random": [0, 1, 2],
        "imp": [0, 1, 2],
    }
    rows = both.sql("SELECT lineage, iteration FROM iterations").to_pylist()
    planned = [(line.id, t) for line in both.record.lineages for t in line.iterations]
    assert sorted((row["lineage"], row["iteration"]) for row in rows) == sorted(planned)
    assert both.iterations.num_rows == len(planned)


def test_the_sweep_of_a_row_is_the_first_that_has_it(both: Results) -> None:
    sql = "SELECT sweep, seed FROM iterations WHERE method = 'random' ORDER BY seed"
    found = [(row["sweep"], row["seed"]) for row in both.sql(sql).to_pylist()]
    assert found == [("at-init", 0), ("at-init", 1), ("imp", 2)]


def test_what_one_sweep_alone_sweeps_is_a_column_of_all(both: Results) -> None:
    sql = "SELECT method, method_density AS density FROM iterations GROUP BY ALL ORDER BY ALL"
    found = [(row["method"], row["density"]) for row in both.sql(sql).to_pylist()]
    assert found == [("imp", 0.1), ("random", 0.1), ("synflow", 0.1), ("synflow", 0.5)]


@pytest.mark.parametrize("table", ["layers", "epochs", "sparsity"])
def test_every_table_is_read_and_queried_alike(both: Results, table: str) -> None:
    names = both.table(table).column_names
    assert both.sql(f"SELECT * FROM {table}").column_names == names
    assert names == open_results(both.store, "imp").table(table).column_names


def test_one_sweep_is_as_it_is(both: Results) -> None:
    alone = open_results(both.store, "imp")
    assert join([alone.record]) is alone.record
    twice = open_results(both.store, "imp", "imp")
    assert twice.record == alone.record
    assert twice.iterations.equals(alone.iterations)


CLIPPED = {"clip_grad_norm": 1.0}
ONE_SHOT: dict[str, Any] = {
    "name": "a", "train": CLIPPED, "prune": {"iterations": 2}, "methods": ["one_shot"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "labels"),
    [
        ({"train": CLIPPED | {"epochs": 7}}, {"one_shot epochs=200", "one_shot epochs=7"}),
        ({"seeds": [0, 1]}, {"one_shot"}),
        ({"prune": {"iterations": 3}}, {"one_shot"}),
        ({"prune": {"iterations": 3}, "seeds": 1},
         {"one_shot iterations=2", "one_shot iterations=3"}),
        ({"train": CLIPPED | {"clip_before_mask": [True, False]}, "seeds": 1},
         {"one_shot clip_before_mask=false", "one_shot clip_before_mask=true"}),
        ({"dataset": {"name": "digits", "normalize": {"mean": [0.5], "std": [1.0]}}},
         {"one_shot", "one_shot normalize={'mean': [0.5], 'std': [1.0]}"}),
        ({"methods": [{"name": "one_shot", "criterion": "snip"}]},
         {"one_shot", "one_shot criterion=snip"}),
        ({"methods": ["lottery_ticket"]}, {"one_shot", "lottery_ticket"}),
        ({"model": {"name": "mlp", "hidden": [8]}},
         {"one_shot hidden=[128, 256]", "one_shot hidden=[8]"}),
        ({"model": "cnn"}, {"mlp one_shot", "cnn one_shot"}),
    ],
)  # fmt: skip
def test_labels_say_what_differs(tmp_path: Path, changes: dict[str, Any], labels: set[str]) -> None:
    results = opened(tmp_path, ONE_SHOT, ONE_SHOT | {"name": "b"} | changes)
    assert set(results.labels.values()) == labels
    found = [(results.labels[line.id], line.config["seed"]) for line in results.record.lineages]
    assert len(found) == len(set(found))


def test_a_longer_lineage_takes_the_place_of_a_shorter_one(tmp_path: Path) -> None:
    longer = ONE_SHOT | {"name": "b", "prune": {"iterations": 3}}
    results = opened(tmp_path, ONE_SHOT, longer)
    assert [line.iterations for line in results.record.lineages] == [(0, 1, 2, 3)]
    assert results.iterations.num_rows == 4
    assert set(results.iterations["sweep"].to_pylist()) == {"b"}


def test_where_nothing_else_differs_the_sweeps_name_does(tmp_path: Path) -> None:
    """The same config under other keys, as after a change of what the code computes."""
    (one,) = stored(tmp_path, ONE_SHOT)
    (line,) = one.record.lineages
    again = replace(line, id=f"{line.id}-again", keys=tuple(f"{key}x" for key in line.keys))
    other = SweepRecord("b", one.record.spec, one.record.swept, (again,))
    joined = Results(one.store, join([one.record, other]))
    assert [*joined.labels.values()] == ["one_shot sweep=a", "one_shot sweep=b"]


def test_a_sweep_that_was_recorded_without_what_tells_its_lineages_is_shown_with_it(
    tmp_path: Path,
) -> None:
    """As one whose datasets differed in `normalize` alone: of one label, means would be taken."""
    normalized = {"name": "digits", "normalize": {"mean": [0.5], "std": [0.2]}}
    sweep = {"dataset": ["digits", normalized], "methods": ["one_shot"]}
    (one,) = stored(tmp_path, sweep | {"seeds": [0, 1], "prune": {"iterations": 0}})
    lines = tuple(replace(line, swept={}) for line in one.record.lineages)
    write_sweep(one.store, replace(one.record, swept=(), lineages=lines))
    before = open_results(one.store, "s")
    assert sorted(map(len, seeds_of(before).values())) == [2, 2]
    assert summary(before)["seeds"].to_pylist() == [2, 2]
    assert len(before.paper_table().columns) == 2
    assert (before.record.name, before.record.spec) == (one.record.name, one.record.spec)
    assert report_payload(before)["yaml"] == report_payload(one)["yaml"]


def test_only_lengths_that_iterations_decide_are_told(tmp_path: Path) -> None:
    """Not of what prunes once, or down to a density, whatever else is in the sweeps."""
    snip, random = ({"name": name, "density": 0.5} for name in ("snip", "random"))
    imp = {"name": "imp", "density": 0.1, "ratio": 0.5}
    first = {"name": "a", "seeds": [0, 1], "methods": [snip, random, imp, "one_shot", "sap"]}
    other = {"seeds": [2], "methods": [snip, random, imp, "one_shot"]}
    results = opened(tmp_path, first | {"prune": {"iterations": 2}},
                     first | other | {"name": "b", "prune": {"iterations": 3}})  # fmt: skip
    assert seeds_of(results) == {
        "snip": [0, 1, 2], "random": [0, 1, 2], "imp": [0, 1, 2], "sap": [0, 1],
        "one_shot iterations=2": [0, 1], "one_shot iterations=3": [2],
    }  # fmt: skip


def test_what_a_rule_has_ended_is_no_other_length(tmp_path: Path) -> None:
    imp = {"name": "imp", "density": 0.1, "ratio": 0.5}
    first = {"name": "a", "seeds": [0, 1], "methods": [imp], "prune": {"iterations": 2}}
    then = {"name": "b", "seeds": [2], "methods": [imp], "prune": {"iterations": 3}}
    one, other = stored(tmp_path, first, then)
    (ended, *rest) = one.record.lineages
    ended = replace(ended, iterations=ended.iterations[:2], keys=ended.keys[:2], stopped="why")
    record = join([replace(one.record, lineages=(ended, *rest)), other.record])
    assert seeds_of(Results(one.store, record)) == {"imp": [0, 1, 2]}


@pytest.mark.parametrize(
    ("then", "told"),
    [
        ({"a": b"1", "b": b"2"}, {"a": [0, 1], "b": [0, 1]}),
        ({"a": b"1", "b": b"3"}, {"a": [0, 1], "2": [0], "3": [1]}),
        ({"a": b"3", "b": b"4"}, {"1": [0], "2": [0], "3": [1], "4": [1]}),
        ({"a": b"2", "b": b"1"}, {"a": [0, 1], "b": [0, 1]}),
        ({"b": b"1", "c": b"2"}, {"a": [0, 1], "b": [0, 1]}),
        ({"a": b"3", "c": b"1"}, {"1": [0, 1], "b": [0], "3": [1]}),
    ],
)
def test_networks_from_files_are_told_by_content(
    tmp_path: Path, then: dict[str, bytes], told: dict[str, list[int]]
) -> None:
    """By the path where all content that was there is one, else by the content."""

    def weights(seed: int, files: dict[str, bytes]) -> Results:
        for name, content in files.items():
            (tmp_path / f"{name}.pt").write_bytes(content)
        model = {"name": "mlp", "initial_weights": [f"{name}.pt" for name in files]}
        sweep = ONE_SHOT | {"name": f"of-{seed}", "model": model, "seeds": [seed]}
        return stored(tmp_path, sweep)[0]

    first = weights(0, {"a": b"1", "b": b"2"})
    weights(1, then)
    content = {f"sha256:{sha256(str(n).encode()).hexdigest()}"[:19]: str(n) for n in range(1, 5)}
    shown = {
        label.removeprefix("one_shot initial_weights=").removesuffix(".pt"): seeds
        for label, seeds in seeds_of(open_results(first.store, "of-0", "of-1")).items()
    }
    assert {content.get(each, each): seeds for each, seeds in shown.items()} == told


def folder_of_images(folder: Path, content: int) -> None:
    """Two classes; of another `content`, other images."""
    draws = np.random.default_rng(content)
    for place in ("train/a", "train/b", "test/a", "test/b"):
        (folder / place).mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 256, (8, 8), np.uint8)).save(folder / place / "x.png")


@pytest.mark.parametrize(
    ("first", "then", "told"),
    [
        ({"easy": 1, "hard": 2}, {"easy": 1, "hard": 2}, {"easy": [0, 1], "hard": [0, 1]}),
        ({"easy": 1, "hard": 2}, {"hard": 2, "easy": 1}, {"easy": [0, 1], "hard": [0, 1]}),
        ({"easy": 1, "hard": 2}, {"hard": 2}, {"easy": [0], "hard": [0, 1]}),
        ({"easy": 1, "hard": 2}, {"other": 3}, {"easy": [0], "hard": [0], "other": [1]}),
        ({"easy": 1, "hard": 2}, {"copy": 2}, {"easy": [0], "hard": [0, 1]}),
        ({"easy": 1}, {"hard": 2}, {"easy": [0], "hard": [1]}),
        ({"easy": 1}, {"copy": 1}, {"": [0, 1]}),
    ],
)
def test_datasets_of_files_are_told_by_path(
    tmp_path: Path, first: dict[str, int], then: dict[str, int], told: dict[str, list[int]]
) -> None:
    results = of_folders(tmp_path, first, then)
    shown = {label.rpartition("/")[2]: seeds for label, seeds in seeds_of(results).items()}
    assert {label.replace("one_shot", ""): seeds for label, seeds in shown.items()} == told
    if "" not in told:
        sql = "SELECT DISTINCT dataset_path AS path, seed FROM iterations ORDER BY seed"
        found = [(Path(row["path"]).name, row["seed"]) for row in results.sql(sql).to_pylist()]
        assert sorted(found) == sorted((path, seed) for path in told for seed in told[path])


@pytest.mark.parametrize("then", [{"easy": 3, "hard": 2}, {"easy": 3}, {"easy": 2, "hard": 1}])
def test_a_path_with_other_content_is_another_dataset(tmp_path: Path, then: dict[str, int]) -> None:
    results = of_folders(tmp_path, {"easy": 1, "hard": 2}, then)
    cells = {
        (results.labels[line.id], line.config["dataset"]["fingerprint"])
        for line in results.record.lineages
    }
    assert len(cells) == len({*results.labels.values()}) == len({1, 2, *then.values()})


def of_folders(folder: Path, *sweeps: dict[str, int]) -> Results:
    """Sweeps of the folders with so much as content, of a seed each."""
    names = [f"of-{seed}" for seed in range(len(sweeps))]
    for seed, contents in enumerate(sweeps):
        for name, content in contents.items():
            folder_of_images(folder / name, content)
        paths = [str(folder / name) for name in contents]
        dataset = {"name": "image_folder", "path": paths if len(paths) > 1 else paths[0]}
        stored(folder, ONE_SHOT | {"name": names[seed], "dataset": dataset, "seeds": seed})
    return open_results(folder / "store", *names)


def test_a_papers_table_of_both(folder: Path, both: Results) -> None:
    table = both.paper_table()
    assert table.title.startswith("at-init + imp, digits, mlp: ")
    assert table.rows == (
        "synflow selection=threshold", "synflow selection=sampled", "random", "imp",
    )  # fmt: skip
    assert [column.names for column in table.columns] == [("50 %",), ("10 %",)]
    cells = {row: cells[1] for row, cells in zip(table.rows, table.cells, strict=True)}
    assert {row: cell and cell.seeds for row, cell in cells.items()} == {
        "synflow selection=threshold": 2, "synflow selection=sampled": 2, "random": 3, "imp": 3,
    }  # fmt: skip


def test_the_commands_take_both(folder: Path, both: Results) -> None:
    shown = ask(folder, "results", "at-init", "imp", "--layout", "paper", "--storage", "store",
                "--format", "json")  # fmt: skip
    assert {row["method"] for row in json.loads(shown)} == set(both.paper_table().rows)
    shown = ask(folder, "results", "at-init", "imp", "--storage", "store", "--format", "csv")
    rows = [*csv.DictReader(io.StringIO(shown))]
    (random,) = (row for row in rows if row["method"] == "random")
    assert (float(random["density"]), float(random["test_accuracy"])) == (
        pytest.approx(0.1), pytest.approx(0.51),
    )  # fmt: skip
    assert random["seeds"] == "3"
    drawn = ask(folder, "figures", "at-init", "imp", "--figure", "trade-off", "--format", "json",
                "--output", "out", "--storage", "store")  # fmt: skip
    assert drawn == "out/trade-off.json\n"
    assert ask(folder, "report", "at-init", "imp", "--storage", "store") == "at-init+imp.html\n"


def test_a_report_of_both(both: Results) -> None:
    payload = report_payload(both)
    assert payload["sweep"] == "at-init + imp"
    assert payload["state"] == "finished"
    assert payload["lineages"]["rows"] == len(both.record.lineages)
    assert payload["yaml"].count("---\n") == 1
    assert {"name: at-init", "name: imp"} <= set(payload["yaml"].splitlines())


def test_figures_of_both_have_every_lineage(both: Results) -> None:
    chart = FIGURES["trade-off"].draw(both)
    assert chart is not None
    (rows,) = chart.to_dict()["datasets"].values()
    assert {row["lineage"] for row in rows} == {line.id for line in both.record.lineages}


def test_an_unknown_name_is_one_message(
    folder: Path, both: Results, capsys: pytest.CaptureFixture[str]
) -> None:
    ask(folder, "figures", "at-init", "im", "--output", "x", "--storage", "store", expect=2)
    told = capsys.readouterr().err
    assert "has no sweep 'im'; did you mean 'imp'? It has: at-init, imp." in told
    assert len(told.splitlines()) == 1


def test_wandb_has_reports_of_one_sweep(
    folder: Path, both: Results, capsys: pytest.CaptureFixture[str]
) -> None:
    ask(folder, "report", "at-init", "imp", "--wandb", "--storage", "store", expect=2)
    told = capsys.readouterr().err
    assert told == "prunesweep: --wandb drafts the report of one sweep; give one name\n"
