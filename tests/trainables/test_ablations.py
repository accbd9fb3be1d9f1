"""Ablations of a stored mask: what each makes of it, its keys, and its training."""

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from test_lineage import (
    CNN,
    CPU,
    DIGITS,
    MLP,
    ROOTS,
    STEPS_PER_EPOCH,
    Held,
    assert_same_results,
    bench,
    held,
    lineage,
    method,
    net,
    run,
    same,
    weights_of,
)  # fmt: skip
from torch import Tensor

from trainables.config import canonical
from trainables.data import describe_dataset, identity, load_dataset
from trainables.errors import Interrupted
from trainables.lineage.identity import next_key
from trainables.lineage.keys import Lineage, make_lineage
from trainables.lineage.loop import run_lineage
from trainables.lineage.stored import missing_iterations
from trainables.models import build_model
from trainables.plugins.entry import PluginError, built_in
from trainables.pruning.ablation import ABLATION, Ablation, AblationConfig, Branch, OfMasks
from trainables.sparsity.masks import Masks, apply_masks, kept_counts
from trainables.store import Store, iteration_path
from trainables.store.artifacts import WEIGHTS
from trainables.training.batches import DeviceData, Randomness
from trainables.training.optimizers import SGD
from trainables.training.randomness import stream, stream_seed
from trainables.training.recipe import Recipe
from trainables.training.run import Training
from trainables.training.schedules import Constant

IDENTITY = identity(DIGITS, describe_dataset(DIGITS, ROOTS))
EVERY: dict[str, dict[str, Any]] = {
    "shuffle_layers": {}, "random_same_layers": {}, "reinit": {}, "invert_scores": {},
    "finetune": {}, "rewind_lr": {"step": 3}, "transport": {"seed": 3},
}  # fmt: skip
"""Each with options that it needs."""


def ablation(name: str, **options: Any) -> Any:
    given = EVERY.get(name, {}) | options
    return TypeAdapter(AblationConfig).validate_python({"name": name, **given})


def of(one: Lineage, name: str, **options: Any) -> Lineage:
    """The lineage of an ablation of `one`."""
    return make_lineage(replace(one.cell, ablation=ablation(name, **options)), one.dataset)


@pytest.fixture(scope="module")
def data() -> DeviceData:
    return DeviceData.of(load_dataset(DIGITS, ROOTS), CPU)


# What each makes of masks, on tensors that can be looked at

BEFORE = {"a": torch.ones(2, 3).bool(), "b": torch.tensor([True, True, True, False])}
MASKS = {
    "a": torch.tensor([[True, True, False], [False, False, False]]),
    "b": torch.tensor([False, True, False, False]),
}
SCORES = {"a": torch.tensor([[6.0, 5, 4], [1, 3, 2]]), "b": torch.tensor([2.0, 3, 1, 0])}


def masks_of(name: str, iteration: int = 1, seed: int = 0) -> Masks:
    return ablation(name)(Branch(MASKS, BEFORE, lambda: SCORES, name, seed, iteration))


def test_the_lowest_scores_are_kept_of_those_that_were_there_to_choose_from() -> None:
    found = masks_of("invert_scores")
    assert found["a"].tolist() == [[False, False, False], [True, False, True]]
    # The last one's score is lower still, and it was pruned before.
    assert found["b"].tolist() == [False, False, True, False]


def test_layers_are_shuffled_each_by_itself() -> None:
    def permuted(name: str, mask: Tensor) -> Tensor:
        generator = stream(0, "ablation", "shuffle_layers", 1, name)
        return mask.flatten()[torch.randperm(mask.numel(), generator=generator)].view(mask.shape)

    expected = {name: permuted(name, mask) for name, mask in MASKS.items()}
    assert same(masks_of("shuffle_layers"), expected)
    # Whatever the order of layers: that of a stored mask's is no one's.
    backwards = dict(reversed(MASKS.items()))
    branch = Branch(backwards, BEFORE, lambda: SCORES, "shuffle_layers", 0, 1)
    assert same(ablation("shuffle_layers")(branch), expected)


