"""Starting: Ray comes up in the background, while a run makes itself ready."""

from __future__ import annotations

import signal
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
    """Enter `ray_cluster` in a thread; what is given waits for it. It is left at the end.

    The thread lives as long as the block, since Linux ends with it what it has started. A cluster
    at an address is waited for here, and its nodes are asked whether they can train: before that
    nothing is to be written to a storage which they may not see. Raises what `same_ground` does.
    """
    # Here, as it imports Ray, which a run with nothing to train has no use for.
    from orchestrator.run.cluster import ray_cluster
    from orchestrator.run.ground import same_ground

    # Ray prints its errors; standard output is for what a command was asked for.
    with redirect_stdout(sys.stderr), ExitStack() as left:
        if address is not None:
            before = signal.getsignal(signal.SIGTERM)
            cluster = left.enter_context(ray_cluster(address))
            sound = same_ground(cluster, address, store, resources)
            signal.signal(signal.SIGTERM, before)  # Ray has put one there that exits
            yield lambda: sound
            return
        thread = left.enter_context(ThreadPoolExecutor(1, "ray"))
        with ExitStack() as started_there:
            started = thread.submit(started_there.enter_context, ray_cluster(None))
            try:
                yield started.result
            finally:
                wait([started])
