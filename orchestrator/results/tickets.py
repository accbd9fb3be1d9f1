"""Tickets: the networks of a sweep, of each lineage at each iteration, as tensors and modules."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from orchestrator.errors import NoTicket
from orchestrator.records.columns import identity_row
from orchestrator.records.datasets import DatasetRecord, recorded_datasets
from orchestrator.records.labels import find_lineages, lineage_labels
from orchestrator.records.sweep import NO_OPTIONS, LineageRecord, NoSuchLineage, SweepRecord
from orchestrator.results.tables import plain
from trainables.config import CODE, canonical_json
from trainables.data import (
    DatasetConfig,
    DatasetInfo,
    data_roots,
    describe_dataset,
    identity,
    load_dataset,
)
from trainables.lazy_torch import Tensor, nn, torch
from trainables.lineage.identity import snapshot_key, trunk_key
from trainables.lineage.initial_weights import load_kept
from trainables.lineage.metrics import METRICS_SCHEMA
from trainables.models import Model, ModelConfig, build_model
from trainables.plugins.entry import BUILT_IN, Catalogue
from trainables.sparsity.masks import Masks, apply_masks
from trainables.store import NotCommitted, Store, iteration_path, snapshot_path
from trainables.store.artifacts import METRICS, WEIGHTS, read_masks, read_table, read_tensors
from trainables.training.batches import DeviceData, Examples

State = dict[str, Tensor]
SPLITS = ("test", "train", "validation")


@dataclass(frozen=True, repr=False)
class StoredLineage:
    """A lineage whose tickets are to be had: `lineage[t]` is that of iteration t, and `lineage[-1]`
    that of the last; iterating over it gives those whose weights are stored."""

    store: Store
    sweep: SweepRecord
    record: LineageRecord
    label: str
    """What tells it from the sweep's others, its seed last."""
    dataset: DatasetRecord | None
    """What the sweep's last run has written of its dataset."""
    catalogue: Catalogue = BUILT_IN

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def config(self) -> dict[str, Any]:
        """Everything that decided its numbers, as the column `config` has it."""
        return self.record.config

    @property
    def trained_on(self) -> dict[str, Any]:
        """The identity of the dataset that it trains on: its cell's, or where its ablation goes."""
        return trained_on(self.config)

    @property
    def iterations(self) -> tuple[int, ...]:
        return self.record.iterations

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.label} of {self.sweep.name!r}>"

    def __len__(self) -> int:
        """How many iterations it has, stored or not."""
        return len(self.iterations)

    def __getitem__(self, iteration: int) -> Ticket:
        """The ticket of an iteration; raises NoTicket where there is none that is committed."""
        keys = dict(zip(self.iterations, self.record.keys, strict=True))
        t = self.iterations[iteration] if -len(self) <= iteration < 0 else iteration
        if t not in keys or not self.store.is_committed(iteration_path(keys[t])):
            raise NoTicket(f"{self.id} has no committed iteration {t}")
        return Ticket(self, t, keys[t])

    def __iter__(self) -> Iterator[Ticket]:
        for t, key in zip(self.iterations, self.record.keys, strict=True):
            ticket = Ticket(self, t, key)
            if self.store.is_committed(ticket.path) and ticket.is_kept:
                yield ticket

    @property
    def info(self) -> DatasetInfo:
        """What is recorded of the dataset that it trains on. Raises NoTicket."""
        if self.dataset is None:
            raise NoTicket(
                f"{self.id}: nothing is recorded of its dataset; run the sweep once more"
            )
        return self.dataset.info

    def network(self) -> nn.Module:
        """A new network of its model, with its initial weights. Raises NoTicket, and where these
        come from a file NoInitialWeights and Damaged."""
        config: Model = self._config("model", ModelConfig)
        info = self.info
        made = build_model(config, info.shape, info.classes, self.config["seed"])
        if content := self.config["model"].get("initial_weights"):
            load_kept(self.store, content, made)
        return made

    def data(self, device: str = "cpu", data_root: str | None = None) -> DeviceData:
        """Its dataset, looked for as `run` does. Raises NoTicket and DatasetNotFound."""
        config = self._config("dataset", DatasetConfig, **self._beside_content())
        roots = data_roots(data_root or self.sweep.spec.get("data_root"), os.environ)
        if identity(config, describe_dataset(config, roots)) != self.trained_on:
            raise NoTicket(f"the dataset {config.name} that is here is not the one of {self.id}")
        return DeviceData.of(load_dataset(config, roots), torch.device(device))

    def _beside_content(self) -> dict[str, Any]:
        """The options of its dataset that are no identity."""
        contents = self.dataset and self.dataset.info.contents
        path = self.dataset and self.dataset.path
        found = {"path": path, "overlap": contents and contents.overlap}
        return {name: value for name, value in found.items() if value}

    def _config(self, section: str, kind: Any, **more: Any) -> Any:
        """The config that a section of the lineage's own is the identity of."""
        given = self.trained_on if section == "dataset" else self.config[section]
        known = {name: value for name, value in given.items() if name not in NO_OPTIONS}
        at = f"the {section} {given['name']} of {self.id}"
        try:
            config = TypeAdapter(kind).validate_python(known | more, context=self.catalogue)
        except ValidationError as error:
            raise NoTicket(
                f"{at} cannot be made here; where it is a plug-in's, give that: "
                'open_results(…, plugins=["lab.py"]), or --plugin lab.py'
            ) from error
        if config.plugged_code != given.get(CODE):
            raise NoTicket(
                f"{at} was made by other code of its plug-in; that is in plugins.json of the sweep"
            )
        return config


