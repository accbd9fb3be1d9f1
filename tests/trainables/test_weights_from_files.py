"""Initial weights from a file: lineages that start from them, whatever seed, wherever it lies."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from pydantic import TypeAdapter
from test_lineage import (
    CPU,
    DIGITS,
    ROOTS,
    assert_same_results,
    bench,
    held,
    lineage,
    method,
    model_config,
    run,
    same,
)  # fmt: skip
from torch import Tensor

from trainables.config import ContentFile
from trainables.data import load_dataset
from trainables.errors import Interrupted
from trainables.lineage.bundle import run_bundle
from trainables.lineage.identity import snapshot_key
from trainables.lineage.initial_weights import NoInitialWeights, files_of, keep, kept_path
from trainables.lineage.keys import Lineage, make_lineage
from trainables.lineage.loop import lineage_events, run_lineage
from trainables.models import build_model
from trainables.pruning.ablation import AblationConfig
from trainables.store import Damaged, Store, snapshot_path
from trainables.store.artifacts import WEIGHTS, read_tensors
from trainables.training.batches import DeviceData
from trainables.training.run import Training

SHAPE, CLASSES = (1, 8, 8), 10
PLAIN = model_config("cnn", hidden=(4, 8))


@pytest.fixture(scope="module")
def data() -> DeviceData:
    return DeviceData.of(load_dataset(DIGITS, ROOTS), CPU)


@pytest.fixture(scope="module")
def brought() -> dict[str, Tensor]:
    """Those of a network that has been trained somewhere: statistics have moved too."""
    network = build_model(PLAIN, SHAPE, CLASSES, seed=77).train()
    with torch.no_grad():
        network(torch.rand(20, *SHAPE, generator=torch.Generator().manual_seed(0)))
    return network.state_dict()


@pytest.fixture
def file(brought: dict[str, Tensor], tmp_path: Path) -> Path:
    torch.save(brought, tmp_path / "brought.pt")
    return tmp_path / "brought.pt"


def starting_from(file: Path, how: Any = None, **options: Any) -> Lineage:
    known = ContentFile(file.name).found(file.parent)
    model = PLAIN.model_copy(update={"initial_weights": known})
    return lineage(how, model=model, **options)


def kept(one: Lineage, folder: Path) -> Store:
    """A storage as a run has it before workers begin, and no file any more."""
    store = Store(str(folder))
    for file in files_of([one]).values():
        keep(store, file)
        assert file.place is not None
        file.place.unlink()
    return store


def starts(one: Lineage, data: DeviceData, store: Store) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Of each training of a lineage, the step and the weights that it starts from."""
    events = lineage_events(one, bench(data, store))
    event = next(events)
    while True:
        progress = None
        if isinstance(event, Training):
            yield event.start_step, {n: t.clone() for n, t in event.model.state_dict().items()}
            progress = event.finish()
        try:
            event = events.send(progress)
        except StopIteration:
            return


HOW = {
    "one-shot": (method("one_shot"), {}),
    "a ticket rewound to the beginning": (method("lottery_ticket"), {}),
    "a ticket rewound to step 3": (method("lottery_ticket", rewind={"step": 3}), {}),
    "pruning at initialization": (method("snip", density=0.3, examples=40), {}),
    "a mask found on noise": (method("imp", density=0.6, data="random"), {}),
    "bfloat16, channels last": (method("one_shot"), {"precision": "bf16"}),
}


@pytest.mark.parametrize("what", HOW)
def test_a_lineage_starts_from_the_weights_of_its_file(
    what: str, brought: dict[str, Tensor], file: Path, data: DeviceData, tmp_path: Path
) -> None:
    how, recipe = HOW[what]
    one = starting_from(file, how, iterations=1)
    if recipe:
        one = make_lineage(
            replace(one.cell, train=one.cell.train.model_copy(update=recipe)), one.dataset
        )
    store = kept(one, tmp_path / "store")
    found = [*starts(one, data, store)]
    assert len(found) == len(one.keys)
    for step, weights in found:
        if step == 0:
            assert same(weights, brought)
    assert [step for step, _ in found][1:] == [how.rewind_step] * (len(found) - 1)
    trunk = one.trunk if one.steps[0].kind == "prune" else one.keys[0]
    assert same(read_tensors(store, snapshot_path(snapshot_key(trunk, 0))), brought)


def test_what_it_rewinds_to_was_trained_from_there(
    file: Path, data: DeviceData, tmp_path: Path
) -> None:
    """With the trunk's snapshot, and trained again where that is lost."""
    one = starting_from(file, method("lottery_ticket", rewind={"step": 3}), iterations=1)
    store = kept(one, tmp_path / "store")
    (_, begun), (_, rewound) = starts(one, data, store)
    shutil.rmtree(tmp_path / "store/iterations" / one.keys[1])
    shutil.rmtree(tmp_path / "store/snapshots" / snapshot_key(one.trunk, 3))
    ((step, again),) = starts(one, data, store)
    assert step == 3
    assert same(again, rewound)
    assert not same(begun, rewound)


def test_seeds_differ_in_the_order_of_the_data_alone(
    brought: dict[str, Tensor], file: Path, data: DeviceData, tmp_path: Path
) -> None:
    one, other = (starting_from(file, iterations=0, seed=seed) for seed in (0, 1))
    store = kept(one, tmp_path / "store")
    ended = [held(each, store.location) for each in (one, other) if run(each, data, store)]
    assert not same(ended[0].weights[0], ended[1].weights[0])
    for each in (one, other):
        assert same(read_tensors(store, snapshot_path(snapshot_key(each.trunk, 0))), brought)


