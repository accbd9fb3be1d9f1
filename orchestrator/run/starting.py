"""Starting: Ray comes up in the background, while a run makes itself ready."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, redirect_stdout
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.run.machines import Cluster
    from orchestrator.sweepfile.spec import Resources
    from trainables.store import Store


@contextmanager
def cluster_starting(
    address: str | None, store: Store, resources: Resources
) -> Iterator[Callable[[], Cluster]]:
    """Enter `ray_cluster` in a thread; what is given waits for it. It is left at the end. Of one at
    an address, the nodes are asked first whether they can train: see `same_ground`.

    The thread lives as long as the block, since Linux ends with it what it has started.
    """
    # Here, as it imports Ray, which a run with nothing to train has no use for.
    from orchestrator.run.cluster import ray_cluster
    from orchestrator.run.ground import same_ground

    def start() -> Cluster:
        cluster = left.enter_context(ray_cluster(address))
        return cluster if address is None else same_ground(cluster, address, store, resources)

    # Ray prints its errors; standard output is for what a command was asked for.
    with redirect_stdout(sys.stderr), ThreadPoolExecutor(1, "ray") as thread, ExitStack() as left:
        started = thread.submit(start)
        try:
            yield started.result
        finally:
            wait([started])
