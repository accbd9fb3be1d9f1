"""The idx format of MNIST: a big-endian header, then the values (LeCun, Cortes and Burges)."""

import gzip
import hashlib
import math
import zlib
from pathlib import Path

import numpy as np

UNSIGNED_BYTE = 0x08


def read_idx(path: Path, shape: tuple[int, ...], md5: str) -> np.ndarray:
    """The uint8 array of `shape` in an idx file, plain or gzipped (by its suffix `.gz`).

    `md5` is that of the plain file, in hex. Raises ValueError, naming the file, when it is damaged
    or holds anything else.
    """
    content = _content(path)
    header = np.array([UNSIGNED_BYTE << 8 | len(shape), *shape], dtype=">u4").tobytes()
    if content[:4] != header[:4]:
        raise ValueError(
            f"{path} is not an idx file of unsigned bytes with {len(shape)} dimensions: "
            f"it begins with {content[:4].hex() or 'nothing'}, not {header[:4].hex()}"
        )
    if len(content) < len(header):
        raise ValueError(f"{path} ends within its header: it is truncated; fetch it again")
    found = tuple(np.frombuffer(content, ">u4", count=len(shape), offset=4).tolist())
    if found != shape:
        raise ValueError(f"{path} holds an array of shape {found}, expected {shape}")
    size, expected = len(content) - len(header), math.prod(shape)
    if size != expected:
        fault = "it is truncated" if size < expected else "it is too long"
        raise ValueError(f"{path} has {size} values, expected {expected}: {fault}; fetch it again")
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise ValueError(
            f"{path} is another file of this name than the published one, or damaged; fetch it "
            "again, or correct `data_root:`"
        )
    return np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape)


def _content(path: Path) -> bytes:
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        return gzip.decompress(path.read_bytes())
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is truncated or damaged ({error}); fetch it again") from error
