"""Describing a dataset that is files: it is read once, until a file changes."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter

from trainables.data.contents import Where, contents
from trainables.data.dataset import Dataset, DatasetInfo
from trainables.data.fingerprint import digest, fingerprint, stamps, write_atomically

READING = 1
"""To be raised when files are read as other pixels or other counts than before."""

DESCRIPTION = TypeAdapter(DatasetInfo)


class Read(NamedTuple):
    """A dataset from files, what names an example of it in messages, and whether its pixels are
    those that versions before `READING` 1 took from the same files."""

    dataset: Dataset
    where: Where
    as_ever: bool


def describe_files(
    name: str, files: Mapping[str, Path], cache: Path, read: Callable[[], Read]
) -> DatasetInfo:
    """What is known of the dataset that `read` gives, with the fingerprint of `files`.

    It is kept in `cache` until `name` or a file changes. Raises ValueError as `read` and `contents`
    do, and when a file changes meanwhile.
    """
    before = stamps(files)
    remembered = cache / "descriptions" / digest([READING, name, before])
    with suppress(OSError, ValueError):
        return DESCRIPTION.validate_json(remembered.read_bytes())
    dataset, where, as_ever = read()
    info = describe_arrays(
        dataset, fingerprint(files, cache, () if as_ever else (f"read {READING}",)), where
    )
    if stamps(files) != before:
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