@dataclass(frozen=True, repr=False)
class Ticket:
    """The network of a lineage at one iteration: w_t ⊙ m_t, as it was trained."""

    lineage: StoredLineage
    iteration: int
    key: str

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: iteration {self.iteration} of {self.lineage!r}>"

    @property
    def path(self) -> str:
        return iteration_path(self.key)

    @cached_property
    def is_kept(self) -> bool:
        """Whether its weights are stored, see `store.keep_weights`."""
        return WEIGHTS in self.lineage.store.manifest(self.path)["files"]

    def weights(self) -> State:
        """The state dict, pruned weights 0. Raises NoTicket where it was not kept, and Damaged."""
        if not self.is_kept:
            raise NoTicket(
                f"the weights of iteration {self.iteration} were not kept (store.keep_weights)"
            )
        return read_tensors(self.lineage.store, self.path)

    def mask(self) -> Masks:
        """Which weights are kept, bool in the shape of each, by name. Raises Damaged."""
        return read_masks(self.lineage.store, self.path)

    def initial(self) -> State:
        """The state dict w_init that the lineage began with, dense, whatever it rewinds to; of an
        ablation what that was trained from, before its mask. Raises NoTicket, where it is not
        stored and cannot be made here, and Damaged."""
        config = self.lineage.config
        if "ablation" in config:
            # Here, as it imports what trains.
            from orchestrator.results.ablation_starts import started_from

            line = self.lineage
            return started_from(line.store, line.record, line.info, line.catalogue)
        try:
            return read_tensors(self.lineage.store, initial_path(config))
        except NotCommitted:
            return self.lineage.network().state_dict()

    def model(self, network: nn.Module | None = None) -> nn.Module:
        """The network, in eval mode, on the CPU: a new one, or `network` with these weights and
        this mask. It takes float32 [N, C, H, W], normalized. Raises NoTicket and Damaged."""
        weights, mask = self.weights(), self.mask()
        network = self.lineage.network() if network is None else network
        network.load_state_dict(weights)
        apply_masks(network, mask)
        return network.eval()

    def metrics(self) -> dict[str, Any]:
        """What was measured of it: its values of the table `iterations`, by column."""
        (row,) = read_table(self.lineage.store, self.path, METRICS, METRICS_SCHEMA).to_pylist()
        return row


def trained_on(config: Mapping[str, Any]) -> dict[str, Any]:
    """The identity of the dataset that a lineage trains on."""
    return config.get("ablation", {}).get("dataset") or config["dataset"]


def initial_path(config: Mapping[str, Any]) -> str:
    """Of the snapshot of w_init: it belongs to the trunk, trained or not."""
    trunk = {"recipe": config["train"]} | {n: config[n] for n in ("dataset", "model", "seed")}
    return snapshot_path(snapshot_key(trunk_key(trunk), 0))


