"""Tables laid out as papers have them, from the lineages of a sweep.

Columns are what lineages have in common before they are pruned (dataset, model, training recipe)
and the density they are pruned to; rows are how they are pruned. Methods that aim at no density
are shown at their last iteration, with the weights that remain, and so is what is on the way to a
density. Iterations trained on random data are no results, and in no table.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import combinations
from math import isclose, isfinite, sqrt
from typing import Any, Literal

from orchestrator.records.labels import common_options, label_beside, options, test_set
from orchestrator.records.published import published_cell
from orchestrator.records.sweep import LineageRecord, SweepRecord
from orchestrator.results.ablations import originals
from orchestrator.results.statistics import LEVEL, ROUNDING, compare, summarize
from orchestrator.results.sweep_tables import SweepTables, query_errors
from orchestrator.results.tables import SCHEMAS, Weights, planned_iterations
from orchestrator.sweepfile.published import PublishedCell, PublishedValue, cell_of
from trainables.store import iteration_path

METRICS = tuple(
    name for name in SCHEMAS["iterations"].names if name.endswith(("_accuracy", "_loss"))
)
SAME_DENSITY = 1.01
"""Cells within this factor keep equally many weights."""

COLUMN_SECTIONS = ("dataset.", "model.", "train.")
PLANNED_AND_MEASURED = """
SELECT * FROM iterations UNION ALL BY NAME
SELECT * FROM planned ANTI JOIN iterations USING (lineage, iteration)
"""

LayoutName = Literal["paper", "iterations"]
Mark = Literal["noise", "best"]
"""What is marked: all that noise cannot tell from the best of those that keep as few weights, or
the best means alone."""


@dataclass(frozen=True)
class PaperColumn:
    """A column: the names above it, from the top, and its density, None where it has none."""

    names: tuple[str, ...]
    density: float | None


@dataclass(frozen=True)
class PaperCell:
    """A cell over the seeds it has: mean and sample standard deviation of the metric.

    Accuracies and densities are fractions of 1. `n` of the `seeds` are measured, with the `values`
    by seed, and `densities` are what they keep, by seed too; `lineages` are the ids of all, by
    seed. `best`: it is marked, see `Mark`. `note` says why seeds are missing. `published` is in
    percent.
    """

    mean: float | None
    std: float | None
    n: int
    seeds: int
    values: Mapping[int, float]
    densities: Mapping[int, float]
    lineages: Mapping[int, str]
    best: bool = False
    note: str | None = None
    published: PublishedValue | None = None

    @property
    def density(self) -> float | None:
        """The mean of what the seeds keep."""
        return summarize(self.densities.values()).mean

    @property
    def difference(self) -> float | None:
        """The mean less the published one, as a fraction of 1."""
        if self.mean is None or self.published is None:
            return None
        return self.mean - self.published.mean / 100

    @property
    def z(self) -> float | None:
        """The difference in standard errors, √(s²/n + s_published²/n_published) of the means; None
        when a deviation or a number of runs is not known, or both deviations are 0."""
        value, difference = self.published, self.difference
        if value is None or difference is None or self.std is None:
            return None
        if value.std is None or value.seeds is None:
            return None
        error = sqrt(self.std**2 / self.n + (value.std / 100) ** 2 / value.seeds)
        return difference / error if error > 0 else None


@dataclass(frozen=True)
class PaperTable:
    """A table as in a paper; `cells[row][column]` is None where the sweep has no such cell.

    `levels` names the lines of the columns' headings, and `row_heading` the column of row names.
    `remarks` are the notes of published values, each once. Densities are of the `weights`.
    """

    title: str
    metric: str
    row_heading: str
    levels: tuple[str, ...]
    columns: tuple[PaperColumn, ...]
    rows: tuple[str, ...]
    cells: tuple[tuple[PaperCell | None, ...], ...]
    notes: tuple[str, ...]
    remarks: tuple[str, ...]
    weights: Weights = "kept"


@dataclass(frozen=True)
class _Value:
    """The metric of one lineage at one iteration; `key` is None when the tables have no such row,
    and the metric is None when it has no finite value. `target` is the density that the method aims
    at, with this iteration; None for those on the way. `is_last`: no later iteration is planned of
    which it is not known yet whether it would be chosen."""

    line: LineageRecord
    iteration: int
    target: float | None
    key: str | None
    density: float | None
    metric: float | None
    is_last: bool


@dataclass(frozen=True)
class _Place:
    """Where a value belongs in a table."""

    row: str
    column: PaperColumn


def paper_table(
    results: SweepTables,
    *,
    metric: str = "test_accuracy",
    layout: LayoutName = "paper",
    where: str | None = None,
    mark: Mark = "noise",
) -> PaperTable:
    """The results as a paper's table: at the last iteration of every lineage, or with a row for
    every iteration (`layout="iterations"`) and a column for every method.

    `where`, a SQL condition over the columns of `iterations`, chooses iterations; the last one is
    then the last of those. Raises QueryError when DuckDB cannot make sense of it, and ValueError
    when `metric` is not one of METRICS.
    """
    if metric not in METRICS:
        raise ValueError(f"no metric {metric!r}; choose one of {', '.join(METRICS)}")
    chosen = LAYOUTS[layout]
    values = _values(results, metric, where)
    if chosen.last_only:
        values = [_reached(value) for value in {v.line.id: v for v in values}.values()]
    last = _last_iteration(values)
    groups: dict[_Place, list[_Value]] = {}
    for value in values:
        groups.setdefault(chosen.place(value, results.record, last), []).append(value)
    cells = {place: _cell(group, results) for place, group in groups.items()}
    if metric == "test_accuracy" and chosen.last_only:
        cells = _with_published(cells, groups, results)
    return _table(results, metric, chosen, _marked(cells, metric, chosen, mark), mark)


# --- from the tables to values


def _values(results: SweepTables, metric: str, where: str | None) -> list[_Value]:
    """Every planned iteration on real data that `where` chooses, in the order of lineages and
    iterations."""
    connection = results.duckdb()
    connection.register("planned", planned_iterations(results.record))
    with query_errors():
        rows = connection.sql(PLANNED_AND_MEASURED)
        columns = f"lineage, iteration, key, {results.density}, {metric} AS metric"
        found = (rows if where is None else rows.filter(where)).project(columns).fetchall()
        # A condition on what is measured does not know what is not measured yet.
        unknown = rows.filter(f"key IS NULL AND ({where or 'true'}) IS NULL")
        to_come = dict(unknown.project("lineage, iteration").order("iteration").fetchall())
    chosen = {(lineage, t): (key, density, value) for lineage, t, key, density, value in found}
    of = originals(results.record)
    values = []
    for line in results.record.lineages:
        for t in (t for t in line.iterations if (line.id, t) in chosen and t in line.on_data):
            key, density, value = chosen[line.id, t]
            finite = value if _is_finite(value) else None
            is_last = to_come.get(line.id, t) <= t
            values.append(_Value(line, t, _target(line, t, of), key, density, finite, is_last))
    return values


def _is_finite(value: float | None) -> bool:
    return value is not None and isfinite(value)


def _target(line: LineageRecord, t: int, of: Mapping[str, LineageRecord]) -> float | None:
    """The density that the method of `line` aims at with iteration t; None for those on the way, of
    which an ablation may be too. `of` are the `originals`."""
    whole = of.get(line.id, line)
    return line.config["method"].get("density") if t == whole.iterations[-1] else None


def _reached(value: _Value) -> _Value:
    """What was measured above the density that a lineage aims at is no value of that."""
    return replace(value, metric=None) if _missed(value) else value


def _missed(value: _Value) -> bool:
    return value.line.stopped is not None and value.target is not None


def _last_iteration(values: Iterable[_Value]) -> str:
    """The heading of a column for what aims at no density."""
    found = {value.iteration for value in values if value.target is None}
    return f"iteration {found.pop()}" if len(found) == 1 else "last iteration"


def _row(line: LineageRecord, record: SweepRecord, target: float | None) -> str:
    swept = {n for n in record.swept if n.startswith(COLUMN_SECTIONS)}
    # A density that is no column's tells rows apart.
    return label_beside(line, record, swept if target is None else swept | {"method.density"})


def _paper_place(value: _Value, record: SweepRecord, last: str) -> _Place:
    at = last if value.target is None else f"{_percent(value.target)} %"
    column = PaperColumn((*_trunk_names(value.line, record), at), value.target)
    return _Place(_row(value.line, record, value.target), column)


def _percent(density: float) -> str:
    """All of its digits: those of 100 times it in floats may be others."""
    percent = (100 * Decimal(str(density))).normalize()
    return f"{percent:f}" if percent >= Decimal("1e-6") else f"{percent:g}"


def _iterations_place(value: _Value, record: SweepRecord, last: str) -> _Place:
    elsewhere = {n for n in record.swept if n.startswith(COLUMN_SECTIONS)}
    label = label_beside(value.line, record, elsewhere)
    column = PaperColumn((*_trunk_names(value.line, record), label), None)
    return _Place(str(value.iteration), column)


def _trunk_names(line: LineageRecord, record: SweepRecord) -> tuple[str, ...]:
    """What tells the trunk of `line` apart, one name for each of COLUMN_SECTIONS."""

    def swept(section: str) -> list[str]:
        return options(line, record, {n for n in record.swept if not n.startswith(section)})

    return (
        test_set(line, record),
        " ".join([line.config["model"]["name"], *swept("model.")]),
        " ".join(swept("train.")),
    )


# --- from values to cells


def _cell(values: Sequence[_Value], results: SweepTables) -> PaperCell:
    by_seed = {v.line.config["seed"]: v.metric for v in values if v.metric is not None}
    summary = summarize(by_seed.values())
    return PaperCell(
        mean=summary.mean,
        std=summary.std,
        n=summary.n,
        seeds=len(values),
        values=by_seed,
        densities={
            v.line.config["seed"]: v.density
            for v in values
            if v.metric is not None and v.density is not None
        },
        lineages={v.line.config["seed"]: v.line.id for v in values},
        note=_note(values, results),
    )


def _note(values: Sequence[_Value], results: SweepTables) -> str | None:
    """Why seeds are missing, or may not be at their last iteration; None when none is."""
    reasons = Counter(_reason(v, results) for v in values if v.metric is None)
    early = sum(not v.is_last for v in values if v.metric is not None)
    told = [f"{count} {reason}" for reason, count in reasons.items()]
    if 0 < reasons.total() < len(values):
        told.insert(0, f"{len(values) - reasons.total()} of {len(values)} seeds")
    elif len(reasons) == 1:
        told = [*reasons]
    if early:
        told.append(f"{early} may not be at the last iteration yet")
    return ", ".join(told) or None


def _reason(value: _Value, results: SweepTables) -> str:
    if value.key is not None:
        return "stopped" if _missed(value) else "no value"
    if value.line.id in results.failed:
        return "failed"
    keys = dict(zip(value.line.iterations, value.line.keys, strict=True))
    damaged = results.store.is_committed(iteration_path(keys[value.iteration]))
    return "damaged" if damaged else "not run"


def _with_published(
    cells: Mapping[_Place, PaperCell],
    groups: Mapping[_Place, Sequence[_Value]],
    results: SweepTables,
) -> dict[_Place, PaperCell]:
    first: dict[PublishedCell | None, PublishedValue] = {}
    for value in results.published:
        first.setdefault(cell_of(value), value)
    about = {
        place: published_cell(values[0].line) if place.column.density is not None else None
        for place, values in groups.items()
    }
    return {
        place: replace(cell, published=first.get(about[place])) for place, cell in cells.items()
    }


# --- what is best


def _contests(
    cells: Mapping[_Place, PaperCell], layout: "_Layout"
) -> list[dict[_Place, PaperCell]]:
    """The cells that are compared with each other."""
    contests: dict[Any, dict[_Place, PaperCell]] = {}
    for place, cell in cells.items():
        if cell.mean is not None:
            contests.setdefault(layout.contest(place), {})[place] = cell
    return [*contests.values()]


def _marked(
    cells: Mapping[_Place, PaperCell], metric: str, layout: "_Layout", mark: Mark
) -> dict[_Place, PaperCell]:
    """`cells` with `best` set, unless it would be on all cells that are compared."""
    is_best = _is_best if mark == "noise" else _has_best_mean
    marked = dict(cells)
    for contest in _contests(cells, layout):
        best = [p for p, cell in contest.items() if is_best(cell, contest.values(), metric)]
        if len(best) < len(contest):
            marked |= {place: replace(cells[place], best=True) for place in best}
    return marked


def _unmarked(contests: Iterable[Mapping[_Place, PaperCell]]) -> str:
    """Why no cell is marked."""
    pairs = (pair for contest in contests for pair in combinations(contest.values(), 2))
    if any(compare(one.values, other.values).differs for one, other in pairs):
        return "each is the best of those that keep no more weights"
    return "no difference is more than noise"


def _is_best(cell: PaperCell, contest: Iterable[PaperCell], metric: str) -> bool:
    """Whether no cell that keeps no more weights is better by more than noise."""
    if cell.density is None:
        return False
    sign, limit = -1 if metric.endswith("_loss") else 1, cell.density * SAME_DENSITY
    found = (
        compare(rival.values, cell.values)
        for rival in contest
        if rival.density is not None and rival.density <= limit
    )
    return not any(each.differs and sign * (each.difference or 0) > 0 for each in found)


def _has_best_mean(cell: PaperCell, contest: Iterable[PaperCell], metric: str) -> bool:
    """Whether none has a better mean, whatever it keeps."""
    means = [each.mean for each in contest if each.mean is not None]
    best = min(means) if metric.endswith("_loss") else max(means)
    return cell.mean is not None and isclose(cell.mean, best, rel_tol=ROUNDING)


# --- from cells to a table


@dataclass(frozen=True)
class _Layout:
    """How values become a table; cells of one `contest` are compared with each other."""

    row_heading: str
    last_heading: str
    last_only: bool
    place: Callable[[_Value, SweepRecord, str], _Place]
    contest: Callable[[_Place], Any]


LAYOUTS: dict[LayoutName, _Layout] = {
    "paper": _Layout("method", "density", True, _paper_place, lambda at: at.column),
    "iterations": _Layout(
        "t", "method", False, _iterations_place, lambda at: (at.row, at.column.names[:-1])
    ),
}


def _table(
    results: SweepTables,
    metric: str,
    layout: _Layout,
    cells: Mapping[_Place, PaperCell],
    mark: Mark,
) -> PaperTable:
    columns = _columns(cells)
    rows = [*dict.fromkeys(place.row for place in cells)]
    if not layout.last_only:
        rows.sort(key=int)
    levels = (*(section.rstrip(".") for section in COLUMN_SECTIONS), layout.last_heading)
    shown = [i for i in range(3) if len({column.names[i] for column in columns}) > 1] + [3]
    constant = [c.names[i] for c in columns[:1] for i in range(3) if i not in shown and c.names[i]]
    return PaperTable(
        title=_title(results.record.name, metric, constant, cells.values()),
        metric=metric,
        row_heading=layout.row_heading,
        levels=tuple(levels[i] for i in shown),
        columns=tuple(replace(c, names=tuple(c.names[i] for i in shown)) for c in columns),
        rows=tuple(rows),
        cells=tuple(tuple(cells.get(_Place(row, column)) for column in columns) for row in rows),
        notes=_notes(results, layout, cells, mark),
        remarks=_remarks(cells.values()),
        weights=results.weights,
    )


def _columns(cells: Iterable[_Place]) -> list[PaperColumn]:
    """One trunk after the other, the densest first, what aims at no density last."""
    columns = [*dict.fromkeys(place.column for place in cells)]
    trunks = [*dict.fromkeys(column.names[:-1] for column in columns)]
    order = {trunk: i for i, trunk in enumerate(trunks)}
    return sorted(
        columns,
        key=lambda c: (order[c.names[:-1]], c.density is None, -(c.density or 0)),
    )


def _title(sweep: str, metric: str, constant: Sequence[str], cells: Iterable[PaperCell]) -> str:
    seeds = {cell.seeds for cell in cells}
    over = f"{min(seeds)} seeds" if len(seeds) == 1 and seeds != {1} else "seeds"
    what = metric.replace("_", " ") + (" in %" if metric.endswith("accuracy") else "")
    spread = "one seed" if seeds == {1} else f"mean ± standard deviation over {over}"
    return f"{', '.join([sweep, *constant])}: {what}, {spread}"


def _notes(
    results: SweepTables, layout: _Layout, placed: Mapping[_Place, PaperCell], mark: Mark
) -> tuple[str, ...]:
    cells = [*placed.values()]
    notes = [] if cells else ["No iteration is chosen."]
    if cells and results.weights == "effective":
        notes.append("Weights are the effective ones, on a path from an input to an output.")
    common = common_options(results.record)
    if cells and common:
        notes.append(f"Options of all rows: {'; '.join(common)}.")
    test = f"(t-test over seeds, {100 * (1 - LEVEL):.0f} %)"
    if any(cell.best for cell in cells) and mark == "best":
        notes.append(f"Marked: the best mean of a {'column' if layout.last_only else 'row'}.")
    elif any(cell.best for cell in cells):
        notes.append(
            f"Marked: no method that keeps no more weights is better by more than noise {test}; so "
            "a mean may be marked beside a better one that is not, of more weights or more spread."
        )
    elif any(cell.n > 1 for cell in cells) and mark == "noise":
        notes.append(f"Nothing is marked: {_unmarked(_contests(placed, layout))} {test}.")
    if not layout.last_only and any(
        len(line.on_data) < len(line.iterations) for line in results.record.lineages
    ):
        notes.append("Iterations trained on random data are left out.")
    published = [cell.published for cell in cells if cell.published is not None]
    sources = dict.fromkeys(f"{value.source}, table {value.table}" for value in published)
    if sources:
        notes.append(f"Published values: {'; '.join(sources)}.")
    elif not results.published and any(p.spec.get("published") for p in results.record.parts):
        notes.append("No published value is about a cell of this sweep.")
    return tuple(notes)


def _remarks(cells: Iterable[PaperCell]) -> tuple[str, ...]:
    notes = (cell.published.note for cell in cells if cell.published is not None)
    return tuple(dict.fromkeys(note for note in notes if note))
