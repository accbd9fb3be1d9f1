"""wandb's private parts still do what they are used for, each in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

SECONDS = 60.0
KEY = "0123456789abcdef" * 3


def asked(code: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(code), env=environment(folder, **variables),
        cwd=folder, capture_output=True, text=True, timeout=SECONDS,
    )  # fmt: skip


def command(code: str) -> list[str]:
    return [sys.executable, "-c", f"from orchestrator.tracking.service import *\nwandb()\n{code}"]


def environment(folder: Path, **variables: str) -> dict[str, str]:
    plain = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_") and k != "NETRC"}
    return plain | {"HOME": str(folder), "WANDB_CONFIG_DIR": str(folder), **variables}


def test_the_server_is_the_one_of_variables_and_files(tmp_path: Path) -> None:
    url = "print(wandb_internals.server_url())"
    (tmp_path / "settings").write_text("[default]\nbase_url = http://127.0.0.1:8\n")
    assert asked(url, tmp_path).stdout == "http://127.0.0.1:8\n"
    given = asked(f"{url}\nimport psutil; print(psutil.Process().children())", tmp_path,
                  WANDB_BASE_URL="http://127.0.0.1:9")  # fmt: skip
    assert given.stdout == "http://127.0.0.1:9\n[]\n"
    wrong = asked(url, tmp_path, WANDB_BASE_URL="nowhere")
    assert wrong.returncode == 1
    assert "base_url" in wrong.stderr


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_a_key_is_found_and_kept_nowhere(tmp_path: Path, mode: str) -> None:
    code = (
        "has = wandb_internals.has_key\n"
        "print(has('http://127.0.0.1:9'), has('http://127.0.0.1:8'), has('http://127.0.0.1:9'))"
    )
    netrc = tmp_path / ".netrc"
    netrc.write_text(f"machine 127.0.0.1:9 login user password {KEY}\n")
    before = set(tmp_path.iterdir())
    found = asked(code, tmp_path, WANDB_MODE=mode)
    assert found.stdout == "True False True\n", found.stderr
    assert set(tmp_path.iterdir()) == before


def test_a_service_that_hangs_is_not_waited_for(tmp_path: Path) -> None:
    """It is stopped, and would let this process wait for ever."""
    code = (
        "wandb().setup()\n"
        "import psutil\n"
        "(service,) = psutil.Process().children()\n"
        "service.suspend()\n"
        "Path('service').write_text(str(service.pid))\n"
        "wandb_internals.do_not_wait()"
    )
    process = subprocess.Popen(command(code), env=environment(tmp_path), cwd=tmp_path)
    try:
        assert process.wait(SECONDS) == 0
    finally:
        process.kill()
        psutil.Process(int((tmp_path / "service").read_text())).kill()
