"""Epoch checkpoints: the state of a long iteration between two of its epochs."""

import json
import time
from dataclasses import dataclass, field

import torch
from torch import nn

from trainables.store import Damaged, Store, checkpoint_path
from trainables.store.artifacts import encode_tensors, read_tensors
from trainables.training.progress import OptimizerState, Progress

STATE = "state.safetensors"
PROGRESS = "progress.json"


@dataclass
class EpochCheckpoint:
    """Keeps the newest state of the iteration `key` in the store, at most every `minutes`.

    A damaged checkpoint is set aside and the one before it, or the start, is used.
    """

    store: Store
    key: str
    minutes: float
    _saved_at: float = field(default_factory=time.monotonic)

    def load(self, model: nn.Module) -> Progress | None:
        for name in reversed(self.store.names(f"checkpoints/{self.key}")):
            path = checkpoint_path(self.key, int(name))
            try:
                tensors = read_tensors(self.store, path, STATE)
                progress = json.loads(self.store.read(path, PROGRESS))
            except Damaged:
                self.store.set_aside(path)
                continue
            model.load_state_dict(_part(tensors, "model/"))
            return Progress(
                **progress,
                best=_part(tensors, "best/") or None,
                optimizer=_by_parameter(_part(tensors, "optimizer/")),
            )
        return None

    def save(self, model: nn.Module, progress: Progress) -> None:
        if time.monotonic() - self._saved_at < self.minutes * 60:
            return
        tensors = {f"model/{name}": t for name, t in model.state_dict().items()}
        for index, held in progress.optimizer.items():
            tensors |= {f"optimizer/{index}/{name}": t for name, t in held.items()}
        tensors |= {f"best/{name}": t for name, t in (progress.best or {}).items()}
        plain = ("epoch", "rows", "seconds", "fused")
        written = {name: getattr(progress, name) for name in plain}
        self.store.commit(
            checkpoint_path(self.key, progress.epoch),
            {STATE: encode_tensors(tensors), PROGRESS: json.dumps(written).encode()},
        )
        for name in self.store.names(f"checkpoints/{self.key}"):
            if int(name) < progress.epoch:
                self.store.remove(checkpoint_path(self.key, int(name)))
        self._saved_at = time.monotonic()


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _by_parameter(tensors: dict[str, torch.Tensor]) -> OptimizerState:
    state: OptimizerState = {}
    for name, tensor in tensors.items():
        index, _, entry = name.partition("/")
        state.setdefault(int(index), {})[entry] = tensor
    return state
