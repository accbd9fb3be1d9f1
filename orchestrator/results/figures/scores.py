"""Scores at initialization, and which of them masks keep: the sketching paper's Figure 1b."""

import math
from collections.abc import Iterator, Sequence

import altair as alt
import numpy as np
import pyarrow as pa

from orchestrator.results.figures.curves import Measure, block, blocks, logarithmic, mean_curves
from orchestrator.results.figures.rows import Row, cell_columns, distinct, variant
from orchestrator.results.figures.style import Look, heading
from orchestrator.results.opening import Results

BINS = 40
SAMPLE = ("score", "kept", "kept_by_threshold")
EVERY, HIGHEST, RANDOMIZED = "all scores", "mask of the highest", "randomized mask"

OF_A_SEED = {
    "aggregate": [{"op": "mean", "field": "share", "as": "share"}],
    "groupby": ["weights", "score", "seed"],
}
"""Lineages that differ in the selection alone have one network's scores, which count once."""

SHARE = Measure("share", "Share of all weights", "~%", fraction=True)


def scores(results: Results) -> alt.TopLevelMixin | None:
    """Histograms of scores: of all sampled weights, and of those that masks keep."""
    rows = [*_rows(results)]
    if not rows:
        return None
    look = Look("weights", (EVERY, HIGHEST, RANDOMIZED), dense=True)
    networks = distinct(rows, "network")
    return blocks(rows, [_block(rows, look, each, each == networks[0]) for each in networks])


def _block(rows: list[Row], look: Look, network: str, listening: bool) -> alt.ConcatChart:
    shown = [row for row in rows if row["network"] == network]
    panels = []
    for criterion in distinct(shown, "criterion"):
        there = [row["score"] for row in shown if row["criterion"] == criterion]
        curves = mean_curves(_score(there), SHARE, look, ("score",))
        curves.transform = [OF_A_SEED, *curves.transform]
        if listening and not panels:
            curves = curves.add_params(look.chosen())
        panels.append(block([curves], criterion, alt.datum.criterion == criterion))
    return block(panels, heading(network), alt.datum.network == network, columns=2)


def _score(values: Sequence[float]) -> Measure:
    """The scores, on a log axis where none is negative, nor all are zero."""
    if min(values) <= 0:
        return Measure("score", "Score")
    powers = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
    return logarithmic("score", "Score", "~g", [10.0**power for power in powers], values)


def _rows(results: Results) -> Iterator[Row]:
    """One row for each bin and each of EVERY, HIGHEST and, where masks are drawn, RANDOMIZED.

    `share` is of all sampled weights. Lineages of one `criterion`, which is the label without the
    selection, have the same bins.
    """
    cells, lines = cell_columns(results), {line.id: line for line in results.record.lineages}
    found = _by_lineage(results.scores)
    panels = {
        id: (cells[id]["network"], variant(lines[id], results.record, "method.selection"))
        for id in found
    }
    edges = {
        panel: _edges([found[id]["score"] for id in found if panels[id] == panel])
        for panel in panels.values()
    }
    for id, sample in found.items():
        common = cells[id] | {"iteration": lines[id].iterations[-1], "criterion": panels[id][1]}
        masks = {EVERY: np.ones(len(sample["score"]), bool), HIGHEST: sample["kept_by_threshold"]}
        if lines[id].config["method"].get("selection") == "sampled":
            masks[RANDOMIZED] = sample["kept"]
        for name, mask in masks.items():
            within = edges[panels[id]]
            counts = np.histogram(sample["score"][mask].clip(within[0]), within)[0]
            for middle, count in zip(_middles(within), counts, strict=True):
                share = float(count) / len(mask)
                yield common | {"weights": name, "score": float(middle), "share": share}


def _by_lineage(table: pa.Table) -> dict[str, dict[str, np.ndarray]]:
    """The columns of each lineage's sample."""
    columns = {name: table[name].to_numpy() for name in ("lineage", *SAMPLE)}
    return {
        id: {name: columns[name][columns["lineage"] == id] for name in SAMPLE}
        for id in table["lineage"].unique().to_pylist()
    }


def _edges(scores: Sequence[np.ndarray]) -> np.ndarray:
    """The ends of the bins, evenly spread; where no score is negative, in their logarithm, since
    scores differ by orders of magnitude. The lowest percent is then in the first bin."""
    every = np.concatenate(scores)
    if every.min() < 0 or every.max() == 0:
        return np.linspace(every.min(), every.max(), BINS + 1)
    return np.geomspace(np.quantile(every[every > 0], 0.01), every.max(), BINS + 1)


def _middles(edges: np.ndarray) -> np.ndarray:
    return (edges[:-1] + edges[1:]) / 2
