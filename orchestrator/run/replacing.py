"""Replacing: what would leave a stored sweep when another grid is run under its name."""

from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace
from typing import Any

from orchestrator.records.ends import so_far
from orchestrator.records.labels import labels
from orchestrator.records.sweep import LineageRecord, SweepRecord, read_sweep
from trainables.config import CODE, RAISED, canonical_json
from trainables.pruning.config import LENGTH
from trainables.store import Damaged, Store

SHOWN = 5


def leaving(store: Store, now: SweepRecord, committed: Collection[str]) -> str | None:
    """What of the stored sweep of that name is no part of `now`, in words; None where nothing is.

    Only what is `committed` counts: the keys of iterations, up to where lineages end. A cell whose
    code or data are others now is the same cell, which is trained anew.
    """
    before = None
    with suppress(Damaged):  # `verify` says so, and the run writes it anew
        stored = read_sweep(store, now.name)
        before = stored and so_far(store, stored)
    if before is None:
        return None
    kept = {key for line in now.lineages for key in line.keys}

    def leaves(line: LineageRecord) -> bool:
        return any(key in committed and key not in kept for key in line.keys)

    if not any(map(leaves, before.lineages)):
        return None
    there = {cell: {*line.iterations} for line in now.lineages for cell in _cells(line)}
    gone = [line for line in before.lineages if _cell(line) not in there and leaves(line)]
    others = (_without(there.get(_cell(line), ()), line) for line in before.lineages)
    shorter = [line for line in others if _cell(line) in there and leaves(line)]
    # One that names no iteration is of the last one, and goes with it.
    moved = [line for line in shorter if "ablation" in line.config]
    shorter = [line for line in shorter if "ablation" not in line.config]
    if not (gone or shorter or moved):
        return None
    names = labels(before)
    parts = []
    if gone:
        found = [f"{names[line.id]} seed {line.config['seed']}" for line in gone]
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        count = f"{len(gone)} of {len(before.lineages)} lineages"
        parts.append(f"{count} ({', '.join(found[:SHOWN])}{more})")
    if shorter:
        plural = "s" if len(shorter) > 1 else ""
        parts.append(f"the last iterations of {len(shorter)} lineage{plural}")
    if moved:
        plural = "s" if len(moved) > 1 else ""
        keep = f"to keep it, say at: {moved[0].iterations[0]}"
        parts.append(f"{len(moved)} ablation{plural} of another iteration ({keep})")
    return f"{' and '.join(parts)} would leave the sweep {now.name}; what is stored of them stays"


def _without(iterations: Collection[int], line: LineageRecord) -> LineageRecord:
    """`line` with the keys of other iterations alone."""
    pairs = zip(line.iterations, line.keys, strict=True)
    return replace(line, keys=tuple(key for t, key in pairs if t not in iterations))


def _cell(line: LineageRecord) -> str:
    return _cells(line)[0]


def _cells(line: LineageRecord) -> tuple[str, str]:
    """What a lineage is, whatever the contents of files and the code of parts; first as it is, and
    then without what is in its config for a raised version alone."""
    pruned = {n: v for n, v in line.config["prune"].items() if n not in LENGTH}
    config = line.config | {"prune": pruned}
    without = {section: _without_raised(value) for section, value in config.items()}
    return canonical_json(_as_written(config)), canonical_json(_as_written(without))


def _as_written(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {n: _as_written(v) for n, v in value.items() if n not in (CODE, RAISED, "fingerprint")}


def _without_raised(section: Any) -> Any:
    if not isinstance(section, dict):
        return section
    return {
        name: value
        for name, value in section.items()
        if not (isinstance(value, dict) and RAISED in value)
    }
