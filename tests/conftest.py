"""Fixtures that several test modules share."""

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from object_server import ObjectServer

# Whatever login this machine has. W&B takes seconds of every worker: tests of it turn it on.
os.environ["WANDB_MODE"] = "disabled"
# Hundreds of processes import the same modules, and need not compile them each.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# A shell that starts the tests in its background has them ignore Ctrl-C, and all they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Tests run beside each other; Ray would let its workers have what time the others leave.
os.environ.setdefault("RAY_worker_niceness", "0")


@pytest.fixture(scope="session")
def oracles() -> Path:
    """The folder of arrays computed by the methods' published code."""
    shared = os.environ.get("PRUNESWEEP_SHARED")
    if not shared:
        pytest.skip("PRUNESWEEP_SHARED is not set: it names the folder that holds oracles/")
    return Path(shared) / "oracles"


@pytest.fixture(scope="session")
def object_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    """An S3 server, with a bucket, and the environment its clients need."""
    os.environ |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    server = ObjectServer(tmp_path_factory.mktemp("objects"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def bucket(object_server: ObjectServer) -> Iterator[ObjectServer]:
    """The same, well behaved at first."""
    object_server.behave()
    yield object_server
    object_server.behave()


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A folder in memory where there is such a file system: thousands of syncs take long on a
    disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        yield Path(name)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--regenerate-golden", action="store_true", help="Rewrite tests/golden/ instead of checking"
    )
