"""Sweeps in a container of Azure Blob Storage: Microsoft's emulator, as a process of its own."""

import base64
import hashlib
import hmac
import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from email.utils import formatdate
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import psutil
import pytest
from asking import ask, refused
from sweeping import start, wait_for, write
from test_buckets_end_to_end import SMALL, sound, train_at_once

from trainables.store import Store, iteration_path
from trainables.store.claims import Claims

ACCOUNT = "devstoreaccount1"
# The emulator's own, which its documentation tells everybody.
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
VERSION = "2021-08-06"

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The location of a container, and the environment its clients need."""
    emulator = shutil.which("azurite-blob")
    if emulator is None:
        pytest.skip("azurite-blob is not on the PATH: npm install --global azurite")
    folder, port = tmp_path_factory.mktemp("azure"), _free_port()
    endpoint = f"http://127.0.0.1:{port}"
    asked = ["--blobPort", str(port), "--location", str(folder), "--skipApiVersionCheck",
             "--disableTelemetry"]  # fmt: skip
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen([emulator, *asked], stdout=log, stderr=log)
    _make_container(endpoint, "sweeps")
    told = {
        "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
        "AZURE_STORAGE_ACCOUNT_KEY": KEY,
        "AZURE_STORAGE_USE_EMULATOR": "true",
        "AZURITE_BLOB_STORAGE_URL": endpoint,
    }
    with pytest.MonkeyPatch.context() as environment:
        for name, value in told.items():
            environment.setenv(name, value)
        yield "az://sweeps"
    server.kill()
    server.wait()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _make_container(endpoint: str, name: str) -> None:
    date = formatdate(usegmt=True)
    signed = (
        f"PUT{chr(10) * 12}x-ms-date:{date}\nx-ms-version:{VERSION}\n"
        f"/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
    )
    digest = hmac.new(base64.b64decode(KEY), signed.encode(), hashlib.sha256).digest()
    headers = {
        "x-ms-date": date,
        "x-ms-version": VERSION,
        "Authorization": f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}",
        "Content-Length": "0",
    }
    url = f"{endpoint}/{ACCOUNT}/{name}?restype=container"

    def is_made() -> bool:  # once the server listens
        with suppress(URLError):
            urlopen(Request(url, headers=headers, method="PUT")).close()
            return True
        return False

    wait_for(is_made)


def test_of_many_one_commits_and_one_has_the_claim(container: str) -> None:
    stores = [Store(f"{container}/races") for _ in range(5)]
    with ThreadPoolExecutor(len(stores)) as pool:
        for n in range(10):
            path = iteration_path(f"{n}")
            done = pool.map(lambda s, path=path: s.commit(path, {"who": b"me"}), stores)
            assert sorted(done) == [False] * 4 + [True]
            taken = pool.map(lambda s, n=n: Claims(s).take(f"{n}"), stores)
            (claim,) = [claim for claim in taken if claim]
            claim.require()
            claim.withdraw()
    assert Store(f"{container}/races").sizes("claims") == {}


def test_of_a_run_killed_and_two_at_once_nothing_is_lost(container: str, tmp_path: Path) -> None:
    location, file = f"{container}/small", str(write(tmp_path, SMALL))
    killed = start(tmp_path, "run", file, "--storage", location)
    store = Store(location)
    wait_for(lambda: store.committed("iterations") != {})
    others = psutil.Process(killed.pid).children(recursive=True)
    killed.kill()
    killed.communicate()
    assert psutil.wait_procs(others, timeout=240)[1] == []
    first = {*store.committed("iterations")}
    train_at_once(2, file, location, tmp_path, stored=len(first))
    sound(tmp_path, location)

    key = min(first)
    inside = store.manifest(iteration_path(key))["folder"]
    store.write(f"{iteration_path(key)}/{inside}/weights.safetensors", b"flipped")
    assert key in ask(tmp_path, "verify", "--storage", location, expect=1)
    train_at_once(1, file, location, tmp_path, stored=len(store.committed("iterations")) - 1)
    assert json.loads(ask(tmp_path, "verify", "--json", "--storage", location))["damage"] == []
    assert [name for name in store.names("quarantine") if key in name]


def test_a_container_that_is_not_there_is_told_of(container: str, tmp_path: Path) -> None:
    file = str(write(tmp_path, SMALL))
    told = refused(tmp_path, "run", file, "--storage", "az://nowhere/small")
    assert "no such bucket" in " ".join(told.split())
