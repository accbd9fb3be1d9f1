"""What commits hold: tensors as safetensors, masks as bits, measures as Parquet."""

import io
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy
import safetensors.torch
from torch import Tensor

from trainables.masks import Masks, packed, unpacked

WEIGHTS = "weights.safetensors"
MASK = "mask.safetensors"
METRICS = "metrics.parquet"
LAYERS = "layers.parquet"
EPOCHS = "epochs.parquet"
SPARSITY = "sparsity.parquet"

SHAPE = "shape/"


def encode_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors of any device as safetensors."""
    return safetensors.torch.save({n: t.detach().cpu().contiguous() for n, t in tensors.items()})


def decode_tensors(data: bytes) -> dict[str, Tensor]:
    return safetensors.torch.load(data)


def encode_masks(masks: Masks) -> bytes:
    """Masks as packed bits, eight weights a byte, each with its shape beside it."""
    arrays = {name: packed(mask) for name, mask in masks.items()}
    shapes = {f"{SHAPE}{name}": np.array(mask.shape, np.int64) for name, mask in masks.items()}
    return safetensors.numpy.save(arrays | shapes)


def decode_masks(data: bytes) -> Masks:
    """Masks by layer, in no particular order of layers."""
    arrays: dict[str, np.ndarray] = safetensors.numpy.load(data)
    return {
        name: unpacked(bits, tuple(arrays[f"{SHAPE}{name}"].tolist()))
        for name, bits in arrays.items()
        if not name.startswith(SHAPE)
    }


def encode_table(table: pa.Table) -> bytes:
    """A Parquet file with page checksums, so that a flipped byte is found by any reader."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def decode_table(data: bytes) -> pa.Table:
    return pq.read_table(io.BytesIO(data), page_checksum_verification=True)