def stored_lineages(
    store: Store,
    sweep: SweepRecord,
    chosen: Iterable[LineageRecord],
    catalogue: Catalogue = BUILT_IN,
) -> list[StoredLineage]:
    """The `chosen` lineages of a sweep."""
    names, datasets = lineage_labels(sweep), {}
    for part in sweep.parts:
        known = recorded_datasets(store, part.name)
        for line in part.lineages:
            datasets[line.id] = known.get(canonical_json(trained_on(line.config)))
    return [
        StoredLineage(store, sweep, line, names[line.id], datasets[line.id], catalogue)
        for line in chosen
    ]


def one_lineage(
    sweep: SweepRecord, named: str | None = None, columns: Mapping[str, Any] | None = None
) -> LineageRecord:
    """The lineage that a label, or a part of an id, and values of `columns` mean. Raises
    NoSuchLineage unless there is one."""
    found = sweep.lineages if named is None else find_lineages(sweep, named)
    for name, value in (columns or {}).items():
        found = [line for line in found if _cell_value(sweep, line, name) == value]
    if len(found) == 1:
        return found[0]
    given = [f"{name}={value!r}" for name, value in (columns or {}).items()]
    what = ", ".join(given if named is None else [repr(named), *given])
    names = lineage_labels(sweep)
    which = ", ".join(repr(names[line.id]) for line in (found or sweep.lineages)[:5])
    many = f"{len(found)} lineages of" if found else "no lineage of"
    raise NoSuchLineage(f"{many} {sweep.name} match {what}; give one, such as {which}")


def _cell_value(sweep: SweepRecord, line: LineageRecord, column: str) -> Any:
    """What a lineage has in a column of its cell, or of a swept parameter."""
    swept = {name.replace(".", "_"): plain(line.swept[name]) for name in sweep.swept}
    values = swept | identity_row(sweep.name, line)
    if column not in values:
        raise NoSuchLineage(f"lineages have no column {column!r}; they have {', '.join(values)}")
    return values[column]


Function: TypeAlias = "Callable[[nn.Module, Any], Any]"
"""Of a network in eval mode and data; it gives a number, or several by name."""


def evaluated(
    lineages: Sequence[StoredLineage],
    iterations: pa.Table,
    function: Function,
    on: Any,
    device: str,
    data_root: str | None,
) -> pa.Table:
    """The rows of `iterations` that are tickets of `lineages`, with what `function` gives of each;
    see `Results.evaluate`."""
    data = on if not isinstance(on, str) else _Splits(on, device, data_root)
    found: dict[str, dict[str, Any]] = {}
    tickets = [ticket for line in lineages for ticket in line]
    for ticket in tickets:
        if ticket.key not in found:  # a trunk is in several lineages
            examples = data.of(ticket.lineage) if isinstance(data, _Splits) else data
            with torch.no_grad():
                given = function(ticket.model().to(device), examples)
            found[ticket.key] = {**given} if isinstance(given, Mapping) else {"result": given}
    if not tickets:
        raise NoTicket("there is no ticket whose weights are stored")
    there = {(ticket.lineage.id, ticket.iteration) for ticket in tickets}
    pairs = zip(*(iterations[name].to_pylist() for name in ("lineage", "iteration")), strict=True)
    rows = iterations.take([i for i, pair in enumerate(pairs) if pair in there])
    for name in dict.fromkeys(name for given in found.values() for name in given):
        if name in rows.column_names:
            raise ValueError(f"the function gives {name!r}, which is a column of iterations")
        values = [_plain(found[key].get(name)) for key in rows["key"].to_pylist()]
        rows = rows.append_column(name, pa.array(values))
    return rows


def _plain(value: Any) -> Any:
    """A number, whether it came as one, from NumPy or from torch."""
    return value.item() if hasattr(value, "item") else value


@dataclass(frozen=True)
class _Splits:
    """A split of the datasets of lineages, each loaded once."""

    split: str
    device: str
    data_root: str | None
    loaded: dict[str, Examples] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"no split {self.split!r}; choose one of {', '.join(SPLITS)}")

    def of(self, line: StoredLineage) -> Examples:
        key = canonical_json(line.trained_on)
        if key not in self.loaded:
            found = getattr(line.data(self.device, self.data_root), self.split)
            if found is None:
                raise NoTicket(f"the dataset of {line.id} has no {self.split} split")
            self.loaded[key] = found
        return self.loaded[key]
