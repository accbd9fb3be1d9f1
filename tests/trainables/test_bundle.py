"""Bundles: lineages that are trained together, against a real store and without Ray."""

import logging
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter

from trainables.data import DatasetConfig, DatasetOptions, describe_dataset, identity, load_dataset
from trainables.data.roots import DataRoots
from trainables.errors import Diverged
from trainables.lineage.bench import Bench
from trainables.lineage.bundle import Failed, Finished, Outcome, no_limit, run_bundle
from trainables.lineage.identity import snapshot_key
from trainables.lineage.keeping import StoreOptions
from trainables.lineage.keys import Cell, Lineage, make_lineage
from trainables.lineage.loop import run_lineage
from trainables.lineage.time_limit import TimeLimit
from trainables.models import ModelConfig
from trainables.pruning import MethodConfig, Pruning
from trainables.store import Store, iteration_path
from trainables.store.artifacts import METRICS, decode_table, read_masks, read_tensors
from trainables.store.claims import Claims
from trainables.training.batches import DeviceData
from trainables.training.recipe import Recipe

CPU = torch.device("cpu")
ROOTS = DataRoots((), Path())
DIGITS: DatasetOptions = TypeAdapter(DatasetConfig).validate_python(
    {"name": "digits", "subset": 100}
)
MLP = TypeAdapter(ModelConfig).validate_python({"name": "mlp", "hidden": [16]})
ONE_SHOT = {"name": "one_shot", "ratio": 0.3}
TICKET = {"name": "lottery_ticket", "ratio": 0.3}
SNIP = {"name": "snip", "density": 0.3, "examples": 40}
METHODS: list[dict[str, Any]] = [
    ONE_SHOT,
    TICKET,
    {"name": "sap"},
    SNIP,
    {"name": "synflow", "density": 0.2, "rounds": 3},
    {"name": "imp", "density": 0.4, "data": "random", "rewind": {"step": 3}},
    {"name": "lottery_ticket", "ratio": 0.2, "rewind": {"step": 3, "rewound": "nothing"}},
]


def lineage(method: dict[str, Any], seed: int = 0, lr: float = 0.1) -> Lineage:
    recipe = Recipe.model_validate(
        {"epochs": 2, "batch_size": 40, "optimizer": {"name": "sgd", "lr": lr}}
    )
    how = TypeAdapter(MethodConfig).validate_python(method)
    cell = Cell(DIGITS, MLP, recipe, Pruning(iterations=2), how, seed)
    return make_lineage(cell, identity(DIGITS, describe_dataset(DIGITS, ROOTS)))


@pytest.fixture(scope="module")
def data() -> DeviceData:
    return DeviceData.of(load_dataset(DIGITS, ROOTS), CPU)


def rounds(
    lineages: Sequence[Lineage], data: DeviceData, root: Path, **options: Any
) -> Generator[dict[str, Outcome]]:
    store = Store(str(root))
    limit = options.pop("limit", no_limit)
    return run_bundle([(each, Bench(store, data, CPU, **options)) for each in lineages], limit)


def row(root: Path, key: str) -> dict[str, Any]:
    (found,) = decode_table(Store(str(root)).read(iteration_path(key), METRICS)).to_pylist()
    return found


def committed(root: Path) -> set[str]:
    return set(Store(str(root)).committed("iterations"))


def test_a_bundle_of_all_methods_makes_what_each_makes_alone(
    data: DeviceData, tmp_path: Path
) -> None:
    lineages = [lineage(method, seed) for method in METHODS for seed in (0, 1)]
    alone, together = tmp_path / "alone", tmp_path / "together"
    for one in lineages:
        assert all(run_lineage(one, Bench(Store(str(alone)), data, CPU)))
    trunks = [lineage(ONE_SHOT, seed) for seed in (0, 1)]
    list(rounds(trunks, data, together))
    seen = list(rounds(lineages, data, together))
    assert all(isinstance(outcome, dict | Finished)
               for outcomes in seen for outcome in outcomes.values())  # fmt: skip
    one_store, other_store = Store(str(alone)), Store(str(together))
    assert committed(together) == committed(alone)
    assert other_store.names("claims") == []
    for key in committed(together):
        found, expected = row(together, key), row(alone, key)
        assert found["fused"] > 1
        assert expected["fused"] == 1
        assert found["params_kept"] == pytest.approx(expected["params_kept"], rel=0.01)
        assert found["test_accuracy"] == pytest.approx(expected["test_accuracy"], abs=0.05)
        path = iteration_path(key)
        ours, theirs = read_masks(other_store, path), read_masks(one_store, path)
        for name, mask in theirs.items():
            assert (ours[name] != mask).float().mean() < 0.01
        weights = read_tensors(other_store, iteration_path(key))
        assert all((weights[name][~mask] == 0).all() for name, mask in ours.items())


