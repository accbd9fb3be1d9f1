"""Export: committed iterations as plain files that need nothing of prunesweep."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from orchestrator.commands.onnx_network import onnx_network
from orchestrator.errors import ExportError
from orchestrator.records.sweep import SweepRecord
from orchestrator.results.tickets import Ticket, one_lineage, stored_lineages
from trainables.plugins.entry import BUILT_IN, Catalogue
from trainables.store import Store

WEIGHTS, MASK, CONFIG = "weights.safetensors", "mask.safetensors", "config.json"
NETWORK = "network.onnx"

INPUT = "float32 [N, channels, height, width]: (pixels / 255 - mean) / std, channel by channel"


def export_iteration(
    store: Store,
    sweep: SweepRecord,
    lineage: str,
    iteration: int | None,
    folder: Path,
    *,
    onnx: bool = False,
    catalogue: Catalogue = BUILT_IN,
) -> list[Path]:
    """Write `weights.safetensors`, `mask.safetensors` (uint8, 1 = kept), `state_dict.pt`,
    `model.json`: which model that is, and what its inputs have to be; and `config.json`: that, its
    cell, and what was measured of it. With `onnx`, `network.onnx` too, see `onnx_network`.

    `lineage` is a lineage's label or any unambiguous part of its id; `iteration` defaults to its
    last, and `catalogue` is where models of networks are looked for. Raises NoSuchLineage, NoTicket
    when there is no such iteration, ExportError, and Damaged.
    """
    (line,) = stored_lineages(store, sweep, [one_lineage(sweep, lineage)], catalogue)
    ticket = line[-1 if iteration is None else iteration]
    files = _written(ticket, _outside(store, folder), onnx)
    more = [folder / "state_dict.pt", folder / "model.json"]
    torch.save(ticket.weights(), more[0])
    more[1].write_text(_json(_about(ticket)))
    return [*files[:2], *more, *files[2:]]


def export_all(
    store: Store,
    sweep: SweepRecord,
    iteration: int | None,
    folder: Path,
    *,
    onnx: bool = False,
    catalogue: Catalogue = BUILT_IN,
) -> Iterator[Path]:
    """Write every ticket whose weights are stored, or those of one iteration, each to a folder of
    its own, which it yields: `<lineage>/<iteration>/` with weights, mask and `config.json`, and
    with `onnx` the network.

    Raises ExportError, also when there is none, NoTicket, and Damaged.
    """
    tickets = [
        ticket
        for line in stored_lineages(store, sweep, sweep.lineages, catalogue)
        for ticket in line
        if iteration in (None, ticket.iteration)
    ]
    if not tickets:
        which = "iteration" if iteration is None else f"iteration {iteration}"
        raise ExportError(f"{sweep.name} has no {which} whose weights are stored")
    for ticket in tickets:
        place = folder / ticket.lineage.id / str(ticket.iteration)
        _written(ticket, _outside(store, place), onnx)
        yield place


def _outside(store: Store, folder: Path) -> Path:
    if store.local_root and folder.resolve().is_relative_to(store.local_root.resolve()):
        raise ExportError(f"{folder} is inside of the storage; export to another folder")
    return folder


def _written(ticket: Ticket, folder: Path, onnx: bool) -> list[Path]:
    """The files that all that is exported has."""
    weights, masks = ticket.weights(), ticket.mask()
    about = json.dumps(_about(ticket))
    network = onnx_network(ticket, {"prunesweep": about}) if onnx else None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(f"cannot make the folder {folder}: {error.strerror}") from error
    # A safetensors file has text beside its tensors.
    told = {"format": "pt", "prunesweep": about}
    files = [folder / name for name in (WEIGHTS, MASK, CONFIG)]
    # As bytes: the library's own files are for nobody else, whatever the umask.
    files[0].write_bytes(safetensors.torch.save(weights, told))
    numbers = {name: mask.to(torch.uint8) for name, mask in masks.items()}
    files[1].write_bytes(safetensors.torch.save(numbers, told))
    files[2].write_text(_json(_about(ticket) | _more(ticket)))
    if network is not None:
        files.append(folder / NETWORK)
        files[-1].write_bytes(network)
    return files


def _about(ticket: Ticket) -> dict[str, Any]:
    """Which network this is, and what its inputs have to be; null where no record says it."""
    line = ticket.lineage
    given = line.trained_on.get("normalize")
    known = line.dataset and line.dataset.normalized and asdict(line.dataset.normalized)
    return {
        "sweep": line.sweep.name,
        "lineage": line.id,
        "iteration": ticket.iteration,
        "key": ticket.key,
        "dataset": line.trained_on,
        "model": line.config["model"],
        "method": line.config["method"],
        **({"ablation": line.config["ablation"]} if "ablation" in line.config else {}),
        "seed": line.config["seed"],
        "input": INPUT,
        "input_shape": line.dataset and line.dataset.info.shape,
        "classes": line.dataset and line.dataset.info.classes,
        "normalization": given or known,
    }


def _more(ticket: Ticket) -> dict[str, Any]:
    """The rest of its cell, and what was measured; null where there is no finite number."""
    line = ticket.lineage
    contents = line.dataset and line.dataset.info.contents
    return {
        "label": line.label,
        "train": line.config["train"],
        "prune": line.config["prune"],
        "class_names": (contents and contents.names) or None,
        "metrics": {name: _shown(value) for name, value in ticket.metrics().items()},
    }


def _shown(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _json(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=1) + "\n"