def test_a_random_mask_is_of_the_highest_of_as_many_draws() -> None:
    found = masks_of("random_same_layers")
    for name, mask in found.items():
        generator = stream(0, "ablation", "random_same_layers", 1, name)
        drawn = torch.rand(mask.shape, generator=generator, dtype=torch.float64)
        assert drawn[mask].min() > drawn[~mask].max()


@pytest.mark.parametrize("name", ["reinit", "finetune", "rewind_lr", "transport"])
def test_the_others_keep_the_mask(name: str) -> None:
    assert same(masks_of(name), MASKS)


@pytest.mark.parametrize("name", EVERY)
def test_each_layer_keeps_as_many(name: str) -> None:
    assert kept_counts(masks_of(name)) == {"a": 2, "b": 1}


@pytest.mark.parametrize("name", ["shuffle_layers", "random_same_layers"])
def test_seeds_and_iterations_have_draws_of_their_own(name: str) -> None:
    wide = {"a": torch.arange(100) < 50}

    def drawn(seed: int, iteration: int) -> Tensor:
        return ablation(name)(Branch(wide, wide, lambda: {}, name, seed, iteration))["a"]

    first, again, other, later = drawn(0, 1), drawn(0, 1), drawn(1, 1), drawn(0, 2)
    assert torch.equal(first, again)
    assert not any(torch.equal(first, each) for each in (other, later))


@pytest.mark.parametrize(
    "found", [None, {"a": MASKS["a"]}, MASKS | {"b": torch.ones(4)}, MASKS | {"c": MASKS["a"]}]
)
def test_what_a_function_gives_has_to_be_masks(found: Any) -> None:
    def mine(branch: Branch) -> Any:
        return found

    config = ABLATION.made_of(mine, "mine", OfMasks)
    branch = Branch(MASKS, BEFORE, lambda: SCORES, "mine", 0, 1)
    with pytest.raises(PluginError, match=r"test_ablations.py:\d+: mine must give a mask"):
        config(name="mine")(branch)


# Keys


def test_a_key_is_of_the_iteration_and_of_what_is_changed_and_nothing_else() -> None:
    one = lineage(iterations=3)
    found = of(one, "rewind_lr", at=2)
    assert found.keys[:-1] == one.keys[:3]
    changed = '{"ablation":{"name":"rewind_lr","step":3}}'
    assert found.own_keys == (next_key(one.keys[2], changed),)
    assert [step.iteration for step in found.own_steps] == [2]


def test_the_keys_of_every_ablation() -> None:
    """A changed key makes stored results unreachable."""
    one = lineage(iterations=2)
    assert {name: of(one, name).keys[-1][:10] for name in EVERY} == KEYS


KEYS = {
    "shuffle_layers": "4f3bf8443d", "random_same_layers": "a1551e6896", "reinit": "9c7b4c3316",
    "invert_scores": "56289064d9",
    "finetune": "ac90baef2b", "rewind_lr": "1782f44989", "transport": "8d31eb5f0e",
}  # fmt: skip


def test_without_an_iteration_the_last_is_meant() -> None:
    short, long = lineage(iterations=2), lineage(iterations=3)
    assert of(short, "reinit").keys[:-1] == short.keys
    assert of(long, "reinit").keys[:-1] == long.keys
    assert of(short, "reinit").own_keys == of(long, "reinit", at=2).own_keys
    assert of(short, "reinit").id == of(long, "reinit", at=2).id != of(long, "reinit").id
    assert len({short.id, *(of(short, name).id for name in EVERY)}) == 1 + len(EVERY)


def test_a_config_says_what_it_is_and_that_of_others_nothing() -> None:
    one = lineage()
    assert "ablation" not in one.config()
    assert of(one, "transport").config() == one.config() | {
        "ablation": {"name": "transport", "seed": 3}
    }


