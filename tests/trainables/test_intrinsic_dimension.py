"""Intrinsic dimension: the projection, training in its subspace, and how a ticket is measured."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from any_networks import frozen, tied_embedding, tied_linears
from pydantic import TypeAdapter, ValidationError
from test_connectivity import measured, trainings
from test_lineage import CNN, CPU, DIGITS, MLP, ROOTS, bench, held, lineage, method, run
from torch import Tensor, nn

from orchestrator.run.planning import wanted_snapshots
from trainables.data import load_dataset
from trainables.errors import Interrupted
from trainables.lineage.bundle import Finished, run_bundle
from trainables.lineage.keys import Lineage
from trainables.lineage.measurement_run import MeasurementRun
from trainables.measurements import MeasureConfig
from trainables.measurements.projection import Projection, Subspace, free_weights
from trainables.models import build_model, prunable
from trainables.store import Store, iteration_path
from trainables.store.artifacts import decode_table, measured_file
from trainables.training.batches import DeviceData, Randomness
from trainables.training.progress import Progress
from trainables.training.recipe import Recipe
from trainables.training.run import Training

TABLE = measured_file("intrinsic_dimension")


def measure(**options: Any) -> Any:
    given = {"name": "intrinsic_dimension", "dimensions": [5, 40]} | options
    return TypeAdapter(MeasureConfig).validate_python(given)


def rows(of: Lineage, root: Path) -> list[dict[str, Any]]:
    return [row for table in bits(of, root) for row in decode_table(table).to_pylist()]


def bits(of: Lineage, root: Path) -> list[bytes]:
    store = Store(str(root))
    return [store.read(iteration_path(each.key), TABLE) for each in of.measurements]


@pytest.fixture(scope="module")
def data() -> DeviceData:
    return DeviceData.of(load_dataset(DIGITS, ROOTS), CPU)


# The projection


def drawn(rows: int, columns: int, seed: int = 0) -> Projection:
    return Projection.drawn(rows, columns, torch.Generator().manual_seed(seed))


def as_matrix(projection: Projection) -> Tensor:
    columns = len(projection.in_column)
    return torch.stack([projection(one) for one in torch.eye(columns)], dim=1)


def test_columns_have_unit_norm_in_expectation_and_are_nearly_orthogonal() -> None:
    matrix = as_matrix(drawn(10_000, 400))
    squares = (matrix**2).sum(0)
    # Binomial counts of 100 expected entries of 1/100 each: a deviation of 0.1 for each column.
    assert squares.mean() == pytest.approx(1, abs=5 * 0.1 / 400**0.5)
    assert squares.std() == pytest.approx(0.1, rel=0.2)
    assert matrix.abs().unique().tolist() == pytest.approx([0, 0.1])
    products = matrix.T @ matrix - torch.diag(squares)
    assert products.abs().max() < 0.1
    assert matrix.sum(0).mean().abs() < 5 * 1 / 400**0.5


def test_a_projection_is_what_its_seed_draws() -> None:
    one, again, other = (as_matrix(drawn(50, 7, seed)) for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_a_product_and_its_gradient_are_those_of_the_matrix() -> None:
    row, column = torch.tensor([2, 0, 2, 3]), torch.tensor([0, 1, 1, 0])
    projection = Projection.of(row, column, torch.tensor([1.0, 2, 3, 4]), 5, 3)
    matrix = torch.tensor([[0, 2, 0], [0, 0, 0], [1, 3, 0], [4, 0, 0], [0, 0, 0.0]])
    z = torch.tensor([1.0, -1, 7], requires_grad=True)
    product = projection(z)
    assert product.tolist() == (matrix @ z).tolist()
    product.backward(wave := torch.tensor([1.0, 2, 3, 4, 5]))
    assert z.grad is not None
    assert z.grad.tolist() == (matrix.T @ wave).tolist()


def test_a_matrix_of_266_million_places_takes_what_its_nonzero_values_take() -> None:
    projection = drawn(266_000, 1_000)
    count = len(projection.values)
    assert count == pytest.approx(266_000**0.5 * 1_000, rel=0.01)
    held = sum(each.numel() * each.element_size() for each in vars(projection).values())
    assert held == count * 2 * (8 + 4) + (266_000 + 1_000) * 8


# The subspace


def identity(size: int) -> Projection:
    return Projection.of(torch.arange(size), torch.arange(size), torch.ones(size), size, size)


ODD = (tied_linears, tied_embedding, frozen)
ODD_NETWORKS = [vars(each)["config"](name=each.__name__) for each in ODD]


def some_masks(model: nn.Module) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {n: torch.rand(w.shape, generator=generator) < 0.5 for n, w in prunable(model).items()}


@pytest.mark.parametrize("architecture", [MLP, CNN, *ODD_NETWORKS], ids=lambda each: each.name)
def test_with_all_directions_of_the_free_weights_training_is_as_without_a_subspace(
    architecture: Any, data: DeviceData
) -> None:
    optimizer = {"name": "sgd", "lr": 0.05, "weight_decay": 0.0}
    recipe = Recipe.model_validate({"epochs": 2, "batch_size": 40, "optimizer": optimizer})
    plain, moved = (build_model(architecture, data.shape, data.classes, 0) for _ in range(2))
    masks = some_masks(plain)
    free = free_weights(moved, masks)
    moving = [each for each in plain.parameters() if each.requires_grad]
    pruned = sum(
        int((~mask).sum()) for n, mask in masks.items() if plain.get_parameter(n).requires_grad
    )
    assert len(free) == sum(each.numel() for each in moving) - pruned
    subspace = Subspace(moved, masks, identity(len(free)))
    direct, within = (
        Training(each, given, data, recipe, Randomness(0, 1)).finish()
        for each, given in ((plain, masks), (subspace, None))
    )
    for one, other in zip(direct.rows, within.rows, strict=True):
        assert other["test_accuracy"] == one["test_accuracy"]
        assert other["train_loss"] == pytest.approx(one["train_loss"], rel=1e-4)
    for name, weight in subspace.weights().items():
        assert torch.allclose(weight, plain.get_parameter(name), atol=1e-4)
        if name in masks:
            assert not weight[~masks[name]].any()


def test_a_convex_problem_ends_where_the_subspace_comes_nearest_to_its_minimum() -> None:
    """Of |θ − (1, 0)|² on the line θ = z (3, 4) / 5 the minimum is at z = 3/5."""
    model = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(model.weight)
    column = Projection.of(
        torch.tensor([0, 1]), torch.tensor([0, 0]), torch.tensor([0.6, 0.8]), 2, 1
    )
    subspace = Subspace(model, {"weight": torch.ones(1, 2, dtype=torch.bool)}, column)
    inputs, wanted = torch.eye(2), torch.tensor([[1.0], [0.0]])
    for _ in range(60):
        loss = ((subspace(inputs) - wanted) ** 2).sum()
        (gradient,) = torch.autograd.grad(loss, [subspace.z])
        subspace.z.data -= 0.2 * gradient
    assert subspace.z.tolist() == pytest.approx([0.6])
    assert subspace.weights()["weight"].tolist()[0] == pytest.approx([0.36, 0.48])
    assert not model.weight.any()


# A ticket that is measured


def test_a_ticket_is_trained_in_each_dimension_from_what_it_was_rewound_to(
    data: DeviceData, tmp_path: Path
) -> None:
    ticket = lineage(method("lottery_ticket", ratio=0.3, rewind={"step": 3}), iterations=1)
    one = measured(ticket, measure(dimensions=[40, 5, 9_999], share=0.5))
    subspaces: list[tuple[Subspace, Any]] = []
    for training in trainings(one, data, tmp_path):
        model = training.model
        if isinstance(model, Subspace):
            t = len(subspaces) // 2
            tickets = MeasurementRun(one, t, bench(data, tmp_path), one.measurements[t])
            start, masks = tickets.rewound((0, 3)[t]), tickets.masks(t)
            assert training.start_step == (0, 3)[t]
            for name, weight in model.weights().items():
                assert torch.equal(weight, start[name] * masks.get(name, torch.tensor(1)))
            subspaces.append((model, masks))
    assert [len(model.z) for model, _ in subspaces] == [5, 40, 5, 40]
    for model, masks in subspaces:
        assert model.z.any()
        for name, weight in model.weights().items():
            assert name not in masks or not weight[~masks[name]].any()
    accuracies = [each["test_accuracy"] for each in held(one, tmp_path).metrics]
    found = rows(one, tmp_path)
    for t, accuracy in enumerate(accuracies):
        *points, least = found[3 * t : 3 * t + 3]
        assert [(row["what"], row["dimension"]) for row in points] == [("point", 5), ("point", 40)]
        assert {row["baseline_accuracy"] for row in (*points, least)} == {accuracy}
        enough = [p["dimension"] for p in points if p["test_accuracy"] >= 0.5 * accuracy]
        assert (least["what"], least["dimension"]) == ("intrinsic", min(enough, default=None))
    masks = held(one, tmp_path).masks
    free = [sum(int(mask.sum()) for mask in masks[t].values()) + 16 + 10 for t in (0, 1)]
    assert [found[0]["free"], found[3]["free"]] == free


@pytest.mark.parametrize("rewound", ["weights", "learning_rate", "nothing"])
def test_no_step_of_the_dense_network_is_trained_again_for_a_dimension(
    data: DeviceData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rewound: str
) -> None:
    again: list[int] = []
    monkeypatch.setattr(Training, "until", lambda self, step: again.append(step))
    how = method("lottery_ticket", ratio=0.3, rewind={"step": 3, "rewound": rewound})
    one = measured(lineage(how, iterations=1), measure(dimensions=[5], iterations=[1]))
    run(one, data, tmp_path, snapshots=wanted_snapshots([one]))
    assert rows(one, tmp_path)
    assert not again


def test_who_is_told_to_go_in_a_dimension_goes_on_from_there_and_ends_with_the_same_bits(
    data: DeviceData, tmp_path: Path
) -> None:
    one = measured(lineage(iterations=1), measure(iterations=[1]))
    run(one, data, tmp_path / "undisturbed")
    root, told, asked = tmp_path / "told", False, 0

    def is_told() -> bool:
        nonlocal asked
        asked += told
        return told and asked > 3

    going = trainings(one, data, root, is_told=is_told)
    for _ in range(4):  # two iterations, the first dimension, and the second to be begun
        next(going)
    told = True
    with pytest.raises(Interrupted):
        next(going)
    first, second = trainings(one, data, root)
    for training, left in ((first, 0), (second, 2)):
        assert training.checkpoint is not None
        found = training.checkpoint.load(training.model)
        assert found is None or training.recipe.epochs - found.epoch == left
    assert bits(one, root) == bits(one, tmp_path / "undisturbed")
    assert not Store(str(root)).names("checkpoints")


@pytest.mark.parametrize("in_a_bundle", [False, True])
def test_a_dimension_in_which_training_diverges_is_a_point_that_is_not_reached(
    data: DeviceData, tmp_path: Path, in_a_bundle: bool
) -> None:
    one = measured(lineage(iterations=0), measure(dimensions=[5, 40, 60], share=0.01))
    going = trainings(one, data, tmp_path)
    training = next(each for each in going if isinstance(each.model, Subspace))
    assert isinstance(training.model, Subspace)
    assert training.checkpoint is not None
    nn.init.constant_(training.model.z, 1e30)
    training.checkpoint.save(training.model, Progress())
    going.close()
    if in_a_bundle:
        *_, last = run_bundle([(one, bench(data, tmp_path))])
        assert isinstance(last[one.id], Finished)
    else:
        run(one, data, tmp_path)
    *points, least = rows(one, tmp_path)
    assert [row["dimension"] for row in points] == [5, 40, 60]
    for name in ("test_loss", "test_accuracy"):
        assert [row[name] is None for row in points] == [True, False, False]
    assert (least["what"], least["dimension"]) == ("intrinsic", 40)
    assert not Store(str(tmp_path)).names("checkpoints")


@pytest.mark.parametrize("examples", [360, 10_000])
def test_exactly_the_share_is_enough(examples: int) -> None:
    for tenths in (8, 9, 10):
        some = measure(share=tenths / 10)
        for of in range(10, examples + 1, 10):
            goal = of * tenths // 10
            assert some.is_enough(goal / examples, of / examples)
            assert not some.is_enough((goal - 1) / examples, of / examples)


def test_the_dense_network_is_a_baseline_where_there_is_one(
    data: DeviceData, tmp_path: Path
) -> None:
    dense = measure(baseline="dense", iterations=[1])
    one = measured(lineage(iterations=1), dense)
    run(one, data, tmp_path)
    accuracy = held(one, tmp_path).metrics[0]["test_accuracy"]
    assert {row["baseline_accuracy"] for row in rows(one, tmp_path)} == {accuracy}
    assert not measured(lineage(method("snip", density=0.5)), dense).measurements
    assert measured(lineage(method("snip", density=0.5)), measure()).measurements


def test_dimensions_in_another_order_are_the_same_measure() -> None:
    assert measure(dimensions=[3, 1, 3]) == measure(dimensions=[1, 3])
    with pytest.raises(ValidationError):
        measure(dimensions=[0])
    with pytest.raises(ValidationError):
        measure(dimensions=[])


def test_the_keys_of_measurements_stay_what_they_are() -> None:
    """A changed key makes stored measurements unreachable, and all of them are made again."""
    one = replace(lineage(), keys=("a" * 64, "b" * 64, "c" * 64))
    every = measure(dimensions=[100, 10]), measure(baseline="dense", share=0.8, iterations=[1])
    found = [each.key[:16] for each in measured(one, *every).measurements]
    assert found == GOLDEN_KEYS


GOLDEN_KEYS = ["6adedb429ab6bcfa", "f6e77a2240b20f71", "b13b9fafc8f748e0", "4a0c23c7e8fd32cc"]
