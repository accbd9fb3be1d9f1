"""Machines: what a cluster, or this machine, has to offer."""

import os
from dataclasses import dataclass

from trainables.lazy_torch import torch


@dataclass(frozen=True)
class Cluster:
    """What Ray has to offer: in all, and (CPUs, GPUs) of each node, where it is not one.

    `line` tells people of it, `notices` what they should know. No trial is to be placed on the
    nodes whose ids are `left_out`."""

    cpus: int
    gpus: int
    nodes: tuple[tuple[int, int], ...] = ()
    line: str = ""
    notices: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def each(self) -> tuple[tuple[int, int], ...]:
        """(CPUs, GPUs) of each node."""
        return self.nodes or ((self.cpus, self.gpus),)


def this_machine() -> Cluster:
    """What a run on this machine would have."""
    return Cluster(usable_cpus(), torch.cuda.device_count())


def usable_cpus() -> int:
    """The CPU cores that this process may use: fewer than there are under `taskset`."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
