"""The numbers of every part that keys are made of, on fixed inputs; `golden/numbers.json` has them.

Each is computed apart from other parts as far as that goes: a criterion scores a network that no
model of prunesweep is, an optimizer steps without a recipe. What a part cannot be without is an
entry that is defined here.
"""

import hashlib
import io
import json
import math
import pickle
import struct
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter
from torch import Tensor, nn

from orchestrator.commands.catalogue import KINDS
from trainables.config import Choice, Config
from trainables.data import DATASET, DataRoots, Dataset, DatasetOptions, load_dataset, mnist
from trainables.data.cifar import CIFAR10, CIFAR100, CifarDataset
from trainables.data.dataset import partition
from trainables.lineage.bench import Bench
from trainables.lineage.identity import SCHEMA_VERSION
from trainables.lineage.keys import Cell, make_lineage
from trainables.lineage.loop import run_lineage
from trainables.measurements import MEASURE
from trainables.models import Shape, build_model, model, prunable
from trainables.models.initialization import Init, initialized
from trainables.plugins.entry import Entry, Kind, Named, built_in
from trainables.pruning import Network, Pruning
from trainables.pruning.ablation import Branch
from trainables.pruning.amount import ratio_amount
from trainables.pruning.at_init import AtInit
from trainables.pruning.criterion import criterion
from trainables.pruning.decorator import method
from trainables.pruning.iterative import Iterative
from trainables.pruning.layer_densities import LayerDensities, kept_by_layer
from trainables.pruning.method import METHOD
from trainables.pruning.parts import Rewind, Rewinds
from trainables.pruning.scope import Scope, grouped, ungrouped
from trainables.pruning.scoring import Batch, Scoring, gradient, summed
from trainables.pruning.scoring import loss as scoring_loss
from trainables.pruning.scoring_data import Examples as ExampleData
from trainables.pruning.scoring_data import FlowInput, ScoringData
from trainables.pruning.selection import drop_lowest, keep_highest, sampled
from trainables.pruning.stopping import StopRule
from trainables.pruning.within_training import WithinTraining
from trainables.sparsity.effective import effective_masks
from trainables.sparsity.masks import Masks, dense_masks, kept_counts
from trainables.sparsity.multiply_adds import multiply_adds
from trainables.sparsity.weights import kept_magnitude, measure_sparsity
from trainables.store import Store, iteration_path
from trainables.store.artifacts import read_masks, read_tensors
from trainables.training.augmentation import Augmentation, FlipAndCrop, augmentation
from trainables.training.batches import DeviceData, Examples, Inputs, Randomness, batches_of
from trainables.training.evaluation import evaluate
from trainables.training.losses import loss
from trainables.training.optimizers import Optimizer, optimizer
from trainables.training.precision import Precision, arithmetic, logits_in
from trainables.training.recipe import Recipe
from trainables.training.run import Training
from trainables.training.schedules import lr_schedule
from trainables.versions import VERSIONS

Numbers = dict[str, list[Any]]
"""By what they are, floats, whole numbers and texts."""

EVERYTHING = "everything"
"""The part whose version is SCHEMA_VERSION."""

SHAPE, CLASSES = (1, 4, 4), 3
CPU = torch.device("cpu")

KEEPS_SIZE = 6**0.5
"""Times PyTorch's weights (not torchvision's): so large they have to be for an image to be seen
through many layers."""


# What they are computed on


def wave(*shape: int, step: float = 0.7, dtype: torch.dtype = torch.float32) -> Tensor:
    """Numbers in [-1, 1] that are the same everywhere, and no two of them near each other's."""
    count = torch.arange(1, torch.Size(shape).numel() + 1, dtype=torch.float64)
    return (count * step).sin().reshape(shape).to(dtype)


def network() -> nn.Module:
    """Of every kind of layer one, with given weights and statistics."""
    layers = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3)
    )
    state = {
        name: value if name.endswith("tracked") else wave(*value.shape, step=0.3 + index)
        for index, (name, value) in enumerate(layers.state_dict().items())
    }
    state["1.running_var"] = state["1.running_var"].square() + 0.5
    layers.load_state_dict(state)
    return layers


def some_masks(of: nn.Module) -> Masks:
    """A third of the weights is pruned."""
    return {
        name: (torch.arange(w.numel()) % 3 > 0).reshape(w.shape)
        for name, w in prunable(of).items()
    }  # fmt: skip


def examples(count: int, first: int) -> Examples:
    pixels = torch.arange(first, first + 16 * count) * 37 % 256
    return Examples(
        pixels.to(torch.uint8).reshape(count, *SHAPE), torch.arange(count) * 7 % 5 % CLASSES,
        torch.full((1, 1, 1, 1), 0.4), torch.full((1, 1, 1, 1), 0.3),
    )  # fmt: skip


def data() -> DeviceData:
    return DeviceData(SHAPE, CLASSES, examples(11, 0), examples(6, 5), examples(5, 9))


@model
def plain(shape: Shape, classes: int) -> nn.Module:
    return network()


