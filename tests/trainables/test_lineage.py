"""A lineage in a plain process: commits, sharing, rewinding, interruption, damage."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from trainables.data import DatasetConfig, DatasetOptions, describe_dataset, identity, load_dataset
from trainables.data.roots import DataRoots
from trainables.errors import Diverged, Interrupted
from trainables.lineage import iteration_run
from trainables.lineage.bench import Bench, StoreOptions
from trainables.lineage.bundle import Failed, run_bundle
from trainables.lineage.commits import commit_iteration
from trainables.lineage.identity import snapshot_key
from trainables.lineage.iteration_run import IterationRun
from trainables.lineage.keys import Cell, Lineage, make_lineage
from trainables.lineage.loop import run_lineage
from trainables.lineage.made import Made
from trainables.lineage.metrics import METRICS_SCHEMA
from trainables.lineage.schemas import EPOCH_SCHEMA, LAYER_SCHEMA
from trainables.lineage.stored import missing_iterations
from trainables.models import ModelConfig, build_model, prunable
from trainables.own_code import own_code
from trainables.pruning import MethodConfig, Network, Pruning
from trainables.pruning.decorator import method as as_method
from trainables.sparsity.masks import Masks, apply_masks, density
from trainables.sparsity.weights import kept_magnitude, measure_sparsity
from trainables.store import MANIFEST, Store, iteration_path, snapshot_path
from trainables.store.artifacts import (
    EPOCHS,
    LAYERS,
    MASK,
    METRICS,
    SPARSITY,
    WEIGHTS,
    decode_masks,
    decode_table,
    decode_tensors,
)
from trainables.store.claims import Claims
from trainables.training.batches import DeviceData, Randomness
from trainables.training.evaluation import evaluate
from trainables.training.progress import State
from trainables.training.recipe import Recipe
from trainables.training.run import Training, never

CPU = torch.device("cpu")
STEPS_PER_EPOCH = 4
OUTSIDE_IDENTITY = {
    "train_seconds", "prune_seconds", "peak_memory_bytes", "finished_at", "host", "attempt",
}  # fmt: skip
ROOTS = DataRoots((), Path())
DIGITS: DatasetOptions = TypeAdapter(DatasetConfig).validate_python(
    {"name": "digits", "subset": 160}
)


def method(name: str, **options: Any) -> Any:
    return TypeAdapter(MethodConfig).validate_python({"name": name, **options})


def model_config(name: str, **options: Any) -> Any:
    return TypeAdapter(ModelConfig).validate_python({"name": name, **options})


MLP = model_config("mlp", hidden=(16,))
CNN = model_config("cnn", hidden=(4, 8))


@as_method
def but_the_last(network: Network) -> Masks:
    """All but the first weights of all but the last layer."""
    *others, last = network.masks
    first = {name: torch.arange(mask.numel()) > 0 for name, mask in network.masks.items()}
    kept = {name: network.masks[name] & first[name].view_as(network.masks[name]) for name in others}
    return kept | {last: network.masks[last]}


def lineage(
    how: Any = None, *, model: Any = MLP, seed: int = 0, keep: str = "last", lr: float = 0.1,
    epochs: int = 2, **pruning: Any,
) -> Lineage:  # fmt: skip
    recipe = Recipe.model_validate(
        {"epochs": epochs, "batch_size": 40, "keep": keep, "optimizer": {"name": "sgd", "lr": lr}}
    )
    how = how or method("lottery_ticket", ratio=0.3)
    prune = Pruning.model_validate({"iterations": 2} | pruning)
    cell = Cell(DIGITS, model, recipe, prune, how, seed)
    return make_lineage(cell, identity(DIGITS, describe_dataset(DIGITS, ROOTS)))


@pytest.fixture(scope="module")
def data() -> DeviceData:
    return DeviceData.of(load_dataset(DIGITS, ROOTS), CPU)


def bench(data: DeviceData, root: Path | Store, **options: Any) -> Bench:
    store = root if isinstance(root, Store) else Store(str(root))
    named = [name for name in options if name in StoreOptions.model_fields]
    keeping = StoreOptions(**{name: options.pop(name) for name in named})
    return Bench(store=store, data=data, device=CPU, keeping=keeping, **options)


def run(one: Lineage, data: DeviceData, root: Path | Store, **options: Any) -> list[dict]:
    committed = run_lineage(one, bench(data, root, **options))
    return [metrics for metrics in committed if metrics is not None]


def pruned_masks(one: Lineage, model: nn.Module, masks: Masks, data: DeviceData) -> Masks:
    """What one step of the lineage's method makes of `masks`, scoring the weights of `model`."""
    scope = one.cell.prune.scope
    return one.cell.method(Network(model, masks, data, one.cell.seed, 1, scope))


