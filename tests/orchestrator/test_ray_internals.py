"""Ray's private parts still do what they are used for. Of a cluster: test_clusters.py."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import ray
from ray._raylet import (
    AuthenticationTokenLoader,  # pyright: ignore[reportAttributeAccessIssue]  # compiled
)
from ray.tune.execution.class_cache import _ActorClassCache

from orchestrator.run.authentication import own_token, users_token
from orchestrator.run.ray_internals import host_and_port, keys_kept, loopback, read_authentication


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
    with loopback(True):
        assert ray.util.get_node_ip_address() == "127.0.0.1"
    with loopback(False):
        assert ray.util.get_node_ip_address() == before


def test_aws_keys_are_not_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")

    def handed_on() -> dict[str, str]:
        actor = _ActorClassCache().get(type("Trained", (), {}))
        return actor._default_options["runtime_env"]["env_vars"]

    assert handed_on()["AWS_SECRET_ACCESS_KEY"] == "secret"  # else keys_kept is not needed
    with keys_kept():
        assert handed_on()
        assert "AWS_SECRET_ACCESS_KEY" not in handed_on()


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
