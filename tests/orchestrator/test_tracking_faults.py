"""Whatever happens to W&B, or to what shows it a run, no lineage fails and no point is lost."""

import json
import os
import re
import signal
from contextlib import suppress
from pathlib import Path

import pytest
from local_wandb import LocalWandb, bad_server, serving
from mirrored import (
    CANARY,
    LONGER,
    ONE,
    assert_mirrored,
    assert_secret,
    command,
    commits,
    core_processes,
    expected_rows,
    history,
    login,
    offline_folders,
    plain,
    server_rows,
    start,
    storage,
    sync,
    wait_for,
    write,
)


def test_killed_runs_leave_no_point_out_and_none_twice(tmp_path: Path) -> None:
    process = start(tmp_path, "run", write(tmp_path, LONGER))
    wait_for(lambda: storage(tmp_path).exists() and commits(tmp_path) >= 2)
    process.kill()
    process.wait()
    assert offline_folders(tmp_path, "longer")
    wait_for(lambda: not core_processes(tmp_path))
    command(tmp_path, "run", write(tmp_path, LONGER))
    assert_mirrored(tmp_path, "longer")


@pytest.mark.parametrize(
    "kind",
    [
        "unauthorized",
        pytest.param("silent", marks=pytest.mark.cluster),
        pytest.param("absent", marks=pytest.mark.cluster),
    ],
)
def test_no_lineage_fails_for_a_server(kind: str, tmp_path: Path) -> None:
    with bad_server(kind) as url:
        env = login(url)
        out, err = command(tmp_path, "run", write(tmp_path, ONE), "--json", **env)
    summary = json.loads(out)
    assert summary["failures"] == []
    assert commits(tmp_path) == 2
    assert summary["wandb"]["left"] == 1
    # Its library says CommError, or what its service's socket said when the service gave up first.
    assert re.search("CommError|Connection", summary["wandb"]["problem"])
    assert_mirrored(tmp_path, "one")
    assert_secret(CANARY, out, err, store=storage(tmp_path), home=tmp_path / "home")


@pytest.mark.cluster
def test_what_a_server_cannot_be_told_at_the_end_is_kept_offline(tmp_path: Path) -> None:
    """That, and not what the server has."""
    with serving(LocalWandb()) as server:
        env = login(server.url)
        both = ONE | {"methods": ["one_shot", "lottery_ticket"]}
        command(tmp_path, "run", write(tmp_path, both), WANDB_MODE="disabled")
        command(tmp_path, "run", write(tmp_path, ONE), "--replace", **env)
        server.closed = True
        summary = json.loads(command(tmp_path, "run", write(tmp_path, both), "--json", **env)[0])
    assert (summary["wandb"]["unchanged"], summary["wandb"]["left"]) == (1, 1)
    assert "CommError" in summary["wandb"]["problem"]
    (kept,) = offline_folders(tmp_path, "one")
    lineage = kept.parents[1].name
    assert lineage not in server.runs
    assert plain(history(kept)) == expected_rows(tmp_path, "one")[lineage]


def test_no_lineage_fails_for_a_service_that_dies_or_hangs(tmp_path: Path) -> None:
    """One lineage's is killed, the next one's is stopped."""
    process = start(tmp_path, "run", write(tmp_path, LONGER), "--json")
    wait_for(lambda: storage(tmp_path).exists() and commits(tmp_path) >= 2)
    killed = signalled(signal.SIGKILL, tmp_path)
    wait_for(lambda: set(core_processes(tmp_path)) - set(killed))
    stopped = signalled(signal.SIGSTOP, tmp_path)
    try:
        out, err = process.communicate(timeout=250)
    finally:
        for service in stopped:
            with suppress(ProcessLookupError):
                os.kill(service, signal.SIGKILL)
    assert process.returncode == 0, err
    assert json.loads(out)["failures"] == []
    assert_mirrored(tmp_path, "longer")


def signalled(number: int, folder: Path) -> list[int]:
    services = core_processes(folder)
    assert services
    for service in services:
        os.kill(service, number)
    return services


@pytest.mark.long
def test_no_lineage_fails_for_a_server_that_falls_silent(tmp_path: Path) -> None:
    with serving(LocalWandb()) as server:
        env = login(server.url)
        process = start(tmp_path, "run", write(tmp_path, LONGER), "--json", **env)
        wait_for(lambda: server.runs)
        server.delay = 1000
        out, err = process.communicate(timeout=250)
        assert process.returncode == 0, err
        summary = json.loads(out)
        assert summary["failures"] == []
        assert summary["wandb"]["left"] == 2
        server.delay = 0
        assert sync(tmp_path, "longer", **env)["sent"] == 2
        assert server_rows(server) == expected_rows(tmp_path, "longer")


def test_no_lineage_fails_for_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    storage(tmp_path).mkdir()
    (storage(tmp_path) / "wandb").write_text("a file, where W&B's folders should be")
    summary = json.loads(command(tmp_path, "run", write(tmp_path, ONE), "--json")[0])
    assert summary["failures"] == []
    assert commits(tmp_path) == 2
    assert summary["wandb"]["left"] == 1
    assert summary["wandb"]["problem"]
