"""Ray's private parts: all that is used of them, and why nothing public does it."""

import ctypes
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from typing import Any

import psutil
from ray import _raylet
from ray._private import node, parameter, ray_constants, services, state, worker
from ray._private.accelerators.nvidia_gpu import NvidiaGPUAcceleratorManager
from ray._private.services import canonicalize_bootstrap_address
from ray._raylet import AuthenticationTokenLoader, Config, GcsClient  # pyright: ignore
from ray.exceptions import AuthenticationError, RayError
from ray.job_config import JobConfig

ASKED_SECONDS, ASKED_EVERY_SECONDS = 30.0, 0.02
NO_PORT, NOBODYS_PORT = -1, 1
SIGACTION_BYTES = 512
"""More than C's struct has anywhere."""
LISTENS = "dashboard_agent_listen_port"
STAND_IN = (
    "sh -c \"trap '' HUP INT TERM USR1; "
    'cat > /dev/null; while kill -0 $PPID 2> /dev/null; do sleep 1; done"'
)
"""Its input ends with the raylet, where RAY_enable_pipe_based_agent_to_parent_health_check is set;
where that is unknown, it looks whether that is there. Who tells all processes to go does not mean
it: the raylet would end with it."""


def read_authentication() -> None:
    """Let Ray look at RAY_AUTH_MODE and RAY_AUTH_TOKEN again.

    Ray keeps both from when it first looked, and has no public way to forget them: a process that
    starts a second cluster, or goes on to one at an address, would come with the first one's token.
    """
    # In this order: see ray's reset_auth_token_state.
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def _replaced(owner: Any, **parts: Any) -> Iterator[None]:
    """Let a module or class of Ray's have other parts meanwhile."""
    before = {name: getattr(owner, name) for name in parts}
    for name, part in parts.items():
        setattr(owner, name, part)
    try:
        yield
    finally:
        for name, part in before.items():
            setattr(owner, name, part)


def loopback() -> AbstractContextManager[None]:
    """Let Ray take this machine's address to be 127.0.0.1, as it does on macOS and Windows.

    Publicly there are `_node_ip_address`, in which Ray replaces 127.0.0.1 by an address others can
    reach, and RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER, which is read once, when Ray is imported: before
    it is known whether a cluster is started or found.
    """
    return _replaced(ray_constants, ENABLE_RAY_CLUSTER=False)


@contextmanager
def few_helpers() -> Iterator[None]:
    """Let Ray start without what asks a cloud for more machines, what reads the workers' logs for
    the driver, and its dashboard: half a core-second each, and nobody listens to any. `ray.init`
    waits for the last, also where that has nothing to show.

    `ray.init` has no option for them.
    """
    before: Any = parameter.RayParams
    fewer = partial(before, no_monitor=True, include_log_monitor=False)
    with (
        _replaced(parameter, RayParams=fewer),
        _replaced(node.Node, start_api_server=_no_dashboard),
    ):
        yield


def _no_dashboard(started: Any, **options: Any) -> None:
    started._webui_url = ""


def asked_often() -> AbstractContextManager[None]:
    """Let `ray.init` go on as soon as its raylet has registered: Ray asks for that once a second,
    the first time too early."""
    before = services.get_node

    def get_node(gcs_address: str, node_id: str) -> Any:
        client, until = GcsClient(address=gcs_address), time.monotonic() + ASKED_SECONDS
        while time.monotonic() < until:
            with suppress(RayError):  # as Ray asks again where it was not answered
                if any(known.hex() == node_id for known in client.get_all_node_info(timeout=5)):
                    break
            time.sleep(ASKED_EVERY_SECONDS)
        return before(gcs_address, node_id)

    return _replaced(services, get_node=get_node)


