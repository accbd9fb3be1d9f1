"""Any `nn.Module` can be a model: every sort of layer, from the first weight to the last commit."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from orchestrator.commands.export import export_iteration
from orchestrator.records.recording import record_sweep
from orchestrator.sweepfile.spec import SweepSpec
from trainables.data import DatasetConfig, DatasetOptions, describe_dataset, identity, load_dataset
from trainables.data.roots import DataRoots
from trainables.lineage.bench import Bench
from trainables.lineage.keys import Cell, Lineage, make_lineage
from trainables.lineage.loop import run_lineage
from trainables.models import MODEL, ModelConfig, Shape, build_model, check_model, prunable
from trainables.plugins.entry import PluginError
from trainables.plugins.loading import load_plugins
from trainables.plugins.source import read_plugin
from trainables.pruning import MethodConfig, Pruning
from trainables.sparsity.masks import Masks
from trainables.sparsity.multiply_adds import multiply_adds
from trainables.store import Store, iteration_path
from trainables.store.artifacts import METRICS, decode_table, read_masks, read_tensors
from trainables.training.batches import DeviceData
from trainables.training.evaluation import evaluate
from trainables.training.progress import State
from trainables.training.recipe import Recipe

CPU = torch.device("cpu")
ROOTS = DataRoots((), Path())
SHAPE: Shape = (1, 8, 8)
DIGITS: DatasetOptions = TypeAdapter(DatasetConfig).validate_python(
    {"name": "digits", "subset": 80}
)
RECIPE = {"epochs": 1, "batch_size": 20, "optimizer": {"name": "sgd", "lr": 0.02}}
CATALOGUE = load_plugins([read_plugin("any_networks.py", Path(__file__).parent)])
UNFIT = {"computed_weight", "scaled", "two_heads", "noting", "lazy_misfit"}
NETWORKS = sorted(CATALOGUE.plugged[MODEL.name].keys() - UNFIT)
TIED = {
    "tied_linears": ("first.weight", "second.weight"),
    "tied_embedding": ("decoder.weight", "embedding.weight"),
}
"""The name that a shared weight is pruned by, and its other one."""

RATIO, DENSITY = 0.3, 0.25
METHODS: list[tuple[dict[str, Any], str]] = [
    ({"name": "lottery_ticket", "ratio": RATIO}, "global"),
    ({"name": "sap"}, "layer"),
    ({"name": "sap"}, "neuron"),
    ({"name": "snip", "density": DENSITY, "examples": 40}, "global"),
    ({"name": "synflow", "density": DENSITY, "rounds": 3}, "global"),
    ({"name": "grasp", "density": DENSITY, "examples": 40}, "global"),
    ({"name": "ntk", "density": DENSITY, "examples": 5}, "global"),
    ({"name": "prospr", "density": DENSITY, "examples": 8}, "global"),
]


def config(name: str) -> Any:
    return TypeAdapter(ModelConfig).validate_python({"name": name}, context=CATALOGUE)


def built(name: str, seed: int = 0) -> nn.Module:
    return build_model(config(name), SHAPE, 10, seed)


def lineage(network: str, method: dict[str, Any], scope: str = "global", **prune: Any) -> Lineage:
    how = TypeAdapter(MethodConfig).validate_python(method)
    pruning = Pruning.model_validate({"iterations": 2, "scope": scope, **prune})
    cell = Cell(DIGITS, config(network), Recipe.model_validate(RECIPE), pruning, how, 0)
    return make_lineage(cell, identity(DIGITS, describe_dataset(DIGITS, ROOTS)))


@pytest.fixture(scope="module")
def data() -> DeviceData:
    return DeviceData.of(load_dataset(DIGITS, ROOTS), CPU)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One for all, so that a network's trunk is trained once."""
    return Store(str(tmp_path_factory.mktemp("store")))


def trained(one: Lineage, data: DeviceData, store: Store) -> list[tuple[dict, State, Masks]]:
    """The metrics, the state and the masks of each of its iterations, as they are stored."""
    for _ in run_lineage(one, Bench(store, data, CPU)):
        pass
    paths = [iteration_path(key) for key in one.keys]
    return [
        (
            decode_table(store.read(path, METRICS)).to_pylist()[0],
            read_tensors(store, path),
            read_masks(store, path),
        )
        for path in paths
    ]