@dataclass
class Held:
    """What a store holds of one lineage."""

    weights: list[State] = field(default_factory=list)
    masks: list[Masks] = field(default_factory=list)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    tables: list[dict[str, pa.Table]] = field(default_factory=list)


def held(one: Lineage, root: Path | str) -> Held:
    store, result = Store(str(root)), Held()
    for key in one.keys:
        path = iteration_path(key)
        result.weights.append(decode_tensors(store.read(path, WEIGHTS)))
        result.masks.append(decode_masks(store.read(path, MASK)))
        names = (METRICS, LAYERS, EPOCHS, SPARSITY)
        result.tables.append({name: decode_table(store.read(path, name)) for name in names})
        result.metrics.append(result.tables[-1][METRICS].to_pylist()[0])
    return result


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def assert_same_results(one: Held, other: Held) -> None:
    """Bit for bit, but for times and the like."""
    assert len(one.weights) == len(other.weights)
    for t in range(len(one.weights)):
        assert same(one.weights[t], other.weights[t])
        assert same(one.masks[t], other.masks[t])
        for name in OUTSIDE_IDENTITY:
            one.metrics[t].pop(name)
            other.metrics[t].pop(name)
        assert one.metrics[t] == other.metrics[t]
        for name in (LAYERS, EPOCHS, SPARSITY):
            assert one.tables[t][name].equals(other.tables[t][name])


def net(one: Lineage, state: State, data: DeviceData) -> nn.Module:
    model = build_model(one.cell.model, data.shape, data.classes, one.cell.seed)
    model.load_state_dict(state)
    return model


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach() for name, weight in prunable(model).items()}


@pytest.fixture(scope="module")
def finished(data: DeviceData, tmp_path_factory: pytest.TempPathFactory) -> tuple[Lineage, Path]:
    """A lottery ticket of three iterations, once run and not touched."""
    one, root = lineage(iterations=3), tmp_path_factory.mktemp("finished")
    run(one, data, root)
    return one, root


@pytest.fixture(scope="module")
def result(finished: tuple[Lineage, Path]) -> Held:
    return held(*finished)


# What a lineage leaves


def test_a_lineage_of_t_iterations_commits_t_plus_one(data: DeviceData, tmp_path: Path) -> None:
    one = lineage(iterations=3)
    yielded = run(one, data, tmp_path, git_sha="abc", attempt=2)
    assert [metrics["iteration"] for metrics in yielded] == [0, 1, 2, 3]
    assert [metrics["key"] for metrics in yielded] == list(one.keys)
    assert {metrics["git_sha"] for metrics in yielded} == {"abc"}
    assert {metrics["code"] for metrics in yielded} == {own_code()}
    assert {metrics["attempt"] for metrics in yielded} == {2}
    assert [held(one, tmp_path).metrics[t] for t in range(4)] == yielded
    names = {WEIGHTS, MASK, METRICS, LAYERS, EPOCHS, SPARSITY, MANIFEST}
    assert Store(str(tmp_path)).committed("iterations") == dict.fromkeys(one.keys, names)
    assert Store(str(tmp_path)).names("tmp") == []


def test_running_a_finished_lineage_again_trains_nothing(
    finished: tuple[Lineage, Path], data: DeviceData
) -> None:
    one, root = finished
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert run(one, data, root) == []
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_no_iterations_is_the_trunk_alone(data: DeviceData, tmp_path: Path) -> None:
    assert len(run(lineage(iterations=0), data, tmp_path)) == 1


