"""Starting: Ray comes up in the background, while a run makes itself ready."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.run.machines import Cluster
    from orchestrator.sweepfile.resources import Resources
    from trainables.store import Store

JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""What `ray job submit` sets for what it runs."""


@contextmanager
def cluster_starting(
    address: str | None, store: Store, resources: Resources, tasks: int
) -> Iterator[Callable[[], Cluster]]:
    """Enter `ray_cluster` in a thread, for so many tasks; what is given waits for it. It is left at
    the end.

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
            with _out_of_a_jobs_folder():
                cluster = left.enter_context(ray_cluster(address))
                sound = same_ground(cluster, address, store, resources)
            signal.signal(signal.SIGTERM, before)  # Ray has put one there that exits
            yield lambda: sound
            return
        thread = left.enter_context(ThreadPoolExecutor(1, "ray"))
        with ExitStack() as started_there:
            trials = partial(_trials, tasks, resources)
            started = thread.submit(started_there.enter_context, ray_cluster(None, trials))
            try:
                yield started.result
            finally:
                wait([started])


def _trials(tasks: int, resources: Resources, cluster: Cluster) -> int:
    """At most so many trials begin at once there, as far as is known before any is planned."""
    from orchestrator.run.capacity import slots

    if resources.fuse == "auto" and cluster.gpus:
        return len(slots(resources, cluster, min(tasks, cluster.gpus)))
    together = resources.fuse if isinstance(resources.fuse, int) else 1
    return len(slots(resources, cluster, -(-tasks // together)))


@contextmanager
def _out_of_a_jobs_folder() -> Iterator[None]:
    """In a job of Ray's, be somewhere else while nodes make themselves ready for it.

    Each makes the job's folder anew, and where two are on one machine, the second replaces the one
    that this process is in. Who is in no folder cannot import torch: MKL ends the process.
    """
    if JOB_VARIABLE not in os.environ:
        # Outside of jobs Ray has workers import from the current folder.
        yield
        return
    before = os.getcwd()
    os.chdir(tempfile.gettempdir())
    try:
        yield
    finally:
        with suppress(OSError):  # it was not made again
            os.chdir(before)