def test_there_are_networks_of_every_sort() -> None:
    assert len(NETWORKS) == 13
    assert set(TIED) < set(NETWORKS)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(
    ("method", "scope"), METHODS, ids=lambda each: str(each).split("'")[-2:][0]
)
def test_a_lineage(
    network: str, method: dict[str, Any], scope: str, data: DeviceData, store: Store
) -> None:
    weights = prunable(built(network))
    total = kept = sum(weight.numel() for weight in weights.values())
    one = lineage(network, method, scope)
    for step, (metrics, state, masks) in zip(one.steps, trained(one, data, store), strict=True):
        assert {name: mask.shape for name, mask in masks.items()} == {
            name: weight.shape for name, weight in weights.items()
        }
        left = sum(int(mask.sum()) for mask in masks.values())
        assert metrics["params_prunable"] == total
        assert metrics["params_kept"] == left
        assert metrics["density"] == left / total
        if method["name"] == "lottery_ticket":
            assert left == kept - (math.floor(RATIO * kept) if step.kind == "prune" else 0)
        elif method["name"] == "sap":
            # A neuron of a few weights may keep them all.
            assert (
                left < kept or step.kind == "train" or (scope == "neuron" and left == kept < total)
            )
        else:
            assert left == total - math.floor((1 - DENSITY) * total)
        kept = left
        numbers = [value for value in metrics.values() if isinstance(value, float)]
        assert all(map(math.isfinite, numbers))
        assert 0 < metrics["macs_kept"] <= metrics["macs_dense"]
        assert_stored(network, metrics, state, masks, data)


def assert_stored(
    network: str, metrics: dict[str, Any], state: State, masks: Masks, data: DeviceData
) -> None:
    """The state is a whole one, with zeros where the masks say so, and gives what was measured."""
    for name, mask in masks.items():
        assert not state[name][~mask].any()
        assert state[name][mask].any() == mask.any()
    fresh = built(network, seed=1)
    fresh.load_state_dict(state)
    assert evaluate(fresh, data.test).loss == pytest.approx(metrics["test_loss"], rel=1e-6)
    if network in TIED:
        pruned, other = TIED[network]
        assert pruned in masks
        assert other not in masks
        assert torch.equal(state[pruned], state[other])


@pytest.mark.parametrize("network", sorted(TIED))
def test_an_export_of_shared_weights_loads_into_a_new_network(
    network: str, data: DeviceData, store: Store, tmp_path: Path
) -> None:
    one = lineage(network, METHODS[0][0])
    _, (_, state, _), _ = trained(one, data, store)
    sweep = {"name": "x", "dataset": DIGITS, "model": config(network), "train": RECIPE}
    spec = SweepSpec.model_validate(sweep | {"methods": [METHODS[0][0]]}, context=CATALOGUE)
    record = record_sweep(spec, [one])
    files = export_iteration(store, record, one.id, 1, tmp_path / "out")
    fresh = built(network, seed=1)
    fresh.load_state_dict(torch.load(files[2]))
    assert all(torch.equal(value, state[name]) for name, value in fresh.state_dict().items())
    pruned, other = TIED[network]
    assert fresh.get_parameter(pruned) is fresh.get_parameter(other)


@pytest.mark.parametrize("network", ["attention", "shared_norm"])
def test_buffers_that_are_left_as_trained(network: str, data: DeviceData, store: Store) -> None:
    # With a learning rate of almost nothing, what is left of the trunk are its buffers.
    one = lineage(network, METHODS[0][0], rewind_batchnorm=False)
    back = lineage(network, METHODS[0][0], rewind_batchnorm=True)
    kept, rewound = (trained(each, data, store)[1][1] for each in (one, back))
    steps = "norm.num_batches_tracked"
    if network == "shared_norm":
        # The norm is used twice a step; four steps an epoch.
        assert (kept[steps].item(), rewound[steps].item()) == (16, 8)
        assert torch.equal(kept["norm.running_mean"], kept["again.running_mean"])
    else:
        assert all(torch.equal(kept[name], rewound[name]) for name in kept)


# Cost, by hand, of one image of 8x8 and ten classes


