"""Versions: whoever edits a formula is told, and a raised version reaches the keys it has to."""

import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, get_origin

import pinned_numbers
import pytest
import torch
from pinned_numbers import EVERYTHING, SHARED, Ledger, changes, every_part, extended, one_thread
from pydantic import TypeAdapter
from torch import nn

from orchestrator.commands.catalogue import KINDS
from orchestrator.records.labels import common_options, labels
from orchestrator.records.plugins import changed_default, record_plugins
from orchestrator.records.recording import record_sweep
from orchestrator.run.datasets import resolve_datasets
from orchestrator.run.planning import sweep_lineages
from orchestrator.sweepfile.spec import cells
from orchestrator.sweepfile.yaml_source import load_sweep
from trainables.config import RAISED, Choice, Config, canonical
from trainables.data import DatasetConfig, DatasetInfo, Split, data_roots, identity
from trainables.data.dataset import partition
from trainables.lineage.keys import Cell, make_lineage
from trainables.measurements import MeasureConfig, activations, connectivity, interpolation
from trainables.measurements.projection import Projection
from trainables.models import ModelConfig, initialization
from trainables.plugins.entry import Entry, built_in
from trainables.plugins.source import Plugin
from trainables.pruning import (
    MethodConfig,
    Pruning,
    amount,
    iterative,
    scoring,
    scoring_data,
    selection,
)
from trainables.pruning.ablation import AblationConfig
from trainables.pruning.at_init import AtInit, PrunedAtInit
from trainables.pruning.drop_and_grow import DropAndGrow
from trainables.pruning.iterative import Iterative
from trainables.pruning.layer_densities import LayerDensities
from trainables.pruning.method import Scorer
from trainables.pruning.methods.force import FORCE
from trainables.pruning.methods.random_search import RandomSearch
from trainables.pruning.stopping import StopRule
from trainables.store import Store
from trainables.training import augmentation, batches
from trainables.training.losses import CrossEntropy, Loss
from trainables.training.recipe import Recipe
from trainables.training.run import Training
from trainables.versions import VERSIONS

ROOT = Path(__file__).parents[1]
LEDGER: Ledger = json.loads((ROOT / "tests/golden/numbers.json").read_text())
PARTS = [*every_part()]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


# An edited formula is noticed


def slightly(numbers: Any) -> Any:
    return numbers * 1.001


def with_result(patch: pytest.MonkeyPatch, owner: Any, name: str, change: Any = slightly) -> None:
    """Have `owner.name` return something else than it does."""
    before = getattr(owner, name)

    @functools.wraps(before)
    def edited(*arguments: Any, **options: Any) -> Any:
        return change(before(*arguments, **options))

    patch.setattr(owner, name, edited)


def entry_of(part: str) -> Any:
    kind, name = part.split("/")
    return next(built_in(each)[name] for each in KINDS.values() if each.name == kind)


def edited_module(net: nn.Module) -> nn.Module:
    net.register_forward_hook(lambda _, inputs, logits: slightly(logits))
    return net


def edited_images(found: Any) -> Any:
    return replace(found, test=Split(found.test.images ^ 1, found.test.labels))


def edited_steps(found: torch.optim.Optimizer) -> torch.optim.Optimizer:
    for group in found.param_groups:
        group["lr"] *= 1.001
    return found


def edited_scores(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: slightly(score) for name, score in found.items()}


def edited_masks(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: mask.roll(1, 0) for name, mask in found.items()}


def edited_batches(found: Any) -> Any:
    return tuple((slightly(inputs), labels) for inputs, labels in found)


def rolled(images: torch.Tensor) -> torch.Tensor:
    return images.roll(1, dims=-1)


def one_less(counts: list[int]) -> list[int]:
    return [count - 1 for count in counts]


def one_more(count: Any) -> Any:
    return count + 1


def data_of(kind: str) -> str:
    return "flow_input" if kind in ("ones", "chi") else "scoring_batches"


Edit = Callable[[pytest.MonkeyPatch, str], None]

