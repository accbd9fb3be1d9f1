"""Bench: what a lineage works with, outside its identity."""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from trainables.lineage.keeping import StoreOptions
from trainables.store import Store
from trainables.training.batches import DeviceData
from trainables.training.execution import PLAIN, Execution
from trainables.training.run import never


@dataclass(frozen=True)
class Bench:
    """What a lineage works with: the store, the data on its device, and what is outside identity.

    `snapshots` are, by trunk key, the training steps k whose weights w_k the trunk leaves behind
    for rewinding. `branch_points` are the keys that other lineages go on from as well, or that
    other sweeps keep the weights of, which are not for one lineage to drop. `elsewhere` is the data
    that an ablation trains on, where that is another dataset's. `run` and `attempt` say whose
    claims are whose. `execution` is by what means steps are computed. `is_told` says whether this
    process is to go.
    """

    store: Store
    data: DeviceData
    device: torch.device
    snapshots: Mapping[str, frozenset[int]] = field(default_factory=dict)
    branch_points: frozenset[str] = frozenset()
    keeping: StoreOptions = field(default_factory=StoreOptions)
    run: str = field(default_factory=lambda: uuid.uuid4().hex)
    attempt: int = 1
    git_sha: str | None = None
    execution: Execution = PLAIN
    is_told: Callable[[], bool] = never
    elsewhere: DeviceData | None = None
