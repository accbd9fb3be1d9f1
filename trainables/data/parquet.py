"""Parquet files with a column of encoded images and one of labels, as on the Hugging Face hub."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainables.data.dataset import Dataset, DatasetInfo, Split, channel_statistics
from trainables.data.decoding import ImageFormat, decode_images, image_format
from trainables.data.entry import described_by
from trainables.data.fingerprint import fingerprint
from trainables.data.folder import find_folder
from trainables.data.roots import DataRoots


@dataclass(frozen=True)
class ParquetFiles:
    """The files of both splits, each sorted by name, and the columns to read."""

    train: Sequence[Path]
    test: Sequence[Path]
    image: str
    label: str


def describe(
    roots: DataRoots,
    *,
    path: str,
    train: str = "train-*.parquet",
    test: str = "test-*.parquet",
    image: str = "image",
    label: str = "label",
) -> DatasetInfo:
    """Shape, classes, counts and fingerprint, from the labels and the header of one image.

    Raises as `parquet` does.
    """
    files = _find(roots, path, train, test, image, label)
    training, testing = _labels(files.train, label), _labels(files.test, label)
    named = {f"train {index}": file for index, file in enumerate(files.train)}
    named |= {f"test {index}": file for index, file in enumerate(files.test)}
    return DatasetInfo(
        _format(files).shape,
        _classes(training, testing),
        len(training),
        len(testing),
        fingerprint(named, roots.cache),
    )


@described_by(describe)
def parquet(
    roots: DataRoots,
    *,
    path: str,
    train: str = "train-*.parquet",
    test: str = "test-*.parquet",
    image: str = "image",
    label: str = "label",
) -> Dataset:
    """Images [N, C, H, W] of the files that match the globs `train` and `test` in folder `path`.

    The column `image` is binary or a struct with the field `bytes`; `label` holds integers from
    0. The first training image decides between gray (C = 1) and RGB (C = 3). Raises
    DatasetNotFound, and ValueError for content that does not fit.
    """
    files = _find(roots, path, train, test, image, label)
    form = _format(files)
    training = _read(files.train, files, form)
    testing = _read(files.test, files, form)
    mean, std = channel_statistics(training.images)
    classes = _classes(training.labels, testing.labels)
    return Dataset("parquet", training, None, testing, classes, mean, std)


def _find(
    roots: DataRoots, path: str, train: str, test: str, image: str, label: str
) -> ParquetFiles:
    def look(folder: Path) -> ParquetFiles | None:
        found = [sorted(folder.glob(pattern)) for pattern in (train, test)]
        return ParquetFiles(found[0], found[1], image, label) if all(found) else None

    files = find_folder(path, roots, look, f"{train} and {test}")
    for file in (*files.train, *files.test):
        _check_columns(file, image, label)
    return files


def _check_columns(file: Path, image: str, label: str) -> None:
    try:
        schema = pq.read_schema(file)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{file} is not a Parquet file, or a damaged one: {error}") from error
    for column in (image, label):
        if column not in schema.names:
            raise ValueError(f"{file} has no column {column!r}, only {', '.join(schema.names)}")
    if not pa.types.is_integer(schema.field(label).type):
        kind = schema.field(label).type
        raise ValueError(f"{file}: labels must be integers, column {label!r} is {kind}")
    kind = schema.field(image).type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise ValueError(
            f"{file}: images must be binary or a struct with `bytes`, column {image!r} is {kind}"
        )


def _format(files: ParquetFiles) -> ImageFormat:
    file = files.train[0]
    batches = pq.ParquetFile(file).iter_batches(batch_size=1, columns=[files.image])
    first = next(batches, None)
    if first is None:
        raise ValueError(f"{file} has no rows")
    where = f"{file}, row 0"
    return image_format(_bytes(_encoded(first.column(0)), 0, where), where)


def _encoded(column: pa.Array) -> pa.Array:
    return column.field("bytes") if isinstance(column, pa.StructArray) else column


def _bytes(encoded: pa.Array, row: int, where: str) -> bytes:
    value = encoded[row].as_py()
    if value is None:
        raise ValueError(f"{where} has no image bytes")
    return value


def _labels(paths: Sequence[Path], label: str) -> np.ndarray:
    columns = [pq.read_table(path, columns=[label]).column(0) for path in paths]
    for path, column in zip(paths, columns, strict=True):
        if column.null_count:
            raise ValueError(f"{path} has {column.null_count} rows without a label")
    return np.concatenate([column.to_numpy() for column in columns]).astype(np.int64)


def _read(paths: Sequence[Path], files: ParquetFiles, form: ImageFormat) -> Split:
    labels = _labels(paths, files.label)
    images = np.empty((len(labels), *form.shape), dtype=np.uint8)
    start = 0
    for path in paths:
        start += _read_images(path, files.image, form, images[start:])
    return Split(images, labels)


def _read_images(path: Path, image: str, form: ImageFormat, images: np.ndarray) -> int:
    """Fill the front of `images` from one file and return how many it holds."""
    file = pq.ParquetFile(path)
    row = 0
    # By row groups, to bound how many encoded images are held beside the decoded ones.
    for group in range(file.num_row_groups):
        for chunk in file.read_row_group(group, columns=[image]).column(0).chunks:
            _decode(_encoded(chunk), path, row, form, images[row : row + len(chunk)])
            row += len(chunk)
    return row


def _decode(
    encoded: pa.Array, path: Path, start: int, form: ImageFormat, images: np.ndarray
) -> None:
    def where(row: int) -> str:
        return f"{path}, row {start + row}"

    decode_images(images, lambda row: _bytes(encoded, row, where(row)), where, form)


def _classes(train: np.ndarray, test: np.ndarray) -> int:
    for name, labels in (("training", train), ("test", test)):
        if len(labels) == 0:
            raise ValueError(f"there are no {name} examples")
        if labels.min() < 0:
            raise ValueError(f"the {name} labels go down to {labels.min()}; they must start at 0")
    return int(max(train.max(), test.max())) + 1