EDITS: dict[str, Edit] = {
    "ablation": lambda to, part: with_result(
        to, entry_of(part), "__call__", lambda masks: {n: ~mask for n, mask in masks.items()}
    ),
    "augmentation": lambda to, part: with_result(to, entry_of(part), "augmented", rolled),
    "criterion": lambda to, part: with_result(to, entry_of(part), "function", edited_scores),
    "dataset": lambda to, part: with_result(to, entry_of(part), "function", edited_images),
    "loss": lambda to, part: with_result(to, CrossEntropy, "_reduced"),
    "lr_schedule": lambda to, part: with_result(to, entry_of(part), "__call__"),
    "method": lambda to, part: with_result(to, entry_of(part), "amount", one_more),
    **dict.fromkeys(
        ("method/gradual_magnitude", "method/rigl", "method/set"),
        lambda to, part: with_result(to, entry_of(part), "updated", edited_masks),
    ),
    "distribution": lambda to, part: with_result(
        to, pinned_numbers, "kept_by_layer", lambda counts: {n: c + 1 for n, c in counts.items()}
    ),
    "model": lambda to, part: with_result(to, entry_of(part), "function", edited_module),
    "optimizer": lambda to, part: with_result(to, entry_of(part), "__call__", edited_steps),
    "init": lambda to, part: with_result(to, nn.init, "kaiming_normal_", lambda w: w.data.mul_(2)),
    "init/pytorch": lambda to, part: to.setattr(
        pinned_numbers, "initialized", lambda net, init: initialization.initialized(net, "openlth")
    ),
    "inputs/real": lambda to, part: with_result(to, batches.Examples, "normalized"),
    "inputs/random": lambda to, part: with_result(
        to, batches.RandomBatches, "made", lambda made: (slightly(made[0]), made[1])
    ),
    "batchnorm/average": lambda to, part: with_result(to, interpolation, "_between"),
    "batchnorm/recompute": lambda to, part: to.setattr(
        connectivity, "recompute", lambda *given: None
    ),
    "measure/intrinsic_dimension": lambda to, part: with_result(to, Projection, "__call__"),
    "baseline": lambda to, part: with_result(to, pinned_numbers.Given, "accuracy"),
    "measure/representations": lambda to, part: with_result(to, activations, "greedy"),
    "measure": lambda to, part: with_result(to, connectivity, "alphas", lambda found: found[::-1]),
    "keep": lambda to, part: with_state(to),
    "lr_interval": lambda to, part: with_result(to, Recipe, "rate"),
    "layer_densities": lambda to, part: with_result(
        to, LayerDensities, "highest_by_layer", edited_masks
    ),
    "padding_mode": lambda to, part: with_result(to, augmentation.F, "pad", rolled),
    "precision": lambda to, part: with_result(to, pinned_numbers, "logits_in"),
    "method/random_search": lambda to, part: with_result(to, RandomSearch, "_drawn", edited_masks),
    "method/force": lambda to, part: with_result(to, FORCE, "kept_after_rounds", one_less),
    "rewound": lambda to, part: with_state(to),
    "sampled_rounds": lambda to, part: with_result(to, AtInit, "_draws", lambda drawn: not drawn),
    "schedule": lambda to, part: with_result(to, AtInit, "round_density"),
    "scope": lambda to, part: with_result(
        to, pinned_numbers, "grouped", lambda rows: [row.flip(1) for row in rows]
    ),
    "score": lambda to, part: with_result(to, RandomSearch, "_cost", lambda cost: -cost),
    "scoring_data": lambda to, part: with_result(
        to, scoring_data, data_of(part.partition("/")[2]), edited_batches
    ),
    "selection": lambda to, part: with_result(to, selection, "_lowest_but", lambda low: low + 0.3),
    "AtInit": lambda to, part: with_result(to, AtInit, "kept_after_rounds", lambda n: [n[-1] + 1]),
    "Augmentation": lambda to, part: with_result(to, torch, "randint", one_more),
    "ByFunction": lambda to, part: with_result(to, iterative, "checked_masks", edited_masks),
    "DatasetOptions": lambda to, part: to.setitem(partition.__globals__, "SPLIT_SEED", 1),
    "Iterative": lambda to, part: with_result(to, iterative, "drop_lowest", rolled),
    "Loss": lambda to, part: with_result(to, Loss, "_of_each"),
    "Recipe": lambda to, part: with_state(to),
    "plug-ins/criterion": lambda to, part: with_result(to, scoring.F, "cross_entropy"),
    "plug-ins/method": lambda to, part: to.setattr(
        amount, "Fraction", lambda ratio: Fraction(ratio) + Fraction(1, 50)
    ),
    EVERYTHING: lambda to, part: with_result(to, pinned_numbers, "multiply_adds", one_more),
}


def with_state(patch: pytest.MonkeyPatch) -> None:
    """Have training end with slightly other weights."""
    finish = Training.finish

    def edited(run: Training, *arguments: Any, **options: Any) -> Any:
        progress = finish(run, *arguments, **options)
        for parameter in run.model.parameters():
            parameter.data.mul_(1.001)
        return progress

    patch.setattr(Training, "finish", edited)


