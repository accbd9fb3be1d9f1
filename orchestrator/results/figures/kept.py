"""The initial weights that masks keep, read from the commits: rows for the sketching figures.

What is damaged is left out, as in the tables; `prunesweep verify` names it.
"""

from collections.abc import Collection, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.records.sweep import LineageRecord
from orchestrator.results.figures.rows import (
    Row,
    cell_columns,
    iterative,
    layer_rows,
    some_seeds,
)
from orchestrator.results.opening import Results
from orchestrator.results.tickets import initial_path
from trainables.store import Damaged, iteration_path
from trainables.store.artifacts import read_masks, read_tensors

BINS = 61
NORM_BINS = 31
MASKS = 10_000
BUCKETS, SUMMED = 64, 16_000
"""At most as many buckets, and so few that as many kept weights share one."""

Weights = dict[str, np.ndarray]
"""By layer, flat; float64."""


def histogram_rows(results: Results) -> list[Row]:
    """Histograms of the initial weights that the last mask of each lineage keeps.

    One row for each bin: `weight`, its middle; `share`, of the kept weights; `uniform_share`, of
    all prunable weights, which is what uniformly random masks keep on average. The lineages of one
    network have the same bins. `group` is the density aimed at, or "last iteration".
    """
    cells = cell_columns(results)
    columns = ["lineage", "iteration", "key", "density", "density_target"]
    rows_there = results.iterations.select(columns).to_pylist()
    last = {row["lineage"]: row for row in rows_there if row["density"] < 1}
    some = some_seeds(results, last, BINS)
    last = {lineage: row for lineage, row in last.items() if lineage in some}
    largest: dict[str, float] = {}
    for weights, lines in _beginnings(results, last):
        network = cells[lines[0].id]["network"]
        there = max(float(np.abs(each).max()) for each in weights.values())
        largest[network] = max(largest.get(network, 0.0), there)
    rows: list[Row] = []
    for weights, lines in _beginnings(results, last):
        for line in lines:
            cell, end = cells[line.id], last[line.id]
            masks = _masks(results, end["key"])
            if masks is not None:
                bins = _histogram(weights, masks, largest[cell["network"]])
                common = {"iteration": end["iteration"], "group": _group(end["density_target"])}
                rows += [cell | common | each for each in bins]
    return rows


def norm_rows(results: Results) -> list[Row]:
    """The rows of `layer_rows` whose masks prune something, with the norms of what they keep.

    `uniform_norm` is the root mean square of the norms that uniformly random masks keep, with as
    many weights of the layer, `uniform_low` and `uniform_high` are two standard deviations from it.
    """
    moments: dict[str, dict[str, tuple[float, float]]] = {}
    there = layer_rows(results)
    for weights, lines in _beginnings(results, {row["lineage"] for row in there}):
        sums = {name: (float((w**2).sum()), float((w**4).sum())) for name, w in weights.items()}
        moments |= {line.id: sums for line in lines}
    rows: list[Row] = []
    for row in there:
        if row["lineage"] in moments and 0 < row["kept"] < row["total"]:
            sums = moments[row["lineage"]][row["layer"]]
            norm, deviation = uniform_norm(row["kept"], row["total"], *sums)
            rows.append(
                row
                | {
                    "uniform_norm": norm,
                    "uniform_low": norm - 2 * deviation,
                    "uniform_high": norm + 2 * deviation,
                }
            )
    return rows


def uniform_norm(kept: int, total: int, second: float, fourth: float) -> tuple[float, float]:
    """Root mean square of ‖w ⊙ m‖ over uniformly random masks m, and its standard deviation.

    `second` and `fourth` are Σw² and Σw⁴ of a layer's `total` weights, of which m keeps `kept` > 0.
    The deviation follows from that of the square, to first order.
    """
    norm = (second * kept / total) ** 0.5
    of_squares = fourth / total - (second / total) ** 2
    variance = max(0.0, of_squares) * kept * (total - kept) / max(1, total - 1)
    return norm, variance**0.5 / (2 * norm) if norm > 0 else 0.0