def lean_raylet(workers: int) -> AbstractContextManager[None]:
    """Let a raylet start so many workers as soon as the driver is there, before they are asked for,
    and none of its agents: it waits until each has told its ports, a second of both cores, and
    ends itself where that takes long. One reports to the dashboard; the other makes environments,
    which `one_environment` leaves nobody to ask for. What stands in for them ends as the raylet
    does.

    Ray has an option to start as many workers as there are CPUs, or none, and none for agents.
    """
    before: Any = services.start_ray_process
    given = {
        "num_prestart_python_workers": workers,
        "dashboard_agent_command": STAND_IN,
        "runtime_env_agent_command": STAND_IN,
        "metrics-agent-port": NO_PORT,
        "metrics_export_port": NO_PORT,
        "runtime_env_agent_port": NOBODYS_PORT,
    }
    # Ray does not say this one, and a raylet may not know it.
    more = [f"--{LISTENS}={NO_PORT}", f"--undefok={LISTENS}"]

    def option(part: str) -> str:
        name = part.removeprefix("--").partition("=")[0]
        return f"--{name}={given[name]}" if name in given else part

    def start(command: list[str], kind: str, *others: Any, **options: Any) -> Any:
        if kind == ray_constants.PROCESS_TYPE_RAYLET:
            command = [*map(option, command), *more]
        return before(command, kind, *others, **options)

    return _replaced(services, start_ray_process=start)


def one_environment() -> AbstractContextManager[None]:
    """Let all workers have the environment of this process, whoever asks for another: a hook, which
    there is by default below `uv run`, or the job of Ray's that this process is in.

    Publicly that is so where each of them is told.
    """
    before = JobConfig.set_runtime_env

    def no_other(config: JobConfig, *asked: Any, **options: Any) -> None:
        before(config, None)

    return _replaced(JobConfig, set_runtime_env=no_other)


def gpus_here() -> int:
    """How many GPUs Ray counts on this machine. Publicly that is known once it has started, and of
    torch once that is imported."""
    return NvidiaGPUAcceleratorManager.get_current_node_num_accelerators()


def kill_at_shutdown() -> None:
    """Let `ray.shutdown` kill what `ray.init` has started, and what the raylet has.

    It asks each with SIGTERM and waits for a second. What does not hear that is killed anyway, and
    the raylet's children, which it would have ended, stay for up to a minute.
    """
    node: Any = worker._global_node
    kill = node.kill_all_processes

    def killed(check_alive: bool = True, allow_graceful: bool = False, wait: bool = False) -> None:
        raylets = node.all_processes.get(ray_constants.PROCESS_TYPE_RAYLET, ())
        children: list[psutil.Process] = []
        for raylet in raylets:
            with suppress(psutil.NoSuchProcess):
                children += psutil.Process(raylet.process.pid).children()
        kill(check_alive=check_alive, allow_graceful=False, wait=wait)
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()

    node.kill_all_processes = killed


def draining_nodes() -> list[str]:
    """The ids of the nodes that Ray is told to drain: they are about to go. Publicly there is only
    the command that tells it."""
    return [*state.state.get_draining_nodes()]


def uncounted() -> AbstractContextManager[None]:
    """Keep Tune from importing wandb, for half a second, to count the callbacks that are wandb's:
    it does so for its usage statistics, also where those are off."""
    from ray.air._internal import usage

    return _replaced(usage, tag_callbacks=lambda callbacks: False)


def signals_kept() -> AbstractContextManager[None]:
    """Keep Tune from putting signal handlers of its own in the place of ours.

    Of the two, it has an option to leave SIGINT alone, and none for SIGUSR1.
    """
    from ray.tune import tune

    return _replaced(tune, _setup_signal_catching=threading.Event)


def saved_once() -> AbstractContextManager[None]:
    """Keep Tune from saving its state but at the end, where it reads it again: nobody else does, as
    a run always starts a fresh Tuner.

    Tune has an option to save it rarely, and looks several times a second whether it is time.
    """
    from ray.tune.execution.tune_controller import TuneController

    before: Any = TuneController.checkpoint

    def checkpoint(self: Any, force: bool = False, wait: bool = False) -> None:
        if force:
            before(self, force, wait)

    return _replaced(TuneController, checkpoint=checkpoint)


def plain_workers() -> AbstractContextManager[None]:
    """Keep Tune from asking for workers with an environment of their own: none that is started in
    advance has that, and AWS keys that are handed on so Ray writes into its logs, on every node.
    Workers have the environment of their node.

    Tune has no option for either, and this process needs its keys to read the storage meanwhile.
    """
    # Here, as it takes longer than all the rest, and who only asks a cluster has no use for it.
    from ray.tune.execution import class_cache

    names = class_cache.ENV_VARS_TO_PROPAGATE
    handed_on = {name for name in names if not name.startswith("AWS_")}
    # The one by default is for another framework.
    return _replaced(class_cache, ENV_VARS_TO_PROPAGATE=handed_on, DEFAULT_ENV_VARS={})