@pytest.mark.parametrize("part", PARTS)
def test_an_edited_formula_is_noticed(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    edit = EDITS[part] if part in EDITS else EDITS[part.partition("/")[0]]
    edit(monkeypatch, part)
    (told,) = changes(LEDGER, {part: every_part()[part]()})
    assert told.startswith(f"The numbers of {part} have changed: ")
    higher = f'raise its version: "{part}": {VERSIONS.get(part, 1) + 1} in'
    raise_ = "raise SCHEMA_VERSION" if part == EVERYTHING else higher
    assert raise_ in told


ENTRIES = (
    "augmentation/flip_and_crop", "criterion/magnitude", "dataset/digits", "loss/cross_entropy",
    "lr_schedule/cosine", "method/lottery_ticket", "model/mlp", "optimizer/sgd",
)  # fmt: skip


@pytest.mark.parametrize("part", ENTRIES)
def test_what_entries_share_is_computed_without_them(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    EDITS[part.partition("/")[0]](monkeypatch, part)
    assert not [*changes(LEDGER, {name: compute() for name, compute in SHARED.items()})]


def test_how_a_network_is_scored_is_a_part_of_all_that_score(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def trains(scorer: Scorer) -> Scorer:
        scorer.model.train()
        return scorer

    with_result(monkeypatch, Scorer, "of", trains)
    scoring = ("AtInit", "Iterative", "method/lottery_ticket")
    told = [*changes(LEDGER, {name: every_part()[name]() for name in scoring})]
    assert len(told) == len(scoring)


# The ledger of numbers


def test_what_is_new_is_added_and_what_is_pinned_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: Ledger = {"scope/layer": {"1": {"a": [1.0]}}}
    other, new = {"scope/layer": {"a": [2.0]}}, {"scope/layer": {"a": [1.0], "b": [3]}}
    assert extended(pinned, other) == pinned
    assert [*changes(extended(pinned, other), other)]
    assert extended(pinned, new) == {"scope/layer": {"1": {"a": [1.0], "b": [3]}}}
    assert [*changes(pinned, new)]
    assert [*changes({}, new)]
    assert [*changes(pinned, {"scope/layer": {}})]
    monkeypatch.setitem(VERSIONS, "scope/layer", 2)
    both = extended(pinned, other)
    assert both == {"scope/layer": {"1": {"a": [1.0]}, "2": {"a": [2.0]}}}
    assert not [*changes(both, other)]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ([1.0, 1e-9], [1.000001, 2e-9], True),
        ([1.0, 0.0], [1.0001, 0.0], False),
        ([1, "a", None], [1, "a", None], True),
        ([1], [2], False),
        ([[1], [2, 3]], [[1, 2], [3]], False),
        ([1.0], None, False),
        ([True], [1], False),
    ],
)
def test_numbers_are_alike_but_for_rounding(one: Any, other: Any, same: bool) -> None:
    assert pinned_numbers.alike(one, other) is same


def test_every_version_is_of_a_part_and_above_1() -> None:
    assert set(VERSIONS) <= {*PARTS} - {EVERYTHING}
    assert all(version > 1 for version in VERSIONS.values())


def test_every_field_that_names_a_formula_is_a_choice() -> None:
    for config in pinned_numbers.built_in_configs():
        if issubclass(config, StopRule):
            continue  # in no key
        for name, field in config.model_fields.items():
            if name != "name" and get_origin(field.annotation) is Literal:
                assert any(isinstance(each, Choice) for each in field.metadata), (config, name)


# A raised version


DATA_FIELDS = {"imp": "inputs"}
"""What the field `data` chooses of."""


def named_in(config: Config) -> Iterator[str]:
    """The parts that a config is made with, by what a sweep file says: its names and values."""
    if isinstance(config, AtInit):
        yield from (f"criterion/{config.name}", "AtInit")
    elif isinstance(config, Entry):
        yield f"{config.kind.name}/{config.name}"
    if isinstance(config, Iterative):
        yield "Iterative"
    for field, value in dict(config).items():
        if isinstance(value, Config):
            yield from named_in(value)
        elif field == "data":
            yield f"{DATA_FIELDS.get(config.name, 'scoring_data')}/{value}"  # pyright: ignore
        else:
            yield f"{field}/{value}"


def named_in_trunk(cell: Cell) -> set[str]:
    found = {"Recipe", "DatasetOptions", "Loss", "Augmentation"}
    return found.union(*map(named_in, (cell.dataset, cell.model, cell.train)))


def named_in_steps(cell: Cell) -> set[str]:
    alone = isinstance(cell.method, PrunedAtInit | DropAndGrow)
    pruning = () if alone else named_in(cell.prune)
    return {*named_in(cell.method), *pruning}


def named_in_ablation(cell: Cell) -> set[str]:
    return set() if cell.ablation is None else {*named_in(cell.ablation)}


@functools.cache
def some_cells() -> list[Cell]:
    """Of the sweep files' cells those with a part that none before had, and one for each part."""
    files = sorted((ROOT / "sweeps").rglob("*.yaml"))
    every = [shorter(cell) for file in files for cell in cells(load_sweep(file))]
    every += [with_part(every[0], part) for part in PARTS if "/" in part]
    found: list[Cell] = []
    known: set[str] = set()
    for cell in every:
        named = named_in_trunk(cell) | named_in_steps(cell) | named_in_ablation(cell)
        if new := named - known:
            known |= new
            found.append(cell)
    return found


def shorter(cell: Cell) -> Cell:
    return replace(cell, prune=cell.prune.model_copy(update={"iterations": 2}))


def with_part(cell: Cell, part: str) -> Cell:
    """`cell` with a part that a sweep file can name."""
    kind, name = part.split("/")
    required = {"image_folder": {"path": "x"}, "parquet": {"path": "x"}, "imp": {"density": 0.3}}
    required |= {each: {"density": 0.3} for each in ("force", "random_search")}
    required |= {"step": {"milestones": [1]}, "transport": {"seed": 5}}
    required |= {each: {"density": 0.3} for each in ("gradual_magnitude", "rigl", "set")}
    entry = {"name": name, **required.get(name, {})}
    snip: dict[str, Any] = {"name": "snip", "density": 0.3}
    changed: dict[str, dict[str, Any]] = {
        "ablation": {"ablation": entry},
        "baseline": {},
        "batchnorm": {},
        "measure": {},
        "augmentation": {"train": {"augment": entry}},
        "criterion": {"method": {"name": "lottery_ticket", "criterion": entry}},
        "dataset": {"dataset": entry},
        "distribution": {"method": {"name": "rigl", "density": 0.3, "distribution": name}},
        "init": {"model": {"name": "mlp", "init": name}},
        "inputs": {"method": {"name": "imp", "density": 0.3, "data": name}},
        "keep": {"train": {"keep": name}},
        "lr_interval": {"train": {"lr_interval": name}},
        "precision": {"train": {"precision": name}},
        "layer_densities": {"method": snip | {"layer_densities": name}},
        "loss": {"train": {"loss": entry}},
        "lr_schedule": {"train": {"lr_schedule": entry}},
        "method": {"method": entry},
        "model": {"model": entry},
        "optimizer": {"train": {"optimizer": entry}},
        "padding_mode": {"train": {"augment": {"padding_mode": name}}},
        "plug-ins": {},
        "rewound": {"method": {"name": "lottery_ticket", "rewind": {"rewound": name}}},
        "sampled_rounds": {"method": snip | {"sampled_rounds": name}},
        "schedule": {"method": snip | {"schedule": name}},
        "scope": {"prune": {"scope": name}},
        "score": {"method": {"name": "random_search", "density": 0.3, "score": name}},
        "scoring_data": {"method": snip | {"data": name}},
        "selection": {"method": snip | {"selection": name}},
    }
    if name in ("ones", "chi"):
        snip["name"] = "synflow"
        changed["scoring_data"] = {"method": snip | {"data": name}}
    sections: dict[str, Any] = {
        "dataset": DatasetConfig, "model": ModelConfig, "method": MethodConfig,
        "train": Recipe, "prune": Pruning, "ablation": AblationConfig,
    }  # fmt: skip
    made = {n: TypeAdapter(sections[n]).validate_python(v) for n, v in changed[kind].items()}
    return replace(cell, **made)


def keys_of(cell: Cell) -> tuple[str, ...]:
    info = DatasetInfo((3, 32, 32), 10, 50_000, 10_000)
    return make_lineage(cell, identity(cell.dataset, info)).keys


def test_a_raised_version_changes_the_keys_of_what_is_made_with_the_part_and_no_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    some = some_cells()
    before = [keys_of(cell) for cell in some]
    used: set[str] = set()
    for part in PARTS:
        with monkeypatch.context() as patch:
            patch.setitem(VERSIONS, part, 2)
            for cell, old in zip(some, before, strict=True):
                trunk, steps = part in named_in_trunk(cell), part in named_in_steps(cell)
                last = trunk or steps or part in named_in_ablation(cell)
                first = trunk or (steps and (len(old) == 1 or part == "inputs/random"))
                new = keys_of(cell)
                changed = [one != other for one, other in zip(old, new, strict=True)]
                rest = [trunk or steps] * (len(old) - 2) + [last] * (len(old) > 1)
                assert changed == [first, *rest], (part, cell)
                used |= {part} if last else set()
    measuring = {part for part in PARTS if part.startswith(("measure/", "batchnorm/", "baseline/"))}
    others = {EVERYTHING, "ByFunction", "plug-ins/criterion", "plug-ins/method"}
    assert {*PARTS} - used == others | measuring


def test_a_raised_version_of_a_measure_changes_the_keys_of_what_it_has_measured_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cell, of = some_cells()[0], TypeAdapter(MeasureConfig)
    measures = [
        of.validate_python({"name": name, "batchnorm": how})
        for name in ("lmc", "lmc_consecutive")
        for how in ("recompute", "average")
    ]

    def lineage() -> Any:
        info = DatasetInfo((3, 32, 32), 10, 50_000, 10_000)
        return make_lineage(cell, identity(cell.dataset, info), measures=measures)

    before = lineage()
    for part in ("measure/lmc", "measure/lmc_consecutive", "batchnorm/average"):
        with monkeypatch.context() as patch:
            patch.setitem(VERSIONS, part, VERSIONS.get(part, 1) + 1)
            after = lineage()
            assert after.keys == before.keys
            kind, name = part.split("/")
            for old, new in zip(before.measurements, after.measurements, strict=True):
                measure = old.measure
                uses = name in (measure.name if kind == "measure" else measure.batchnorm,)
                assert (old.key != new.key) is uses


def test_a_higher_version_is_another_key_again(monkeypatch: pytest.MonkeyPatch) -> None:
    cell, found = some_cells()[0], set()
    for version in (1, 2, 3):
        monkeypatch.setitem(VERSIONS, "Recipe", version)
        found.add(keys_of(cell))
    assert len(found) == 3


def test_of_plugged_in_entries_what_they_are_given_and_derive_from_has_a_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    half = pinned_numbers.Half(name="half", criterion=pinned_numbers.config_of(pinned_numbers.seen))
    at_init = pinned_numbers.at_init(density=0.1)
    monkeypatch.setattr(pinned_numbers.Half, "plugged_code", "code")
    for config in (type(half.criterion), type(at_init)):
        monkeypatch.setattr(config, "plugged_code", "code")
    touched: dict[str, list[Config]] = {
        "plug-ins/method": [half, at_init],
        "plug-ins/criterion": [half.criterion, at_init],
        "Iterative": [half],
        "AtInit": [at_init],
        "selection/threshold": [at_init],
        "method/sap": [],
    }
    for part, configs in touched.items():
        with monkeypatch.context() as patch:
            patch.setitem(VERSIONS, part, 2)
            for config in (half, half.criterion, at_init):
                expected = {part: 2} if any(config is each for each in configs) else None
                assert canonical(config).get(RAISED) == expected, (part, config)


@pytest.mark.parametrize("part", ["criterion/magnitude", "rewound/weights", "Rewind", "Criterion"])
def test_a_part_that_a_plugged_in_entry_has_by_default_has_a_version(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, part: str
) -> None:
    half, store = pinned_numbers.Half, Store(str(tmp_path))
    monkeypatch.setattr(half, "plugged_code", "half==1")
    monkeypatch.setattr(half, "plugin", Plugin("half.py", "half"))
    method = half(name="half")
    before = method.identity(Pruning())
    assert canonical(method) == {"name": "half", "code": "half==1"}
    record_plugins(store, "before", [method])
    monkeypatch.setitem(VERSIONS, part, 2)
    assert method.identity(Pruning()) != before
    # It is prunesweep that has changed, not a default of the plug-in's.
    assert changed_default(store, [method]) is None
    record_plugins(store, "after", [method])
    assert changed_default(store, [method]) is None


def test_versions_are_nothing_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = load_sweep(ROOT / "sweeps/quickstart.yaml")

    def told() -> list[list[str]]:
        lines = sweep_lineages(spec, resolve_datasets(spec, data_roots(None, {})))
        record = record_sweep(spec, lines)
        return [common_options(record), [*labels(record).values()]]

    before = told()
    for part in PARTS:
        monkeypatch.setitem(VERSIONS, part, 2)
    assert told() == before


def test_nothing_is_added_while_every_version_is_1() -> None:
    assert not any(
        RAISED in canonical(config) for config in (Pruning(), pinned_numbers.own_recipe())
    )
