"""What a sweep was trained on, kept in `datasets.json`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import TypeAdapter

from orchestrator.records.files import RecordFile
from trainables.config import canonical_json
from trainables.data import Dataset, DatasetInfo
from trainables.store import Damaged, Store


@dataclass(frozen=True)
class Normalized:
    """What each channel of the images, scaled to [0, 1], was normalized with."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class DatasetRecord:
    """A dataset of a sweep: its identity, where it was, and what is known of it.

    Of one that no run has loaded, how it is normalized is not known.
    """

    dataset: dict[str, Any]
    path: str | None
    info: DatasetInfo
    normalized: Normalized | None = None


DATASETS = RecordFile("datasets.json", TypeAdapter(list[DatasetRecord]))


def record_datasets(
    store: Store, sweep: str, found: Iterable[DatasetRecord], loaded: Mapping[str, Dataset]
) -> None:
    """Write down the datasets of a sweep, with how they are normalized: what a run has `loaded`, by
    identities as JSON, says it, and of the others what an earlier run has written."""
    known = {name: Normalized(each.mean, each.std) for name, each in loaded.items()}
    before = {name: each.normalized for name, each in recorded_datasets(store, sweep).items()}
    records = [(canonical_json(each.dataset), each) for each in found]
    DATASETS.write(
        store,
        sweep,
        [replace(each, normalized=known.get(name) or before.get(name)) for name, each in records],
    )


def recorded_datasets(store: Store, sweep: str) -> dict[str, DatasetRecord]:
    """What is written of the datasets of a sweep, by their identities as JSON."""
    try:
        found = DATASETS.read(store, sweep) or []
    except Damaged:
        found = []
    return {canonical_json(each.dataset): each for each in found}