@pytest.mark.parametrize(
    ("how", "name", "options", "told"),
    [
        (None, "reinit", {"at": 3}, "no iteration 3 to branch off: it has 1 to 2"),
        (method("snip", density=0.5), "finetune", {}, "snip prunes initial weights"),
        (None, "transport", {"seed": 0}, "seed 0 on digits is where the mask was found"),
        (
            method("lottery_ticket", rewind={"rewound": "learning_rate"}),
            "transport",
            {"seed": 3},
            "goes on from trained weights",
        ),
        (method("imp", density=0.2, data="random"), "finetune", {}, "trained on noise"),
    ],
)
def test_what_means_nothing_is_refused(
    how: Any, name: str, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        of(lineage(how), name, **options)


def test_of_a_lineage_that_prunes_nothing_there_is_no_ablation() -> None:
    with pytest.raises(ValueError, match="no iteration 1 to branch off: it has none that prunes"):
        of(lineage(iterations=0), "reinit")


def test_a_transport_goes_somewhere() -> None:
    with pytest.raises(ValidationError, match="needs a seed, a dataset, or both"):
        TypeAdapter(AblationConfig).validate_python({"name": "transport"})


# Training


@pytest.fixture(scope="module")
def trained(data: DeviceData, tmp_path_factory: pytest.TempPathFactory) -> tuple[Lineage, Path]:
    """Lottery tickets that rewind to step 2, and every ablation of the second of two iterations."""
    one = lineage(method("lottery_ticket", ratio=0.3, rewind={"step": 2}), iterations=2)
    root = tmp_path_factory.mktemp("ablations")
    run(one, data, root)
    for name in EVERY:
        (metrics,) = run(of(one, name), data, root)
        assert (metrics["iteration"], metrics["key"]) == (2, of(one, name).keys[-1])
    return one, root


def expected(
    one: Lineage, data: DeviceData, masks: Masks, start: dict[str, Tensor], **changed: Any
) -> dict[str, Tensor]:
    """The weights of a training that is put together here."""
    model = net(one, start, data)
    apply_masks(model, masks)
    options = {"recipe": one.cell.train, "randomness": Randomness(0, 2), "start_step": 2}
    Training(model, masks, data, **(options | changed)).finish()
    return model.state_dict()


def initial(one: Lineage, data: DeviceData, seed: int) -> dict[str, Tensor]:
    return build_model(one.cell.model, data.shape, data.classes, seed).state_dict()


def rewound(one: Lineage, data: DeviceData, seed: int) -> dict[str, Tensor]:
    """w_2 of the trunk of a seed."""
    model = net(one, initial(one, data, seed), data)
    Training(model, None, data, one.cell.train, Randomness(seed, 0)).until(2)
    return model.state_dict()


def test_each_trains_what_it_says(trained: tuple[Lineage, Path], data: DeviceData) -> None:
    one, root = trained
    before = held(one, root)
    masks, pruned = before.masks[2], before.weights[1]
    recipe = one.cell.train
    last = recipe.model_copy(
        update={
            "optimizer": SGD(name="sgd", lr=recipe.rate(1)),
            "lr_schedule": Constant(name="constant"),
        }
    )
    w_2 = rewound(one, data, 0)
    reinit = initial(one, data, stream_seed(0, "ablation", "reinit"))
    training = {
        "reinit": expected(one, data, masks, reinit, start_step=0),
        "finetune": expected(one, data, masks, pruned, start_step=0, recipe=last),
        "rewind_lr": expected(one, data, masks, pruned, start_step=3),
        "transport": expected(one, data, masks, rewound(one, data, 3), randomness=Randomness(3, 2)),
    }
    for name in EVERY:
        found = held(of(one, name), root)
        assert kept_counts(found.masks[3]) == kept_counts(masks), name
        keeps = name in training
        assert same(found.masks[3], masks) is keeps, name
        made = training[name] if keeps else expected(one, data, found.masks[3], w_2)
        assert same(found.weights[3], made), name


def test_the_inverted_mask_is_of_the_lowest_of_what_was_kept_before(
    trained: tuple[Lineage, Path], data: DeviceData
) -> None:
    one, root = trained
    found, before = held(of(one, "invert_scores"), root), held(one, root)
    weights = weights_of(net(one, before.weights[1], data))
    for name, mask in found.masks[3].items():
        candidates = before.masks[1][name]
        assert not (mask & ~candidates).any()
        kept, gone = weights[name][mask].abs(), weights[name][candidates & ~mask].abs()
        assert kept.max() <= gone.min()


def test_the_weights_that_it_starts_from_are_measured(
    trained: tuple[Lineage, Path],
) -> None:
    """As the pruned model, that of the iteration itself, where nothing but its training differs."""
    one, root = trained
    original, kept = held(one, root).metrics[2], held(of(one, "finetune"), root).metrics[3]
    assert kept["pruned_test_accuracy"] == original["pruned_test_accuracy"]
    assert kept["test_accuracy"] is not None


@pytest.mark.parametrize("name", ["shuffle_layers", "invert_scores", "reinit", "transport"])
@pytest.mark.parametrize(
    "how", [method("snip", density=0.3, examples=50), method("synflow", density=0.2, rounds=3)],
    ids=["snip", "synflow"],
)  # fmt: skip
def test_at_initialization(how: Any, name: str, data: DeviceData, tmp_path: Path) -> None:
    one = lineage(how, epochs=1)
    found = of(one, name)
    assert len(run(found, data, tmp_path)) == 2  # what it branches off comes first
    masks = held(found, tmp_path).masks
    assert kept_counts(masks[0]) == kept_counts(masks[1])
    if name == "invert_scores":
        assert not any((masks[0][n] & masks[1][n]).any() for n in masks[0] if
                       masks[0][n].float().mean() < 0.3)  # fmt: skip


@pytest.mark.parametrize("name", ["invert_scores", "transport"])
def test_of_a_mask_that_was_found_on_noise_and_is_trained_again(
    name: str, data: DeviceData, tmp_path: Path
) -> None:
    one = lineage(method("imp", density=0.6, ratio=0.3, data="random"), epochs=1)
    found = of(one, name)
    assert [step.kind for step in found.steps][-2:] == ["retrain", "ablate"]
    run(found, data, tmp_path)
    masks = held(found, tmp_path).masks
    assert kept_counts(masks[-1]) == kept_counts(masks[-2])


def test_one_shot_scores_the_dense_weights(data: DeviceData, tmp_path: Path) -> None:
    one = lineage(method("one_shot", ratio=0.3), iterations=2, epochs=1)
    found = of(one, "invert_scores")
    run(found, data, tmp_path)
    there = held(found, tmp_path)
    weights = weights_of(net(one, there.weights[0], data))
    for name, mask in there.masks[-1].items():
        gone = there.masks[1][name] & ~mask
        assert weights[name][mask].abs().max() <= weights[name][gone].abs().min()


class Told:
    """Says yes at the n-th time that it is asked, and from then on."""

    def __init__(self, at: int) -> None:
        self.asked, self.at = count(), at

    def __call__(self) -> bool:
        return next(self.asked) >= self.at


@pytest.mark.parametrize("name", ["shuffle_layers", "finetune"])
def test_an_interrupted_ablation_ends_as_an_unbroken_one(
    name: str, trained: tuple[Lineage, Path], data: DeviceData, tmp_path: Path
) -> None:
    one, root = trained
    again = of(one, name)
    run(one, data, tmp_path)
    told: Callable[[], bool] = Told(STEPS_PER_EPOCH)
    with pytest.raises(Interrupted):
        list(run_lineage(again, bench(data, tmp_path, is_told=told)))
    assert missing_iterations(again, _files(tmp_path)) == [3]
    run(again, data, tmp_path)
    assert_same_results(_own(held(again, root)), _own(held(again, tmp_path)))


def _own(all_: Held) -> Held:
    return Held(all_.weights[-1:], all_.masks[-1:], all_.metrics[-1:], all_.tables[-1:])


def _files(root: Path) -> Callable[[str], Any]:
    return Store(str(root)).committed("iterations").get


def test_an_ablation_drops_no_weights_but_its_own(data: DeviceData, tmp_path: Path) -> None:
    one = lineage(iterations=2, epochs=1)
    run(one, data, tmp_path, keep_weights="last", branch_points=frozenset(one.keys[1:2]))
    before = _with_weights(one, tmp_path)
    found = of(one, "finetune")
    assert len(run(found, data, tmp_path, keep_weights="none")) == 1
    assert _with_weights(one, tmp_path) == before == [True, True, True]
    assert _with_weights(found, tmp_path) == [True, True, True, False]


def test_weights_that_are_gone_are_trained_again_where_they_are_read(
    data: DeviceData, tmp_path: Path
) -> None:
    one = lineage(iterations=2, epochs=1)
    run(one, data, tmp_path, keep_weights="last")
    assert _with_weights(one, tmp_path) == [True, False, True]
    for name, missing in {"reinit": [3], "shuffle_layers": [3], "finetune": [1, 3]}.items():
        assert missing_iterations(of(one, name), _files(tmp_path)) == missing, name
    run(of(one, "invert_scores"), data, tmp_path, keep_weights="last")
    assert _with_weights(one, tmp_path) == [True, True, True]


def test_what_an_ablation_has_to_train_before_it_drops_what_it_does_not_read(
    data: DeviceData, tmp_path: Path
) -> None:
    found = of(lineage(iterations=3, epochs=1), "finetune")
    run(found, data, tmp_path, keep_weights="last")
    assert _with_weights(found, tmp_path) == [True, False, True, True, True]


def _with_weights(one: Lineage, root: Path) -> list[bool]:
    store = Store(str(root))
    return [WEIGHTS in store.manifest(iteration_path(key))["files"] for key in one.keys]


def test_batchnorm_goes_on_from_trained_statistics(data: DeviceData, tmp_path: Path) -> None:
    one = lineage(model=CNN, iterations=1, epochs=1)
    found = of(one, "rewind_lr", step=STEPS_PER_EPOCH - 1)
    run(found, data, tmp_path)
    there = held(found, tmp_path)
    buffers = [n for n in there.weights[0] if n.endswith("running_mean")]
    assert buffers
    steps = there.weights[-1][buffers[0].replace("running_mean", "num_batches_tracked")]
    assert int(steps) == STEPS_PER_EPOCH + 1


@pytest.mark.parametrize("rewound", ["learning_rate", "nothing"])
def test_of_a_method_that_goes_on_from_trained_weights_so_does_the_ablation(
    rewound: str, data: DeviceData, tmp_path: Path
) -> None:
    """Which are kept for it, and trained again where they are gone."""
    one = lineage(method("lottery_ticket", ratio=0.3, rewind={"rewound": rewound}), iterations=2)
    run(one, data, tmp_path, keep_weights="last")
    found = of(one, "shuffle_layers")
    assert found.weights_read(found.first_own) == {1}
    assert missing_iterations(found, _files(tmp_path)) == [1, 3]
    run(found, data, tmp_path, keep_weights="last", branch_points=frozenset(one.keys[1:2]))
    there = held(found, tmp_path)
    recipe = one.cell.train.at_last_rate() if rewound == "nothing" else one.cell.train
    again = expected(one, data, there.masks[-1], there.weights[1], recipe=recipe, start_step=0)
    assert same(there.weights[-1], again)
    # New weights are trained by the whole recipe.
    run(of(one, "reinit"), data, tmp_path)
    drawn = initial(one, data, stream_seed(0, "ablation", "reinit"))
    again = expected(one, data, there.masks[2], drawn, start_step=0)
    assert same(held(of(one, "reinit"), tmp_path).weights[-1], again)


def test_buffers_of_an_ablation_are_those_of_what_it_is_of(
    data: DeviceData, tmp_path: Path
) -> None:
    one = lineage(model=CNN, iterations=1, epochs=1)
    one = make_lineage(
        replace(one.cell, prune=one.cell.prune.model_copy(update={"rewind_batchnorm": False})),
        one.dataset,
    )
    run(one, data, tmp_path)
    found = of(one, "shuffle_layers")
    assert found.weights_read(found.first_own) == {0}
    run(found, data, tmp_path)
    there = held(found, tmp_path)
    counted = next(n for n in there.weights[0] if n.endswith("num_batches_tracked"))
    assert int(there.weights[-1][counted]) == int(there.weights[1][counted]) == 2 * STEPS_PER_EPOCH


def test_buffers_of_an_ablation_of_what_is_trained_again_are_those_that_this_is_rewound_to(
    data: DeviceData, tmp_path: Path
) -> None:
    """And not those of a training on noise, which has found the mask."""
    how = method("imp", density=0.7, ratio=0.3, data="random")
    one = lineage(how, model=CNN, epochs=1)
    one = make_lineage(
        replace(one.cell, prune=one.cell.prune.model_copy(update={"rewind_batchnorm": False})),
        one.dataset,
    )
    run(one, data, tmp_path)
    found = of(one, "shuffle_layers")
    assert [step.kind for step in found.steps][-2:] == ["retrain", "ablate"]
    assert found.weights_read(found.first_own) == set()
    run(found, data, tmp_path)
    there = held(found, tmp_path)
    counted = next(n for n in there.weights[0] if n.endswith("num_batches_tracked"))
    assert int(there.weights[-1][counted]) == int(there.weights[-2][counted]) == STEPS_PER_EPOCH


class Hotter(Ablation):
    """As the iteration did, but at another learning rate."""

    def recipe(self, recipe: Recipe) -> Recipe:
        optimizer = recipe.optimizer.model_copy(update={"lr": 0.3})
        return recipe.model_copy(update={"optimizer": optimizer})


@pytest.mark.parametrize("rewound_", ["weights", "learning_rate"])
def test_an_ablation_of_the_recipe_starts_from_the_weights_that_the_iteration_started_from(
    rewound_: str, data: DeviceData, tmp_path: Path
) -> None:
    how = method("lottery_ticket", ratio=0.3, rewind={"step": 2, "rewound": rewound_})
    one = lineage(how, iterations=1)
    found = make_lineage(replace(one.cell, ablation=Hotter(name="hotter")), one.dataset)
    # The weights after two steps were not kept: they are trained again.
    run(one, data, tmp_path)
    for name in Store(str(tmp_path)).names("snapshots"):
        Store(str(tmp_path)).remove(f"snapshots/{name}")
    run(found, data, tmp_path)
    there = held(found, tmp_path)
    start = rewound(one, data, 0) if rewound_ == "weights" else there.weights[0]
    recipe = Hotter(name="hotter").recipe(one.cell.train)
    again = expected(one, data, there.masks[1], start, recipe=recipe, randomness=Randomness(0, 1))
    assert same(there.weights[-1], again)


def test_the_mask_of_one_dataset_on_another(data: DeviceData, tmp_path: Path) -> None:
    other = TypeAdapter(type(DIGITS)).validate_python({"name": "digits", "subset": 120})
    there = DeviceData.of(load_dataset(other, ROOTS), CPU)
    one = lineage(iterations=1, epochs=1)
    moved = identity(other, describe_dataset(other, ROOTS))
    cell = replace(one.cell, ablation=ablation("transport", seed=None, dataset=other))
    found = make_lineage(cell, one.dataset, moved)
    assert found.config()["ablation"] == {"name": "transport", "dataset": moved}
    assert found.keys[:-1] == one.keys
    run(found, data, tmp_path, elsewhere=there)
    kept = held(found, tmp_path)
    assert same(kept.masks[1], kept.masks[2])
    model = net(one, initial(one, data, 0), data)
    apply_masks(model, kept.masks[1])
    Training(model, kept.masks[1], there, one.cell.train, Randomness(0, 1)).finish()
    assert same(kept.weights[2], model.state_dict())


def test_every_ablation_is_tried_here() -> None:
    assert set(EVERY) == set(built_in(ABLATION))
    assert canonical(ablation("reinit", at=2)) == {"name": "reinit", "at": 2}
    assert MLP is lineage().cell.model
