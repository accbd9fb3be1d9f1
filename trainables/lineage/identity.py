"""Identity: a hash of everything that decides an iteration's numbers, and nothing else.

key_0 covers dataset, model, training recipe and seed; key_t = sha256(key_{t−1} + step + version).
Resources, storage, W&B options, paths, names and the number of iterations are outside, so that
changing them trains nothing.
"""

import hashlib
from typing import Any

from trainables.config import canonical_json

SCHEMA_VERSION = 1
"""Raised when the code computes different numbers for the same config."""


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def trunk_key(trunk: dict[str, Any]) -> str:
    """key_0 of `{"dataset": …, "model": …, "recipe": …, "seed": …}`."""
    return sha256(canonical_json({"schema": SCHEMA_VERSION, **trunk}))


def next_key(parent: str, step_json: str) -> str:
    """key_t from key_{t−1} and the canonical JSON of step t."""
    return sha256(f"{parent}\n{step_json}\n{SCHEMA_VERSION}")


def snapshot_key(trunk: str, step: int) -> str:
    """The key of the trunk's weights after `step` training steps (0: w_init)."""
    return next_key(trunk, canonical_json({"snapshot": step}))


def weights_key(content: str) -> str:
    """The key of the weights in a file with this content, `sha256:` and the digest in hex."""
    return sha256(canonical_json({"weights of": content}))