def test_one_that_fails_costs_the_others_nothing(data: DeviceData, tmp_path: Path) -> None:
    good, other, bad = lineage(ONE_SHOT), lineage(ONE_SHOT, 1), lineage(SNIP, 2)

    class Full(Store):
        def commit(self, path: str, files: Mapping[str, bytes]) -> bool:
            if path == iteration_path(bad.keys[-1]):
                raise OSError("no space left")
            return super().commit(path, files)

    store = Full(str(tmp_path))
    bench = Bench(store, data, CPU)
    seen = list(run_bundle([(each, bench) for each in (good, other, bad)]))
    failed = [outcomes[bad.id] for outcomes in seen if bad.id in outcomes]
    assert len(failed) == 1
    assert isinstance(failed[0], Failed)
    assert committed(tmp_path) == {*good.keys, *other.keys}
    assert store.names("claims") == []


class _Refusing(Store):
    """Does not list, or does not commit, what is in the folder `refused`."""

    def __init__(self, root: str, refused: str) -> None:
        super().__init__(root)
        self.refused = refused

    def names(self, folder: str) -> list[str]:
        self._look(folder, "listing")
        return super().names(folder)

    def commit(self, path: str, files: Mapping[str, bytes]) -> bool:
        self._look(path, "commit")
        return super().commit(path, files)

    def _look(self, path: str, how: str) -> None:
        what, _, folder = self.refused.partition(" ")
        if what == how and path.startswith(folder):
            raise OSError(f"no {how} in {folder}")


@pytest.mark.parametrize("refused", ["commit snapshots/{0}", "commit checkpoints/{0}",
                                     "listing checkpoints/{0}"])  # fmt: skip
def test_what_is_not_stored_of_one_in_training_costs_the_others_nothing(
    data: DeviceData, tmp_path: Path, refused: str
) -> None:
    """Who has begun goes on as one computation, and who fails before is none of it."""
    good, other, bad = (lineage(ONE_SHOT, seed) for seed in range(3))
    trunk = snapshot_key(bad.trunk, 0) if "snapshots" in refused else bad.keys[0]
    store = _Refusing(str(tmp_path), refused.format(trunk))
    bench = Bench(store, data, CPU, keeping=StoreOptions(checkpoint_minutes=1e-9))
    seen = list(run_bundle([(each, bench) for each in (good, other, bad)]))
    outcome = seen[0][bad.id]
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, OSError)
    assert str(outcome.error) == f"no {refused.split()[0]} in {store.refused.split()[1]}"
    assert outcome.fused == 1
    assert [bad.id in outcomes for outcomes in seen] == [True, False, False]
    assert committed(tmp_path) == {*good.keys, *other.keys}
    assert row(tmp_path, good.keys[0])["fused"] == (2 if "listing" in refused else 3)
    assert store.names("claims") == []


