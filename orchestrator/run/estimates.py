"""Estimates: how long an iteration takes, from trainings that are recorded, or measured."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from orchestrator.records.datasets import DATASETS
from orchestrator.records.probes import Probe
from orchestrator.run.datasets import ResolvedDataset
from orchestrator.run.planning import Plan, Task
from trainables.config import canonical_json
from trainables.store import Damaged, Store
from trainables.training.timing import Timing


@dataclass(frozen=True)
class Expected:
    """Seconds of an iteration, and what they follow from; `alone` where the training had the device
    to itself."""

    seconds: float
    source: str
    alone: bool = False


@dataclass(frozen=True)
class Size:
    """The examples that an epoch of a dataset trains on, and those that are evaluated after it."""

    examples: int
    evaluated: int


@dataclass(frozen=True)
class Estimates:
    """What is known of the time of trainings.

    `recorded` maps training groups to the mean seconds of an iteration; `sizes` are of datasets,
    by their identity as JSON; `probes` are of the device that trains.
    """

    recorded: Mapping[str, float] = field(default_factory=dict)
    sizes: Mapping[str, Size] = field(default_factory=dict)
    probes: Sequence[Probe] = ()

    def of(self, plan: Plan) -> dict[str, Expected]:
        """What an iteration of each training group of `plan` takes, of those that are known."""
        one_of = {group: task.lineage for task, group in training_groups(plan.tasks)}
        expected = {group: self._expected(group, of.config()) for group, of in one_of.items()}
        return {group: found for group, found in expected.items() if found is not None}

    def _expected(self, group: str, config: Mapping[str, Any]) -> Expected | None:
        if group in self.recorded:
            return Expected(self.recorded[group], "recorded")
        near = min(self._scaled(config), default=None)
        if near is not None and near.differing == 0:
            return near.expected
        return self._probed(config) or (near and near.expected)

    def _probed(self, config: Mapping[str, Any]) -> Expected | None:
        size = self.sizes.get(canonical_json(config["dataset"]))
        of_it = [probe for probe in self.probes if probe.work == work(config)]
        if size is None or not of_it:
            return None
        probe = min(of_it, key=lambda probe: probe.step_seconds)
        timing = Timing(probe.step_seconds, probe.evaluation_seconds, probe.peak_memory_bytes)
        train = config["train"]
        batches = train["batch_size"], train.get("accumulate", 1)
        epoch = timing.epoch_seconds(size.examples, size.evaluated, *batches)
        together = f", {probe.fused} networks at once" if probe.fused > 1 else ""
        source = f"measured on {probe.device} of {probe.host}{together}"
        return Expected(train["epochs"] * epoch, source, alone=True)

    def _scaled(self, config: Mapping[str, Any]) -> "Iterable[_Scaled]":
        length = self._length(config)
        for other, seconds in self._recorded_configs:
            if _data_and_model(other) != _data_and_model(config):
                continue
            of_other = self._length(other)
            if length is None or of_other is None:
                continue
            ours, theirs = work(config)["train"], work(other)["train"]
            differing = sum(ours.get(n) != theirs.get(n) for n in ours.keys() | theirs.keys())
            scaled = Expected(
                seconds * length / of_other,
                f"scaled from a recorded training of {other['train']['epochs']} epochs",
            )
            yield _Scaled(differing, abs(math.log(length / of_other)), scaled)

    @cached_property
    def _recorded_configs(self) -> list[tuple[dict[str, Any], float]]:
        return [(json.loads(group), seconds) for group, seconds in self.recorded.items()]

    def _length(self, config: Mapping[str, Any]) -> int | None:
        """The examples that a training sees, each as often as it does."""
        size = self.sizes.get(canonical_json(config["dataset"]))
        return size and size.examples * config["train"]["epochs"]


@dataclass(frozen=True, order=True)
class _Scaled:
    """What follows from a training in whose recipe some fields are `differing`, and which is
    `farther` the longer or shorter it was."""

    differing: int
    farther: float
    expected: Expected = field(compare=False)


def training_group(config: Mapping[str, Any]) -> str:
    """What lineages whose iterations take about the same time share: data, model and recipe.

    `config` is a lineage's `config()`.
    """
    return canonical_json({name: config[name] for name in ("dataset", "model", "train")})


def training_groups(tasks: Iterable[Task]) -> Iterator[tuple[Task, str]]:
    """Each task with its training group; most have one in common, and it takes a while to make."""
    known: dict[tuple[int, ...], str] = {}
    for task in tasks:
        cell = task.lineage.cell
        same = id(task.lineage.dataset), id(cell.model), id(cell.train)
        if same not in known:
            known[same] = training_group(task.lineage.config())
        yield task, known[same]


def estimate_seconds(plan: Plan, recorded: Mapping[str, float], concurrency: int) -> float | None:
    """Wall-clock seconds for `plan` with `concurrency` lineages at a time.

    `recorded` maps training groups to the mean seconds of an iteration; None when a group that has
    to be trained is not among them.
    """
    total, longest = 0.0, 0.0
    counted: set[str] = set()
    for task, group in training_groups(plan.tasks):
        # In trainings: those of copies take about as long as those of iterations.
        needed = {key: 1 for key in task.lineage.keys if key in plan.to_train} | {
            each.key: each.measure.trainings
            for each in task.lineage.measurements
            if each.key in plan.to_measure
        }
        mine = [key for key in needed if key not in counted]
        counted.update(mine)
        seconds = recorded.get(group)
        if seconds is None:
            return None
        total += seconds * sum(needed[key] for key in mine)
        longest = max(longest, seconds * sum(needed.values()))
    return max(total / concurrency, longest)


WITHOUT_WEIGHT = (
    "epochs", "lr_schedule", "lr_interval", "warmup_epochs", "warmup_steps", "keep"
)  # fmt: skip
"""What of a recipe decides nothing of how long a step takes."""


def work(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a lineage's `config()` decides how long a step takes."""
    recipe = {n: v for n, v in config["train"].items() if n not in WITHOUT_WEIGHT}
    optimizer = {name: value for name, value in recipe["optimizer"].items() if name != "lr"}
    return {
        "dataset": config["dataset"],
        "model": config["model"],
        "train": recipe | {"optimizer": optimizer},
    }


def dataset_sizes(store: Store, datasets: Iterable[ResolvedDataset]) -> dict[str, Size]:
    """Of the datasets of all sweeps in `store`, and of `datasets`."""
    sizes: dict[str, Size] = {}
    for sweep in store.names("sweeps"):
        try:
            for record in DATASETS.read(store, sweep) or ():
                sizes[canonical_json(record.dataset)] = _size(record.dataset, record.info)
        except Damaged:
            continue
    return sizes | {
        canonical_json(each.identity): _size(each.identity, each.info) for each in datasets
    }


def _size(identity: Mapping[str, Any], info: Any) -> Size:
    return Size(info.train_examples, info.test_examples + identity.get("holdout", 0))


def _data_and_model(config: Mapping[str, Any]) -> tuple[Any, Any]:
    return config["dataset"]["name"], config["model"]
