"""The smallest sweep that a run can train: two iterations, done in no time."""

from typing import Any

SWEEP: dict[str, Any] = {
    "name": "s",
    "dataset": {"name": "digits", "subset": 100},
    "model": {"name": "mlp", "hidden": [8]},
    "train": {"epochs": 1, "batch_size": 50},
    "prune": {"iterations": 1},
    "methods": ["one_shot"],
}