def random_norm_rows(results: Results) -> list[Row]:
    """Histograms of the norms that uniformly random masks keep of a layer, beside the norm that the
    last mask of each lineage keeps; of lineages of more than one iteration.

    One row for each bin: `norm`, its middle, and `share`, of MASKS masks that keep as many weights.
    `init_norm_kept` is the lineage's own. Lineages that differ in their seed alone have the same
    bins.
    """
    there = iterative(layer_rows(results))
    last = {row["lineage"]: row["iteration"] for row in there}
    ends: dict[str, list[Row]] = {}
    for row in there:
        if row["iteration"] == last[row["lineage"]] and 0 < row["kept"] < row["total"]:
            ends.setdefault(row["lineage"], []).append(row)
    sampled: dict[tuple[str, str], list[tuple[Row, np.ndarray]]] = {}
    for weights, lines in _beginnings(results, ends):
        for row in (row for line in lines for row in ends[line.id]):
            norms = random_norms(weights[row["layer"]], row["kept"])
            sampled.setdefault((row["label"], row["layer"]), []).append((row, norms))
    return [row for each in sampled.values() for row in _norm_histograms(each)]


def random_norms(weights: np.ndarray, kept: int) -> np.ndarray:
    """Norms of `weights` under MASKS masks that are drawn uniformly from those that keep `kept`;
    the same every time.

    The sorted squares are cut into buckets. How many of each bucket a mask keeps is drawn as it is
    for such masks (multivariate hypergeometric); their sum is then taken as normal, with the mean
    and the variance that it has. So mean and variance of the squared norm are exact, and up to
    BUCKETS weights all of it is. The more are kept, the fewer buckets it takes.
    """
    generator = np.random.default_rng(0)
    count = max(1, min(BUCKETS, len(weights), SUMMED // kept))
    squares = np.sort(weights**2) if count > 1 else weights**2
    buckets = np.array_split(squares, count)
    sizes = np.array([len(bucket) for bucket in buckets])
    means = np.array([bucket.mean() for bucket in buckets])
    variances = np.array([bucket.var() for bucket in buckets])
    drawn = generator.multivariate_hypergeometric(sizes, kept, MASKS, method="marginals")
    rest = drawn * (sizes - drawn) / np.maximum(1, sizes - 1) @ variances
    sums = drawn @ means + np.sqrt(rest) * generator.standard_normal(MASKS)
    return np.sqrt(sums.clip(0))


def _norm_histograms(sampled: Sequence[tuple[Row, np.ndarray]]) -> Iterator[Row]:
    every = np.concatenate([norms for _, norms in sampled])
    edges = np.linspace(every.min(), every.max(), NORM_BINS + 1)
    for row, norms in sampled:
        shares = np.histogram(norms, edges)[0] / len(norms)
        for norm, share in zip((edges[:-1] + edges[1:]) / 2, shares, strict=True):
            yield row | {"norm": float(norm), "share": float(share)}


def _beginnings(
    results: Results, of: Collection[str]
) -> Iterator[tuple[Weights, list[LineageRecord]]]:
    """The prunable weights at initialization, with the lineages `of` these ids that begin with
    them; not those of ablations, which may begin with others."""
    layers: dict[str, set[str]] = {}
    these = pc.field("lineage").isin(pa.array(sorted(of), pa.string()))
    found = results.table("layers", ["lineage", "layer"], these)
    for row in found.group_by(["lineage", "layer"]).aggregate([]).to_pylist():
        layers.setdefault(row["lineage"], set()).add(row["layer"])
    lines: dict[str, list[LineageRecord]] = {}
    for line in results.record.lineages:
        if line.id in layers and "ablation" not in line.config:
            lines.setdefault(initial_path(line.config), []).append(line)
    for path, each in lines.items():
        try:
            state = read_tensors(results.store, path)
        except Damaged:
            continue
        names = sorted(layers[each[0].id])
        yield {name: state[name].double().numpy().reshape(-1) for name in names}, each


def _masks(results: Results, key: str) -> Weights | None:
    try:
        masks = read_masks(results.store, iteration_path(key))
    except Damaged:
        return None
    return {name: mask.numpy().reshape(-1) for name, mask in masks.items()}


def _histogram(weights: Weights, masks: Weights, bound: float) -> list[Row]:
    edges = np.linspace(-bound, bound, BINS + 1)
    every = np.concatenate([weights[name] for name in masks])
    kept = every[np.concatenate(list(masks.values()))]
    shares = np.histogram(kept, edges)[0] / max(1, len(kept))
    uniform = np.histogram(every, edges)[0] / len(every)
    middles = (edges[:-1] + edges[1:]) / 2
    return [
        {"weight": float(w), "share": float(s), "uniform_share": float(u)}
        for w, s, u in zip(middles, shares, uniform, strict=True)
    ]


def _group(target: float | None) -> str:
    return "last iteration" if target is None else f"density {str(target).removesuffix('.0')}"
