"""Random streams: one seed, and a generator of its own for every purpose.

A stream depends on its labels only, never on how much was drawn elsewhere, so that a resumed run
draws what an uninterrupted one does.
"""

from __future__ import annotations

import hashlib

from trainables.lazy_torch import Tensor, torch


def stream_seed(seed: int, *labels: str | int) -> int:
    """A 63-bit seed for the stream that `labels` name."""
    text = "/".join(str(part) for part in (seed, *labels))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(seed: int, *labels: str | int) -> torch.Generator:
    """A CPU generator for the stream that `labels` name; CPU, so that every device draws alike."""
    return torch.Generator().manual_seed(stream_seed(seed, *labels))


def global_states() -> dict[str, Tensor]:
    """The states of torch's global generators, by device."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_global_states(states: dict[str, Tensor]) -> None:
    """Have torch's global generators go on from `states`; one of a device that this process does
    not use is left out."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(states["cuda"])
