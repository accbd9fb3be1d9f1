"""Comparing: two storages of one sweep, bit for bit but for times."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from watching import files_of

TIMES = {"train_seconds", "prune_seconds", "peak_memory_bytes", "attempt", "finished_at"}
"""What two runs of one sweep may differ in."""

TABLES = ("iterations", "layers", "epochs", "sparsity")


def differences(one: Path, other: Path, sweep: str) -> list[str]:
    """What `one` lacks, has too much, or has otherwise than `other`."""
    return [
        *_commit_differences(one, other, "iterations"),
        *_commit_differences(one, other, "snapshots"),
        *(
            f"table {table} differs"
            for table in TABLES
            if rows(one, sweep, table) != rows(other, sweep, table)
        ),
    ]


def doubled_rows(storage: Path, sweep: str) -> list[str]:
    """The iterations that are more than once, or not at all, in the table `iterations`."""
    lineages = json.loads((storage / f"sweeps/{sweep}/lineages.json").read_text())["lineages"]
    expected = Counter((line["id"], t) for line in lineages for t in line["iterations"])
    found = Counter(
        (row["lineage"], row["iteration"]) for row in rows(storage, sweep, "iterations")
    )
    return [
        f"{lineage} iteration {t}: {found[lineage, t]} rows"
        for lineage, t in expected | found
        if found[lineage, t] != expected[lineage, t]
    ]


def rows(storage: Path, sweep: str, table: str) -> list[dict[str, Any]]:
    """A table's rows in order, without times."""
    return _without_times(pq.read_table(storage / f"tables/{table}-{sweep}.parquet"))


def _commit_differences(one: Path, other: Path, kind: str) -> list[str]:
    names = [{path.name for path in (root / kind).iterdir()} for root in (one, other)]
    missing = [f"{kind}/{name} is in one storage only" for name in names[0] ^ names[1]]
    return missing + [
        f"{file} of {kind}/{name} differs"
        for name in sorted(names[0] & names[1])
        for file in _differing_files(files_of(one / kind / name), files_of(other / kind / name))
    ]


def _differing_files(one: Path, other: Path) -> list[str]:
    """The manifest apart, which has the hash of the file with the times."""
    names = {path.name for folder in (one, other) for path in folder.iterdir()} - {"manifest.json"}
    return [name for name in sorted(names) if _content(one / name) != _content(other / name)]


def _content(file: Path) -> Any:
    if not file.exists():
        return None
    if file.name == "metrics.parquet":
        return _without_times(pq.read_table(file))
    return file.read_bytes()


def _without_times(table: pa.Table) -> list[dict[str, Any]]:
    return table.drop_columns(sorted(TIMES & set(table.column_names))).to_pylist()