def test_a_claim_that_cannot_be_withdrawn_keeps_none_of_the_others(
    data: DeviceData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A bundle that is left in the middle of its work, on a storage that is in parts no more."""
    bad, good = lineage(ONE_SHOT), lineage(ONE_SHOT, 1)

    class Going(Store):
        gone = False

        def remove(self, path: str) -> None:
            if self.gone and bad.keys[0] in path:
                raise OSError("the storage is gone")
            super().remove(path)

        def delete_file(self, path: str) -> None:
            if self.gone and bad.keys[0] in path:
                raise OSError("the storage is gone")
            super().delete_file(path)

    store = Going(str(tmp_path))

    @contextmanager
    def limit(lineages: Sequence[Lineage]) -> Iterator[None]:
        if len(lineages) == 2:
            store.gone = True
            raise KeyboardInterrupt
        yield

    bench = Bench(store, data, CPU)
    with pytest.raises(KeyboardInterrupt), caplog.at_level(logging.WARNING, "prunesweep"):
        next(run_bundle([(each, bench) for each in (bad, good)], limit))
    assert caplog.messages == [f"{bad.id}: not closed"]
    assert store.names("claims") == [bad.keys[0]]


def test_one_that_diverges_leaves_the_bundle(data: DeviceData, tmp_path: Path) -> None:
    """The recipes differ, so they are no one computation; the bundle is one all the same."""
    good, bad = lineage(ONE_SHOT), lineage(ONE_SHOT, lr=1e30)
    seen = list(rounds([good, bad], data, tmp_path))
    outcome = seen[0][bad.id]
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, Diverged)
    assert [bad.id in outcomes for outcomes in seen] == [True, False, False]
    assert committed(tmp_path) == set(good.keys)


def test_what_is_claimed_elsewhere_is_waited_for_and_the_rest_goes_on(
    data: DeviceData, tmp_path: Path
) -> None:
    mine, shared = lineage(ONE_SHOT), lineage(ONE_SHOT, 1)
    claim = Claims(Store(str(tmp_path)), run="another").take(shared.keys[0])
    assert claim is not None
    seen = rounds([mine, shared], data, tmp_path)
    for number in range(3):
        outcomes = next(seen)
        assert outcomes[shared.id] is None
        assert isinstance(outcomes[mine.id], dict)
        assert committed(tmp_path) == set(mine.keys[: number + 1])
    assert next(seen) == {shared.id: None}
    claim.withdraw()
    assert isinstance(next(seen)[shared.id], dict)
    seen.close()
    assert Store(str(tmp_path)).names("claims") == []


def test_a_claim_that_is_lost_in_training_costs_the_others_nothing(
    data: DeviceData, tmp_path: Path
) -> None:
    """Someone takes the place of one while all are trained."""
    mine, lost = lineage(ONE_SHOT), lineage(ONE_SHOT, 1)
    store = Store(str(tmp_path))

    @contextmanager
    def limit(lineages: Sequence[Lineage]) -> Iterator[None]:
        yield
        if len(lineages) == 2:
            store.remove(f"claims/{lost.keys[0]}")

    first = next(rounds([mine, lost], data, tmp_path, limit=limit))
    assert isinstance(first[mine.id], dict)
    assert row(tmp_path, mine.keys[0])["fused"] == 2
    # It is not there yet, so it is trained once more, alone.
    assert isinstance(first[lost.id], dict)
    assert row(tmp_path, lost.keys[0])["fused"] == 1


def test_a_time_limit_is_each_lineages_and_of_all_while_they_are_one(
    data: DeviceData, tmp_path: Path
) -> None:
    ended: list[Sequence[Lineage]] = []
    entered: list[int] = []

    class Limit(TimeLimit):
        def __call__(self, lineages: Sequence[Lineage]) -> Any:
            entered.append(len(lineages))
            return super().__call__(lineages)

    limit = Limit(1000.0, lambda thread, lineages: ended.append(lineages))
    list(rounds([lineage(SNIP), lineage(SNIP, 1)], data, tmp_path, limit=limit))
    assert entered[:5] == [1, 1, 2, 1, 1]
    assert not ended


def test_a_time_limit_that_is_passed_tells_who_was_at_work() -> None:
    ended: list[tuple[int, Sequence[Lineage]]] = []
    done = threading.Event()

    def end(thread: int, lineages: Sequence[Lineage]) -> None:
        ended.append((thread, lineages))
        done.set()

    pair = [lineage(SNIP), lineage(SNIP, 1)]
    with TimeLimit(0.01, end)(pair):
        assert done.wait(60)
    assert ended == [(threading.get_ident(), pair)]


def test_time_in_which_a_storage_was_waited_for_passes_no_limit() -> None:
    ended: list[int] = []
    one, since = [lineage(SNIP)], time.monotonic()
    with TimeLimit(0.01, lambda *_: ended.append(1), lambda: time.monotonic() - since)(one):
        time.sleep(0.2)
    assert ended == []
