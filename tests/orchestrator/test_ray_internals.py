"""Ray's private parts still do what they are used for. Of a cluster: test_clusters.py."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest
import ray
from ray._raylet import (
    AuthenticationTokenLoader,  # pyright: ignore[reportAttributeAccessIssue]  # compiled
)
from ray.tune.execution.class_cache import _ActorClassCache

from orchestrator.run.authentication import own_token, users_token
from orchestrator.run.ray_internals import (
    host_and_port,
    loopback,
    plain_workers,
    read_authentication,
)


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    for name in [name for name in os.environ if name.startswith("RAY_AUTH")]:
        monkeypatch.delenv(name)
    read_authentication()
    yield monkeypatch
    monkeypatch.undo()
    read_authentication()


def sent() -> str | None:
    """What Ray's client would send to a cluster."""
    return AuthenticationTokenLoader.instance().get_token_for_http_header().get("authorization")


def test_ray_takes_each_token_in_its_turn(user: pytest.MonkeyPatch) -> None:
    assert sent() is None
    with own_token():
        first = os.environ["RAY_AUTH_TOKEN"]
        assert sent() == f"Bearer {first}"
    assert sent() is None
    user.setenv("RAY_AUTH_TOKEN", "b" * 64)
    with users_token():
        assert sent() == f"Bearer {'b' * 64}"
    with own_token():
        assert sent() == f"Bearer {os.environ['RAY_AUTH_TOKEN']}" != f"Bearer {first}"


def test_ray_takes_this_machine_to_be_loopback() -> None:
    before = ray.util.get_node_ip_address()
    with loopback():
        assert ray.util.get_node_ip_address() == "127.0.0.1"
    assert ray.util.get_node_ip_address() == before


def test_trials_ask_for_no_environment_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")

    def handed_on() -> dict[str, str]:
        actor = _ActorClassCache().get(type("Trained", (), {}))
        return actor._default_options["runtime_env"].get("env_vars", {})

    assert handed_on()["AWS_SECRET_ACCESS_KEY"] == "secret"  # else plain_workers is not needed
    assert len(handed_on()) > 1
    with plain_workers():
        assert handed_on() == {}


AHEAD = """
import json, os, sys, time
import psutil, ray
from orchestrator.run.cluster import ray_cluster

class Trial:
    def where(self):
        return os.getpid(), "trainables.lineage.trainable" in sys.modules

def named(part):
    every = psutil.Process().children(recursive=True)
    return [each.pid for each in every if any(part in word for word in each.cmdline()[:3])]

with ray_cluster(None, lambda machine: 1 if machine.cpus >= 1 else 0):
    while not (idle := named("ray::IDLE")):
        time.sleep(0.05)
    trial = ray.remote(runtime_env={"env_vars": {}})(Trial).remote()
    pid, ready = ray.get(trial.where.remote())
    others = [*named("dashboard/dashboard.py"), *named("agent.py"), *named("agent/main.py")]
    nice = psutil.Process(pid).nice() - psutil.Process().nice()
    print(json.dumps({"idle": idle, "pid": pid, "ready": ready, "nice": nice, "others": others,
                      "environment": ray.get_runtime_context().runtime_env}))
    if sys.argv[1:]:
        print(json.dumps(named("cat > /dev/null")), flush=True)
        os.kill(os.getpid(), 9)
"""
OF_AGENTS = "RAY_enable_pipe_based_agent_to_parent_health_check"
FROM_A_JOB = {"runtime_env": {"env_vars": {"OTHER": "1"}}, "metadata": {}}


def test_a_run_has_workers_ready_before_it_asks_and_nobody_that_it_does_not_ask() -> None:
    """Also in a job of Ray's, whose environment it has anyway."""
    job = os.environ | {"RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps(FROM_A_JOB)}
    for environment in (os.environ, job):
        done = subprocess.run(
            [sys.executable, "-c", AHEAD], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        pid, nobody = found["pid"], {"others": [], "environment": {}}
        assert found == {"idle": [pid], "pid": pid, "ready": True, "nice": 0} | nobody


@pytest.mark.parametrize("piped", [True, False])
def test_what_stands_in_for_rays_agents_ends_with_it(piped: bool) -> None:
    environment = os.environ | {OF_AGENTS: str(int(piped))}
    done = subprocess.run(
        [sys.executable, "-c", AHEAD, "kill"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    pids = json.loads(done.stdout.splitlines()[-1])
    assert len(pids) >= 2
    there = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    assert psutil.wait_procs(there, timeout=60)[1] == []


UNASKED = """
import torch

def asked(*given):
    raise AssertionError("a worker does not know yet which GPU it is to have")

torch.cuda.is_available = torch.cuda.device_count = torch.cuda._lazy_init = asked
import trainables.lineage.preload
"""


def test_what_workers_import_in_advance_asks_for_no_gpu() -> None:
    subprocess.run([sys.executable, "-c", UNASKED], check=True)


CALLBACKS = """
import sys
import ray.tune.tune
from ray.tune import Callback
from orchestrator.run.ray_internals import uncounted

counting = sys.modules["ray.tune.tune"].air_usage
with uncounted():
    counting.tag_callbacks([Callback()])
print("wandb" in sys.modules)
counting.tag_callbacks([Callback()])
print("wandb" in sys.modules)
"""


def test_tune_does_not_import_wandb_to_count_callbacks() -> None:
    """It does by itself, else `uncounted` is not needed."""
    done = subprocess.run([sys.executable, "-c", CALLBACKS], capture_output=True, text=True)
    assert done.stdout.split() == ["False", "True"], done.stderr


def test_an_address_is_looked_up_as_ray_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:1234")  # of no machine
    assert host_and_port("auto") == "192.0.2.1:1234"
    assert host_and_port("192.0.2.2:99") == "192.0.2.2:99"