def sigterm_kept() -> AbstractContextManager[None]:
    """Have what handles SIGTERM be what it was before, in whichever thread Ray is begun.

    Its core puts a handler in front that prints where it was hit and sets an alarm that ends the
    process. It has no option for that, and Python's own `signal.signal` is for the main thread.
    """
    made: Any = _raylet.CoreWorker  # pyright: ignore
    libc, before = ctypes.CDLL(None), ctypes.create_string_buffer(SIGACTION_BYTES)

    def make(*given: Any, **options: Any) -> Any:
        libc.sigaction(signal.SIGTERM, None, before)
        try:
            return made(*given, **options)
        finally:
            libc.sigaction(signal.SIGTERM, before, None)

    return _replaced(_raylet, CoreWorker=make)


def nothing_printed() -> AbstractContextManager[None]:
    """Keep what Ray tells its driver off the terminal: twenty lines of a raylet's log when a node
    is lost, twice.

    `ray.init(log_to_driver=False)` leaves out what workers print, and nothing else.
    """
    return _replaced(worker, _worker_logs_enabled=False)


def actor_of(trial: Any) -> str | None:
    """The id of the actor that a trial of Tune's has; publicly a trial does not say."""
    actor = trial.temporary_state.ray_actor
    return None if actor is None else actor._actor_id.hex()


def node_of(actor: str) -> str | None:
    """The id of the node on which an actor is or was, None where Ray does not know.

    Publicly `ray.util.state` tells, where a dashboard runs.
    """
    return state.actors(actor).get("Address", {}).get("NodeID") or None


def autoscaled() -> tuple[tuple[int, int], ...]:
    """(CPUs, GPUs) of the types of node that an autoscaler may start, as far as it says so. Ray has
    no public way to ask."""
    config = state.state.get_cluster_config()
    groups = config.node_group_configs if config is not None else ()
    each = (group.resources for group in groups if group.max_count)
    return tuple((int(found.get("CPU", 0)), int(found.get("GPU", 0))) for found in each)


def forget_ended(wrapper: Any) -> None:
    """Let Tune forget the trials that have ended; `wrapper` is what a scheduler is given.

    It keeps them all, with their configs and results, which is 50 KB each, and goes through them
    several times in each of its steps. One is left of those that failed and of the others, as none
    at the end is a reason for it to read its own files.
    """
    controller = wrapper._tune_controller
    for ended in (controller._stopped_trials, controller._failed_trials):
        for trial in [*ended][1:]:
            ended.remove(trial)
            controller._trials.remove(trial)
            controller._live_trials.discard(trial)
            controller._trials_to_cache.discard(trial)
            controller._trial_metadata.pop(trial.trial_id, None)
            shutil.rmtree(trial.local_path, ignore_errors=True)
    # A trial that goes on with another's worker takes back its request for one of its own, and what
    # that one was to do at its end is kept.
    manager = controller._actor_manager
    enqueued = manager._pending_actors_to_enqueued_actor_tasks
    for actor in [*enqueued]:
        if actor not in manager._pending_actors_to_attrs:
            del enqueued[actor]


def without_worker(wrapper: Any) -> Any:
    """The first trial that waits and for which no worker is being started, None where there is
    none; `wrapper` is what a scheduler is given.

    Tune gives a worker that is free to who has waited longest, and gives up the one that is being
    started for that. Where lineages take less time than a worker to start, a node would never get
    one.
    """
    controller = wrapper._tune_controller
    for trial in controller.get_trials():
        if trial in controller._pending_trials:
            actor = controller._trial_to_actor.get(trial)
            # One of these waits for room.
            if actor is None or actor in controller._actor_manager._pending_actors_to_attrs:
                return trial
    return None


def host_and_port(address: str) -> str:
    """Where Ray looks for the cluster at `address`, such as `auto`, as host:port.

    `ray.init` tells it only once it is connected, and takes long to give up.
    """
    return str(canonicalize_bootstrap_address(address))


def told_dashboard(address: str) -> str | None:
    """The dashboard of the cluster at host:port, as host:port, "" when it is off; None when the
    cluster does not admit this process.

    Publicly `ray.init` has it, which works on a node of the cluster only, and runs a job there.
    """
    try:
        client = GcsClient(address=address)
        namespace = ray_constants.KV_NAMESPACE_DASHBOARD
        found = client.internal_kv_get(b"webui:url", namespace, timeout=10)
    except AuthenticationError:
        return None
    return (found or b"").decode()