def scores_of(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """No two weights have the same, and a tenth is negative."""
    return {
        name: wave(*w.shape, step=1 + 0.1 * index, dtype=torch.float64) + 0.8
        for index, (name, w) in enumerate(weights.items())
    }


@criterion(data=ExampleData)
def seen(scoring: Scoring) -> dict[str, Tensor]:
    """Those scores, by layer more or less by what the network makes of its examples, and noise."""
    with torch.no_grad():
        logits = torch.cat([scoring.model(inputs) for inputs, _ in scoring.batches])
    amounts = logits.abs().mean(dim=0).tolist()
    return {
        name: score * amounts[index] + torch.rand(score.shape, generator=scoring.generator)
        for index, (name, score) in enumerate(scores_of(scoring.weights).items())
    }


EXAMPLES: dict[str, Any] = {"data": "real", "examples": 7}


@method
class Half(Rewinds, Iterative):
    name: Literal["half"]

    def amount(self, weights: Tensor, kept: Tensor) -> Tensor:
        return kept.sum(dim=1) // 2


@method
def by_layer(network: Network) -> Masks:
    """In each layer another part than in the one before it, and than at the iteration before."""
    return {
        name: (torch.arange(mask.numel()) % (network.iteration + place) > 0).view_as(mask)
        for place, (name, mask) in enumerate(network.masks.items(), start=2)
    }


@model
def unsorted(shape: Shape, classes: int) -> nn.Module:
    """The order of its layers is not that of their names."""
    layers = nn.Flatten(), nn.Linear(16, 3), nn.Linear(3, 3), nn.Linear(3, classes)
    return nn.Sequential(OrderedDict(zip("xbca", layers, strict=True)))


@optimizer
class Descent(Optimizer):
    name: Literal["descent"] = "descent"
    lr: float = 0.005

    def __call__(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=self.lr)


@lr_schedule
def rising(lr: float, epoch: int, epochs: int) -> float:
    """So fast that the last epoch is not the best."""
    return lr * 3**epoch


@loss
def squared(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits - nn.functional.one_hot(labels, CLASSES)).square().mean(dim=1)


@augmentation
def darker(images: Tensor, generator: torch.Generator) -> Tensor:
    """By as much as is drawn."""
    drawn = torch.randint(1, 9, (len(images), 1, 1, 1), generator=generator)
    return (images // drawn).to(torch.uint8)


def config_of(function: Callable[..., Any], **options: Any) -> Any:
    return vars(function)["config"](name=function.__name__, **options)


OPTIONS: dict[str, dict[str, Any]] = {
    "ablation/rewind_lr": {"step": 3},
    "ablation/transport": {"seed": 5, "dataset": None},
    "criterion/grasp": {"temperature": 200.0},
    "criterion/prospr": {"inner_steps": 3, "inner_lr": 0.1},
    "dataset/image_folder": {"path": "images"},
    "dataset/parquet": {
        "path": "table", "train": "train-*.parquet", "test": "test-*.parquet", "image": "image",
        "label": "label", "relabel": True,
    },
    "augmentation/flip_and_crop": {
        "horizontal_flip": True, "crop_padding": 0, "padding_mode": "zeros",
    },
    "loss/cross_entropy": {"label_smoothing": 0.0},
    "measure/intrinsic_dimension": {
        "dimensions": [4, 8, 999], "share": 0.9, "baseline": "ticket",
    },
    "measure/lmc": {"points": 5, "copies": 3, "rewind": 2, "layerwise": False},
    "measure/lmc_consecutive": {"points": 3, "layerwise": True},
    "measure/lmc_methods": {"points": 3, "layerwise": True},
    "measure/representations": {"examples": 5},
    "lr_schedule/step": {"milestones": [3, 6], "factor": 0.1},
    "method/force": {"density": 0.2, "rounds": 4, "schedule": "exponential", **EXAMPLES},
    "method/gradual_magnitude": {"density": 0.3, "begin": 0.0, "end": 0.75, "every": 4},
    "method/imp": {"density": 0.3, "ratio": 0.2, "data": "real"},
    "method/lottery_ticket": {"ratio": 0.2},
    "method/nm": {"n": 1, "m": 3},
    "method/one_shot": {"ratio": 0.2},
    "method/rigl": {"density": 0.3, "fraction": 0.3, "end": 0.75, "every": 4},
    "method/sap": {"p": 0.5, "q": 1.0, "eta": 0.0, "gamma": 1.0, "beta": 0.9},
    "method/random_search": {"density": 0.3, "candidates": 5, "score": "loss", **EXAMPLES},
    "method/set": {"density": 0.3, "fraction": 0.3, "end": 0.75, "every": 4},
    "model/cnn": {"hidden": [64, 128, 256, 512]},
    "model/mlp": {"hidden": [128, 256]},
    "model/resnet20": {"width": 1},
    "optimizer/adam": {"lr": 0.1, "beta1": 0.9, "beta2": 0.999, "weight_decay": 0.0},
    "optimizer/adamw": {"lr": 0.1, "beta1": 0.9, "beta2": 0.999, "weight_decay": 0.0},
    "optimizer/sgd": {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4},
}  # fmt: skip
"""Every option is said: a default that changes is no other formula, and keys know it."""

FURTHER: dict[str, tuple[dict[str, Any], ...]] = {
    "criterion/prospr": ({"inner_steps": 1, "inner_lr": 0.5},),
    "augmentation/flip_and_crop": ({"horizontal_flip": False, "crop_padding": 2},),
    "loss/cross_entropy": ({"label_smoothing": 0.1},),
    "method/gradual_magnitude": ({"density": 0.07, "begin": 0.2, "end": 1.0, "every": 3},),
    "method/imp": ({"ratio": 0.5, "data": "random"},),
    "method/lottery_ticket": ({"ratio": 0.29, "rewind": {"step": 3}},),
    "method/rigl": ({"density": 0.5, "fraction": 0.7, "end": 1.0, "every": 3},),
    "method/sap": ({"p": 0.8, "q": 1.5, "eta": 0.2, "gamma": 1.3, "beta": 0.3},),
    "method/set": ({"density": 0.5, "fraction": 0.7, "end": 1.0, "every": 3},),
    "model/cnn": ({"hidden": [4, 5]},),
    "model/resnet20": ({"width": 2},),
    "optimizer/adam": ({"beta1": 0.5, "beta2": 0.9, "weight_decay": 0.1},),
    "optimizer/adamw": ({"beta1": 0.5, "beta2": 0.9, "weight_decay": 0.1},),
    "optimizer/sgd": ({"momentum": 0.5, "nesterov": False, "weight_decay": 0.1},),
}
"""More settings that show what the options do."""

SHARED_OPTIONS = {
    *DatasetOptions.model_fields, *ExampleData.model_fields, *FlowInput.model_fields,
    *Pruning.model_fields, "init", "rewind", "selection", "criterion", "distribution", "at",
    "batchnorm", "iterations", "train_examples", "initial_weights",
    *LayerDensities.model_fields,
}  # fmt: skip
"""Options that are parts of their own, or that a criterion, called by itself, does not see."""


def entry(kind: Kind, name: str, **options: Any) -> Any:
    """A built-in entry with all its options."""
    chosen: Any = Annotated[kind.base, Named(kind)]
    said = {"name": name} | OPTIONS.get(f"{kind.name}/{name}", {}) | options
    found = TypeAdapter(chosen).validate_python(said)
    unsaid = type(found).model_fields.keys() - found.model_fields_set - SHARED_OPTIONS
    assert not unsaid, f"write the options {unsaid} of {kind.name} {name} into OPTIONS"
    return found


def own_recipe(**changed: Any) -> Recipe:
    own = {
        "epochs": 2, "batch_size": 4, "optimizer": Descent(), "lr_schedule": config_of(rising),
        "loss": config_of(squared), "augment": config_of(darker), "keep": "last",
        "clip_grad_norm": None, "clip_before_mask": False,
    }  # fmt: skip
    return Recipe(**(own | changed))


def pruned_by(config: Any, **options: Any) -> list[Any]:
    """Which weights of the network a method keeps."""
    net = network().eval()
    kept = Network(net, some_masks(net), data(), seed=3, iteration=2, **options)
    return places(config(kept))


# How they are written down


def told(tensor: Tensor) -> list[float]:
    """Some values of a tensor, and the mean size of all."""
    flat = tensor.detach().flatten().to(torch.float64)
    at = torch.linspace(0, len(flat) - 1, min(len(flat), 8)).long()
    return [*flat[at].tolist(), flat.abs().mean().item()]


def places(masks: Mapping[str, Tensor]) -> list[int]:
    """Where masks are True, counted over all of them."""
    everything = torch.cat([mask.flatten() for mask in masks.values()])
    return everything.nonzero().flatten().tolist()


def digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


# By kind


def of_criterion(config: Any) -> Numbers:
    net = network().to(torch.float64).eval()
    masks = some_masks(net)
    flow = isinstance(config, FlowInput)
    inputs = wave(1 if flow else 5, *SHAPE, dtype=torch.float64)
    labels = torch.arange(len(inputs)) % CLASSES
    chunks: Sequence[Batch] = [*zip(inputs.split(3), labels.split(3), strict=True)]
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for layer, mask in masks.items():
            net.get_parameter(layer).mul_(mask)
    scores = config(Scoring(net, masks, tuple(chunks), generator))
    return {layer: told(score) for layer, score in scores.items()}


def of_model(config: Any) -> Numbers:
    """The weights as PyTorch draws them, and the logits with larger ones."""
    name, config = config.name, config.model_copy(update={"init": "pytorch"})
    shapes = [(3, 16, 16), (1, 16, 16)] if name == "imagenet_resnet50" else [(3, 16, 16)]
    found: Numbers = {}
    for shape in shapes:
        net = build_model(config, shape, 5, seed=1)
        weights = [*prunable(net).values()]
        drawn = [weights[i].flatten()[0].item() for i in {0, len(weights) // 2, len(weights) - 1}]
        state = [(each, tuple(value.shape)) for each, value in net.state_dict().items()]
        norms = [(m.eps, m.momentum) for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
        with torch.no_grad():
            for weight in weights:
                weight.mul_(1 if name == "imagenet_resnet50" else KEEPS_SIZE)
            net = net.to(torch.float64).eval()
            logits = net(wave(2, *shape, dtype=torch.float64))
        found |= {
            f"{shape[0]} channels, state": [digest((state, norms)), len(weights)],
            f"{shape[0]} channels, weights": drawn,
            f"{shape[0]} channels, logits": told(logits),
        }
    return found


def of_init(name: Init) -> Numbers:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(7)
        net = initialized(
            nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Linear(6, 4)), name
        )
    return {key: told(value) for key, value in net.named_parameters()}


def of_optimizer(config: Any) -> Numbers:
    weight = nn.Parameter(wave(3, 4))
    steps = config([weight])
    for step in range(3):
        weight.grad = wave(3, 4, step=1.3 + step)
        steps.step()
    return {"weights": told(weight)}


def of_schedule(config: Any) -> Numbers:
    return {"rates": [config(0.1, epoch, 8) for epoch in range(8)]}


def of_loss(config: Any) -> Numbers:
    logits, labels = wave(4, 3), torch.tensor([0, 1, 2, 2])
    reduced = [config.mean(logits, labels).item(), config.total(logits, labels).item()]
    return {"of each": config(logits, labels).tolist(), "mean, total": reduced}


def augmented(config: Augmentation) -> list[Any]:
    images = examples(6, 3).images
    draws = config.draws(6, [torch.Generator().manual_seed(2)], CPU)
    if draws is not None:
        drawn = {name: values[2:5] for name, values in draws.items()}
        return [config.augmented(images[2:5], drawn).flatten().tolist()] * 2
    epoch = config.epoch(6, torch.Generator().manual_seed(2), CPU)
    return [epoch(images[2:5], torch.tensor([2, 3, 4]), step).flatten().tolist() for step in (0, 1)]


def of_augmentation(config: Any) -> Numbers:
    return {"pixels": augmented(config)}


def of_method(config: Any) -> Numbers:
    """How much of each group goes, what is kept of the network, and the iterations."""
    if isinstance(config, WithinTraining):
        return of_method_within_training(config)
    found: Numbers = {}
    if isinstance(config, Iterative):
        config = config.model_copy(update={"criterion": config_of(seen, **EXAMPLES)})
        kept = torch.arange(300).reshape(3, 100) % torch.tensor([[2], [3], [7]]) > 0
        found["amounts"] = config.amount(wave(3, 100), kept).tolist()
    steps = config.steps(Pruning(iterations=2))
    return found | {
        "kept": pruned_by(config),
        "iterations": [
            [s.iteration, s.kind, s.inputs, s.density, s.scored] for s in steps
        ],
        "sampled, rewound to": [config.samples, config.rewind_step],
    }  # fmt: skip


def of_method_within_training(config: WithinTraining) -> Numbers:
    """What is kept of the network at first, and after each of three updates in 20 steps."""
    net, updates = network(), config.updates(20)
    for index, weight in enumerate(net.parameters()):
        weight.grad = wave(*weight.shape, step=2.3 + index)
    masks = config(Network(net, some_masks(net), data(), seed=3, iteration=1))
    schedule = config.mask_schedule(Network(net, masks, data(), seed=3, iteration=1), 20)
    found = {"at first": places(masks)}
    for step in updates[:3]:
        masks = schedule.masks(step, masks)
        found[f"from step {step}"] = places(masks)
    steps = [[s.iteration, s.kind, s.density, s.scored] for s in config.steps(Pruning())]
    return found | {"updates": [*updates], "iterations": steps}


def of_ablation(config: Any) -> Numbers:
    """What is kept of the network, and what is trained how."""
    net = network()
    before = some_masks(net)
    masks = {name: mask & (wave(*mask.shape, step=2.3) > 0) for name, mask in before.items()}
    branch = Branch(masks, before, lambda: scores_of(prunable(net)), config.name, 3, 2)
    recipe = config.recipe(own_recipe())
    return {
        "kept": places(config(branch)),
        "start": [config.start, config.first_step(1)],
        "seeds": [config.initial_seed(3), config.training_seed(3)],
        "learning rates": [recipe.rate(epoch) for epoch in range(recipe.epochs)],
    }


# By the choice


def of_distribution(name: Literal["erk", "uniform"]) -> Numbers:
    shapes = {"a": (16, 3, 3, 3), "b": (40, 16), "c": (3, 4)}
    masks = {name: torch.ones(shape, dtype=torch.bool) for name, shape in shapes.items()}
    return {"counts": [[*kept_by_layer(name, masks, n).values()] for n in (55, 326, 868)]}


def of_scope(name: Scope) -> Numbers:
    tensors = {"a": wave(2, 3), "b": wave(3, 2, 2, step=0.3)}
    rows = grouped(tensors, name)
    back = ungrouped(rows, tensors, name)
    return {
        "groups": [row.tolist() for row in rows],
        "tensors": [tensor.flatten().tolist() for tensor in back.values()],
    }


def of_selection(name: str) -> Numbers:
    net = network()
    masks = some_masks(net)
    scores = scores_of(masks)
    if name == "sampled":
        generator = torch.Generator().manual_seed(11)
        return {"drawn": [places(sampled(scores, masks, n, generator)) for n in (80, 40)]}
    rows, kept = torch.tensor([[3.0, 1, 2, 1, 5], [0, 0, 0, 0, 0]]), torch.ones(2, 5).bool()
    kept[0, 1] = False
    tied = {name: (score * 4).round() for name, score in scores.items()}
    return {
        "highest": [places(keep_highest(scores, masks, n)) for n in (80, 40)],
        "highest of equal ones": [places(keep_highest(tied, masks, n)) for n in (80, 40)],
        "without the lowest": drop_lowest(rows, kept, torch.tensor([2, 3])).tolist(),
    }


def at_init(**options: Any) -> AtInit:
    return vars(seen)["at_init"](name="seen", **EXAMPLES, **options)


def of_sampled_rounds(name: Any) -> Numbers:
    config = at_init(density=0.2, rounds=2, selection="sampled", sampled_rounds=name)
    return {"kept": pruned_by(config)}


def of_layer_densities(name: Any) -> Numbers:
    config = at_init(density=0.3, layer_densities=name)
    kept = some_masks(network())
    layers = nn.ModuleDict({"a": nn.Conv2d(3, 4, 3), "b": nn.Linear(5, 9), "c": nn.Linear(9, 5)})
    masks = dense_masks(prunable(layers))
    found = [config.highest_by_layer(scores_of(masks), masks, n) for n in (20, 100, 190)]
    return {
        "kept": pruned_by(config),
        "of each layer": [[*kept_counts(each).values()] for each in found],
        "of each masked layer": [
            *kept_counts(config.highest_by_layer(scores_of(kept), kept, 90)).values()
        ],
    }


def of_rounds(name: Any) -> Numbers:
    return {"kept": [at_init(density=0.05, rounds=6, schedule=name).kept_after_rounds(10_000)]}


def of_score(name: Any) -> Numbers:
    return {"kept": pruned_by(entry(METHOD, "random_search", score=name, candidates=9))}


def of_scoring_data(name: Any) -> Numbers:
    flow = name in get_args(FlowInput.model_fields["data"].annotation)
    config: ScoringData = FlowInput(data=name) if flow else ExampleData(data=name, examples=7)
    draw = config.inputs(data(), torch.Generator().manual_seed(4))
    rounds = [batch for _ in range(2) for batch in draw()]
    return {
        "inputs": [told(inputs) for inputs, _ in rounds],
        "labels": [labels.tolist() for _, labels in rounds],
    }


def of_inputs(name: Inputs) -> Numbers:
    recipe = own_recipe(augment=config_of(darker))
    batches = batches_of(data(), recipe, [Randomness(6, 1)], name)
    found = [batches.made(*drawn) for drawn in batches.drawn(1, range(1, 3))]
    return {
        "inputs": [told(images) for images, _ in found],
        "labels": [labels.tolist() for _, labels in found],
    }


def of_padding_mode(name: Any) -> Numbers:
    return {"pixels": augmented(FlipAndCrop(crop_padding=1, padding_mode=name))}


def trained(recipe: Recipe, masks: Masks | None = None, **options: Any) -> Numbers:
    net = network()
    rows = Training(net, masks, data(), recipe, Randomness(2, 1), **options).finish().rows
    return {
        "rows": [[*row.values()] for row in rows],
        "weights": [told(value) for value in net.state_dict().values()],
    }


def of_lr_interval(name: Any) -> Numbers:
    recipe = own_recipe(lr_interval=name, epochs=3, warmup_steps=2)
    return {"rates": [recipe.rate(epoch, step, 4) for epoch in range(3) for step in range(4)]}


def of_keep(name: Any) -> Numbers:
    """So fast that the best epoch is neither the last nor the same on both parts."""
    return trained(own_recipe(epochs=4, keep=name))


# What all of a kind share


def of_augmentation_base() -> Numbers:
    return {"pixels": augmented(config_of(darker))}


def of_precision(name: Precision) -> Numbers:
    """A number that bfloat16 rounds, and whether TF32 is allowed."""
    layer = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(layer.weight)
    with arithmetic(name):
        allowed = torch.backends.cuda.matmul.allow_tf32
        logits = logits_in(name, layer, torch.tensor([[1 + 2**-9]]))
    return {"logits": logits.tolist(), "tf32": [allowed], "type": [str(logits.dtype)]}


def of_recipe() -> Numbers:
    masks = some_masks(network())
    several = {
        "plainly": trained(own_recipe()),
        "masked": trained(own_recipe(clip_grad_norm=0.5), masks, start_step=2),
        "clipped before": trained(own_recipe(clip_grad_norm=0.5, clip_before_mask=True), masks),
        "warmed up": trained(own_recipe(epochs=1, lr_interval="step", warmup_steps=2)),
        "averaged": trained(own_recipe(ema=0.7), masks),
        "cut": trained(own_recipe(cutout=3)),
        "mixed": trained(own_recipe(mixup=0.8)),
        "accumulated": trained(own_recipe(accumulate=2, clip_grad_norm=0.5)),
    }
    return {f"{how}, {what}": n for how, found in several.items() for what, n in found.items()}


def of_dataset_options() -> Numbers:
    labels = np.arange(60) * 7 % 11 % 3
    train, validation = partition(labels, entry(DATASET, "digits", holdout=9, subset=20))
    return {"train": train.tolist(), "validation": validation.tolist()}


def of_iterative() -> Numbers:
    half = Half(name="half", criterion=config_of(seen, **EXAMPLES))
    scopes: tuple[Scope, ...] = get_args(Scope)
    return {scope: pruned_by(half, scope=scope) for scope in scopes} | {
        "to a density": pruned_by(half, density=0.25),
        "iterations": [[s.iteration, s.kind] for s in half.steps(Pruning(iterations=2))],
    }


def of_by_function() -> Numbers:
    found = iterations(Cell(
        dataset=entry(DATASET, "digits"), model=config_of(unsorted), train=own_recipe(),
        prune=Pruning(iterations=3), seed=1, method=config_of(by_layer),
    ))  # fmt: skip
    return {f"iteration {t}": found[f"iteration {t}, kept"] for t in (1, 2, 3)}


class Given:
    """Tickets of networks that are known."""

    index, seed = 1, 3
    steps = tuple(SimpleNamespace(iteration=t, kind="train", inputs="real") for t in (4, 5))
    start_step = 2

    def __init__(self) -> None:
        self.data, self.recipe = data(), own_recipe()

    @property
    def pair(self) -> Any:
        return tuple(
            SimpleNamespace(seed=t, iteration=t, trained=partial(self.trained, t)) for t in (3, 4)
        )

    def accuracy(self, index: int) -> float:
        return 0.3 - 0.15 * index

    def rewound(self, step: int) -> Any:
        return self.trained(step)

    def trained(self, index: int) -> Any:
        state = network().state_dict()
        return {
            name: value if name.endswith("tracked") else value + index / 10
            for name, value in state.items()
        }

    def masks(self, index: int) -> Masks:
        return some_masks(network())

    def model(self, state: Any) -> nn.Module:
        model = network()
        model.load_state_dict(state)
        return model

    def copy(self, number: int, state: Any, masks: Masks, step: int) -> Any:
        yield from ()
        masked = {name: state[name] * mask for name, mask in masks.items()}
        last = {"4.bias": state["4.bias"] + wave(3, step=number + step)}
        return state | masked | last

    def train(self, name: str, model: Any, step: int) -> Any:
        yield from ()
        model.z.data += wave(len(model.z), step=1 + 0.1 * step)
        return model

    def require_time(self) -> None: ...


def of_measure(config: Any) -> Numbers:
    found = config(Given())
    try:
        while isinstance(found, Generator):
            next(found)
    except StopIteration as end:
        found = end.value
    return {str(number): [*row.values()] for number, row in enumerate(found)}


def of_baseline(name: Any) -> Numbers:
    return of_measure(entry(MEASURE, "intrinsic_dimension", dimensions=[4], baseline=name))


def of_batchnorm(name: Any) -> Numbers:
    """Of BatchNorm's statistics alone are the ends the same."""
    given: Any = Given()
    config = entry(MEASURE, "lmc_consecutive", batchnorm=name)
    ends = {each: network().state_dict() for each in (0, 1)}
    ends[1]["4.bias"] = ends[1]["4.bias"] + 1
    ends[1]["1.running_mean"] = ends[1]["1.running_mean"] + 1
    rows = config.rows(given, ends)
    return {"test losses": [row["test_loss"] for row in rows]}


def of_at_init() -> Numbers:
    config = at_init(density=0.1, rounds=3)
    steps = config.steps(Pruning())
    return {
        "kept": pruned_by(config),
        "iterations": [[s.iteration, s.kind, s.density, s.scored] for s in steps],
    }


def of_loss_base() -> Numbers:
    logits, labels = wave(4, 3), torch.tensor([0, 1, 2, 2])
    config = config_of(squared)
    return {
        "mean, total": [config.mean(logits, labels).item(), config.total(logits, labels).item()]
    }


def of_plugged_criteria() -> Numbers:
    """What they are given to compute with."""
    net = network().to(torch.float64).eval()
    scoring = Scoring(net, some_masks(net))
    weights, batch = scoring.leaves, (wave(3, *SHAPE, dtype=torch.float64), torch.arange(3))
    found = scoring_loss(scoring, weights, batch, temperature=2.0)
    slopes = summed([gradient(found, weights), scoring.weights])
    return {"loss": [found.item()], "slopes": [told(slope) for slope in slopes.values()]}


def of_plugged_methods() -> Numbers:
    kept = torch.arange(300).reshape(3, 100) % torch.tensor([[2], [3], [7]]) > 0
    return {"amounts": [ratio_amount(kept, ratio).tolist() for ratio in (0.29, 0.5, 0.07)]}


# Datasets


def picture(height: int, width: int, channels: int, first: int) -> np.ndarray:
    """Pixels of one image, [H, W, C]."""
    count = np.arange(first, first + height * width * channels)
    return (count * 37 % 256).astype(np.uint8).reshape(height, width, channels)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, "PNG")
    return file.getvalue()


@contextmanager
def a_folder() -> Iterator[tuple[Path, DataRoots]]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name), DataRoots((Path(name),), Path(name) / "cache")


def written_down(dataset: Dataset) -> Numbers:
    splits = {"train": dataset.train, "test": dataset.test}
    found: Numbers = {"classes, mean, std": [dataset.classes, *dataset.mean, *dataset.std]}
    for name, split in splits.items():
        pixels = [image.astype(int).sum().item() for image in split.images[:3]]
        found[name] = [
            *split.images.shape, split.labels[:3].tolist(), pixels,
            digest((split.images.tobytes(), split.labels.tolist())),
        ]  # fmt: skip
    return found


def counted(config: DatasetOptions) -> list[Any]:
    """What is known of a published dataset without any file."""
    with a_folder() as (_, roots):
        info = config.describe(roots)
    return [*info.shape, info.classes, info.train_examples, info.test_examples]


def of_digits() -> Numbers:
    with a_folder() as (_, roots):
        return written_down(load_dataset(entry(DATASET, "digits"), roots))


def of_idx(name: Literal["mnist", "fashion_mnist"]) -> Numbers:
    """Of four small files in the place of the published ones, whose checksums are told."""
    published, config = getattr(mnist, name.upper()), entry(DATASET, name)
    with a_folder() as (folder, roots), pytest.MonkeyPatch.context() as patch:
        sums = []
        for kind, count in (("train", 3), ("t10k", 2)):
            pixels = picture(count * 28, 28, 1, count).tobytes()
            images = struct.pack(">4B3I", 0, 0, 8, 3, count, 28, 28) + pixels
            labels = struct.pack(">4BI", 0, 0, 8, 1, count) + bytes(range(4, 4 + count))
            for file, content in (("images-idx3", images), ("labels-idx1", labels)):
                (folder / f"{kind}-{file}-ubyte").write_bytes(content)
                sums.append(hashlib.md5(content, usedforsecurity=False).hexdigest())
        patch.setattr(mnist, "TRAIN_EXAMPLES", 3)
        patch.setattr(mnist, "TEST_EXAMPLES", 2)
        patch.setattr(mnist, name.upper(), replace(published, md5=tuple(sums)))
        found = written_down(load_dataset(config, roots))
    return found | {"published": [*counted(config), *published.md5]}


def of_cifar(name: str, published: CifarDataset) -> Numbers:
    """Of two small files in the place of the published ones."""
    config = entry(DATASET, name)
    with a_folder() as (folder, roots), pytest.MonkeyPatch.context() as patch:
        lists = []
        (folder / published.folder).mkdir()
        for file, labels in (("train", [3, 1]), ("test", [2])):
            key = "labels" if published.classes == 10 else "fine_labels"
            rows = picture(len(labels), 3072, 1, len(labels))[:, :, 0]
            content = pickle.dumps({"data": rows, key: labels})
            (folder / published.folder / file).write_bytes(content)
            lists.append([(file, hashlib.md5(content, usedforsecurity=False).hexdigest())])
        files = SimpleNamespace(train_list=lists[0], test_list=lists[1])
        patch.setattr(CifarDataset, "_published", files)
        found = written_down(load_dataset(config, roots))
    return found | {"published": counted(config)}


def of_image_folder() -> Numbers:
    with a_folder() as (folder, roots):
        for index, place in enumerate(("train/b/0", "train/a/1", "train/a/0", "test/a/0")):
            path = folder / "images" / f"{place}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(picture(5, 4, 1 if index == 1 else 3, index)))
        return written_down(load_dataset(entry(DATASET, "image_folder"), roots))


def of_parquet() -> Numbers:
    with a_folder() as (folder, roots):
        for first, (name, labels) in enumerate({"train-0": [4, 9, 4], "test-0": [9]}.items()):
            images = [png(picture(5, 4, 1, first + index)) for index in range(len(labels))]
            table = pa.table({"image": images, "label": labels})
            (folder / "table").mkdir(exist_ok=True)
            pq.write_table(table, folder / "table" / f"{name}.parquet")
        return written_down(load_dataset(entry(DATASET, "parquet"), roots))


def of_tiny_imagenet() -> Numbers:
    """Of a folder of two classes in the place of the published one."""
    config = entry(DATASET, "tiny_imagenet")
    with a_folder() as (root, roots):
        folder = root / "tiny-imagenet-200"
        (folder / "val/images").mkdir(parents=True)
        (folder / "wnids.txt").write_text("n2\nn1\n")
        (folder / "val/val_annotations.txt").write_text("v1.JPEG\tn1\nv0.JPEG\tn2\n")
        for index, place in enumerate(("train/n1/images/x", "train/n2/images/y")):
            path = folder / f"{place}.JPEG"
            path.parent.mkdir(parents=True)
            path.write_bytes(png(picture(64, 64, 3 - 2 * index, index)))
        for index in range(2):
            (folder / f"val/images/v{index}.JPEG").write_bytes(png(picture(64, 64, 3, 5 + index)))
        found = written_down(load_dataset(config, roots))
    return found | {"published": counted(config)}


def of_dataset(name: Any) -> Numbers:
    readers: dict[str, Callable[[], Numbers]] = {
        "cifar10": lambda: of_cifar(name, CIFAR10),
        "cifar100": lambda: of_cifar(name, CIFAR100),
        "digits": of_digits,
        "fashion_mnist": lambda: of_idx(name),
        "image_folder": of_image_folder,
        "mnist": lambda: of_idx(name),
        "parquet": of_parquet,
        "tiny_imagenet": of_tiny_imagenet,
    }
    return readers[name]()


# What every key stands for


def of_everything() -> Numbers:
    """What a row measures, and a lineage from its trunk to its second pruning."""
    net = network()
    masks, weights = some_masks(net), {n: w.detach() for n, w in prunable(net).items()}
    sparsity = measure_sparsity(weights, masks)
    (first, *_), (mask, *_) = weights.values(), masks.values()
    tested = evaluate(net, data().test, config_of(squared))
    return {
        "sparsity": [
            sparsity.pq_index, sparsity.gini, *sparsity.grid["pq_index"].to_numpy()[::37].tolist(),
            *(x for layer in sparsity.layers for x in (layer.pq_index, layer.gini)),
        ],
        "kept magnitude": [*astuple(kept_magnitude(first, mask))],
        "multiply-adds": [multiply_adds(net, SHAPE), multiply_adds(net, SHAPE, {
            name: int(each.sum()) for name, each in masks.items()
        })],
        "effective": [*kept_counts(effective_masks(net, masks, SHAPE) or {}).values()],
        "evaluation": [tested.loss, tested.accuracy],
    } | lineage()  # fmt: skip


def of_rewound(name: Any) -> Numbers:
    return lineage(name)


def lineage(rewound: Any = "weights") -> Numbers:
    rewind = Rewind(step=2, rewound=rewound)
    cell = Cell(
        dataset=entry(DATASET, "digits"), model=config_of(plain), train=own_recipe(),
        prune=Pruning(iterations=2, rewind_batchnorm=False), seed=1,
        method=Half(name="half", criterion=config_of(seen, **EXAMPLES), rewind=rewind),
    )  # fmt: skip
    return iterations(cell)


def iterations(cell: Cell) -> Numbers:
    """What a lineage commits."""
    line = make_lineage(cell, {"name": "own"})
    found: Numbers = {}
    with a_folder() as (folder, _):
        store = Store(str(folder))
        bench = Bench(store, data(), CPU, {line.trunk: frozenset([2])})
        for metrics in run_lineage(line, bench):
            assert metrics is not None
            t, path = metrics["iteration"], iteration_path(metrics["key"])
            losses = [metrics["test_loss"], metrics["pruned_test_loss"]]
            found[f"iteration {t}, losses"] = losses
            state = read_tensors(store, path)
            found[f"iteration {t}, weights"] = [told(state[name]) for name in sorted(state)]
            found[f"iteration {t}, kept"] = places(dict(sorted(read_masks(store, path).items())))
    return found


# All of them


def built_in_configs() -> Iterator[type[Config]]:
    """Every config that keys are made of: the entries of all kinds, and those in their fields."""
    waiting: list[type[Config]] = [Recipe, Pruning]
    waiting += [entry for kind in KINDS.values() for entry in built_in(kind).values()]
    for config in waiting:
        yield config
        values = (field.default for field in config.model_fields.values())
        waiting += {type(each) for each in values if isinstance(each, Config)} - {*waiting}


def named_parts() -> Iterator[tuple[str, str]]:
    """Every part that a sweep file names, an entry or a choice: its kind and its name. What a
    criterion is at initialization is no part: it is the criterion, and `AtInit`. Nor is a stop
    rule, which is in no key."""
    for config in built_in_configs():
        if issubclass(config, Entry) and not issubclass(config, AtInit | StopRule):
            yield config.kind.name, config.entry_name
        for field in config.model_fields.values():
            kinds = [each.kind for each in field.metadata if isinstance(each, Choice)]
            yield from ((kind, each) for kind in kinds for each in get_args(field.annotation))


OF_ENTRY: dict[str, Callable[[Any], Numbers]] = {
    "ablation": of_ablation,
    "augmentation": of_augmentation,
    "criterion": of_criterion,
    "loss": of_loss,
    "lr_schedule": of_schedule,
    "measure": of_measure,
    "method": of_method,
    "model": of_model,
    "optimizer": of_optimizer,
}
"""By kind, what computes the numbers of an entry with its options."""

BY_NAME: dict[str, Callable[[Any], Numbers]] = {
    "baseline": of_baseline,
    "batchnorm": of_batchnorm,
    "dataset": of_dataset,
    "distribution": of_distribution,
    "init": of_init,
    "inputs": of_inputs,
    "keep": of_keep,
    "lr_interval": of_lr_interval,
    "layer_densities": of_layer_densities,
    "padding_mode": of_padding_mode,
    "precision": of_precision,
    "rewound": of_rewound,
    "sampled_rounds": of_sampled_rounds,
    "schedule": of_rounds,
    "scope": of_scope,
    "scoring_data": of_scoring_data,
    "score": of_score,
    "selection": of_selection,
}

SHARED: dict[str, Callable[[], Numbers]] = {
    "AtInit": of_at_init,
    "Augmentation": of_augmentation_base,
    "ByFunction": of_by_function,
    "DatasetOptions": of_dataset_options,
    "Iterative": of_iterative,
    "Loss": of_loss_base,
    "Recipe": of_recipe,
    "plug-ins/criterion": of_plugged_criteria,
    "plug-ins/method": of_plugged_methods,
    EVERYTHING: of_everything,
}
"""What is no part by a name of the sweep file: classes that others derive from, what plug-ins are
given, and what decides every number there is."""


def every_part() -> dict[str, Callable[[], Numbers]]:
    """What computes the numbers of each part, by its name in `VERSIONS`."""
    named = {f"{kind}/{name}": partial(of_named, kind, name) for kind, name in named_parts()}
    return dict(sorted((named | SHARED).items()))


def of_named(kind: str, name: str) -> Numbers:
    if kind in BY_NAME:
        return BY_NAME[kind](name)
    (of_kind,) = (each for each in KINDS.values() if each.name == kind)
    found = OF_ENTRY[kind](entry(of_kind, name))
    for options in FURTHER.get(f"{kind}/{name}", ()):
        more = OF_ENTRY[kind](entry(of_kind, name, **options))
        found |= {f"{what} with {json.dumps(options)}": numbers for what, numbers in more.items()}
    return found


@contextmanager
def one_thread() -> Iterator[None]:
    """What is this small is computed several times faster so, above all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def all_numbers() -> dict[str, Numbers]:
    with one_thread():
        return {part: compute() for part, compute in every_part().items()}


# The ledger of them

Ledger = dict[str, dict[str, Numbers]]
"""By part and version."""

RELATIVE, OF_LARGEST = 1e-5, 1e-6
"""How far numbers may be from those that are pinned, which other processors and versions of
PyTorch compute: of each number, and of the largest beside it."""


DRAWN_BY_MKL = ("sampled_rounds/every", "sampled_rounds/last", "selection/sampled")
"""Where PyTorch is built without it, it draws other exponential numbers from the same seed."""


def version_of(part: str) -> str:
    return str(SCHEMA_VERSION if part == EVERYTHING else VERSIONS.get(part, 1))


def extended(ledger: Ledger, now: Mapping[str, Numbers]) -> Ledger:
    """The ledger with the parts, the versions and the numbers that it lacks; what it has stays."""
    found = {part: {**versions} for part, versions in ledger.items()}
    for part, numbers in now.items():
        pinned = found.setdefault(part, {})
        pinned[version_of(part)] = numbers | pinned.get(version_of(part), {})
    return dict(sorted(found.items()))


def changes(ledger: Ledger, now: Mapping[str, Numbers]) -> Iterator[str]:
    """What to tell of each part whose numbers are not those of its version."""
    for part, numbers in now.items():
        if part in DRAWN_BY_MKL and not torch.backends.mkl.is_available():
            continue
        pinned = ledger.get(part, {}).get(version_of(part))
        if pinned is None:
            yield f"The numbers of {part} are not pinned.{REGENERATE}"
            continue
        new = [name for name in numbers if name not in pinned]
        if new:
            yield f"Of {part}, {', '.join(new)} is not pinned.{REGENERATE}"
        for name, before in pinned.items():
            if not alike(before, numbers.get(name)):
                was, is_ = (json.dumps(each)[:100] for each in (before, numbers.get(name)))
                told = f"The numbers of {part} have changed: {name} was {was} and is {is_}."
                yield told + _raise(part)
                break


REGENERATE = " Pin them: pytest tests/test_golden.py --regenerate-golden"


def _raise(part: str) -> str:
    higher = int(version_of(part)) + 1
    if part == EVERYTHING:
        return (
            " Everybody's stored results would be taken for others. If it cannot be helped, raise "
            f"SCHEMA_VERSION in trainables/lineage/identity.py to {higher}: a last resort, which "
            "has all users train everything anew."
        )
    return (
        " Results that are stored would be taken for others. If it is meant, raise its version: "
        f'"{part}": {higher} in trainables/versions.py, then pytest tests/test_golden.py '
        "--regenerate-golden. What is made with it is trained anew."
    )


def alike(one: Any, other: Any) -> bool:
    """Whether numbers are the same but for rounding, and all else is exactly."""
    before, now = [*_flat(one)], [*_flat(other)]
    sizes = [abs(each) for each in before if isinstance(each, float) and math.isfinite(each)]
    slack = OF_LARGEST * max(sizes, default=0.0)
    return len(before) == len(now) and all(
        math.isclose(b, n, rel_tol=RELATIVE, abs_tol=slack)
        if isinstance(b, float) and isinstance(n, float)
        else type(b) is type(n) and b == n
        for b, n in zip(before, now, strict=True)
    )


def _flat(value: Any) -> Iterator[Any]:
    """The leaves, and how long each list is."""
    if isinstance(value, list):
        yield len(value)
        for each in value:
            yield from _flat(each)
    else:
        yield value


def as_text(ledger: Ledger) -> str:
    """JSON with a line for each list of numbers, in nine digits."""

    def rounded(value: Any) -> Any:
        if isinstance(value, list):
            return [rounded(each) for each in value]
        return float(f"{value:.9g}") if isinstance(value, float) else value

    lines = []
    for part, versions in ledger.items():
        of_versions = []
        for version, numbers in versions.items():
            each = (f"   {json.dumps(n)}: {json.dumps(rounded(v))}" for n, v in numbers.items())
            of_versions.append(f"  {json.dumps(version)}: {{\n" + ",\n".join(each) + "\n  }")
        lines.append(f" {json.dumps(part)}: {{\n" + ",\n".join(of_versions) + "\n }")
    return "{\n" + ",\n".join(lines) + "\n}\n"
