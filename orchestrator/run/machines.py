"""Machines: what a cluster, or this machine, has to offer."""

import os
from collections.abc import Iterable
from dataclasses import dataclass

from trainables.lazy_torch import torch

SLURMS = ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE")
"""What Slurm tells a task of its CPUs; the first where it was asked for some."""


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

    @classmethod
    def of(cls, nodes: "Iterable[Node]") -> "Cluster":
        """What these nodes have to offer, those that are lost left out."""
        each = tuple((node.cpus, node.gpus) for node in nodes if node.alive)
        return cls(sum(cpus for cpus, _ in each), sum(gpus for _, gpus in each), each)

    @property
    def each(self) -> tuple[tuple[int, int], ...]:
        """(CPUs, GPUs) of each node."""
        return self.nodes or ((self.cpus, self.gpus),)


@dataclass(frozen=True)
class Node:
    """A node of a cluster, `alive` or lost: its host's name, and where its raylet listens."""

    id: str
    name: str
    cpus: int
    gpus: int
    alive: bool
    listens: tuple[str, int]


def this_machine() -> Cluster:
    """What a run on this machine would have."""
    return Cluster(usable_cpus(), torch.cuda.device_count())


def usable_cpus() -> int:
    """The CPU cores that this process may use: fewer than there are under `taskset`, and in a task
    of Slurm's, which need not bind it to those that it was given."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = next((os.environ[name] for name in SLURMS if name in os.environ), "")
    return min(here, int(given)) if given.isdecimal() and int(given) > 0 else here
