"""Export: one committed iteration as plain files that need nothing of prunesweep."""

from pathlib import Path

import safetensors.torch
import torch

from orchestrator.errors import ExportError
from orchestrator.records.sweep import SweepRecord
from trainables.store import Store, iteration_path
from trainables.store.artifacts import WEIGHTS, read_masks, read_tensors


def export_iteration(
    store: Store, sweep: SweepRecord, lineage: str, iteration: int | None, folder: Path
) -> list[Path]:
    """Write `weights.safetensors`, `mask.safetensors` (uint8, 1 = kept) and `state_dict.pt`.

    `lineage` may be any unambiguous part of a lineage's id; `iteration` defaults to its last.
    Raises ExportError when there is no such iteration, and Damaged.
    """
    matching = [line for line in sweep.lineages if lineage in line.id]
    if len(matching) != 1:
        found = "no lineage" if not matching else f"{len(matching)} lineages"
        raise ExportError(
            f"{found} of {sweep.name} match {lineage!r}; it has, for example, "
            f"{', '.join(line.id for line in (matching or sweep.lineages)[:5])}"
        )
    line = matching[0]
    keys = dict(zip(line.iterations, line.keys, strict=True))
    t = line.iterations[-1] if iteration is None else iteration
    if t not in keys or not store.is_committed(iteration_path(keys[t])):
        raise ExportError(f"{matching[0].id} has no committed iteration {t}")
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
    files = [folder / name for name in ("weights.safetensors", "mask.safetensors", "state_dict.pt")]
    # As bytes: the library's own files are for nobody else, whatever the umask.
    files[0].write_bytes(safetensors.torch.save(weights))
    numbers = {name: mask.to(torch.uint8) for name, mask in masks.items()}
    files[1].write_bytes(safetensors.torch.save(numbers))
    torch.save(weights, files[2])
    return files
