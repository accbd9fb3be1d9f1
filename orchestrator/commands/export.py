"""Export: one committed iteration as plain files that need nothing of prunesweep."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from orchestrator.errors import ExportError
from orchestrator.records.datasets import recorded_datasets
from orchestrator.records.labels import find_lineages, lineage_labels
from orchestrator.records.sweep import LineageRecord, NoSuchLineage, SweepRecord
from trainables.config import canonical_json
from trainables.store import Store, iteration_path
from trainables.store.artifacts import WEIGHTS, read_masks, read_tensors

FILES = ("weights.safetensors", "mask.safetensors", "state_dict.pt", "model.json")

INPUT = "float32 [N, channels, height, width]: (pixels / 255 - mean) / std, channel by channel"


def export_iteration(
    store: Store, sweep: SweepRecord, lineage: str, iteration: int | None, folder: Path
) -> list[Path]:
    """Write `weights.safetensors`, `mask.safetensors` (uint8, 1 = kept), `state_dict.pt`, and
    `model.json`: which model that is, and what its inputs have to be.

    `lineage` is a lineage's label or any unambiguous part of its id; `iteration` defaults to its
    last. Raises NoSuchLineage, ExportError when there is no such iteration, and Damaged.
    """
    line = _one(sweep, lineage)
    keys = dict(zip(line.iterations, line.keys, strict=True))
    t = line.iterations[-1] if iteration is None else iteration
    if t not in keys or not store.is_committed(iteration_path(keys[t])):
        raise ExportError(f"{line.id} has no committed iteration {t}")
    path = iteration_path(keys[t])
    if WEIGHTS not in store.manifest(path)["files"]:
        raise ExportError(f"the weights of iteration {t} were not kept (store.keep_weights)")
    weights = read_tensors(store, path)
    masks = read_masks(store, path)

    if store.local_root and folder.resolve().is_relative_to(store.local_root.resolve()):
        raise ExportError(f"{folder} is inside of the storage; export to another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(f"cannot make the folder {folder}: {error.strerror}") from error
    metadata = _metadata(store, sweep, line, t, keys[t])
    # A safetensors file has text beside its tensors.
    told = {"format": "pt", "prunesweep": json.dumps(metadata)}
    files = [folder / name for name in FILES]
    # As bytes: the library's own files are for nobody else, whatever the umask.
    files[0].write_bytes(safetensors.torch.save(weights, told))
    numbers = {name: mask.to(torch.uint8) for name, mask in masks.items()}
    files[1].write_bytes(safetensors.torch.save(numbers, told))
    torch.save(weights, files[2])
    files[3].write_text(json.dumps(metadata, indent=1) + "\n")
    return files


def _one(sweep: SweepRecord, named: str) -> LineageRecord:
    found = find_lineages(sweep, named)
    if len(found) > 1:
        names = lineage_labels(sweep)
        which = ", ".join(repr(names[line.id]) for line in found[:5])
        raise NoSuchLineage(
            f"{len(found)} lineages of {sweep.name} match {named!r}; give one, such as {which}"
        )
    return found[0]


def _metadata(
    store: Store, sweep: SweepRecord, line: LineageRecord, iteration: int, key: str
) -> dict[str, Any]:
    """Which network this is, and what its inputs have to be; null where no record says it."""
    dataset = recorded_datasets(store, sweep.name).get(canonical_json(line.config["dataset"]))
    given = line.config["dataset"].get("normalize")
    known = dataset and dataset.normalized and asdict(dataset.normalized)
    return {
        "sweep": sweep.name,
        "lineage": line.id,
        "iteration": iteration,
        "key": key,
        "dataset": line.config["dataset"],
        "model": line.config["model"],
        "method": line.config["method"],
        "seed": line.config["seed"],
        "input": INPUT,
        "input_shape": dataset and dataset.info.shape,
        "classes": dataset and dataset.info.classes,
        "normalization": given or known,
    }
