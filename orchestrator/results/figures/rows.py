"""Rows: what figures draw, as lists of JSON values, one list for all the figures that need it.

Every row has `label` (the cell without its seed), `seed` and `lineage`, so that a reader can leave
methods and seeds out; figures average over the seeds that are left. Other names and values are
those of the tables; what is not finite is None.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.records.labels import label_beside, options, test_set
from orchestrator.records.sweep import LineageRecord, SweepRecord
from orchestrator.results.opening import Results

Row = dict[str, Any]
State = Literal["retrained", "pruned"]
"""Of a model: as it was trained, or as it was pruned, before that."""


LAYERS = 6
MOST = 40_000
"""About as many rows of one kind are drawn; of more there are those of some of the seeds."""
CELLS = 264
"""Of more cells, some are drawn: as many curves as can be told apart."""
PANELS = 48
"""Of more methods that would each have a panel, some have."""
P_AND_Q = 110
"""Pairs of p and q that the PQ Index is measured for."""
SAP_PARAMETERS = ("p", "q", "eta", "gamma")
MEASURES = (
    "test_loss", "test_accuracy", "pq_index", "gini",
    "pruned_test_accuracy", "pq_index_pruned",
)  # fmt: skip


def iteration_rows(results: Results) -> list[Row]:
    """One row for each iteration of each lineage; `p`, `q`, `eta` and `gamma` are SAP's.

    `accuracy_difference` and `pq_index_difference` are what pruning took: the model that was
    pruned less the pruned model (SAP Figures 2b and 3b). `outcome` is as of `is_outcome`;
    `on_data` says whether it was trained on real data.
    """
    cells = cell_columns(results)
    lines = {line.id: line for line in results.record.lineages}
    methods = {line.id: line.config["method"] for line in results.record.lineages}
    columns = ["lineage", "iteration", results.density, *MEASURES]
    own = {name: {p: method.get(p) for p in SAP_PARAMETERS} for name, method in methods.items()}
    rows = [
        cells[row["lineage"]] | own[row["lineage"]] | row
        for row in _listed(results.iterations.select(columns))
    ]
    at = {(row["lineage"], row["iteration"]): row for row in rows}
    for row in rows:
        row |= _differences(row, at.get((row["lineage"], row["iteration"] - 1)), lines)
        row["outcome"] = is_outcome(lines[row["lineage"]], row["iteration"])
        row["on_data"] = row["iteration"] in lines[row["lineage"]].on_data
    return rows


def layer_rows(results: Results) -> list[Row]:
    """One row for each prunable layer of each iteration; `density` is the layer's.

    Of a deep network, `LAYERS` layers, evenly spread from the first to the last.
    """
    cells = cell_columns(results)
    columns = ["lineage", "iteration", "layer", "kept", "total", "pq_index", "init_norm_kept"]
    count = len(results.table("layers", ["lineage"]))
    found = _of_some_seeds(results, "layers", columns, count)
    rows = [
        cells[row["lineage"]] | row | {"density": row["kept"] / row["total"]}
        for row in _listed(found)
    ]
    networks: dict[str, dict[str, None]] = {}
    for row in rows:
        networks.setdefault(row["network"], {})[row["layer"]] = None
    chosen = {network: set(spread(list(layers), LAYERS)) for network, layers in networks.items()}
    return [row for row in rows if row["layer"] in chosen[row["network"]]]


def epoch_rows(results: Results, iterations: Sequence[int], epochs: int) -> list[Row]:
    """One row for each epoch of `iterations`; of a long training, `epochs` evenly spread ones."""
    cells = cell_columns(results)
    measures = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
    known = results.table("epochs", ["lineage", "epoch"])["epoch"].unique().to_pylist()
    there = spread(sorted(known), epochs)
    wanted = pc.field("iteration").isin(iterations) & pc.field("epoch").isin(there)
    drawn = results.iterations.filter(pc.field("iteration").isin(iterations))
    columns = ["lineage", "iteration", "epoch", *measures]
    chosen = _of_some_seeds(results, "epochs", columns, len(drawn) * len(there), wanted)
    return [cells[row["lineage"]] | row for row in _listed(chosen)]


def sparsity_rows(results: Results, count: int, state: State = "retrained") -> list[Row]:
    """The global PQ Index of the retrained, or the pruned, models for each p and q.

    Of methods with more than one iteration; of each, at most `count` iterations, evenly spread and
    the same for all of its seeds. The dense model was not pruned.
    """
    cells = cell_columns(results)
    there: dict[str, set[int]] = {}
    for row in results.iterations.select(["lineage", "iteration"]).to_pylist():
        there.setdefault(results.labels[row["lineage"]], set()).add(row["iteration"])
    first = 0 if state == "retrained" else 1
    drawn = {
        label: spread(sorted(t for t in ts if t >= first), count)
        for label, ts in there.items()
        if len(ts) > 1
    }
    if not drawn:
        return []
    of_them = {
        line
        for line in results.iterations["lineage"].unique().to_pylist()
        if results.labels[line] in drawn
    }
    some = some_seeds(results, of_them, count * P_AND_Q)
    chosen = {line: drawn[results.labels[line]] for line in cells if line in some}
    # The table is by far the largest, and most of it is not needed: it is not read as a whole.
    found = results.sql(
        f"""SELECT lineage, iteration, p, q, pq_index FROM sparsity
        WHERE state = '{state}' AND scope = 'global'
        AND iteration IN ({", ".join(str(t) for t in sorted(set().union(*chosen.values())))})
        AND lineage IN ({", ".join(f"'{line}'" for line in chosen)})
        ORDER BY lineage, iteration, p, q"""
    )
    wanted: dict[str, list[Row]] = {line: [] for line in chosen}
    for row in _listed(found):
        if row["iteration"] in chosen.get(row["lineage"], ()):
            wanted[row["lineage"]].append(cells[row["lineage"]] | row)
    return [row for rows in wanted.values() for row in rows]


def measured_rows(
    results: Results,
    table: pa.Table,
    by: Sequence[str],
    value: str,
    iterations: int = 100,
    how: Sequence[str] = (),
) -> list[Row]:
    """One row for each value of the columns `by` in the table of a measure, which has the mean of
    `value` over all that it has there: of at most as many `iterations`, evenly spread, of each
    lineage. What was measured in several ways, as the columns `how` say, is in a setting each."""
    ways = several(table, how)
    found = mean_rows(table, [*by, *ways], value)
    lineages = {row["lineage"] for row in found}
    if not lineages:
        return []
    some = some_seeds(results, lineages, len(found) / len(lineages))
    shown = spread(sorted({row["iteration"] for row in found}), iterations)
    cells = cell_columns(results)
    rows = [
        cells[row["lineage"]] | row
        for row in found
        if row["lineage"] in some and row["iteration"] in shown
    ]
    return [row | {"setting": with_way(row["setting"], row, ways)} for row in rows]


def several(table: pa.Table, columns: Sequence[str]) -> list[str]:
    """Those of `columns` that have several values in one lineage."""
    counted = table.group_by("lineage").aggregate([(name, "count_distinct") for name in columns])
    most = {name: counted[f"{name}_count_distinct"].to_pylist() for name in columns}
    return [name for name, counts in most.items() if max(counts, default=0) > 1]


def with_way(what: str, row: Row, ways: Sequence[str]) -> str:
    """`what`, and in which of several `ways` it was measured."""
    return ", ".join([what, *(f"{name}: {row[name]}" for name in ways)])


def mean_rows(table: pa.Table, by: Sequence[str], value: str) -> list[Row]:
    """One row for each lineage, iteration and value of the columns `by` in the table of a measure,
    with the mean of `value`."""
    grouped = table.group_by(["lineage", "iteration", *by], use_threads=False)
    found = grouped.aggregate([(value, "mean")]).to_pylist()
    return [row | {value: row[f"{value}_mean"]} for row in found]


def some_seeds(results: Results, lineages: Collection[str], rows_each: float) -> set[str]:
    """Those of `lineages`, by their ids, that are drawn when each has so many rows: all of them, or
    of every label a few, evenly spread; of very many labels, of some."""
    by_label: dict[str, list[str]] = {}
    for line in results.record.lineages:
        if line.id in lineages:
            by_label.setdefault(results.labels[line.id], []).append(line.id)
    most = MOST / max(1, rows_each)
    labels = spread([*by_label], max(1, min(CELLS, int(most))))
    seeds = max(1, int(most / max(1, len(labels))))
    return {id for label in labels for id in spread(by_label[label], seeds)}


def _of_some_seeds(
    results: Results,
    table: str,
    columns: Sequence[str],
    count: int,
    where: pc.Expression | None = None,
) -> pa.Table:
    """The rows of a table for which `where` holds; of more than MOST, those of some seeds. They are
    about `count`."""
    if count <= MOST:
        return results.table(table, columns, where)
    lineages = {*results.iterations["lineage"].unique().to_pylist()}
    some = pa.array(sorted(some_seeds(results, lineages, count / len(lineages))), pa.string())
    drawn = pc.field("lineage").isin(some)
    return results.table(table, columns, drawn if where is None else drawn & where)


def cell_columns(results: Results) -> dict[str, Row]:
    """For each lineage id, what its rows have in common.

    `setting` is the dataset whose test set accuracies are of, the model and the scope; `variant` is
    the rest of the label, and `curve` that without the density aimed at.
    """
    record = results.record
    return {
        line.id: {
            "label": results.labels[line.id],
            "lineage": line.id,
            "seed": line.config["seed"],
            "scope": line.config["prune"]["scope"],
            "network": _network(line, record),
            "setting": f"{_network(line, record)}, {line.config['prune']['scope']} pruning",
            "variant": variant(line, record),
            "curve": variant(line, record, "method.density"),
        }
        for line in record.lineages
    }


def variant(line: LineageRecord, record: SweepRecord, *without: str) -> str:
    """The label of `line` without dataset, model, scope, and the parameters in `without`."""
    networks = {name for name in record.swept if _is_of_network(name)}
    return label_beside(line, record, {"prune.scope", *networks, *without})


def is_outcome(line: LineageRecord, iteration: int) -> bool:
    """Whether a method is judged by `iteration`: by any on real data where it aims at no density,
    else by its last, unless stop rules have ended it before it was there."""
    there = iteration == line.iterations[-1] and line.stopped is None
    return (line.config["method"].get("density") is None or there) and iteration in line.on_data


def iterative(rows: Sequence[Row]) -> list[Row]:
    """The rows of lineages of more than one iteration, the dense one included."""
    there = {(row["lineage"], row["iteration"]) for row in rows}
    counts = Counter(lineage for lineage, _ in there)
    return [row for row in rows if counts[row["lineage"]] > 1]


def distinct(rows: Iterable[Mapping[str, Any]], column: str) -> list[Any]:
    """The values of a column in order of their first appearance."""
    return list(dict.fromkeys(row[column] for row in rows))


def spread(values: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of `values`, evenly spread, with the first and the last."""
    if len(values) <= count:
        return list(values)
    if count == 1:
        return [values[0]]
    return [values[round(i * (len(values) - 1) / (count - 1))] for i in range(count)]


