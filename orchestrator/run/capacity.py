"""How many lineages a cluster has room for at a time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from orchestrator.sweepfile.spec import Resources

if TYPE_CHECKING:
    from orchestrator.run.cluster import Cluster

AUTO_GPUS = 0.25
"""`gpus_per_lineage: auto`: four small networks share a GPU."""


def gpus_per_lineage(resources: Resources, cluster: Cluster) -> float:
    """The share of a GPU that one lineage asks for; 0 runs on the CPU."""
    if resources.gpus_per_lineage != "auto":
        return float(resources.gpus_per_lineage)
    if cluster.gpus == 0:
        return 0.0
    # More lineages than the CPUs can feed would only wait for each other.
    fed = max(1, cluster.cpus // (resources.cpus_per_lineage * cluster.gpus))
    return max(AUTO_GPUS, 1 / fed)


def concurrency(resources: Resources, cluster: Cluster) -> int:
    """How many lineages run at a time; each has to fit on one node."""
    gpus = gpus_per_lineage(resources, cluster)
    nodes = cluster.nodes or ((cluster.cpus, cluster.gpus),)
    slots = sum(_slots(resources.cpus_per_lineage, gpus, *node) for node in nodes)
    return min(slots, resources.max_concurrent or slots)


def _slots(cpus: int, gpus: float, node_cpus: int, node_gpus: int) -> int:
    slots = node_cpus // cpus
    if gpus == 0:
        return slots
    # The small number makes up for fractions such as 1/3 that floats fall short of.
    on_gpus = math.floor(1 / gpus + 1e-9) * node_gpus if gpus <= 1 else int(node_gpus // gpus)
    return min(slots, on_gpus)
