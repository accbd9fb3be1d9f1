"""Describing a dataset that is files: it is read once, until a file changes."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter

from trainables.data.contents import Where, contents
from trainables.data.dataset import Dataset, DatasetInfo
from trainables.data.fingerprint import digest, fingerprint, stamps, write_atomically
from trainables.data.reading import READING, DatasetFiles, read_files

DESCRIPTION = TypeAdapter(DatasetInfo)


def describe_files(found: DatasetFiles, cache: Path) -> DatasetInfo:
    """What is known of the dataset, with the fingerprint of its files.

    It is kept in `cache` until a file changes. Raises ValueError as reading it and `contents` do,
    and when a file changes meanwhile.
    """
    before = stamps(found.files)
    remembered = cache / "descriptions" / digest([READING, found.about, before])
    with suppress(OSError, ValueError):
        return DESCRIPTION.validate_json(remembered.read_bytes())
    dataset, as_ever = read_files(found, cache)
    marks = () if as_ever else (f"read {READING}",)
    info = describe_arrays(dataset, fingerprint(found.files, cache, marks), found.where)
    if stamps(found.files) != before:
        raise ValueError("its files changed while they were read; run again when all are there")
    # A read-only cache, or a name that is no text, costs reading again, nothing else.
    with suppress(OSError, ValueError):
        write_atomically(remembered, DESCRIPTION.dump_json(info))
    return info


def describe_arrays(dataset: Dataset, fingerprint: str, where: Where) -> DatasetInfo:
    """What is known of a dataset in memory; raises ValueError as `contents` does."""
    _, channels, height, width = dataset.train.images.shape
    return DatasetInfo(
        (channels, height, width),
        dataset.classes,
        len(dataset.train),
        len(dataset.test),
        fingerprint,
        contents(dataset, where),
    )


def with_notes(info: DatasetInfo, notes: tuple[str, ...]) -> DatasetInfo:
    """With `notes` told before the others; they are not kept, as what is left out is not read."""
    if info.contents is None:
        return info
    return replace(info, contents=replace(info.contents, notes=(*notes, *info.contents.notes)))