@pytest.mark.parametrize(
    ("network", "dense"),
    [
        # [8, 4, 4] from 9 weights each, [8, 2, 2] from 2·9 each, [8, 1, 1] from 4 each.
        ("grouped", 16 * (8 * 9) + 4 * (8 * 2 * 9) + 8 * 4 + 8 * 10),
        ("conv1d", 6 * (6 * 8 * 3) + 36 * 10),
        ("conv3d", 9 * (4 * 9) + 36 * 10),
        # Two layers, each on eight rows.
        ("tied_linears", 2 * 8 * (8 * 8) + 64 * 10),
        # Of the shared weight, the embedding costs nothing; the layer runs on eight columns.
        ("tied_embedding", 8 * (6 * 9) + 72 * 10),
        # Its projection out, on eight rows; the one in is no Linear.
        ("attention", 8 * (8 * 8) + 8 * 10),
        # A Linear, that projection and two more, on eight rows.
        ("encoder_layer", 8 * (8 * 8 + 8 * 8 + 8 * 16 + 16 * 8) + 8 * 10),
        # Four gates, from eight inputs and six units, in eight steps.
        ("recurrent", 8 * (4 * 6 * 8 + 4 * 6 * 6) + 6 * 10),
        # The norm's own products; what is computed from a parameter is none.
        ("normed", 64 * 8 + 8 * 8 + 8 * 10),
    ],
)
def test_multiply_adds(network: str, dense: int) -> None:
    model = built(network)
    assert multiply_adds(model, SHAPE) == dense
    assert multiply_adds(model.requires_grad_(False), SHAPE) == dense
    every = {name: weight.numel() for name, weight in prunable(model).items()}
    assert multiply_adds(model, SHAPE, every) == dense
    assert multiply_adds(model, SHAPE, dict.fromkeys(every, 0)) == 0


def test_multiply_adds_of_what_is_left() -> None:
    kept = {"first.weight": 5, "head.weight": 7}
    assert multiply_adds(built("tied_linears"), SHAPE, kept) == 2 * 8 * 5 + 7


def test_multiply_adds_of_other_uses_of_a_weight() -> None:
    class Odd(nn.Module):
        """A weight transposed, in parts, by einsum, and in a transposed convolution."""

        def __init__(self) -> None:
            super().__init__()
            self.square = nn.Parameter(torch.rand(8, 8))
            self.upward = nn.ConvTranspose1d(8, 2, 4, stride=2)

        def prunes(self, name: str, parameter: nn.Parameter) -> bool:
            return parameter.ndim > 1

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            x = images[:, 0] @ self.square.t()
            x = torch.cat([nn.functional.linear(x, part) for part in self.square.chunk(2)], dim=-1)
            return self.upward(torch.einsum("ntd,de->nte", x, self.square))

    assert multiply_adds(Odd(), SHAPE) == 3 * 8 * 64 + 8 * (8 * 2 * 4)


def test_counting_leaves_torch_its_fast_paths() -> None:
    def switches() -> tuple[object, ...]:
        backends = torch.backends
        return backends.mha.get_fastpath_enabled(), backends.mkldnn.enabled, backends.cudnn.enabled

    before = switches()
    multiply_adds(built("encoder_layer"), SHAPE)
    assert switches() == before
    assert before[0]


# Weights


def test_lazy_weights_come_from_the_seed() -> None:
    one, same, other = built("lazy", 3), built("lazy", 3), built("lazy", 4)
    state = one.state_dict()
    assert all(torch.equal(value, same.state_dict()[name]) for name, value in state.items())
    assert not torch.equal(state["0.weight"], other.state_dict()["0.weight"])
    assert list(prunable(one)) == ["0.weight", "4.weight"]
    assert state["1.num_batches_tracked"] == 0
    assert all(module.training for module in one.modules())


def test_each_shared_weight_is_prunable_once() -> None:
    assert list(prunable(built("tied_linears"))) == ["first.weight", "head.weight"]
    assert list(prunable(built("tied_embedding"))) == ["decoder.weight", "head.weight"]


def test_a_network_can_choose_what_is_pruned() -> None:
    assert list(prunable(built("normed"))) == [
        "hidden.parametrizations.weight.original", "older.weight_orig", "head.weight",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("computed_weight", r"the weight of 1 is computed .*prunes\(name, parameter\)"),
        ("scaled", "prunes scale, which is a single number"),
        ("two_heads", r"maps 2 images to tuple in training; it must give logits of .*\(2, 10\)"),
        ("noting", "has _extra_state in its state_dict, which is str and no tensor"),
        ("lazy_misfit", "cannot take images of 1x8x8"),
    ],
)
def test_a_network_that_cannot_work_is_refused_in_one_message(network: str, message: str) -> None:
    where = rf"any_networks\.py:\d+: {network}.*"
    with pytest.raises(PluginError, match=where + message) as refused:
        check_model(config(network), built(network), SHAPE, 10)
    assert "\n" not in str(refused.value)
