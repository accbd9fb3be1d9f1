"""What an ablation was trained from: read of the storage, or made again as it was made."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from orchestrator.errors import NoTicket
from orchestrator.records.sweep import NO_OPTIONS, LineageRecord
from trainables.config import ContentFile
from trainables.data import DatasetInfo, DatasetOptions
from trainables.lineage.bench import Bench
from trainables.lineage.identity import snapshot_key
from trainables.lineage.iteration_run import IterationRun
from trainables.lineage.keys import Cell, Lineage, make_lineage
from trainables.models import ModelConfig
from trainables.plugins.entry import Catalogue
from trainables.pruning import MethodConfig, Pruning
from trainables.pruning.ablation import AblationConfig
from trainables.store import NotCommitted, Store, snapshot_path
from trainables.store.artifacts import WEIGHTS, read_tensors
from trainables.training.batches import DeviceData, Examples
from trainables.training.progress import State
from trainables.training.recipe import Recipe


def started_from(
    store: Store, record: LineageRecord, info: DatasetInfo, catalogue: Catalogue
) -> State:
    """The state dict that the ablation of a `record` was trained from, before its mask; `info` is
    of the dataset that it trained on. Raises NoTicket where it is not stored any more, or parts of
    plug-ins are not in the `catalogue`, and Damaged."""
    ablation = _made_again(record, catalogue)
    bench = Bench(store, _blank(info), torch.device("cpu"))
    return _Start(ablation, len(ablation.keys) - 1, bench).state()


@dataclass(frozen=True)
class _Start(IterationRun):
    """The iteration of an ablation before its training; nothing is trained or written for it."""

    def state(self) -> State:
        assert self.ablation is not None
        return self.start_state(self.ablation, self._initial_model())

    def _trunk_state(self, step: int) -> State:
        try:
            path = snapshot_path(snapshot_key(self.trunk, step))
            return read_tensors(self.bench.store, path)
        except NotCommitted as error:
            if step == 0:
                return self._initial_model().state_dict()
            raise NoTicket(
                f"{self.lineage.id} began with the weights after {step} training steps, which are "
                "not stored any more"
            ) from error

    def _scored_state(self, index: int) -> State:
        source = 0 if self.lineage.steps[index].scored == "dense" else index - 1
        try:
            kept = WEIGHTS in self.bench.store.manifest(self.path(source))["files"]
        except NotCommitted:
            kept = False
        if not kept:
            raise NoTicket(
                f"{self.lineage.id} began with the weights of iteration "
                f"{self.lineage.steps[source].iteration}, which are not stored (any more)"
            )
        return super()._scored_state(index)


def _made_again(record: LineageRecord, catalogue: Catalogue) -> Lineage:
    """The lineage of a record, with its keys. Raises NoTicket where it cannot be had."""
    config = record.config

    def made(kind: Any, values: Mapping[str, Any]) -> Any:
        return TypeAdapter(kind).validate_python(_options(values), context=catalogue)

    try:
        model = made(ModelConfig, config["model"])
        if content := config["model"].get("initial_weights"):
            file = ContentFile.of(content)
            model = model.model_copy(update={"initial_weights": file})
        cell = Cell(
            # Of its own dataset it is the identity that decides.
            DatasetOptions.model_construct(name=config["dataset"]["name"]),
            model,
            made(Recipe, config["train"]),
            made(Pruning, config["prune"]),
            made(MethodConfig, config["method"]),
            config["seed"],
            made(AblationConfig, config["ablation"]),
        )
        elsewhere = config["ablation"].get("dataset")
        found = make_lineage(cell, config["dataset"], elsewhere)
    except (ValidationError, ValueError) as error:
        raise NoTicket(_NOT_HERE.format(id=record.id)) from error
    if found.own_keys != record.keys:
        raise NoTicket(_NOT_HERE.format(id=record.id))
    return found


_NOT_HERE = (
    "what {id} was trained from cannot be told here; where it has parts of a plug-in, give that: "
    'open_results(…, plugins=["lab.py"]), of the same code as at training'
)


def _options(value: Any) -> Any:
    """What an identity was made of, but what it has besides options, at any depth."""
    if isinstance(value, list):
        return tuple(map(_options, value))
    if isinstance(value, Mapping):
        return {name: _options(each) for name, each in value.items() if name not in NO_OPTIONS}
    return value


def _blank(info: DatasetInfo) -> DeviceData:
    """A dataset of the same images and classes, without any."""
    none = Examples(
        torch.zeros(0, *info.shape, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64),
        torch.zeros(1), torch.ones(1),
    )  # fmt: skip
    return DeviceData(info.shape, info.classes, none, none, None)
