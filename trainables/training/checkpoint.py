"""Checkpoints: the state of a long iteration between two of its steps."""

import json
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from trainables.plugins.entry import PluginError, described
from trainables.store import Damaged, Store, checkpoint_path
from trainables.store.artifacts import encode_tensors, read_tensors
from trainables.training.progress import Begun, OptimizerState, Progress

STATE = "state.safetensors"
PROGRESS = "progress.json"


@dataclass
class StoredCheckpoint:
    """Keeps the newest state of the iteration `key` in the store; it is due every `minutes`, or
    never.

    A damaged checkpoint is set aside and the one before it, or the start, is used.
    """

    store: Store
    key: str
    minutes: float | None
    _saved_at: float = field(default_factory=time.monotonic)

    @property
    def is_due(self) -> bool:
        return self.minutes is not None and time.monotonic() - self._saved_at >= self.minutes * 60

    def load(self, model: nn.Module) -> Progress | None:
        for name in reversed(self._names()):
            path = f"checkpoints/{self.key}/{name}"
            try:
                tensors = read_tensors(self.store, path, STATE)
                progress = json.loads(self.store.read(path, PROGRESS))
            except Damaged:
                self.store.set_aside(path)
                continue
            model.load_state_dict(_part(tensors, "model/"))
            masks = _part(tensors, "mask/").items()
            begun = progress.pop("begun", None)
            optimizer = _by_parameter(_part(tensors, "optimizer/"))
            for index, held in progress.pop("optimizer", {}).items():
                optimizer.setdefault(int(index), {}).update(held)
            return Progress(
                **progress,
                begun=begun and Begun(**begun, states=_part(tensors, "states/")),
                best=_part(tensors, "best/") or None,
                optimizer=optimizer,
                average=_part(tensors, "average/"),
                masks={n: m.to(model.get_parameter(n).device) for n, m in masks} or None,
            )
        return None

    def save(self, model: nn.Module, progress: Progress) -> None:
        tensors = {f"model/{name}": t for name, t in model.state_dict().items()}
        plain: dict[int, dict[str, Any]] = {}
        for index, held in progress.optimizer.items():
            for name, each in held.items():
                if isinstance(each, torch.Tensor):
                    tensors[f"optimizer/{index}/{name}"] = each
                else:
                    plain.setdefault(index, {})[name] = _plain(name, each)
        tensors |= {f"best/{name}": t for name, t in (progress.best or {}).items()}
        tensors |= {f"mask/{name}": t for name, t in (progress.masks or {}).items()}
        tensors |= {f"average/{name}": t for name, t in progress.average.items()}
        written = {name: getattr(progress, name) for name in ("epoch", "rows", "seconds", "fused")}
        if plain:
            written["optimizer"] = plain
        if progress.begun is not None:
            begun = asdict(progress.begun)
            tensors |= {f"states/{name}": t for name, t in begun.pop("states").items()}
            written["begun"] = begun
        path = checkpoint_path(self.key, *progress.place)
        self.store.commit(
            path, {STATE: encode_tensors(tensors), PROGRESS: json.dumps(written).encode()}
        )
        for name in self._names():
            if _place(name) < progress.place:
                self.store.remove(f"checkpoints/{self.key}/{name}")
        self._saved_at = time.monotonic()

    def _names(self) -> list[str]:
        return sorted(self.store.names(f"checkpoints/{self.key}"), key=_place)


def _place(name: str) -> tuple[int, int]:
    epoch, _, steps = name.partition("-")
    return int(epoch), int(steps or 0)


def _plain(name: str, value: Any) -> Any:
    """A value that an optimizer of a user's remembers, if JSON has it."""
    if isinstance(value, bool | int | float | str):
        return value
    raise PluginError(
        f"the optimizer remembers {name}, which is {described(value)}, so that its state cannot be "
        "kept between two steps; let it remember tensors and numbers"
    )


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _by_parameter(tensors: dict[str, torch.Tensor]) -> OptimizerState:
    state: OptimizerState = {}
    for name, tensor in tensors.items():
        index, _, entry = name.partition("/")
        state.setdefault(int(index), {})[entry] = tensor
    return state
