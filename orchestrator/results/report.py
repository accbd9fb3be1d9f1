"""The report of sweeps: what its page shows, gathered as JSON values, and the page as one file."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from heapq import merge
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from ruamel.yaml import YAML

from orchestrator.errors import ExportError
from orchestrator.records.failures import Failure
from orchestrator.records.provenance import Provenance, read_provenance
from orchestrator.records.runs import last_heard
from orchestrator.records.status import LineageStatus, State, SweepStatus, lineage_statuses
from orchestrator.records.sweep import SweepRecord
from orchestrator.results.figures import FIGURES
from orchestrator.results.figures.connectivity import barrier_rows
from orchestrator.results.figures.rows import MOST, Row, cell_columns, is_outcome
from orchestrator.results.opening import Results
from orchestrator.results.page import Payload, render
from orchestrator.results.page.packing import DIGITS, EVERY, Packed, pack
from orchestrator.results.paper_tables import PaperCell, paper_table
from orchestrator.sweepfile.spec import SweepSpec
from orchestrator.version import VERSION
from trainables.store import Store, iteration_path

COLUMNS = (
    "iteration", "density", "density_effective", "collapsed_layers", "train_loss", "train_accuracy",
    "validation_loss", "validation_accuracy", "test_loss", "test_accuracy",
    "pruned_test_loss", "pruned_test_accuracy", "pq_index", "gini", "macs_dense", "macs_kept",
    "train_seconds", "prune_seconds", "peak_memory_bytes", "attempt", "device", "host",
)  # fmt: skip
"""What the page has of the table `iterations`, besides whose it is and when it was made."""


STATES: tuple[State, ...] = ("running", "died", "incomplete", "finished")
"""Of several sweeps, the page tells the state that comes first."""

SHORTENED = (
    f"Of more than {MOST:,} iterations, numbers have {DIGITS} digits here; prunesweep results has "
    "all of them."
)

CELL_COLUMNS = ("label", "curve", "setting", "network", "scope", "seed")


def write_report(results: Results, output: Path) -> None:
    """Write the report as one HTML file. Raises Damaged, or ExportError if it cannot be written."""
    page = render(report_payload(results))
    try:
        output.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ExportError(f"cannot write {output}: {error.strerror}") from error


def report_payload(results: Results) -> Payload:
    """All that the page shows, as JSON values, by the one reading that opened the `results`. Raises
    Damaged when a record cannot be read."""
    store, record, stored = results.store, results.record, results.committed
    statuses = results.statuses
    status = min(statuses, key=lambda each: STATES.index(each.state))
    failures = {failure.lineage: failure for each in statuses for failure in each.failures}
    reports = [*zip(record.parts, statuses, strict=True)]
    runs = [_runs(results, part, each) for part, each in reports]
    lineages = [
        line
        for part, each in reports
        for line in lineage_statuses(part, stored, [*failures.values()], each.run)
    ]
    figures, datasets = _figures(results)
    return {
        "sweep": record.name,
        "storage": store.location,
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": VERSION,
        "state": status.state,
        "run": status.run and status.run.model_dump(),
        "lineages": _lineages(results, lineages),
        "iterations": _iterations(results),
        "iterations_note": SHORTENED if _is_shortened(results) else "",
        "figures": figures,
        "datasets": datasets,
        "paper": _paper(results),
        "density": results.density,
        "ablations": _ablations(results),
        "barriers": _barriers(results),
        "failures": [_failure(failure, results) for failure in failures.values()],
        "left_out": _left_out(results),
        "damage": [damage for each in statuses for damage in each.damage],
        "bytes": _bytes(store, {key for line in record.lineages for key in line.keys}),
        "runs": [*merge(*runs, key=lambda run: datetime.fromisoformat(run["started_at"]))],
        "yaml": "---\n".join(resolved_yaml(part) for part in record.parts),
    }


def resolved_yaml(record: SweepRecord) -> str:
    """The sweep with axes and defaults written out: a sweep file that plans the same lineages."""
    yaml = YAML()
    yaml.default_flow_style = None
    yaml.width = 100
    text = io.StringIO()
    written = {name: _name_first(value) for name, value in record.spec.items()}
    yaml.dump({name: written[name] for name in SweepSpec.model_fields if name in written}, text)
    return text.getvalue()


def _name_first(value: Any) -> Any:
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: key != "name")
        return {key: _name_first(value[key]) for key in keys}
    return [_name_first(each) for each in value] if isinstance(value, list) else value


def _figures(results: Results) -> tuple[list[dict[str, Any]], dict[str, Packed]]:
    """The figures that the sweep has data for, and each dataset once.

    Altair names a dataset by a hash of its rows. Here it gets a number, so that a figure whose rows
    alone have changed has the same specification as before.
    """
    figures = []
    datasets: dict[str, Packed] = {}
    numbers: dict[str, str] = {}
    for figure in FIGURES.values():
        chart = figure.draw(results) if figure.on_page else None
        if chart is None:
            continue
        spec = chart.to_dict(validate=False)
        for name, rows in spec.pop("datasets", {}).items():
            if name not in numbers:
                numbers[name] = f"rows{len(numbers)}"
                datasets[numbers[name]] = pack(_columns(rows), len(rows))
        figures.append(
            {
                "name": figure.name,
                "title": figure.title,
                "caption": figure.caption,
                "source": figure.source,
                "spec": _renamed(spec, numbers),
            }
        )
    return figures, datasets


def _renamed(spec: Any, numbers: dict[str, str]) -> Any:
    """`spec` with its named data, {"name": old}, under their new names."""
    if isinstance(spec, list):
        return [_renamed(each, numbers) for each in spec]
    if not isinstance(spec, dict):
        return spec
    if spec.keys() == {"name"} and spec["name"] in numbers:
        return {"name": numbers[spec["name"]]}
    return {key: _renamed(value, numbers) for key, value in spec.items()}


def _columns(rows: Sequence[Row]) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _paper(results: Results) -> dict[str, Any]:
    table = paper_table(results)
    place = {line.id: number for number, line in enumerate(results.record.lineages)}
    return {
        "title": table.title,
        "row_heading": table.row_heading,
        "levels": table.levels,
        "columns": [column.names for column in table.columns],
        "rows": table.rows,
        "cells": [[cell and _paper_cell(cell, place) for cell in row] for row in table.cells],
        "notes": [*table.notes, *table.remarks],
    }


def _paper_cell(cell: PaperCell, place: Mapping[str, int]) -> dict[str, Any]:
    """Seed by seed, with the number of its lineage, so that some of them can be left out."""
    published = cell.published and {"mean": cell.published.mean, "std": cell.published.std}
    return {
        "lineages": {str(seed): place[id] for seed, id in cell.lineages.items()},
        "values": {str(seed): value for seed, value in cell.values.items()},
        "densities": {str(seed): density for seed, density in cell.densities.items()},
        "best": cell.best,
        "note": cell.note,
        "published": published,
    }


def _ablations(results: Results) -> list[dict[str, Any]]:
    """The rows of `--layout ablations`, seed by seed, so that some of them can be left out."""
    return [
        {
            "method": cell.method,
            "ablation": cell.ablation,
            "iteration": cell.iteration,
            "elsewhere": cell.elsewhere is not None,
            "p_value": cell.comparison.p_value,
            "pairs": [asdict(pair) for pair in cell.pairs],
        }
        for cell in results.ablated_cells()
    ]


def _barriers(results: Results) -> Packed:
    rows = barrier_rows(results)
    columns = ("lineage", "iteration", "between", "test_error")
    return pack({name: [row[name] for row in rows] for name in columns}, len(rows))


def _lineages(results: Results, lineages: Sequence[LineageStatus]) -> Packed:
    cells = cell_columns(results)
    rows = [
        {name: cells[line.id][name] for name in CELL_COLUMNS}
        | asdict(line)
        | {name: record.config[name]["name"] for name in ("dataset", "model")}
        | {"ablation": "ablation" in record.config}
        for line, record in zip(lineages, results.record.lineages, strict=True)
    ]
    return pack(_columns(rows), len(rows), EVERY)


def _iterations(results: Results) -> Packed:
    """The rows of `iterations`; `lineage` and `key` as numbers, `finished_at` in seconds. Of very
    many, numbers have the digits that figures have."""
    table = results.iterations
    place = {line.id: number for number, line in enumerate(results.record.lineages)}
    lines = {line.id: line for line in results.record.lineages}
    whose = [*zip(table["lineage"].to_pylist(), table["iteration"].to_pylist(), strict=True)]
    keys = table["key"].dictionary_encode().combine_chunks()
    columns: dict[str, list[Any]] = {
        "lineage": [place[name] for name in table["lineage"].to_pylist()],
        "key": keys.indices.to_pylist() if len(table) else [],
        "finished_at": table["finished_at"].cast(pa.timestamp("s", "UTC"), safe=False)
        .cast(pa.int64()).to_pylist(),
    }  # fmt: skip
    columns |= {name: table[name].to_pylist() for name in COLUMNS}
    columns["outcome"] = [is_outcome(lines[name], t) for name, t in whose]
    columns["inputs"] = ["real" if t in lines[name].on_data else "random" for name, t in whose]
    return pack(columns, len(table), DIGITS if _is_shortened(results) else EVERY)


def _is_shortened(results: Results) -> bool:
    return len(results.iterations) > MOST


def _failure(failure: Failure, results: Results) -> dict[str, Any]:
    seeds = {line.id: line.config["seed"] for line in results.record.lineages}
    return asdict(failure) | {
        "label": results.labels.get(failure.lineage),
        "seed": seeds.get(failure.lineage),
    }


def _left_out(results: Results) -> list[dict[str, Any]]:
    """The committed iterations that the tables lack because they are damaged, and what is wrong."""
    shown = set(results.iterations["key"].to_pylist())
    missing = {
        key: (line, t)
        for line in results.record.lineages
        for t, key in zip(line.iterations, line.keys, strict=True)
        if key in results.committed and key not in shown
    }
    damage = {key: [str(e) for e in results.store.damage(iteration_path(key))] for key in missing}
    return [
        {
            "lineage": line.id,
            "label": results.labels[line.id],
            "seed": line.config["seed"],
            "iteration": t,
            "damage": damage[key],
        }
        for key, (line, t) in missing.items()
        if damage[key]
    ]


def _bytes(store: Store, keys: set[str]) -> int:
    """What the commits `keys` take in the store."""
    sizes = store.sizes("iterations")
    return sum(size for path, size in sizes.items() if path.partition("/")[0] in keys)


def _runs(results: Results, part: SweepRecord, status: SweepStatus) -> list[dict[str, Any]]:
    """The provenance of every run of `part`, with `seconds` from its start to its last sign of
    life."""
    runs = read_provenance(results.store, part.name)
    starts = [datetime.fromisoformat(each.started_at) for each in runs]
    own = results.iterations.filter(pc.field("sweep") == part.name)
    signs = own["finished_at"].to_pylist()
    if status.run is not None:
        signs.append(status.run.at)
    bounds = pairwise([*starts, datetime.max.replace(tzinfo=UTC)])
    heard = last_heard(results.store, part.name)

    def seconds(run: Provenance, begin: datetime, end: datetime) -> float | None:
        if run.run is not None:  # others may have been in flight at the same time
            last = datetime.fromisoformat(run.heard_at) if run.heard_at else None
            last = heard[run.run].at if run.run in heard else last
            return (last - begin).total_seconds() if last else None
        within = [(sign - begin).total_seconds() for sign in signs if begin <= sign < end]
        return max(within, default=None)

    return [
        each.model_dump() | {"seconds": seconds(each, *bound)}
        for each, bound in zip(runs, bounds, strict=True)
    ]
