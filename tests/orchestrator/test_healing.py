"""Healing: a run looks at the commits that it builds on, and at those that are noted."""

from pathlib import Path

import pytest
from stored import SWEEP, keys, lineages_of, store_sweep

from orchestrator.commands.verify import verify_store
from orchestrator.records.damage import noted_damage
from orchestrator.run.healing import set_damaged_aside
from orchestrator.run.planning import make_plan
from orchestrator.run.preparing import to_check
from orchestrator.sweepfile.spec import SweepSpec
from trainables.store import Store, iteration_path
from trainables.store.artifacts import WEIGHTS
from trainables.store.index import StoreIndex

SECTIONS = {"prune": {"iterations": 3}, "methods": ["sap"], "seeds": [0, 1]}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def checked(store: Store) -> list[str]:
    lineages = lineages_of(SweepSpec.model_validate(SWEEP | {"name": "s"} | SECTIONS))
    index = StoreIndex(store)
    return to_check(make_plan(lineages, index.files_of), index)


def spoil(store: Store, path: str) -> None:
    store.files.write(f"{path}/metrics", b"another")


def test_what_verify_has_found_is_set_aside_and_nothing_else_is_read(store: Store) -> None:
    record = store_sweep(store, "s", **SECTIONS)
    assert checked(store) == []
    spoilt = iteration_path(record.lineages[0].keys[2])
    spoil(store, spoilt)
    assert checked(store) == []
    verify_store(store)
    assert checked(store) == [spoilt]
    (damage,) = set_damaged_aside(store, checked(store))
    assert damage.path == spoilt
    assert not store.is_committed(spoilt)
    assert len(store.names("quarantine")) == 1
    assert noted_damage(store) == set()


def test_a_note_of_what_is_sound_again_is_dropped(store: Store) -> None:
    record = store_sweep(store, "s", **SECTIONS)
    path = iteration_path(record.lineages[0].keys[2])
    sound = store.peek(f"{path}/metrics")
    assert sound is not None
    spoil(store, path)
    verify_store(store)
    store.files.write(f"{path}/metrics", sound)
    assert set_damaged_aside(store, checked(store)) == []
    assert noted_damage(store) == set()


def test_what_the_training_builds_on_is_looked_at(store: Store) -> None:
    record = store_sweep(store, "s", **SECTIONS)
    assert len(keys(record)) == 8
    for key in keys(record):
        store.replace(iteration_path(key), {WEIGHTS: key.encode()})
    first, second = record.lineages
    store.discard(iteration_path(first.keys[3]))
    store.discard(iteration_path(second.keys[2]))
    parents = {iteration_path(first.keys[2]), iteration_path(second.keys[1])}
    looked_at = checked(store)
    assert parents == {path for path in looked_at if path.startswith("iterations/")}
    assert len(looked_at) == 2 + 2  # and what the two rewind to