def _network(line: LineageRecord, record: SweepRecord) -> str:
    rest = {name for name in record.swept if not name.startswith("model.")}
    model = [line.config["model"]["name"], *options(line, record, rest)]
    return " ".join([test_set(line, record), *model])


def _is_of_network(name: str) -> bool:
    return name.split(".")[0] in ("dataset", "model")


def _differences(row: Row, parent: Row | None, lines: Mapping[str, LineageRecord]) -> Row:
    scored = lines[row["lineage"]].scored[row["iteration"]]
    accuracy = index = None
    if parent is not None and scored is not None:
        # Who prunes w_0 every time has pruned the pruned model before.
        again = scored == "dense" and row["iteration"] > 1
        accuracy = parent["pruned_test_accuracy" if again else "test_accuracy"]
        index = parent["pq_index_pruned" if again else "pq_index"]
    return {
        "accuracy_difference": _less(accuracy, row["pruned_test_accuracy"]),
        "pq_index_difference": _less(index, row["pq_index_pruned"]),
    }


def _less(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _listed(table: Any) -> list[Row]:
    """The rows of a table; JSON has neither NaN nor infinities."""
    return [
        {name: None if _is_odd(value) else value for name, value in row.items()}
        for row in table.to_pylist()
    ]


def _is_odd(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
