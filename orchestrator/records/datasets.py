"""What a sweep was trained on, kept in `datasets.json`."""

from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from orchestrator.records.files import RecordFile
from trainables.data import DatasetInfo


@dataclass(frozen=True)
class DatasetRecord:
    """A dataset of a sweep: its identity, where it was, and what is known of it."""

    dataset: dict[str, Any]
    path: str | None
    info: DatasetInfo


DATASETS = RecordFile("datasets.json", TypeAdapter(list[DatasetRecord]))
