"""The slots of a cluster: how many trials it has room for at a time, and what each asks for.

Ray gives a trial that asks for a part of a GPU the fullest GPU of a node that has room for it. So
that trials come to lie on one GPU each before any two share one, those on different floors of the
GPUs ask for different parts: of two that ask for the first floor's, none fits beside the other.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from orchestrator.run.machines import Cluster
from orchestrator.sweepfile.resources import Resources

AUTO_LARGEST = 4
"""`gpus_per_lineage: auto`: at most four trials share a GPU."""
UNITS = 10_000
"""Ray counts resources in ten-thousandths."""


@dataclass(frozen=True)
class Slot:
    """Room for one trial: it asks for `gpus` of a GPU, and may use the part `memory` of the GPU's;
    0 is the CPU."""

    gpus: float
    memory: float

    def for_more(self, memory: float) -> "Slot":
        """What a trial asks for that is known to need `memory`."""
        if memory <= self.memory:
            return self
        # Only where shares are those of memory does a larger one keep others from it.
        return Slot(memory, memory) if self.gpus == self.memory else Slot(1.0, 1.0)


@dataclass
class Room:
    """Slots, and the trials that have taken them. The slots may become others at any time."""

    slots: tuple[Slot, ...]
    _taken: dict[str, Slot] = field(default_factory=dict)

    @property
    def full(self) -> bool:
        return len(self._taken) >= len(self.slots)

    def take(self, trial: str) -> Slot:
        """The first that is free: the lower floors are filled first. It must not be full."""
        taken = Counter(self._taken.values())
        free = next(slot for slot in self.slots if not _one_less(taken, slot))
        self._taken[trial] = free
        return free

    def leave(self, trial: str) -> None:
        self._taken.pop(trial, None)


def _one_less(taken: Counter[Slot], slot: Slot) -> bool:
    """Whether one such slot was taken, which is then counted no more."""
    taken[slot] -= 1
    return taken[slot] >= 0


def on_gpus(resources: Resources, cluster: Cluster) -> bool:
    """Whether lineages are trained on GPUs there."""
    if resources.gpus_per_lineage == "auto":
        return cluster.gpus > 0
    return resources.gpus_per_lineage > 0


def slots(
    resources: Resources,
    cluster: Cluster,
    trials: int,
    largest: int = AUTO_LARGEST,
    height: int | None = None,
) -> tuple[Slot, ...]:
    """The slots for as many as `trials`, in the order in which they are to be filled; none when
    no node has room for a lineage. With `auto` up to `largest` trials share a GPU; `height` is how
    many do where slots are laid again, whose shares have to fit those laid before."""
    if height is None and not on_gpus(resources, cluster):
        found = [Slot(0.0, 0.0)] * sum(cpus // resources.cpus_per_lineage
                                       for cpus, _ in cluster.each)  # fmt: skip
    elif resources.gpus_per_lineage == "auto":
        found = _spread(resources, cluster, trials, largest, height)
    else:
        # The small number makes up for fractions such as 1/3 that floats fall short of.
        share = float(resources.gpus_per_lineage)
        found = [Slot(share, share)] * len(_floors(resources, cluster, int(1 / share + 1e-9)))
    return tuple(found[: min(resources.max_concurrent or len(found), len(found))])


def idle(resources: Resources, cluster: Cluster) -> Iterator[str]:
    """What is left idle of a cluster, and how to use it."""
    if not on_gpus(resources, cluster):
        return
    without = [cpus for cpus, gpus in cluster.each if not gpus]
    if without and cluster.gpus:
        yield (
            f"{len(without)} of {len(cluster.each)} nodes have no GPU, and their {sum(without)} "
            "CPUs are left idle: a run trains on one kind of device, so that rows can be compared; "
            "another run with --set resources.gpus_per_lineage=0 would use them"
        )
    starved = sum(max(0, gpus - cpus // resources.cpus_per_lineage) for cpus, gpus in cluster.each)
    if starved:
        yield (
            f"{starved} of {cluster.gpus} GPUs are left idle: their nodes have too few CPUs for "
            f"resources.cpus_per_lineage: {resources.cpus_per_lineage}"
        )


def _spread(
    resources: Resources, cluster: Cluster, trials: int, largest: int, height: int | None
) -> list[Slot]:
    floors = _floors(resources, cluster, height or largest)[:trials]
    height = height or max(floors, default=1)
    shares = _shares(height)
    return [Slot(shares[floor - 1], 1 / height) for floor in floors]


def _floors(resources: Resources, cluster: Cluster, largest: int) -> list[int]:
    """The floor of every trial for which there is a GPU and the CPUs, the lowest, 1, first."""
    return [
        floor
        for floor in range(1, largest + 1)
        for cpus, gpus in cluster.each
        for _ in range(min(gpus, cpus // resources.cpus_per_lineage - gpus * (floor - 1)))
    ]


def _shares(floors: int) -> list[float]:
    """The parts of a GPU that trials on its floors ask for: each more than half of what those
    below leave, the last all of it."""
    left, shares = UNITS, []
    for _ in range(floors - 1):
        shares.append(left // 2 + 1)
        left -= shares[-1]
    return [share / UNITS for share in (*shares, left)]
