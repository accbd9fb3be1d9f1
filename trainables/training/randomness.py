"""Random streams: one seed, and a generator of its own for every purpose.

A stream depends on its labels only, never on how much was drawn elsewhere, so that a resumed run
draws what an uninterrupted one does.
"""

from __future__ import annotations

import hashlib

from trainables.lazy_torch import torch


def stream_seed(seed: int, *labels: str | int) -> int:
    """A 63-bit seed for the stream that `labels` name."""
    text = "/".join(str(part) for part in (seed, *labels))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(seed: int, *labels: str | int) -> torch.Generator:
    """A CPU generator for the stream that `labels` name; CPU, so that every device draws alike."""
    return torch.Generator().manual_seed(stream_seed(seed, *labels))