def test_lineages_that_share_a_trial_start_from_it_too(
    file: Path, data: DeviceData, tmp_path: Path
) -> None:
    both = [starting_from(file, iterations=0, epochs=1, seed=seed) for seed in (0, 1)]
    store, alone = kept(both[0], tmp_path / "together"), Store(str(tmp_path / "alone"))
    shutil.copytree(tmp_path / "together", tmp_path / "alone")
    reports = [*run_bundle([(each, bench(data, store)) for each in both])]
    assert reports
    for each in both:
        run(each, data, alone)
        fused, single = held(each, store.location), held(each, alone.location)
        assert {row["fused"] for row in fused.metrics} == {2}
        for one, other in zip(fused.weights, single.weights, strict=True):
            for name, weight in one.items():
                torch.testing.assert_close(weight, other[name], rtol=1e-3, atol=1e-4)


def ablated(one: Lineage, name: str, **options: Any) -> Lineage:
    ablation = TypeAdapter(AblationConfig).validate_python({"name": name, **options})
    return make_lineage(replace(one.cell, ablation=ablation), one.dataset)


def test_ablations_start_from_it_but_what_draws_its_weights_anew(
    brought: dict[str, Tensor], file: Path, data: DeviceData, tmp_path: Path
) -> None:
    one = starting_from(file, iterations=1)
    store = kept(one, tmp_path / "store")
    run(one, data, store)

    def start(of: Lineage) -> dict[str, Tensor]:
        ((step, weights),) = starts(of, data, store)
        assert step == 0
        return weights

    for name, options in (("shuffle_layers", {}), ("transport", {"seed": 5})):
        assert same(start(ablated(one, name, **options)), brought), name
    drawn = start(ablated(one, "reinit"))
    without = lineage(model=PLAIN, iterations=1)
    plain = Store(str(tmp_path / "plain"))
    run(without, data, plain)
    ((_, expected),) = starts(ablated(without, "reinit"), data, plain)
    assert same(drawn, expected)
    assert not same(drawn, brought)


def test_who_is_interrupted_goes_on_with_what_the_storage_has(
    file: Path, data: DeviceData, tmp_path: Path
) -> None:
    one = starting_from(file, method("lottery_ticket", rewind={"step": 3}))
    store = kept(one, tmp_path / "broken")
    shutil.copytree(tmp_path / "broken", tmp_path / "whole")
    run(one, data, tmp_path / "whole")
    interrupted = 0
    while True:
        asked = count()
        told = bench(data, store, is_told=lambda asked=asked: next(asked) > 6)
        try:
            assert all(run_lineage(one, told))
            break
        except Interrupted:
            interrupted += 1
    assert interrupted > 2
    assert_same_results(held(one, store.location), held(one, tmp_path / "whole"))


# The file


def contents(one: Lineage) -> list[str]:
    return [*files_of([one])]


def test_the_key_is_that_of_the_content(file: Path, tmp_path: Path) -> None:
    one = starting_from(file)
    (content,) = contents(one)
    assert one.config()["model"] == {
        "name": "cnn", "hidden": [4, 8], "initial_weights": content,
    }  # fmt: skip
    (tmp_path / "elsewhere").mkdir()
    moved = Path(shutil.copy(file, tmp_path / "elsewhere/other.pth"))
    assert starting_from(moved).keys == one.keys
    file.write_bytes(file.read_bytes() + b"\0")
    changed = starting_from(file)
    assert not {*changed.keys} & {*one.keys}
    assert not {*one.keys} & {*lineage(model=PLAIN).keys}


def test_keys_of_a_known_content_stay(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"content")
    one = starting_from(tmp_path / "a.pt", iterations=1)
    assert contents(one) == [
        "sha256:ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"
    ]
    assert (one.keys[0], kept_path(contents(one)[0])) == (KEY, PATH)


KEY = "c2a5f18e2e7169db7bdf4970e7f33c17d80c11ff0b2d59b21a4de46df421f0de"
PATH = "snapshots/b043dfd76a37bb5e2d0b5e00f9913fb3a984528591c5f6f7ac196fc51542b4e0"


def test_files_of_other_kinds_and_types(
    brought: dict[str, Tensor], data: DeviceData, tmp_path: Path
) -> None:
    """What they hold becomes the network's own type."""
    wide = {n: t.double() if t.is_floating_point() else t for n, t in brought.items()}
    safetensors.torch.save_file(wide, tmp_path / "wide.safetensors")
    one = starting_from(tmp_path / "wide.safetensors", iterations=0)
    ((_, weights),) = starts(one, data, kept(one, tmp_path / "store"))
    assert same(weights, brought)
    assert {t.dtype for t in weights.values()} == {torch.float32, torch.int64}


def test_weights_that_are_not_there_are_missed_and_damaged_ones_are_set_aside(
    file: Path, data: DeviceData, tmp_path: Path
) -> None:
    one = starting_from(file, iterations=0)
    store = kept(one, tmp_path / "store")
    (place,) = map(kept_path, contents(one))
    damaged = bytearray(store.read(place, WEIGHTS))
    damaged[-1] ^= 1
    store.files.write(f"{place}/{WEIGHTS}", bytes(damaged))
    with pytest.raises(Damaged):
        read_tensors(store, place)
    with pytest.raises(NoInitialWeights, match="run the sweep again, which puts them there"):
        run(one, data, store)
    assert len(store.names("quarantine")) == 1
    assert store.names("iterations") == store.names("claims") == []
