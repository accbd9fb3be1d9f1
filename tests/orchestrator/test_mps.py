"""The MPS daemon of a run: started, checked and ended. Its control program is a stand-in that
takes the real one's commands; tests/gpu has the real one."""

import os
import sys
from pathlib import Path

import psutil
import pytest

from orchestrator.run import mps as module
from orchestrator.run.mps import CONTROL, mps
from orchestrator.sweepfile.yaml_document import SweepFileError
from orchestrator.sweepfile.yaml_source import load_sweep
from trainables.lineage.mps_client import PIPE, without_mps

STAND_IN = """#!{python}
import os, subprocess, sys, time
from pathlib import Path

pipe = Path(os.environ["CUDA_MPS_PIPE_DIRECTORY"])
pid = pipe / "nvidia-cuda-mps-control.pid"
asked = sys.argv[1] if len(sys.argv) > 1 else sys.stdin.readline().strip()
if asked in {hangs}:
    time.sleep(1000)
if asked in {fails}:
    sys.exit("Cannot find MPS control daemon process")
if asked == "-d":
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    assert pipe.is_dir() and Path(os.environ["CUDA_MPS_LOG_DIRECTORY"]).is_dir()
    daemon = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    pid.write_text(str(daemon.pid))
elif asked == "quit":
    os.kill(int(pid.read_text()), 15)
"""


def install(
    patch: pytest.MonkeyPatch,
    folder: Path,
    hangs: tuple[str, ...] = (),
    fails: tuple[str, ...] = (),
) -> None:
    program = folder / CONTROL
    program.write_text(STAND_IN.format(python=sys.executable, hangs=hangs, fails=fails))
    program.chmod(0o755)
    patch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    patch.delenv(PIPE, raising=False)
    patch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    if hangs:
        patch.setattr(module, "SECONDS", 2.0)


def daemon(pipe: str) -> psutil.Process:
    return psutil.Process(int((Path(pipe) / f"{CONTROL}.pid").read_text()))


def has_ended(process: psutil.Process) -> bool:
    psutil.wait_procs([process], timeout=30)
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(("hangs", "fails"), [((), ()), (("quit",), ()), ((), ("quit",))])
def test_the_daemon_lives_as_long_as_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hangs: tuple[str, ...], fails: tuple[str, ...]
) -> None:
    """Also one that does not want to end."""
    install(monkeypatch, tmp_path, hangs, fails)
    with mps(True) as problem:
        assert problem is None
        pipe = os.environ[PIPE]
        running = daemon(pipe)
        assert running.is_running()
        assert len(pipe) < 40
    assert has_ended(running)
    assert PIPE not in os.environ
    assert not Path(pipe).parent.exists()


@pytest.mark.parametrize(
    ("hangs", "fails", "told"),
    [
        (("-d",), (), "-d did not end within 2 s"),
        ((), ("-d",), "-d failed: Cannot find MPS control daemon process"),
        (("get_server_list",), (), "get_server_list did not end"),
        ((), ("get_server_list",), "get_server_list failed"),
    ],
)
def test_a_daemon_that_does_not_work_is_done_without(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    hangs: tuple[str, ...],
    fails: tuple[str, ...],
    told: str,
) -> None:
    install(monkeypatch, tmp_path, hangs, fails)
    with mps(True) as problem:
        assert problem is not None
        assert told in problem
        assert PIPE not in os.environ


def test_a_machine_without_it_is_told_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with mps(True) as problem:
        assert problem == (
            f"resources.mps: GPUs are shared without MPS: there is no {CONTROL} on this machine"
        )
    with mps(False) as problem:
        assert problem is None


def test_one_of_somebody_else_is_found_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch, tmp_path)
    monkeypatch.setenv(PIPE, "/somebody/else")
    with mps(True):
        assert os.environ[PIPE] != "/somebody/else"
    assert os.environ[PIPE] == "/somebody/else"
    without_mps()
    assert PIPE not in os.environ


def test_a_sweep_with_mps_says_when_a_process_hangs(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    text = "name: s\ndataset: digits\nmodel: mlp\nmethods: [one_shot]\nresources:\n  mps: auto\n"
    file.write_text(text)
    with pytest.raises(SweepFileError, match="mps: auto needs timeout_minutes"):
        load_sweep(file)
    file.write_text(f"{text}  timeout_minutes: 30\n")
    assert load_sweep(file).resources.mps == "auto"
