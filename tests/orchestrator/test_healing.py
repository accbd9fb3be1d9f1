"""Healing: a run looks at the commits that it builds on, and at those that are noted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stored import KINDS, SWEEP, keys, lineages_of, opened_as, store_sweep

from orchestrator.commands.verify import verify_store
from orchestrator.records.damage import noted_damage
from orchestrator.run.healing import set_damaged_aside
from orchestrator.run.planning import make_plan
from orchestrator.run.preparing import to_check
from orchestrator.sweepfile.spec import SweepSpec
from trainables.store import Store, iteration_path
from trainables.store.artifacts import WEIGHTS
from trainables.store.claims import Claims
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


@pytest.mark.parametrize(
    "meanwhile",
    [
        lambda store, path: store.drop_file(path, "weights"),
        lambda store, path: store.discard(path),
        lambda store, path: store.set_aside(path),
    ],
    ids=["its weights are dropped", "it is deleted", "it is set aside"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_what_changes_while_it_is_looked_at_is_not_damaged(
    kind: str, meanwhile: Callable[[Store, str], None], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with opened_as(kind):
        store = Store(str(tmp_path))
        path = iteration_path(store_sweep(store, "s", **SECTIONS).lineages[0].keys[2])
        before, left = Store.manifest, [meanwhile]

        def manifest(self: Store, of: str) -> dict[str, Any]:
            found = before(self, of)
            while of == path and left:
                left.pop()(store, path)
            return found

        monkeypatch.setattr(Store, "manifest", manifest)
        assert verify_store(store).damage == ()
        assert left == []
        assert noted_damage(store) == set()


def test_what_is_being_written_to_a_bucket_is_not_damaged(tmp_path: Path) -> None:
    with opened_as("without_rename"):
        store = Store(str(tmp_path))
        store_sweep(store, "s", **SECTIONS)
        path = iteration_path("e" * 64)
        store.write(f"{path}/part/weights", b"some")
        claim = Claims(store).take("e" * 64)
        assert claim is not None
        assert verify_store(store).damage == ()
        claim.withdraw()
        assert [each.path for each in verify_store(store).damage] == [path]
