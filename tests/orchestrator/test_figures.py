"""Figures of a small sweep that has what every figure needs, drawn for real."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from statistics import fmean, pvariance, stdev
from typing import Any, TypeAlias

import altair as alt
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import vl_convert
from asking import ask
from measured import measured, sweep_file
from playwright.sync_api import Page, sync_playwright
from scipy.stats import ks_2samp

from orchestrator.errors import ExportError
from orchestrator.records.recording import record_sweep
from orchestrator.records.sweep import LineageRecord, write_sweep
from orchestrator.results.figures import FIGURES
from orchestrator.results.figures.curves import ITERATION, density
from orchestrator.results.figures.kept import BINS, MASKS, random_norms, uniform_norm
from orchestrator.results.figures.rows import cell_columns, spread
from orchestrator.results.figures.saving import save_figures, write_chart
from orchestrator.results.figures.scores import EVERY, HIGHEST, RANDOMIZED
from orchestrator.results.opening import Results, open_results
from orchestrator.results.tables import MEASURED, table_path
from orchestrator.run.datasets import resolve_datasets
from orchestrator.run.planning import sweep_lineages
from orchestrator.sweepfile.yaml_source import load_sweep
from trainables.data import data_roots, load_dataset
from trainables.lineage.bench import Bench
from trainables.lineage.keys import Measurement
from trainables.lineage.loop import run_lineage
from trainables.store import Store, iteration_path
from trainables.store.artifacts import MASK, WEIGHTS, encode_table, measured_file
from trainables.training.batches import DeviceData

PRUNESWEEP = str(Path(sys.executable).with_name("prunesweep"))

Drawn: TypeAlias = dict[str, dict[str, Any]]
"""Charts as JSON values, by the name of the figure."""

SCORES = 200
MEASURED_METHOD = "one_shot"
EVERYTHING: dict[str, Any] = {
    "name": "everything",
    "dataset": "digits",
    "model": {"name": "mlp", "hidden": [16]},
    "seeds": [0, 1],
    "train": {"epochs": 2, "batch_size": 100},
    "prune": {"iterations": 2, "scope": ["global", "layer"]},
    "methods": [
        "one_shot",
        {"name": "sap", "p": [0.5, 0.7]},
        {"name": "sap", "p": 0.5, "eta": 0.1},
        {"name": "magnitude", "density": [0.2, 0.05]},
    ],
    "ablations": [{"name": "shuffle_layers", "at": 1}],
    "exclude": [
        {"method": "magnitude", "scope": "layer"},
        {"method": ["sap", "magnitude"], "ablation": "shuffle_layers"},
        {"scope": "layer", "ablation": "shuffle_layers"},
    ],
    "store": {"keep_scores": SCORES},
    "measures": [
        {"name": "lmc", "rewind": [0, 5], "iterations": [1, 2]},
        {"name": "intrinsic_dimension", "dimensions": [10, 100], "iterations": [1]},
        {"name": "representations", "iterations": [1]},
        {"name": "lmc_methods", "iterations": [1]},
    ],
}
AT_INIT = EVERYTHING | {
    "name": "at-init",
    "prune": {"scope": "global"},
    "methods": [{"name": "magnitude", "density": 0.2}],
    "exclude": [],
    "ablations": [],
    "measures": [],
}
DENSE = AT_INIT | {"name": "dense", "prune": {"iterations": 0}, "methods": ["one_shot"]}


def commit_rows(store: Store, of: Measurement) -> None:
    """Commit made up rows of a measurement: copies take longer to train."""
    table = of.measure.table
    rows = pa.Table.from_pylist(MADE_UP[of.measure.name](of), MEASURED[table])
    store.commit(iteration_path(of.key), {measured_file(table): encode_table(rows)})


def lines(of: Measurement) -> list[dict[str, Any]]:
    """Of all weights, and of each layer."""
    nothing = dict.fromkeys(MEASURED["connectivity"].names)
    return [
        nothing | {"measure": "lmc", "rewind": vars(of.measure)["rewind"], "one": 1, "other": other,
                   "layer": layer, "what": what, "alpha": alpha, "test_error": error / other}
        for other in (2, 3)
        for layer in (None, "hidden1.weight", "classifier.weight")
        for what, alpha, error in (
            ("point", 0.0, 0.1), ("point", 0.5, 0.4), ("point", 1.0, 0.3), ("barrier", None, 0.2),
        )
    ]  # fmt: skip


def dimensions(of: Measurement) -> list[dict[str, Any]]:
    return [
        {"what": "point", "dimension": 10, "test_accuracy": 0.4},
        {"what": "point", "dimension": 100, "test_accuracy": 0.9},
        {"what": "point", "dimension": 200, "test_accuracy": None},
        {"what": "intrinsic", "dimension": 100},
    ]


def correlations(of: Measurement) -> list[dict[str, Any]]:
    return [{"layer": layer, "bipartite": 0.6} for layer in ("hidden1.weight", "classifier.weight")]


def barriers(of: Measurement) -> list[dict[str, Any]]:
    row = {"measure": "lmc_methods", "one": 1, "other": 1, "what": "barrier", "test_error": 0.3}
    return [row, row | {"layer": "hidden1.weight", "test_error": 0.1}, row | {"what": "point"}]


MADE_UP: dict[str, Callable[[Measurement], list[dict[str, Any]]]] = {
    "lmc": lines,
    "lmc_methods": barriers,
    "intrinsic_dimension": dimensions,
    "representations": correlations,
}


def make(store: Store, folder: Path, sweep: dict[str, Any]) -> Results:
    """Run `sweep` in this process, without Ray."""
    file = folder / f"{sweep['name']}.yaml"
    file.write_text(json.dumps(sweep))
    torch.set_num_threads(1)
    spec, roots = load_sweep(file), data_roots(None, os.environ)
    data = DeviceData.of(load_dataset(spec.dataset[0], roots), torch.device("cpu"))
    lineages = sweep_lineages(spec, resolve_datasets(spec, roots))
    for lineage in lineages:
        if lineage.cell.method.name == MEASURED_METHOD:
            for measurement in lineage.measurements:
                commit_rows(store, measurement)
        unmeasured = replace(lineage, measurements=())
        list(run_lineage(unmeasured, Bench(store, data, torch.device("cpu"), keeping=spec.store)))
    write_sweep(store, record_sweep(spec, lineages))
    return open_results(store, spec.name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("figures")


@pytest.fixture(scope="module")
def everything(folder: Path) -> Results:
    return make(Store(str(folder / "store")), folder, EVERYTHING)


def draw(results: Results, name: str) -> alt.TopLevelMixin:
    chart = FIGURES[name].draw(results)
    assert chart is not None
    return chart


@pytest.fixture(scope="module")
def charts(everything: Results) -> dict[str, alt.TopLevelMixin]:
    """Every figure of `everything`, by its name."""
    return {name: draw(everything, name) for name in FIGURES}


@pytest.fixture(scope="module")
def drawn(charts: dict[str, alt.TopLevelMixin]) -> Drawn:
    return {name: chart.to_dict() for name, chart in charts.items()}


def rows_of(drawn: Drawn, name: str) -> list[dict[str, Any]]:
    """The one dataset of a figure."""
    (rows,) = drawn[name]["datasets"].values()
    return rows


BEGINS = {
    "png": b"\x89PNG",
    "svg": b"<svg",
    "pdf": b"%PDF",
    "html": b"<!DOCTYPE html>",
    "json": b"{",
}


@pytest.fixture(scope="module")
def pictures(drawn: Drawn) -> dict[str, str]:
    return {name: vl_convert.vegalite_to_svg(figure) for name, figure in drawn.items()}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_drawn(pictures: dict[str, str], name: str) -> None:
    assert pictures[name].startswith("<svg")


@pytest.mark.parametrize("format", BEGINS)
def test_every_format(charts: dict[str, alt.TopLevelMixin], tmp_path: Path, format: Any) -> None:
    write_chart(charts["retrained"], tmp_path / "figure", format)
    assert (tmp_path / "figure").read_bytes().startswith(BEGINS[format])


def test_without_names_every_figure_is_written_the_same_when_drawn_again(
    everything: Results, drawn: Drawn, tmp_path: Path
) -> None:
    again = open_results(everything.store, "everything")
    files = [file for _, file in save_figures(again, [], "json", tmp_path)]
    assert files == [tmp_path / f"{name}.json" for name in FIGURES]
    for name in FIGURES:
        written = (tmp_path / f"{name}.json").read_text()
        assert "vega-lite" in written
        assert json.loads(written) == json.loads(json.dumps(drawn[name]))


def test_a_page_needs_no_network(everything: Results, tmp_path: Path) -> None:
    ((_, file),) = save_figures(everything, ["retrained"], "html", tmp_path)
    assert file
    assert "<script src" not in file.read_text()


def test_figures_of_the_same_rows_share_a_dataset(drawn: Drawn) -> None:
    def datasets(*names: str) -> set[str]:
        return {dataset for name in names for dataset in drawn[name]["datasets"]}

    by_iteration = ("retrained", "pruned", "trade-off", "scope-trade-off", "ablation-p-q")
    assert len(datasets(*by_iteration, "ablation-eta-gamma")) == 1
    assert len(datasets("layer-remaining", "layer-pq-index")) == 1


@pytest.mark.parametrize("name", FIGURES)
def test_every_row_says_whose_it_is(everything: Results, drawn: Drawn, name: str) -> None:
    seeds = {line.id: line.config["seed"] for line in everything.record.lineages}
    rows = rows_of(drawn, name)
    # Of a pair of seeds, they are the second's.
    assert {row["seed"] for row in rows} == ({1} if name == "representations" else {0, 1})
    for row in rows:
        assert row["label"] == everything.labels[row["lineage"]]
        assert row["seed"] == seeds[row["lineage"]]


@pytest.mark.parametrize(
    ("name", "table", "keys", "values"),
    [
        (
            "retrained", "iterations", ("lineage", "iteration"),
            ("density", "test_accuracy", "pq_index", "gini", "pruned_test_accuracy",
             "pq_index_pruned"),
        ),
        (
            "layer-remaining", "layers", ("lineage", "iteration", "layer"),
            ("pq_index", "kept", "total", "init_norm_kept"),
        ),
        (
            "training", "epochs", ("lineage", "iteration", "epoch"),
            ("train_loss", "train_accuracy", "test_loss", "test_accuracy"),
        ),
        ("pq-heat-maps", "sparsity", ("lineage", "iteration", "p", "q"), ("pq_index",)),
        ("pq-heat-maps-pruned", "sparsity", ("lineage", "iteration", "p", "q"), ("pq_index",)),
    ],
)  # fmt: skip
def test_values_are_those_of_the_tables(
    everything: Results,
    drawn: Drawn,
    name: str,
    table: str,
    keys: tuple[str, ...],
    values: tuple[str, ...],
) -> None:
    found = everything.table(table).to_pylist()
    if table == "sparsity":
        long = {row["lineage"] for row in everything.iterations.to_pylist() if row["iteration"] > 1}
        state = "pruned" if name == "pq-heat-maps-pruned" else "retrained"
        wanted = {"scope": "global", "state": state}
        found = [row for row in found if row["lineage"] in long and wanted.items() <= row.items()]
    expected = {tuple(row[k] for k in keys): [row[v] for v in values] for row in found}
    rows = rows_of(drawn, name)
    assert {tuple(row[k] for k in keys): [row[v] for v in values] for row in rows} == expected
    assert len(rows) == len(expected)


def test_a_layers_density_is_its_own(drawn: Drawn) -> None:
    for row in rows_of(drawn, "layer-remaining"):
        assert row["density"] == row["kept"] / row["total"]


def test_differences_are_what_pruning_took(drawn: Drawn) -> None:
    rows = {(r["lineage"], r["iteration"]): r for r in rows_of(drawn, "pruned")}
    for (lineage, t), row in rows.items():
        before = rows.get((lineage, t - 1))
        if before is None:
            assert row["accuracy_difference"] is None
            continue
        # One shot prunes the dense weights again, with a mask that goes further.
        names = ("pruned_test_accuracy", "pq_index_pruned")
        if not (lineage.startswith("one_shot") and t == 2):
            names = ("test_accuracy", "pq_index")
        assert row["accuracy_difference"] == before[names[0]] - row["pruned_test_accuracy"]
        assert row["pq_index_difference"] == before[names[1]] - row["pq_index_pruned"]


def test_what_masks_keep_by_hand() -> None:
    """All masks that keep two of (1, 2, 3): squared norms 5, 10 and 13."""
    squares = [a**2 + b**2 for a, b in combinations((1, 2, 3), 2)]
    norm, deviation = uniform_norm(2, 3, 1 + 4 + 9, 1 + 16 + 81)
    assert norm == pytest.approx(math.sqrt(fmean(squares)))
    assert (2 * norm * deviation) ** 2 == pytest.approx(pvariance(squares))
    assert uniform_norm(3, 3, 14, 98) == (pytest.approx(math.sqrt(14)), 0)
    assert uniform_norm(1, 1, 4, 16) == (2, 0)


def test_histograms_are_of_the_initial_weights(drawn: Drawn) -> None:
    """Magnitude keeps the largest weights: its histogram is empty below some magnitude."""
    rows = rows_of(drawn, "kept-weights")
    for lineage in {row["lineage"] for row in rows}:
        bins = [row for row in rows if row["lineage"] == lineage]
        assert len(bins) == BINS
        assert sum(row["share"] for row in bins) == pytest.approx(1)
        assert sum(row["uniform_share"] for row in bins) == pytest.approx(1)
        if lineage.startswith("magnitude"):
            ordered = sorted(bins, key=lambda row: abs(row["weight"]))
            kept = [row["share"] > 0 for row in ordered]
            assert not any(kept[: BINS // 4])
            assert kept[-1] or kept[-2]
    groups = {(row["label"].split()[0], row["group"]) for row in rows}
    assert groups == {
        ("one_shot", "last iteration"), ("sap", "last iteration"),
        ("magnitude", "density 0.2"), ("magnitude", "density 0.05"),
    }  # fmt: skip


def test_magnitude_keeps_more_than_uniform_masks_and_never_more_than_all(drawn: Drawn) -> None:
    rows = [r for r in rows_of(drawn, "kept-norms") if r["lineage"].startswith("magnitude")]
    dense = {
        (row["seed"], row["layer"]): row["init_norm_kept"]
        for row in rows_of(drawn, "layer-remaining")
        if row["density"] == 1
    }
    assert rows
    for row in rows:
        whole = dense[row["seed"], row["layer"]]
        share = math.sqrt(row["kept"] / row["total"])
        assert row["uniform_norm"] == pytest.approx(share * whole, rel=1e-6)
        assert row["uniform_high"] < row["init_norm_kept"] < whole


@pytest.mark.parametrize(("total", "kept"), [(3, 2), (50, 7), (2_000, 300), (2_000, 1_999)])
def test_norms_of_random_masks_are_those_of_masks_drawn_one_by_one(total: int, kept: int) -> None:
    generator = np.random.default_rng(1)
    weights = generator.standard_normal(total)
    one_by_one = [
        np.linalg.norm(generator.choice(weights, kept, replace=False)) for _ in range(2_000)
    ]
    found = random_norms(weights, kept)
    assert found.shape == (MASKS,)
    tested: Any = ks_2samp(found, one_by_one)
    assert tested.pvalue > 0.01
    norm, _ = uniform_norm(kept, total, (weights**2).sum(), (weights**4).sum())
    assert (found**2).mean() == pytest.approx(norm**2, rel=0.01)
    assert (random_norms(weights, kept) == found).all()


def test_norms_of_many_kept_weights_have_the_variance_of_such_masks() -> None:
    weights = np.random.default_rng(1).uniform(-1, 1, 100_000)
    norm, deviation = uniform_norm(40_000, 100_000, (weights**2).sum(), (weights**4).sum())
    found = random_norms(weights, 40_000)
    assert found.mean() == pytest.approx(norm, rel=1e-4)
    assert found.std() == pytest.approx(deviation, rel=0.03)


def test_random_norms_stand_beside_those_of_the_last_masks(drawn: Drawn) -> None:
    rows = rows_of(drawn, "random-norms")
    kept = {(r["lineage"], r["iteration"], r["layer"]): r for r in rows_of(drawn, "kept-norms")}
    assert {row["iteration"] for row in rows} == {2}
    assert {row["variant"].split()[0] for row in rows} == {"one_shot", "sap"}
    shares: dict[tuple[str, str], float] = {}
    for row in rows:
        other = kept[row["lineage"], row["iteration"], row["layer"]]
        assert row["init_norm_kept"] == other["init_norm_kept"]
        assert row["norm"] == pytest.approx(other["uniform_norm"], rel=0.3)
        at = row["lineage"], row["layer"]
        shares[at] = shares.get(at, 0) + row["share"]
    assert [*shares.values()] == pytest.approx([1.0] * len(shares))


def test_scores_are_of_all_and_of_those_that_are_kept(everything: Results, drawn: Drawn) -> None:
    shares: dict[tuple[str, str], float] = {}
    for row in rows_of(drawn, "scores"):
        at = row["lineage"], row["weights"]
        shares[at] = shares.get(at, 0) + row["share"]
    sql = "SELECT lineage, count(*) AS n, avg(kept::int) AS kept FROM scores GROUP BY ALL"
    found = everything.sql(sql).to_pylist()
    assert {row["n"] for row in found} == {SCORES}
    expected = {(row["lineage"], EVERY): 1.0 for row in found}
    expected |= {(row["lineage"], HIGHEST): row["kept"] for row in found}
    assert shares == pytest.approx(expected)


def test_no_seed_counts_twice(pictures: dict[str, str]) -> None:
    for name, picture in pictures.items():
        assert seeds_shown(picture) <= {1, len(EVERYTHING["seeds"])}, name


def seeds_shown(picture: str) -> set[int]:
    """Over how many seeds the marks of a figure are means, as they say themselves."""
    return {int(n) for n in re.findall(r"seeds: (\d+)", picture)}


def test_a_randomized_mask_has_scores_of_its_own(tmp_path: Path) -> None:
    sampled = AT_INIT | {
        "seeds": [0],
        "methods": [{"name": "snip", "density": 0.2, "selection": ["threshold", "sampled"]}],
    }
    results = make(Store(str(tmp_path / "store")), tmp_path, sampled)
    figure = draw(results, "scores").to_dict()
    rows = rows_of({"": figure}, "")
    assert {row["criterion"] for row in rows} == {"snip"}
    # All scores are those of one network, whatever is chosen by them.
    assert seeds_shown(vl_convert.vegalite_to_svg(figure)) == {1}
    kinds = {row["label"]: set() for row in rows}
    for row in rows:
        kinds[row["label"]].add(row["weights"])
    assert kinds == {
        "snip selection=threshold": {EVERY, HIGHEST},
        "snip selection=sampled": {EVERY, HIGHEST, RANDOMIZED},
    }


@pytest.mark.parametrize("score", [-1.0, 0.0, 1.0])
def test_scores_may_all_be_one(tmp_path: Path, score: float) -> None:
    (tmp_path / "lab.py").write_text(
        "from prunesweep import Scoring, criterion\n\n"
        "@criterion\n"
        "def alike(scoring: Scoring, *, score: float):\n"
        "    return {name: 0 * w.abs() + score for name, w in scoring.weights.items()}\n"
    )
    alike = {
        "plugins": ["lab.py"], "seeds": [0],
        "methods": [{"name": "alike", "density": 0.5, "score": score}],
    }  # fmt: skip
    results = make(Store(str(tmp_path / "store")), tmp_path, AT_INIT | alike)
    assert "<svg" in vl_convert.vegalite_to_svg(draw(results, "scores").to_dict())


def test_a_sweep_without_what_a_figure_needs(folder: Path, everything: Results) -> None:
    at_init = make(everything.store, folder, AT_INIT)
    there = {name for name, figure in FIGURES.items() if figure.draw(at_init)}
    assert there == {"trade-off", "kept-weights", "kept-norms", "scores", "training"}
    dense = make(everything.store, folder, DENSE)
    assert {name for name, figure in FIGURES.items() if figure.draw(dense)} == {"training"}
    with pytest.raises(ExportError, match="'retrained': it needs a lineage of two"):
        list(save_figures(dense, ["retrained"], "json", folder))


def test_a_collapsed_or_diverged_lineage_breaks_nothing(
    everything: Results, folder: Path, tmp_path: Path
) -> None:
    """Density 0, NaN and infinite losses, in the tables as any reader sees them."""
    shutil.copytree(folder / "store", tmp_path / "store")
    store = Store(str(tmp_path / "store"))
    for table, last in (("iterations", "iteration"), ("epochs", "epoch")):
        path = store.absolute(table_path(table, "everything"))
        rows, schema = pq.read_table(path).to_pylist(), pq.read_schema(path)
        for row in rows[:: len(rows) // 7]:
            row |= {"test_loss": math.nan, "train_loss": math.inf}
            if table == "iterations" and row[last] > 0:
                row |= {"density": 0.0, "params_kept": 0, "pq_index": math.nan}
        assert any(row.get("density") == 0 for row in rows) == (table == "iterations")
        pq.write_table(pa.Table.from_pylist(rows, schema), path)
    results = open_results(store, "everything")
    for name in FIGURES:
        spec = draw(results, name).to_dict()
        json.dumps(spec, allow_nan=False)
        assert vl_convert.vegalite_to_svg(spec).startswith("<svg")


def test_what_is_damaged_is_left_out(everything: Results, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "store", tmp_path / "store")
    store = Store(str(tmp_path / "store"))
    lineage = everything.record.lineages[0]
    commit = Path(store.absolute(iteration_path(lineage.keys[-1])))
    flip(next(commit.rglob(MASK)))
    rows = rows_of({"": draw(open_results(store, "everything"), "kept-weights").to_dict()}, "")
    lines = everything.record.lineages
    every = {line.id for line in lines if "ablation" not in line.config}
    assert {row["lineage"] for row in rows} == every - {lineage.id}
    for snapshot in (tmp_path / "store" / "snapshots").rglob(WEIGHTS):
        flip(snapshot)
    for name in ("kept-weights", "kept-norms", "random-norms"):
        assert FIGURES[name].draw(open_results(store, "everything")) is None


def flip(file: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


def test_the_command(
    everything: Results, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ("figures", "everything", "--storage", str(folder / "store"), "--output", "out")
    done = subprocess.run(
        [PRUNESWEEP, *line, "--figure", "pruned", "--figure", "retrained", "--format", "svg"],
        cwd=tmp_path, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["out/pruned.svg", "out/retrained.svg"]
    assert ask(tmp_path, *line, "--figure", "retraind", expect=2) == ""
    assert capsys.readouterr().err == (
        f"prunesweep: there is no figure 'retraind'; there are: {', '.join(FIGURES)}\n"
    )


def test_a_folder_that_cannot_be_made_is_told(everything: Results, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match=r"cannot write .*file/in/pruned\.json: Not a dir"):
        list(save_figures(everything, ["pruned"], "json", tmp_path / "file" / "in"))


def test_spread_keeps_both_ends() -> None:
    assert spread([0, 1, 2], 4) == [0, 1, 2]
    assert spread(range(31), 4) == [0, 10, 20, 30]
    assert spread(range(16), 4) == [0, 5, 10, 15]


# In a browser: what is drawn, and that it stays right with rows left out.

DRAW = """async spec => {
    window.view = (await vegaEmbed('#figure', spec, {renderer: 'svg'})).view;
    window.rows = view.data(spec.data.name);
    window.source = spec.data.name;
}"""
LEAVE_OUT = """async wanted => {
    const kept = rows.filter(row => Object.keys(wanted).every(key => row[key] === wanted[key]));
    view.data(source, kept);
    await view.runAsync();
}"""
MARKS = """field => {
    const found = [];
    const visit = item => {
        if (item.marktype) return item.items.forEach(visit);
        if (item.datum && item.datum[field] !== undefined && item.mark.marktype === 'symbol')
            found.push(item.datum);
        (item.items || []).forEach(visit);
    };
    visit(view.scenegraph().root);
    return found.map(datum => JSON.parse(JSON.stringify(datum)));
}"""
OPACITIES = """() => {
    const found = {};
    const visit = item => {
        if (item.marktype) return item.items.forEach(visit);
        if (item.datum && item.datum.mean !== undefined && item.mark.marktype === 'symbol')
            found[item.datum.variant] = item.opacity;
        (item.items || []).forEach(visit);
    };
    visit(view.scenegraph().root);
    return found;
}"""
HEADINGS = """field => {
    const found = {cells: [], headings: []};
    const visit = (item, x) => {
        if (item.marktype) {
            const kind = item.role === 'column-header' ? 'headings' : 'cells';
            const of = item.marktype === 'group'
                && (item.role === 'column-header' || (item.name || '').endsWith('cell'));
            item.items.forEach(each => {
                if (of) found[kind].push([Math.round(x + each.x), each.datum[field]]);
                visit(each, x + (each.x || 0));
            });
        } else (item.items || []).forEach(each => visit(each, x));
    };
    visit(view.scenegraph().root, 0);
    return found;
}"""


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium on the PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(120_000)
        page.set_content("<div id='figure'></div>")
        page.add_script_tag(content=vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))
        yield page
        browser.close()


def means(rows: list[dict[str, Any]], *by: str) -> dict[tuple[Any, ...], tuple[float, float, int]]:
    """Mean, sample standard deviation and number of the accuracies of rows that agree in `by`."""
    groups: dict[tuple[Any, ...], list[float]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in by), []).append(row["test_accuracy"])
    return {
        key: (fmean(found), stdev(found) if len(found) > 1 else 0.0, len(found))
        for key, found in groups.items()
    }


@pytest.mark.parametrize("wanted", [{}, {"seed": 1}, {"label": "one_shot scope=layer"}])
def test_the_chart_averages_the_rows_it_has(
    drawn: Drawn, page: Page, wanted: dict[str, Any]
) -> None:
    page.evaluate(DRAW, drawn["scope-trade-off"])
    page.evaluate(LEAVE_OUT, wanted)
    marks = page.evaluate(MARKS, "mean")
    # Pruning at initialization and ablations have one iteration, and no place in this figure.
    rows = [
        row
        for row in rows_of(drawn, "scope-trade-off")
        if wanted.items() <= row.items()
        and not row["label"].startswith("magnitude")
        and "shuffle_layers" not in row["label"]
    ]
    expected = means(rows, "label", "iteration")
    assert expected
    found = {
        (mark["label"], mark["iteration"]): (mark["mean"], mark["deviation"], mark["seeds"])
        for mark in marks
    }
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        assert found[key] == pytest.approx(values, abs=1e-12)


TO_DENSITIES: dict[str, Any] = {
    "prune": {"iterations": 2, "scope": ["global", "layer"]},
    "methods": [
        "one_shot",
        {"name": "imp", "density": [0.5, 0.1], "ratio": 0.5, "data": ["real", "random"]},
        {"name": "magnitude", "density": [0.5, 0.1]},
    ],
    "exclude": [{"method": ["imp", "magnitude"], "scope": "layer"}],
}


@pytest.mark.parametrize("name", ["trade-off", "scope-trade-off"])
def test_a_method_that_aims_at_a_density_is_judged_by_its_end(
    page: Page, tmp_path: Path, name: str
) -> None:
    def on_the_way(line: LineageRecord, t: int) -> dict[str, Any]:
        ends = t == line.iterations[-1]
        target = line.config["method"].get("density")
        return {
            "density": target if ends and target else 0.5**t,
            "density_target": target if ends else None,
            "test_accuracy": 0.9 if ends or target is None else 0.1,
        }

    results = measured(tmp_path, sweep_file(tmp_path, **TO_DENSITIES), on_the_way)
    page.evaluate(DRAW, draw(results, name).to_dict())
    ends = [mark for mark in page.evaluate(MARKS, "mean") if "one_shot" not in mark["curve"]]
    assert {mark["mean"] for mark in ends} == {0.9}
    found = sorted((mark["curve"], mark["x"]) for mark in ends)
    methods = ["imp data=random", "imp data=real", *(["magnitude"] if name == "trade-off" else [])]
    assert found == [(method, density) for method in methods for density in (0.1, 0.5)]


@pytest.mark.parametrize(
    ("name", "field"), [("scope-trade-off", "scope"), ("layer-remaining", "scope"),
                        ("pq-heat-maps", "iteration"), ("training", "iteration")]
)  # fmt: skip
def test_panels_are_under_their_headings(drawn: Drawn, page: Page, name: str, field: str) -> None:
    page.evaluate(DRAW, drawn[name])
    found = page.evaluate(HEADINGS, field)
    assert len(found["cells"]) >= 2
    assert {tuple(each) for each in found["cells"]} == {tuple(each) for each in found["headings"]}


def test_methods_without_iterations_are_not_drawn_by_iteration(drawn: Drawn, page: Page) -> None:
    assert any(row["variant"].startswith("magnitude") for row in rows_of(drawn, "retrained"))
    page.evaluate(DRAW, drawn["retrained"])
    variants = {mark["variant"].split()[0] for mark in page.evaluate(MARKS, "mean")}
    assert variants == {"one_shot", "sap"}


def test_a_click_on_the_legend_chooses(drawn: Drawn, page: Page) -> None:
    page.evaluate(DRAW, drawn["retrained"])
    assert set(page.evaluate(OPACITIES).values()) == {1}
    page.locator("#figure .role-legend-symbol path").nth(1).click()
    page.evaluate("view.runAsync().then(() => null)")
    chosen = "sap p=0.5 eta=0.0"
    opacities = page.evaluate(OPACITIES)
    assert opacities.pop(chosen) == 1
    assert set(opacities.values()) == {0.1}


def objects_in(spec: Any) -> Iterator[dict[str, Any]]:
    if isinstance(spec, dict):
        yield spec
        for name, each in spec.items():
            if name != "datasets":
                yield from objects_in(each)
    elif isinstance(spec, list):
        for each in spec:
            yield from objects_in(each)


def colours_of(spec: Any) -> Iterator[tuple[str, str]]:
    """Each value with a colour of its own, and that colour."""
    for each in objects_in(spec):
        colour = each.get("color")
        scale = colour.get("scale", {}) if isinstance(colour, dict) else {}
        yield from zip(scale.get("domain", ()), scale.get("range", ()), strict=False)


def test_a_number_under_the_pointer_is_in_percent_where_its_axis_is(drawn: Drawn) -> None:
    for figure in drawn.values():
        parts = [*objects_in(figure)]
        axes = [part["axis"] for part in parts if (part.get("axis") or {}).get("title")]
        percent = {axis["title"]: axis.get("format", "")[-1:] in ("%", "p") for axis in axes}
        for told in (each for part in parts for each in part.get("tooltip", ())):
            if told.get("title") in percent and "format" in told:
                assert ("p" in told["format"]) == percent[told["title"]], told


OTHER_COLOURS = ("scores", "representations", "method-barriers")
"""Those of masks, of layers, and of two methods."""


def test_a_colour_is_a_methods_in_all_figures(drawn: Drawn, everything: Results) -> None:
    curves = {row["variant"]: row["curve"] for row in cell_columns(everything).values()}
    found: dict[str, set[str]] = {}
    for name in FIGURES:
        if name not in OTHER_COLOURS:
            for value, colour in colours_of(drawn[name]):
                found.setdefault(colour, set()).add(curves.get(value, value))
    assert len(found) == len(set(curves.values())) == 6
    assert all(len(methods) == 1 for methods in found.values())


def test_many_methods_have_as_many_colours(tmp_path: Path) -> None:
    criteria = ["snip", "grasp", "synflow", "magnitude", "random"]
    methods = [
        *({"name": name, "density": [0.5, 0.2]} for name in criteria),
        {"name": "imp", "density": [0.5, 0.2]},
        "one_shot", "lottery_ticket", {"name": "sap", "p": [0.5, 0.7]},
    ]  # fmt: skip
    file = sweep_file(tmp_path, methods=methods, prune={"iterations": 1})
    results = measured(tmp_path, file, lambda line, t: {"density": 0.5 if t else 1.0})
    charts = [draw(results, name).to_dict() for name in ("trade-off", "retrained")]
    of_curves = dict(colours_of(charts[0]))
    assert len(set(of_curves.values())) == len(of_curves) == 10
    curves = {row["variant"]: row["curve"] for row in cell_columns(results).values()}
    for variant, colour in colours_of(charts[1]):
        assert colour == of_curves[curves[variant]]


@pytest.mark.parametrize(
    "densities", [(0.93, 0.96), (0.6, 0.61), (0.95,), (0.012, 0.4), (1.0, 0.9)]
)
def test_a_log_axis_has_ticks_whatever_it_shows(densities: tuple[float, ...]) -> None:
    rows = [{"density": each, "iteration": t} for t, each in enumerate(densities)]
    measure = density(rows)
    x = alt.X("density:Q", axis=measure.axis(), scale=measure.scale())
    chart = alt.Chart({"values": rows}).mark_point().encode(x).properties(width=165)
    drawn = vl_convert.vegalite_to_svg(chart.to_dict())
    labels = re.findall(r"<text[^>]*>([0-9.]+)%</text>", drawn)
    assert len(labels) >= min(2, len(densities))
    assert all(min(densities) <= float(label) / 100 + 1e-9 for label in labels)


@pytest.mark.parametrize("last", [1, 2, 3, 6, 11, 30, 100])
def test_an_axis_of_iterations_has_ticks_at_whole_ones_only(last: int) -> None:
    x = alt.X("t:Q", axis=ITERATION.axis(), scale=ITERATION.scale())
    values = [{"t": t} for t in range(last + 1)]
    chart = alt.Chart({"values": values}).mark_point().encode(x).properties(width=165)
    drawn = vl_convert.vegalite_to_svg(chart.to_dict())
    labels = [int(label) for label in re.findall(r"<text[^>]*>([0-9]+)</text>", drawn)]
    assert labels == list(range(0, last + 1, max(1, labels[1])))
    assert 2 <= len(labels) <= 7


def test_lines_between_copies_are_drawn_as_the_mean_of_their_pairs(
    everything: Results, drawn: Drawn
) -> None:
    wanted = {(0.0, 0.1), (0.5, 0.4), (1.0, 0.3)}
    mean = (1 / 2 + 1 / 3) / 2
    rows = rows_of(drawn, "connectivity")
    found = {(row["alpha"], round(row["test_error"], 9)) for row in rows}
    assert found == {(alpha, round(error * mean, 9)) for alpha, error in wanted}
    lines = [line for line in everything.record.lineages if "ablation" not in line.config]
    lineages = [line for line in lines if line.id.startswith(MEASURED_METHOD)]
    assert {row["lineage"] for row in rows} == {line.id for line in lineages}
    assert {(row["iteration"], row["rewind"]) for row in rows} == {
        (t, k) for t in (1, 2) for k in (0, 5)
    }
    for name, layers in (("instability", 1), ("barriers", 1), ("layer-barriers", 2)):
        rows = rows_of(drawn, name)
        assert len(rows) == len(lineages) * 2 * 2 * layers
        assert {round(row["test_error"], 9) for row in rows} == {round(0.2 * mean, 9)}


def test_accuracies_in_so_many_dimensions_are_drawn_without_what_follows_from_them(
    drawn: Drawn,
) -> None:
    rows = rows_of(drawn, "intrinsic-dimension")
    found = {(row["iteration"], row["dimension"], row["test_accuracy"]) for row in rows}
    assert found == {(1, 10, 0.4), (1, 100, 0.9)}


def test_units_of_two_seeds_are_drawn_by_layer(everything: Results, drawn: Drawn) -> None:
    rows = rows_of(drawn, "representations")
    seconds = {line.id for line in everything.record.lineages
               if line.id.startswith(MEASURED_METHOD) and line.config["seed"] == 1
               and "ablation" not in line.config}  # fmt: skip
    assert {row["lineage"] for row in rows} == seconds
    found = {(row["layer"], row["iteration"], row["bipartite"]) for row in rows}
    assert found == {("hidden1.weight", 1, 0.6), ("classifier.weight", 1, 0.6)}


@pytest.mark.parametrize("name", ["representations", "connectivity"])
def test_methods_of_a_setting_are_on_one_scale_to_be_compared(drawn: Drawn, name: str) -> None:
    for setting in drawn[name]["vconcat"]:
        for each in (setting, *setting["concat"]):
            assert each["resolve"]["scale"]["y"] == "shared"


def test_barriers_between_methods_are_drawn_for_each_two_at_their_density(
    everything: Results, drawn: Drawn
) -> None:
    rows = rows_of(drawn, "method-barriers")
    assert {(row["test_error"], row["iteration"]) for row in rows} == {(0.3, 1)}
    assert {row["pair"] for row in rows} == {
        f"one_shot – {other}"
        for other in ("sap p=0.5 eta=0.0", "sap p=0.7 eta=0.0", "sap p=0.5 eta=0.1")
    }
    density = {each["lineage"]: each["density"]
               for each in everything.iterations.to_pylist() if each["iteration"] == 1}  # fmt: skip
    assert all(row["density"] == density[row["lineage"]] < 1 for row in rows)


def test_ablations_stand_beside_what_they_are_of(everything: Results, drawn: Drawn) -> None:
    shuffled = [line for line in everything.record.lineages if "ablation" in line.config]
    iterations = everything.iterations.to_pylist()
    accuracy = {(row["lineage"], row["iteration"]): row["test_accuracy"] for row in iterations}
    rows = rows_of(drawn, "ablations")
    assert [(row["of"], row["what"], row["seed"], row["iteration"]) for row in rows] == [
        ("one_shot", what, seed, 1) for seed in (0, 1) for what in ("original", "shuffle_layers")
    ]
    assert {row["lineage"] for row in rows} > {line.id for line in shuffled}
    for row in rows:
        assert row["test_accuracy"] == accuracy[row["lineage"], row["iteration"]]
