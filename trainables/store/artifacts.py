"""What commits hold: tensors as safetensors, masks as bits, measures as Parquet."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy
from safetensors import SafetensorError

from trainables.lazy_torch import Tensor, torch
from trainables.store.errors import Damaged
from trainables.store.store import Store

WEIGHTS = "weights.safetensors"
MASK = "mask.safetensors"
METRICS = "metrics.parquet"
LAYERS = "layers.parquet"
EPOCHS = "epochs.parquet"
SPARSITY = "sparsity.parquet"
SCORES = "scores.parquet"
"""Only where scores were kept."""


def measured_file(table: str) -> str:
    """The file of a measurement's commit that has its rows of a results table."""
    return f"{table}.parquet"


SHAPE = "shape/"

Masks = dict[str, Tensor]


def encode_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors of any device as safetensors; those that share memory are written once a name."""
    import safetensors.torch

    written: dict[str, Tensor] = {}
    memory: set[int] = set()
    for name, tensor in tensors.items():
        lying = tensor.detach().cpu().contiguous()
        address = lying.untyped_storage().data_ptr()
        # safetensors refuses what is shared; a copy of everything would take longer than the rest.
        written[name] = lying.clone() if address in memory else lying
        memory.add(address)
    return safetensors.torch.save(written)


def read_tensors(store: Store, path: str, name: str = WEIGHTS) -> dict[str, Tensor]:
    """The tensors in one file of a commit; raises Damaged when it holds something else."""
    with _damaged_unless_read(path, name):
        return decode_tensors(store.recall(path, name))


def read_masks(store: Store, path: str) -> Masks:
    """The masks of a commit; raises Damaged."""
    with _damaged_unless_read(path, MASK):
        return decode_masks(store.recall(path, MASK))


def read_table(store: Store, path: str, name: str, schema: pa.Schema) -> pa.Table:
    """A table of a commit, with the columns of `schema`: null where another version of prunesweep
    wrote none. Raises Damaged."""
    return read_tables(store, path, {name: schema})[name]


def read_tables(store: Store, path: str, schemas: Mapping[str, pa.Schema]) -> dict[str, pa.Table]:
    """The tables of a commit in the files that `schemas` names, see `read_table`."""
    tables = {}
    for name, data in store.read_files(path, schemas).items():
        with _damaged_unless_read(path, name):
            tables[name] = _with_columns(decode_table(data), schemas[name])
    return tables


def _with_columns(table: pa.Table, schema: pa.Schema) -> pa.Table:
    if table.schema.equals(schema):
        return table
    whole = pa.concat_tables([pa.Table.from_batches([], schema), table], promote_options="default")
    return whole.select(schema.names).cast(schema)


@contextmanager
def _damaged_unless_read(path: str, name: str) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        reason = (str(error).splitlines() or ["nothing"])[0]
        raise Damaged(path, f"{name} is not what prunesweep writes ({reason})") from error


def decode_tensors(data: bytes) -> dict[str, Tensor]:
    """Tensors by name, in the order of names: safetensors has another at every call."""
    import safetensors.torch

    return dict(sorted(safetensors.torch.load(data).items()))


def encode_masks(masks: Masks) -> bytes:
    """Masks as packed bits, eight weights a byte, each with its shape beside it."""
    arrays = {name: packed(mask) for name, mask in masks.items()}
    shapes = {f"{SHAPE}{name}": np.array(mask.shape, np.int64) for name, mask in masks.items()}
    return safetensors.numpy.save(arrays | shapes)


def decode_masks(data: bytes) -> Masks:
    """Masks by layer, in the order of their names, as `decode_tensors`."""
    arrays: dict[str, np.ndarray] = safetensors.numpy.load(data)
    return {
        name: unpacked(bits, tuple(arrays[f"{SHAPE}{name}"].tolist()))
        for name, bits in sorted(arrays.items())
        if not name.startswith(SHAPE)
    }


def packed(mask: Tensor) -> np.ndarray:
    """The mask as bits, in row-major order, the first weight in the highest bit of byte 0."""
    return np.packbits(mask.cpu().numpy().reshape(-1))


def unpacked(bits: np.ndarray, shape: tuple[int, ...]) -> Tensor:
    """The inverse of `packed` for a mask of `shape`."""
    count = int(np.prod(shape))
    return torch.from_numpy(np.unpackbits(bits, count=count).astype(bool).reshape(shape))


def encode_table(table: pa.Table) -> bytes:
    """A Parquet file with page checksums, so that a flipped byte is found by any reader."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def decode_table(data: bytes) -> pa.Table:
    # `pq.read_table` makes a data set of the one file first, which takes longer than the rest.
    file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
    return file.read(use_threads=False)