def test_tables_have_their_schemas(result: Held) -> None:
    sparsity = pa.schema(
        [
            ("state", pa.string()), ("scope", pa.string()), ("layer", pa.string()),
            ("p", pa.float64()), ("q", pa.float64()), ("pq_index", pa.float64()),
        ]
    )  # fmt: skip
    schemas = {
        METRICS: METRICS_SCHEMA, LAYERS: LAYER_SCHEMA, EPOCHS: EPOCH_SCHEMA, SPARSITY: sparsity
    }  # fmt: skip
    for t, tables in enumerate(result.tables):
        assert {name: table.schema for name, table in tables.items()} == schemas
        grids = 110 * (1 + 2 + 2)
        assert {name: len(table) for name, table in tables.items()} == {
            METRICS: 1, LAYERS: 2, EPOCHS: 2, SPARSITY: grids * (2 if t else 1)
        }  # fmt: skip


def test_each_iteration_keeps_exactly_what_the_ratio_leaves(result: Held) -> None:
    total = 64 * 16 + 16 * 10
    expected = [total]
    for _ in range(3):
        expected.append(expected[-1] - expected[-1] * 3 // 10)
    assert [row["params_kept"] for row in result.metrics] == expected
    assert [row["params_prunable"] for row in result.metrics] == [total] * 4
    assert [row["density"] for row in result.metrics] == [kept / total for kept in expected]
    for row, masks, tables in zip(result.metrics, result.masks, result.tables, strict=True):
        assert density(masks) == row["density"]
        layers = tables[LAYERS].to_pylist()
        assert sum(layer["kept"] for layer in layers) == row["params_kept"]
        assert row["macs_dense"] == total
        assert row["macs_kept"] == row["params_kept"]
        assert 0 < row["params_effective"] <= row["params_kept"]
        assert row["density_effective"] == row["params_effective"] / total
        assert row["macs_effective"] == row["params_effective"]


def test_masks_are_nested_and_pruned_weights_are_zero(result: Held) -> None:
    for t, (weights, masks) in enumerate(zip(result.weights, result.masks, strict=True)):
        for name, mask in masks.items():
            assert (weights[name][~mask] == 0).all()
            assert (weights[name][mask] != 0).all()
            assert t == 0 or not (mask & ~result.masks[t - 1][name]).any()


def test_measures_are_those_of_the_committed_weights(
    finished: tuple[Lineage, Path], result: Held, data: DeviceData
) -> None:
    for t, row in enumerate(result.metrics):
        model = net(finished[0], result.weights[t], data)
        measured = evaluate(model, data.test)
        assert (row["test_loss"], row["test_accuracy"]) == (measured.loss, measured.accuracy)
        sparsity = measure_sparsity(weights_of(model), result.masks[t])
        assert (row["pq_index"], row["gini"]) == (sparsity.pq_index, sparsity.gini)
        initial = weights_of(
            build_model(finished[0].cell.model, data.shape, data.classes, finished[0].cell.seed)
        )
        assert result.tables[t][LAYERS].to_pylist() == [
            vars(layer) | vars(kept_magnitude(initial[layer.layer], result.masks[t][layer.layer]))
            for layer in sparsity.layers
        ]
        last = result.tables[t][EPOCHS].to_pylist()[-1]
        assert last["epoch"] == 2
        for name in ("train_loss", "train_accuracy", "test_loss", "test_accuracy"):
            assert row[name] == last[name]


def test_the_trunk_has_no_pruned_model(result: Held) -> None:
    columns = ["pruned_test_loss", "pruned_test_accuracy", "pq_index_pruned", "gini_pruned"]
    for t, row in enumerate(result.metrics):
        assert [row[name] is None for name in columns] == [t == 0] * 4
        states = set(result.tables[t][SPARSITY]["state"].to_pylist())
        assert states == ({"retrained", "pruned"} if t else {"retrained"})


def test_the_best_epochs_weights_come_with_that_epochs_measures(
    data: DeviceData, tmp_path: Path
) -> None:
    one = lineage(keep="best_test", lr=1.0, epochs=4, iterations=1)
    run(one, data, tmp_path)
    result = held(one, tmp_path)
    earlier = 0
    for t, row in enumerate(result.metrics):
        epochs = result.tables[t][EPOCHS].to_pylist()
        best = max(epochs, key=lambda epoch: epoch["test_accuracy"])
        earlier += best is not epochs[-1]
        assert row["train_loss"] == best["train_loss"]
        assert row["test_loss"] == evaluate(net(one, result.weights[t], data), data.test).loss
        assert row["test_loss"] == best["test_loss"]
    assert earlier > 0


def test_a_diverging_lineage_says_so_and_commits_no_iteration(
    data: DeviceData, tmp_path: Path
) -> None:
    with pytest.raises(Diverged):
        run(lineage(lr=1e30), data, tmp_path)
    assert Store(str(tmp_path)).committed("iterations") == {}


# Whose weights are pruned


@pytest.mark.parametrize("scope", ["global", "neuron"])
@pytest.mark.parametrize(
    "how",
    [
        method("one_shot", ratio=0.3),
        method("lottery_ticket", ratio=0.3),
        method("sap", p=1.0, q=2.0),
    ],
    ids=lambda how: how.name,
)
def test_every_mask_is_what_pruning_makes_of_the_scored_weights(
    how: Any, scope: str, data: DeviceData, tmp_path: Path
) -> None:
    one = lineage(how, iterations=2, scope=scope)
    run(one, data, tmp_path)
    result = held(one, tmp_path)
    for t in (1, 2):
        scored = result.weights[0 if how.name == "one_shot" else t - 1]
        model = net(one, scored, data)
        masks = pruned_masks(one, model, result.masks[t - 1], data)
        assert same(masks, result.masks[t])
        assert density(result.masks[t]) < density(result.masks[t - 1])

        apply_masks(model, masks)
        pruned = evaluate(model, data.test)
        row = result.metrics[t]
        assert row["pruned_test_loss"] == pruned.loss
        assert row["pruned_test_accuracy"] == pruned.accuracy
        sparsity = measure_sparsity(weights_of(model), masks)
        assert (row["pq_index_pruned"], row["gini_pruned"]) == (sparsity.pq_index, sparsity.gini)
    # The two kinds of scores lead to different masks, or the above could not tell them apart.
    other = net(one, result.weights[1 if how.name == "one_shot" else 0], data)
    assert not same(pruned_masks(one, other, result.masks[1], data), result.masks[2])


# Rewinding


def snapshot(one: Lineage, step: int, root: Path) -> State:
    path = snapshot_path(snapshot_key(one.keys[0], step))
    return decode_tensors(Store(str(root)).read(path, WEIGHTS))


def retrained(
    one: Lineage, t: int, start: State, masks: Masks, data: DeviceData, step: int = 0
) -> State:
    model = net(one, start, data)
    apply_masks(model, masks)
    randomness = Randomness(one.cell.seed, t)
    Training(model, masks, data, one.cell.train, randomness, start_step=step).finish()
    return model.state_dict()


@pytest.mark.parametrize(
    "how",
    [
        method("lottery_ticket", ratio=0.5),
        method("imp", density=0.5, ratio=0.3, data="random"),
        vars(but_the_last)["config"](name="but_the_last"),
    ],
    ids=lambda how: how.name,
)
def test_masks_are_in_the_order_of_the_layers_whatever_that_of_their_names(
    how: Any, data: DeviceData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = model_config("mlp", hidden=(9, 8, 7))
    one, layers = lineage(how, model=deep), [*prunable(build_model(deep, (1, 8, 8), 10, 0))]
    assert layers != sorted(layers)
    found: list[list[str]] = []

    def committed(at: Any, model: Any, initial: Any, made: Made, claim: Any) -> Any:
        found.append([*made.masks])
        return commit_iteration(at, model, initial, made, claim)

    monkeypatch.setattr(iteration_run, "commit_iteration", committed)
    run(one, data, tmp_path)
    assert found == [layers] * len(one.steps)
    if how.name == "but_the_last":
        *others, last = layers
        for masks in held(one, tmp_path).masks[1:]:
            assert [bool(masks[name].all()) for name in others] == [False] * len(others)
            assert masks[last].all()


def test_retraining_starts_from_the_initialization(
    finished: tuple[Lineage, Path], result: Held, data: DeviceData
) -> None:
    one, root = finished
    start = snapshot(one, 0, root)
    assert same(
        start, build_model(one.cell.model, data.shape, data.classes, one.cell.seed).state_dict()
    )
    for t in (1, 3):
        assert same(retrained(one, t, start, result.masks[t], data), result.weights[t])


@pytest.mark.parametrize("step", [1, 4, 5])
def test_retraining_starts_from_the_trunk_after_k_steps(
    step: int, data: DeviceData, tmp_path: Path
) -> None:
    one = lineage(method("lottery_ticket", ratio=0.3, rewind={"step": step}), iterations=2)
    run(one, data, tmp_path, snapshots={one.keys[0]: frozenset({step})})
    result, start = held(one, tmp_path), snapshot(one, step, tmp_path)
    assert not same(start, snapshot(one, 0, tmp_path))
    for t in (1, 2):
        assert same(retrained(one, t, start, result.masks[t], data, step), result.weights[t])
        epochs = result.tables[t][EPOCHS]["epoch"].to_pylist()
        assert epochs == [1, 2][step // STEPS_PER_EPOCH :]


@pytest.mark.parametrize("model", [MLP, CNN], ids=["mlp", "cnn"])
def test_a_snapshot_made_later_is_the_one_that_was_not_kept(
    model: Any, data: DeviceData, tmp_path: Path
) -> None:
    for step in (1, STEPS_PER_EPOCH, 6):
        how = method("lottery_ticket", ratio=0.3, rewind={"step": step})
        one = lineage(how, model=model, iterations=1)
        run(one, data, tmp_path / f"passing{step}", snapshots={one.keys[0]: frozenset({step})})
        # The trunk of a lineage that did not ask for it leaves none.
        run(lineage(model=model, iterations=0), data, tmp_path / f"later{step}")
        later = Store(str(tmp_path / f"later{step}"))
        assert not later.is_committed(snapshot_path(snapshot_key(one.keys[0], step)))
        run(one, data, tmp_path / f"later{step}")
        passing, recomputed = (
            snapshot(one, step, tmp_path / f"{how}{step}") for how in ("passing", "later")
        )
        assert same(passing, recomputed)
        assert_same_results(
            held(one, tmp_path / f"passing{step}"), held(one, tmp_path / f"later{step}")
        )


@pytest.mark.parametrize("rewound", [True, False])
@pytest.mark.parametrize("name", ["lottery_ticket", "one_shot"])
def test_batchnorm_statistics_rewind_unless_told_otherwise(
    name: str, rewound: bool, data: DeviceData, tmp_path: Path
) -> None:
    one = lineage(method(name), model=CNN, iterations=2, rewind_batchnorm=rewound)
    run(one, data, tmp_path)
    result, start = held(one, tmp_path), snapshot(one, 0, tmp_path)
    buffers = [buffer for buffer, _ in net(one, start, data).named_buffers()]
    assert len(buffers) == 2 * 3
    for t in (1, 2):
        # Those of what was scored.
        scored = 0 if name == "one_shot" else t - 1
        kept = {buffer: result.weights[scored][buffer] for buffer in buffers}
        as_trained, as_rewound = (
            retrained(one, t, state, result.masks[t], data) for state in (start | kept, start)
        )
        assert not same(as_trained, as_rewound)
        assert same(result.weights[t], as_rewound if rewound else as_trained)
        batches = result.weights[t]["norm1.num_batches_tracked"].item()
        assert batches == 2 * STEPS_PER_EPOCH * (1 if rewound else scored + 2)


# Sharing


def test_lineages_share_a_trunk_and_a_longer_one_its_shorter(
    data: DeviceData, tmp_path: Path
) -> None:
    run(lineage(iterations=1), data, tmp_path)
    longer = run(lineage(iterations=3), data, tmp_path)
    assert [metrics["iteration"] for metrics in longer] == [2, 3]
    other = run(lineage(method("sap"), iterations=1), data, tmp_path)
    assert [metrics["iteration"] for metrics in other] == [1]
    assert len(run(lineage(seed=1, iterations=0), data, tmp_path)) == 1


def test_a_lineage_made_longer_is_the_one_run_at_once(
    finished: tuple[Lineage, Path], result: Held, data: DeviceData, tmp_path: Path
) -> None:
    for iterations in (0, 1, 3):
        run(lineage(iterations=iterations), data, tmp_path)
    assert_same_results(held(finished[0], tmp_path), held(*finished))


# Keeping weights


def with_weights(one: Lineage, root: Path) -> list[int]:
    files = Store(str(root)).committed("iterations")
    return [t for t, key in enumerate(one.keys) if WEIGHTS in files[key]]


@pytest.mark.parametrize(("keep", "left"), [("all", [0, 1, 2, 3]), ("last", [0, 3]), ("none", [0])])
def test_weights_are_kept_as_told_and_all_else_always(
    keep: str, left: list[int], finished: tuple[Lineage, Path], data: DeviceData, tmp_path: Path
) -> None:
    one, full = finished
    run(one, data, tmp_path, keep_weights=keep)
    assert with_weights(one, tmp_path) == left
    store, reference = Store(str(tmp_path)), Store(str(full))
    for t, key in enumerate(one.keys):
        path = iteration_path(key)
        names = {MASK, METRICS, LAYERS, EPOCHS, SPARSITY} | ({WEIGHTS} if t in left else set())
        assert set(store.manifest(path)["files"]) == names
        for name in names - {METRICS}:
            assert store.read(path, name) == reference.read(path, name)
    assert run(one, data, tmp_path, keep_weights=keep) == []


@pytest.mark.parametrize(
    ("keep", "trained", "left"), [("last", [3], [0, 3]), ("none", [1, 2, 3], [0])]
)
def test_a_lineage_whose_weights_are_gone_can_be_made_longer(
    keep: str,
    trained: list[int],
    left: list[int],
    finished: tuple[Lineage, Path],
    data: DeviceData,
    tmp_path: Path,
) -> None:
    one, full = finished
    run(lineage(iterations=2), data, tmp_path, keep_weights=keep)
    again = run(one, data, tmp_path, keep_weights=keep)
    assert [metrics["iteration"] for metrics in again] == trained
    assert with_weights(one, tmp_path) == left
    store, reference = Store(str(tmp_path)), Store(str(full))
    for key in one.keys:
        for name in (MASK, LAYERS, EPOCHS, SPARSITY):
            path = iteration_path(key)
            assert store.read(path, name) == reference.read(path, name)


def test_the_iterations_to_train_are_the_missing_and_the_parents_they_need() -> None:
    whole, bare = frozenset({WEIGHTS, MASK}), frozenset({MASK})

    def missing(*files: frozenset[str] | None, name: str = "lottery_ticket") -> list[int]:
        one = lineage(method(name, ratio=0.3), iterations=len(files) - 1)
        return missing_iterations(one, dict(zip(one.keys, files, strict=True)).get)

    assert missing(None, None) == [0, 1]
    assert missing(whole, whole) == []
    assert missing(whole, bare, bare) == []
    assert missing(whole, bare, whole, None) == [3]
    assert missing(whole, bare, bare, None) == [1, 2, 3]
    assert missing(whole, None, whole) == [1]
    assert missing(bare, None, whole, None) == [0, 1, 3]
    # One shot scores the dense weights, whatever t is.
    assert missing(bare, whole, None, name="one_shot") == [0, 2]
    assert missing(bare, bare, None, name="one_shot") == [0, 1, 2]
    assert missing(bare, bare, bare, name="one_shot") == []


# Interruption


class Killed(BaseException):
    """As a signal or a lost machine ends it: not an Exception."""


@dataclass(frozen=True)
class FailingStore(Store):
    """A store whose user is interrupted when it commits below a folder for the n-th time."""

    folder: str = "iterations/"
    at: int = 1
    after: bool = False
    counts: list[int] = field(default_factory=lambda: [0], compare=False)

    def commit(self, path: str, files: Any) -> bool:
        hit = path.startswith(self.folder)
        self.counts[0] += hit
        due = hit and self.counts[0] == self.at
        if due and not self.after:
            raise Killed
        committed = super().commit(path, files)
        if due:
            raise Killed
        return committed


@pytest.mark.parametrize("after", [False, True], ids=["before its commit", "after its commit"])
@pytest.mark.parametrize("at", [1, 2, 4])
def test_a_lineage_interrupted_at_an_iteration_ends_as_an_unbroken_one(
    at: int, after: bool, finished: tuple[Lineage, Path], data: DeviceData, tmp_path: Path
) -> None:
    one, full = finished
    with pytest.raises(Killed):
        run(one, data, FailingStore(str(tmp_path), at=at, after=after))
    rest = run(one, data, tmp_path)
    assert len(rest) == 4 - at + (0 if after else 1)
    assert_same_results(held(one, tmp_path), held(one, full))


@pytest.mark.parametrize("at", [1, 5, 8, 18])
def test_a_lineage_interrupted_between_steps_ends_as_an_unbroken_one(
    at: int, finished: tuple[Lineage, Path], data: DeviceData, tmp_path: Path
) -> None:
    one, full = finished
    failing = FailingStore(str(tmp_path), folder="checkpoints/", at=at, after=True)
    with pytest.raises(Killed):
        run(one, data, failing, checkpoint_minutes=1e-9)
    store = Store(str(tmp_path))
    key = one.keys[(at - 1) // (2 * STEPS_PER_EPOCH)]
    assert store.names("checkpoints") == [key]
    run(one, data, tmp_path)
    assert store.names("checkpoints") == []
    assert_same_results(held(one, tmp_path), held(one, full))


@pytest.mark.parametrize("fused", [1, 3], ids=["alone", "fused"])
def test_lineages_that_are_told_to_go_give_their_claims_back_and_go_on_where_they_were(
    fused: int, data: DeviceData, tmp_path: Path
) -> None:
    """In the trunk before and after a snapshot for rewinding, between two iterations, and in the
    training of a pruned network."""
    seeds = range(fused)
    lines = [lineage(method("lottery_ticket", ratio=0.3, rewind={"step": 6}), seed=seed,
                     keep="best_test", epochs=4)
             for seed in seeds]  # fmt: skip
    snapshots = {line.trunk: frozenset({6}) for line in lines}

    def go_on(root: Path, is_told: Callable[[], bool] = never) -> int:
        """How often it was asked, which it is at every step."""
        asked = 0

        def told() -> bool:
            nonlocal asked
            asked += 1
            return is_told()

        benches = [(line, bench(data, root, snapshots=snapshots, is_told=told)) for line in lines]
        try:
            for outcomes in run_bundle(benches):
                assert not any(isinstance(each, Failed) for each in outcomes.values())
        except Interrupted:
            assert Store(str(root)).names("claims") == []
        return asked

    whole = go_on(tmp_path / "unbroken")
    parts = []
    for steps in (3, 4, 14, 9):
        asked = count(1)
        parts.append(go_on(tmp_path / "told", lambda asked=asked, n=steps: next(asked) >= n))
    parts.append(go_on(tmp_path / "told"))
    # Nothing was trained twice: what is asked once more is asked at the beginning of each part.
    assert sum(parts) <= whole + 2 * fused * len(parts)
    assert Store(str(tmp_path / "told")).names("checkpoints") == []
    for line in lines:
        one, other = held(line, tmp_path / "told"), held(line, tmp_path / "unbroken")
        assert_same_results(one, other)


def test_a_lineage_left_between_two_iterations_is_taken_up_there(
    finished: tuple[Lineage, Path], data: DeviceData, tmp_path: Path
) -> None:
    one, full = finished
    started = run_lineage(one, bench(data, tmp_path))
    assert [metrics and metrics["iteration"] for metrics in islice(started, 2)] == [0, 1]
    assert started.close() is None
    assert [metrics["iteration"] for metrics in run(one, data, tmp_path)] == [2, 3]
    assert_same_results(held(one, tmp_path), held(one, full))


# Damage


def flip(path: Path) -> None:
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 0x10
    path.write_bytes(damaged)


@pytest.mark.parametrize(
    ("t", "name", "trained"),
    [
        (1, WEIGHTS, [1, 2]),
        (1, MASK, [1, 2]),
        (1, MANIFEST, [1, 2]),
        (0, MANIFEST, [0, 2]),
    ],
)
def test_a_damaged_parent_is_set_aside_and_trained_again(
    t: int, name: str, trained: list[int], data: DeviceData, tmp_path: Path
) -> None:
    one = lineage(iterations=2)
    run(one, data, tmp_path / "whole")
    run(lineage(iterations=1), data, tmp_path / "damaged")
    file = tmp_path / "damaged" / iteration_path(one.keys[t]) / name
    if name == MANIFEST:
        file.write_text(file.read_text()[:-5])
    else:
        flip(file)
    again = run(one, data, tmp_path / "damaged")
    assert [metrics["iteration"] for metrics in again] == trained
    assert len(Store(str(tmp_path / "damaged")).names("quarantine")) == 1
    assert_same_results(held(one, tmp_path / "damaged"), held(one, tmp_path / "whole"))


def test_a_damaged_parent_that_another_sets_aside_is_waited_for(
    data: DeviceData, tmp_path: Path
) -> None:
    """Two lineages of one parent meet its damage at once: the second is no failure."""
    one, store = lineage(iterations=1), Store(str(tmp_path))
    run(lineage(iterations=0), data, tmp_path)
    path = iteration_path(one.keys[0])
    flip(tmp_path / path / WEIGHTS)
    claim = Claims(store).take(one.keys[0])
    assert claim is not None
    committed = run_lineage(one, bench(data, tmp_path))
    assert [next(committed), next(committed)] == [None, None]
    store.set_aside(path)
    assert next(committed) is None
    claim.withdraw()
    assert [row["iteration"] for row in committed if row] == [0, 1]
    assert len(store.names("quarantine")) == 1


def test_a_damaged_trunk_is_trained_again_for_one_shot(data: DeviceData, tmp_path: Path) -> None:
    how = method("one_shot", ratio=0.3)
    one = lineage(how, iterations=2)
    run(one, data, tmp_path / "whole")
    run(lineage(how, iterations=1), data, tmp_path / "damaged")
    flip(tmp_path / "damaged" / iteration_path(one.keys[0]) / WEIGHTS)
    again = run(one, data, tmp_path / "damaged")
    assert [metrics["iteration"] for metrics in again] == [0, 2]
    assert_same_results(held(one, tmp_path / "damaged"), held(one, tmp_path / "whole"))


@pytest.mark.parametrize("step", [0, 3])
def test_a_damaged_snapshot_is_made_again(step: int, data: DeviceData, tmp_path: Path) -> None:
    how = method("lottery_ticket", ratio=0.3, rewind={"step": step})
    one = lineage(how, iterations=2)
    kept = {one.keys[0]: frozenset({step})}
    run(one, data, tmp_path / "whole", snapshots=kept)
    run(lineage(how, iterations=1), data, tmp_path / "damaged", snapshots=kept)
    flip(tmp_path / "damaged" / snapshot_path(snapshot_key(one.keys[0], step)) / WEIGHTS)
    again = run(one, data, tmp_path / "damaged", snapshots=kept)
    assert [metrics["iteration"] for metrics in again] == [2]
    assert same(snapshot(one, step, tmp_path / "damaged"), snapshot(one, step, tmp_path / "whole"))
    assert_same_results(held(one, tmp_path / "damaged"), held(one, tmp_path / "whole"))


def test_damage_to_what_is_not_needed_trains_nothing(data: DeviceData, tmp_path: Path) -> None:
    one = lineage(iterations=1)
    run(one, data, tmp_path)
    flip(tmp_path / iteration_path(one.keys[0]) / WEIGHTS)
    assert run(one, data, tmp_path) == []


def test_a_commit_that_another_run_made_meanwhile_stays(data: DeviceData, tmp_path: Path) -> None:
    one = lineage(iterations=1)
    run(one, data, tmp_path)
    manifest = Store(str(tmp_path)).manifest(iteration_path(one.keys[1]))
    # As a run does that had looked before the other one committed.
    IterationRun(one, 1, bench(data, tmp_path)).run()
    assert Store(str(tmp_path)).manifest(iteration_path(one.keys[1])) == manifest
    assert not (tmp_path / "quarantine").exists()


# What it asks of the store


def test_a_lineage_asks_the_store_as_often_for_each_iteration_however_many_there_are(
    data: DeviceData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    look, manifest, peek = Store.is_committed, Store.manifest, Store.peek
    monkeypatch.setattr(Store, "is_committed", lambda s, path: asked.append(path) or look(s, path))
    monkeypatch.setattr(Store, "manifest", lambda s, path: asked.append(path) or manifest(s, path))
    monkeypatch.setattr(Store, "peek", lambda s, path: asked.append(path) or peek(s, path))

    def requests(iterations: int) -> int:
        asked.clear()
        run(lineage(iterations=iterations), data, tmp_path / str(iterations))
        return len(asked)

    two, four, six = (requests(iterations) for iterations in (2, 4, 6))
    assert six - four == four - two
    asked.clear()
    assert run(lineage(iterations=6), data, tmp_path / "6") == []
    assert len(asked) == 7
