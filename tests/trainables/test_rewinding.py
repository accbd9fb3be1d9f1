"""What goes back before a network is retrained: its weights, the learning rate alone, or nothing
(Renda et al., 2020)."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from test_lineage_sketching import CPU, DIGITS, data, masks_of
from torch import Tensor

from trainables.config import canonical
from trainables.errors import Interrupted
from trainables.lineage.bench import Bench
from trainables.lineage.identity import snapshot_key
from trainables.lineage.keys import Cell, Lineage, make_lineage
from trainables.lineage.loop import lineage_events, run_lineage
from trainables.models import ModelConfig, prunable
from trainables.pruning import MethodConfig, Pruning
from trainables.store import Store, iteration_path, snapshot_path
from trainables.store.artifacts import EPOCHS, decode_table, read_tensors
from trainables.training.batches import DeviceData
from trainables.training.recipe import Recipe
from trainables.training.run import Training

__all__ = ["data"]

STEPS_PER_EPOCH = 5
RECIPE = Recipe.model_validate(
    {"epochs": 4, "batch_size": 40,
     "lr_schedule": {"name": "step", "milestones": (1, 2, 3), "factor": 0.5}}
)  # fmt: skip


def method(name: str, **options: Any) -> Any:
    return TypeAdapter(MethodConfig).validate_python({"name": name, **options})


def lineage(how: Any, recipe: Recipe = RECIPE, **pruning: Any) -> Lineage:
    model = TypeAdapter(ModelConfig).validate_python({"name": "mlp", "hidden": [16]})
    prune = Pruning.model_validate({"iterations": 2} | pruning)
    return make_lineage(Cell(DIGITS, model, recipe, prune, how, 0), {"name": "digits"})


def trainings(one: Lineage, data: DeviceData, root: Path) -> Iterator[tuple[Training, Any]]:
    """Each training of a lineage before it is done, with the weights that it starts from."""
    events = lineage_events(one, Bench(Store(str(root)), data, CPU))
    event = next(events)
    while True:
        progress = None
        if isinstance(event, Training):
            yield event, {n: t.clone() for n, t in event.model.state_dict().items()}
            progress = event.finish()
        try:
            event = events.send(progress)
        except StopIteration:
            return


def weights_of(root: Path, key: str) -> dict[str, Tensor]:
    return read_tensors(Store(str(root)), iteration_path(key))


def rates(root: Path, key: str) -> list[float]:
    return decode_table(Store(str(root)).read(iteration_path(key), EPOCHS))["lr"].to_pylist()


def test_the_last_learning_rate_all_the_time_worked_out_by_hand() -> None:
    assert [RECIPE.rate(epoch) for epoch in range(4)] == [0.1, 0.05, 0.025, 0.0125]
    assert [RECIPE.at_last_rate().rate(epoch) for epoch in range(4)] == [0.0125] * 4
    cosine = Recipe(epochs=4).at_last_rate()
    assert cosine.rate(0) == cosine.rate(3) == pytest.approx(0.1 * (1 - 0.5**0.5) / 2)


@pytest.mark.parametrize(
    ("rewound", "step", "expected"),
    [
        ("weights", 10, [0.025, 0.0125]),
        ("learning_rate", 0, [0.1, 0.05, 0.025, 0.0125]),
        ("learning_rate", 10, [0.025, 0.0125]),
        ("nothing", 0, [0.0125] * 4),
        ("nothing", 10, [0.0125] * 2),
    ],
)
def test_a_network_is_retrained_at_these_learning_rates(
    rewound: str, step: int, expected: list[float], data: DeviceData, tmp_path: Path
) -> None:
    one = lineage(method("lottery_ticket", rewind={"step": step, "rewound": rewound}), iterations=1)
    assert all(run_lineage(one, Bench(Store(str(tmp_path)), data, CPU)))
    assert rates(tmp_path, one.keys[0]) == [0.1, 0.05, 0.025, 0.0125]
    assert rates(tmp_path, one.keys[1]) == expected
    needed = Store(str(tmp_path)).is_committed(snapshot_path(snapshot_key(one.trunk, 10)))
    assert needed is (rewound == "weights")


@pytest.mark.parametrize("rewound", ["learning_rate", "nothing"])
@pytest.mark.parametrize("name", ["lottery_ticket", "sap", "one_shot", "nm", "imp"])
def test_training_goes_on_from_the_weights_that_were_scored(
    name: str, rewound: str, data: DeviceData, tmp_path: Path
) -> None:
    options = {"density": 0.6} if name == "imp" else {}
    how = method(name, rewind={"step": STEPS_PER_EPOCH, "rewound": rewound}, **options)
    one = lineage(how)
    begun = [(each.start_step, start) for each, start in trainings(one, data, tmp_path)]
    assert [step for step, _ in begun] == [0] + [STEPS_PER_EPOCH] * (len(one.keys) - 1)
    for t in range(1, len(one.keys)):
        scored = weights_of(tmp_path, one.keys[0 if name == "one_shot" else t - 1])
        assert all(torch.equal(begun[t][1][name], scored[name]) for name in scored)
        ended = weights_of(tmp_path, one.keys[t])
        for layer, mask in masks_of(tmp_path, one.keys[t]).items():
            assert not bool(ended[layer][~mask].any())
            assert not torch.equal(ended[layer][mask], scored[layer][mask])


def test_buffers_go_on_too(data: DeviceData, tmp_path: Path) -> None:
    model = TypeAdapter(ModelConfig).validate_python({"name": "cnn", "hidden": [4, 8]})
    cell = lineage(method("lottery_ticket", rewind={"rewound": "learning_rate"}), iterations=1).cell
    cell = Cell(DIGITS, model, cell.train, cell.prune, cell.method, 0)
    one = make_lineage(cell, {"name": "digits"})
    _, (training, start) = trainings(one, data, tmp_path)
    scored = weights_of(tmp_path, one.keys[0])
    assert {n for n in scored if "running" in n}
    assert all(torch.equal(start[name], scored[name]) for name in scored)
    assert prunable(training.model).keys() <= scored.keys()


@pytest.mark.parametrize("rewound", ["learning_rate", "nothing"])
def test_what_is_interrupted_goes_on_to_the_same_weights(
    rewound: str, data: DeviceData, tmp_path: Path
) -> None:
    one = lineage(method("lottery_ticket", rewind={"step": 3, "rewound": rewound}), iterations=1)
    assert all(run_lineage(one, Bench(Store(str(tmp_path / "whole")), data, CPU)))
    asked, store = count(), Store(str(tmp_path / "again"))
    told = Bench(store, data, CPU, is_told=lambda: next(asked) > 30)
    with pytest.raises(Interrupted):
        list(run_lineage(one, told))
    assert store.names(f"checkpoints/{one.keys[1]}")
    assert all(run_lineage(one, Bench(store, data, CPU)))
    for key in one.keys:
        whole, again = (weights_of(tmp_path / each, key) for each in ("whole", "again"))
        assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_each_has_keys_of_its_own_and_the_default_those_that_were() -> None:
    found = [lineage(method("sap", rewind={"rewound": rewound})).keys
             for rewound in ("weights", "learning_rate", "nothing")]  # fmt: skip
    assert found[0] == lineage(method("sap")).keys
    assert len({keys[0] for keys in found}) == 1
    assert len({keys[1] for keys in found}) == 3
    assert "rewind" not in canonical(method("sap"))
    assert canonical(method("lottery_ticket"))["rewind"] == {"step": 0}


def test_a_mask_found_on_noise_is_trained_from_real_weights() -> None:
    with pytest.raises(ValidationError, match="the mask of data: random is trained from weights"):
        method("imp", density=0.5, data="random", rewind={"rewound": "nothing"})
