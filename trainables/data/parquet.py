"""Parquet files with a column of encoded images and one of labels, as on the Hugging Face hub."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainables.data.dataset import Dataset, DatasetInfo, Split, channel_statistics
from trainables.data.decoding import CHUNK, Encoded, Source, decode
from trainables.data.description import describe_files, with_notes
from trainables.data.entry import described_by
from trainables.data.folder import find_folder
from trainables.data.labels import class_numbers
from trainables.data.listing import NO_FILE, LeftOut, files_below, is_special, told
from trainables.data.reading import DatasetFiles, Read, read_files
from trainables.data.roots import DataRoots

BATCH_BYTES = 64e6


@dataclass(frozen=True)
class ParquetFile:
    """A file that was looked into, and how many rows it has."""

    path: Path
    rows: int


@dataclass(frozen=True)
class ParquetFiles:
    """The files of both splits, each sorted by name, and the columns to read.

    `notes` tell what was left out.
    """

    train: Sequence[ParquetFile]
    test: Sequence[ParquetFile]
    image: str
    label: str
    notes: tuple[str, ...]

    def where(self, split: str, index: int) -> str:
        """The file and the row of an example."""
        files = self.train if split == "train" else self.test
        ends = list(accumulate(file.rows for file in files))
        number = next(number for number, end in enumerate(ends) if index < end)
        return f"{files[number].path}, row {index - ends[number] + files[number].rows}"


def describe(
    roots: DataRoots,
    *,
    path: str,
    train: str = "train-*.parquet",
    test: str = "test-*.parquet",
    image: str = "image",
    label: str = "label",
    relabel: bool = False,
) -> DatasetInfo:
    """Shape, classes, counts and fingerprint, from the contents; raises as `parquet` does."""
    files = _find(roots, path, train, test, image, label)
    return with_notes(describe_files(_files(files, relabel), roots.cache), files.notes)


@described_by(describe)
def parquet(
    roots: DataRoots,
    *,
    path: str,
    train: str = "train-*.parquet",
    test: str = "test-*.parquet",
    image: str = "image",
    label: str = "label",
    relabel: bool = False,
) -> Dataset:
    """Images [N, C, H, W] of the files that match the globs `train` and `test` in folder `path`.

    A folder that matches is all files in it. The column `image` is binary or a struct with the
    field `bytes`; `label` holds the classes 0 to K - 1, or with `relabel` any K integers, which
    become those in their order. Images are shown as their EXIF orientation says, and become gray
    (C = 1) if they all are, else RGB (C = 3). Raises DatasetNotFound, and ValueError for content
    that does not fit.
    """
    files = _find(roots, path, train, test, image, label)
    found = read_files(_files(files, relabel), roots.cache).dataset
    return replace(found, notes=(*files.notes, *found.notes))


def _find(
    roots: DataRoots, path: str, train: str, test: str, image: str, label: str
) -> ParquetFiles:
    def look(folder: Path) -> ParquetFiles | None:
        left_out: list[LeftOut] = []
        found = [_matching(folder, pattern, left_out) for pattern in (train, test)]
        if not all(found):
            return None
        _require_apart(found[0], found[1], train, test)
        left_out += [
            LeftOut(other, "matches neither `train:` nor `test:`")
            for other in sorted(folder.glob("*.parquet"))
            if not any(other == file or other in file.parents for file in (*found[0], *found[1]))
            and not _is_no_data(other.name)
        ]
        splits = [[_looked_into(file, image, label) for file in files] for files in found]
        for name, files in zip((train, test), splits, strict=True):
            if not sum(file.rows for file in files):
                raise ValueError(f"{folder}: the files {name} have no rows")
        return ParquetFiles(splits[0], splits[1], image, label, told(left_out, folder))

    return find_folder(path, roots, look, f"{train} and {test}")


def _matching(folder: Path, pattern: str, left_out: list[LeftOut]) -> list[Path]:
    """As other readers of Parquet, each file once, without what is in a hidden folder or one that
    begins with an underscore."""
    try:
        matches = sorted(folder.glob(pattern))
    except (ValueError, NotImplementedError, IndexError) as error:
        raise ValueError(f"{pattern!r} is no glob of files in a folder: {error}") from error
    found: dict[Path, Path] = {}
    for match in matches:
        for file in files_below(match, left_out) if match.is_dir() else (match,):
            if any(_is_no_data(part) for part in file.relative_to(folder).parts):
                left_out.append(LeftOut(file, "hidden, or no data by its name"))
            elif is_special(file):
                left_out.append(LeftOut(file, NO_FILE))
            elif found.setdefault(file.resolve(), file) != file:
                left_out.append(LeftOut(file, "a second name of a file"))
    return [*found.values()]


def _is_no_data(part: str) -> bool:
    return part != ".." and part.startswith((".", "_"))


def _require_apart(train: Sequence[Path], test: Sequence[Path], *patterns: str) -> None:
    known = {file.resolve() for file in train}
    both = [file for file in test if file.resolve() in known]
    if both:
        raise ValueError(
            f"{both[0]} is a training and a test file: both {patterns[0]!r} and {patterns[1]!r} "
            "match it; give `train:` and `test:` globs that have no file in common"
        )


@contextmanager
def _opened(file: Path) -> Iterator[pq.ParquetFile]:
    """Makes what pyarrow raises one message with the file."""
    try:
        with pq.ParquetFile(file, page_checksum_verification=True) as opened:
            yield opened
    except (pa.ArrowException, OSError) as error:
        first = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"{file} is not a Parquet file, or a damaged one: {first}; fetch or write it again"
        ) from error


def _looked_into(path: Path, image: str, label: str) -> ParquetFile:
    with _opened(path) as file:
        schema, rows = file.schema_arrow, file.metadata.num_rows
    for column in (image, label):
        if column not in schema.names:
            raise ValueError(f"{path} has no column {column!r}, only {', '.join(schema.names)}")
        if schema.names.count(column) > 1:
            raise ValueError(f"{path} has several columns {column!r}; write it with one")
    if not pa.types.is_integer(schema.field(label).type):
        kind = schema.field(label).type
        raise ValueError(f"{path}: labels must be integers, column {label!r} is {kind}")
    kind = schema.field(image).type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise ValueError(
            f"{path}: images must be binary or a struct with `bytes`, column {image!r} is {kind}"
        )
    return ParquetFile(path, rows)


def _files(files: ParquetFiles, relabel: bool) -> DatasetFiles:
    named = {f"train {index}": file.path for index, file in enumerate(files.train)}
    named |= {f"test {index}": file.path for index, file in enumerate(files.test)}
    about = repr(("parquet", files.image, files.label, relabel))
    return DatasetFiles(about, named, files.where, lambda: _read(files, relabel))


def _read(files: ParquetFiles, relabel: bool) -> Read:
    labels, relabelled = class_numbers(
        _labels(files.train, files.label),
        _labels(files.test, files.label),
        relabel,
        f"{files.train[0].path.parent}, column {files.label}",
    )
    found = decode([_source(files.train, files.image), _source(files.test, files.image)])
    train, test = (Split(*both) for both in zip(found.images, labels, strict=True))
    mean, std = channel_statistics(train.images)
    names = tuple(map(str, relabelled))
    dataset = Dataset(
        "parquet", train, None, test, int(train.labels.max()) + 1, mean, std, names, found.notes
    )
    return Read(dataset, found.as_ever)


def _labels(files: Sequence[ParquetFile], label: str) -> np.ndarray:
    return np.concatenate([_labels_of(file.path, label) for file in files if file.rows])


def _labels_of(path: Path, label: str) -> np.ndarray:
    with _opened(path) as file:
        column = file.read(columns=[label]).column(label)
    if column.null_count:
        raise ValueError(f"{path} has {column.null_count} rows without a label")
    try:
        return column.cast(pa.int64()).to_numpy()
    except pa.ArrowException as error:
        raise ValueError(f"{path}: a label is no class number: {error}") from error


def _source(files: Sequence[ParquetFile], image: str) -> Source:
    def images() -> Iterator[Encoded]:
        for file in files:
            yield from table_images(file, image)

    return Source(sum(file.rows for file in files), images)


def table_images(file: ParquetFile, image: str) -> Iterator[Encoded]:
    """The rows of a file one after the other, of which few are in memory.

    A row group may hold more than memory does, and than an array of Arrow's can. Raises ValueError.
    """
    row = 0
    with _opened(file.path) as opened:
        size = _rows_at_a_time(opened.metadata, image)
        for batch in opened.iter_batches(batch_size=size, columns=[image]):
            column = batch.column(image)
            values = column.field("bytes") if isinstance(column, pa.StructArray) else column
            for value in values:
                yield _encoded(f"{file.path}, row {row}", value)
                row += 1


def _rows_at_a_time(metadata: pq.FileMetaData, image: str) -> int:
    """So many that they take about BATCH_BYTES, and no more than CHUNK."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    columns = [group.column(number) for group in groups for number in range(group.num_columns)]
    mine = (c for c in columns if c.path_in_schema.partition(".")[0] == image)
    size = sum(column.total_uncompressed_size for column in mine) / max(metadata.num_rows, 1)
    return max(1, min(CHUNK, int(BATCH_BYTES / max(size, 1))))


def _encoded(where: str, value: pa.Scalar) -> Encoded:
    def read() -> bytes:
        content = value.as_py()
        if content is None:
            raise ValueError(f"{where} has no image bytes")
        return content

    return Encoded(where, read)
