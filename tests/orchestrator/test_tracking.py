"""W&B as a mirror of the store: real runs, W&B's own reader, and servers on this machine."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from local_wandb import LocalWandb, Run, bad_server, serving
from mirrored import (
    CANARY,
    COMMAND,
    ONE,
    SWEEP,
    assert_mirrored,
    assert_secret,
    command,
    core_processes,
    environment,
    expected_rows,
    history,
    login,
    offline_folders,
    records,
    server_rows,
    start,
    storage,
    sync,
    wait_for,
    write,
)

from orchestrator import open_results
from orchestrator.sweepfile.spec import WandbOptions
from orchestrator.tracking.destination import Destination, destination, overridden
from orchestrator.tracking.lineage_run import summary
from orchestrator.tracking.report import build_wandb_report, wandb_report
from orchestrator.tracking.service import TrackingError
from trainables.store import Store, iteration_path
from trainables.store.artifacts import MASK, WEIGHTS, decode_masks, decode_tensors


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `small` run to its end without a key, W&B's server being one that counts."""
    folder = tmp_path_factory.mktemp("finished")
    with serving(LocalWandb()) as server:
        out, err = command(folder, "run", write(folder, SWEEP), WANDB_BASE_URL=server.url)
        assert server.requests == 0
    assert "W&B: 2 lineages, offline" in out
    assert "W&B" not in err
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """The finished sweep without what W&B was shown of it."""
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    shutil.rmtree(storage(folder) / "wandb")
    return folder


def test_offline_runs_have_the_rows_of_the_tables(finished: Path) -> None:
    assert_mirrored(finished, "small")


def test_an_offline_run_is_described_by_its_lineage(finished: Path) -> None:
    line = next(
        line for line in open_results(str(storage(finished)), "small").record.lineages
        if line.config["method"]["name"] == "sap"
    )  # fmt: skip
    (folder,) = (f for f in offline_folders(finished, "small") if f.parents[1].name == line.id)
    found = records(folder)
    run = next(each["run"] for each in found if "run" in each)
    assert (run["run_id"], run["display_name"]) == (line.id, line.id)
    assert (run["project"], run["run_group"], run["job_type"]) == ("pruning", "small", "sap")
    assert run["tags"] == ["small", "sap", "digits", "mlp", "mine"]
    config = run["config"]["update"]
    assert {name: config[name] for name in line.config} == line.config
    assert (config["sweep"], config["label"]) == ("small", "sap")
    axes = {
        each["metric"]["glob_name"]: each["metric"]["step_metric"]
        for each in found if "glob_name" in each.get("metric", {})
    }  # fmt: skip
    assert axes == {"iteration/*": "iteration", "epoch/*": "epoch"}
    assert [each["exit"]["exit_code"] for each in found if "exit" in each] == [0]
    summary: dict[str, Any] = {}
    for each in found:
        summary |= each.get("summary", {}).get("update", {})
    rows = [row for row in history(folder) if "iteration" in row]
    assert summary["complete"] is True
    assert summary["final_test_accuracy"] == rows[-1]["iteration/test_accuracy"]
    assert summary["final_density"] == rows[-1]["iteration/density"]
    assert summary["final_iteration"] == 2
    assert summary["best_test_accuracy"] == max(r["iteration/test_accuracy"] for r in rows)


def test_the_summary_is_of_iterations_on_real_data() -> None:
    accuracies = [0.9, 0.8, 0.5, 0.1]
    rows = [
        {"iteration": t, "iteration/test_accuracy": accuracy, "iteration/density": 1 / (t + 1)}
        for t, accuracy in enumerate(accuracies)
    ]
    found = summary(rows, {1, 2})
    assert (found["final_iteration"], found["final_test_accuracy"]) == (2, 0.5)
    assert (found["best_iteration"], found["best_test_accuracy"]) == (1, 0.8)
    assert summary(rows, {4}) == {}


def test_a_second_run_leaves_offline_runs_alone(finished: Path) -> None:
    def files() -> dict[Path, int]:
        found = [file for f in offline_folders(finished, "small") for file in f.rglob("*")]
        return {file: file.stat().st_mtime_ns for file in found}

    before = files()
    command(finished, "run", write(finished, SWEEP))
    assert files() == before


def test_more_iterations_supersede_the_offline_run(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    command(folder, "run", write(folder, SWEEP | {"prune": {"iterations": 3}}))
    assert_mirrored(folder, "small")
    assert {len(history(f)) for f in offline_folders(folder, "small")} == {4 * 2}


@pytest.mark.cluster
def test_what_was_disabled_is_made_up_for(tmp_path: Path) -> None:
    file = write(tmp_path, ONE, mode="disabled")
    out, _ = command(tmp_path, "run", file, "--json")
    assert json.loads(out)["wandb"] is None
    assert not (storage(tmp_path) / "wandb").exists()
    assert sync(tmp_path, "one")["sent"] == 1
    assert_mirrored(tmp_path, "one")
    before = offline_folders(tmp_path, "one")
    again = sync(tmp_path, "one")
    assert (again["sent"], again["unchanged"]) == (0, 1)
    assert offline_folders(tmp_path, "one") == before
    assert sync(tmp_path, "one", "--all")["sent"] == 1
    assert_mirrored(tmp_path, "one")


def test_another_project(copy: Path) -> None:
    assert sync(copy, "small", "--project", "other", "--entity", "team")["sent"] == 2
    for folder in offline_folders(copy, "small"):
        run = next(each["run"] for each in records(folder) if "run" in each)
        assert (run["entity"], run["project"]) == ("team", "other")


def test_a_server_gets_every_point_once(copy: Path) -> None:
    online = ("--mode", "online")
    with serving(LocalWandb()) as server:
        env = login(server.url)
        assert sync(copy, "small", *online, **env)["sent"] == 2
        assert server_rows(server) == expected_rows(copy, "small")
        asked = server.requests
        assert sync(copy, "small", *online, **env)["unchanged"] == 2
        assert server.requests == asked
        assert sync(copy, "small", *online, "--all", **env)["sent"] == 2
        assert server_rows(server) == expected_rows(copy, "small")
        created = {name: run.created for name, run in server.runs.items()}
        assert {each["groupName"] for each in created.values()} == {"small"}
        assert {run.exit_code for run in server.runs.values()} == {0}
    assert_secret(CANARY, copy=copy)


def test_a_sync_that_is_killed_is_continued(copy: Path) -> None:
    online = ("wandb-sync", "small", "--mode", "online")
    with serving(LocalWandb(delay=0.3)) as server:
        env = login(server.url)
        process = start(copy, *online, **env)
        wait_for(lambda: any(run.lines for run in server.runs.values()))
        process.kill()
        process.wait()
        wait_for(lambda: not core_processes(copy))
        command(copy, *online, **env)
        assert server_rows(server) == expected_rows(copy, "small")


def test_a_server_that_has_a_part_gets_the_rest(copy: Path) -> None:
    expected = expected_rows(copy, "small")
    with serving(LocalWandb()) as server:
        for name, rows in expected.items():
            server.runs[name] = Run(created={}, lines=dict(enumerate(rows[:3])), steps=[0, 1, 2])
        env = login(server.url)
        sync(copy, "small", "--mode", "online", **env)
        assert server_rows(server) == expected


def test_a_run_is_online_where_there_is_a_key(tmp_path: Path) -> None:
    with serving(LocalWandb()) as server:
        env = login(server.url)
        out, err = command(tmp_path, "run", write(tmp_path, ONE), **env)
        assert server_rows(server) == expected_rows(tmp_path, "one")
    assert f"W&B: 1 lineages at {server.url}/pruning" in out
    assert not offline_folders(tmp_path, "one")
    assert_secret(CANARY, out, err, store=storage(tmp_path), home=tmp_path / "home")


def test_a_full_disk_is_not_taken_for_success(copy: Path) -> None:
    folder = storage(copy) / "wandb"
    folder.mkdir()
    script = f"mount -t tmpfs -o size=1m tmpfs {folder} && {COMMAND} wandb-sync small"
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", script],
        cwd=copy, env=environment(copy / "home"), capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("this user may not mount a small disk")
    assert done.returncode == 1
    assert "2 not sent" in done.stdout
    assert "has no room left" in done.stdout


def test_a_sync_that_is_interrupted_ends(copy: Path) -> None:
    with bad_server("silent") as url:
        env = login(url)
        process = start(copy, "wandb-sync", "small", "--mode", "online", **env)
        wait_for(lambda: list(storage(copy).glob("wandb/small/*/online/wandb/run-*")))
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=240)
    assert process.returncode == 130, err
    assert "Traceback" not in err


def test_a_lineage_in_other_hands_is_left_alone(copy: Path) -> None:
    sync(copy, "small")
    before = offline_folders(copy, "small")
    descriptor = os.open(before[0].parents[1], os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        sent = sync(copy, "small", "--all", expect=1)
    finally:
        os.close(descriptor)
    assert (sent["sent"], sent["left"], sent["problem"]) == (1, 1, None)
    assert before[0] in offline_folders(copy, "small")


def test_online_without_a_key_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    file = write(tmp_path, ONE, mode="online")
    _, err = command(tmp_path, "run", file, expect=2)
    assert "wandb.mode: W&B is to be online, and there is no key: set WANDB_API_KEY" in err
    assert not storage(tmp_path).exists()


def test_sync_online_without_a_key_is_refused(copy: Path) -> None:
    _, err = command(copy, "wandb-sync", "small", "--mode", "online", expect=2)
    assert "there is no key: set WANDB_API_KEY or call `wandb login`" in err
    assert len(err.splitlines()) == 1


def test_settings_of_w_and_b_that_are_wrong_are_one_message(copy: Path) -> None:
    env = login("nonsense")
    _, err = command(copy, "wandb-sync", "small", expect=2, **env)
    assert "W&B cannot be set up (base_url: Input should be a valid URL" in err
    assert len(err.splitlines()) == 1


def test_histograms_and_the_ticket(copy: Path) -> None:
    write_options(copy, "small", histograms=True, log_ticket=True)
    sync(copy, "small")
    store = Store(str(storage(copy)))
    for line in open_results(store, "small").record.lineages:
        (folder,) = (f for f in offline_folders(copy, "small") if f.parents[1].name == line.id)
        rows = [row for row in history(folder) if "iteration" in row]
        for row, key in zip(rows, line.keys, strict=True):
            masks = decode_masks(store.read(iteration_path(key), MASK))
            assert sum(row["histogram/magnitude.values"]) == sum(m.sum() for m in masks.values())
            for name, mask in masks.items():
                shares = mask.double().mean(1).numpy()
                counts, edges = np.histogram(shares, 64, (0, 1))
                assert row[f"histogram/mask/{name}.values"] == counts.tolist()
                assert row[f"histogram/mask/{name}.bins"] == edges.tolist()
        (artifact,) = (r["artifact"] for r in records(folder) if "artifact" in r)
        assert (artifact["name"], artifact["type"]) == (f"ticket-{line.id}", "ticket")
        files = {f["path"]: Path(f["local_path"]) for f in artifact["manifest"]["contents"]}
        weights = store.read(iteration_path(line.keys[-1]), WEIGHTS)
        assert files[WEIGHTS].read_bytes() == weights
        last = decode_masks(store.read(iteration_path(line.keys[-1]), MASK))
        saved = decode_tensors(files[MASK].read_bytes())
        assert {n: m.tolist() for n, m in saved.items()} == {
            n: m.int().tolist() for n, m in last.items()
        }


def write_options(folder: Path, sweep: str, **options: Any) -> None:
    """As if the sweep had been run with these options of `wandb:`."""
    store, path = Store(str(storage(folder))), f"sweeps/{sweep}/sweep.json"
    spec = store.read_json(path)
    store.write_json(path, spec | {"wandb": spec["wandb"] | options})


@pytest.fixture
def no_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in list(os.environ):
        if name.startswith("WANDB"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    return monkeypatch


def test_the_mode(no_login: pytest.MonkeyPatch) -> None:
    def mode(of: str | None) -> str | None:
        to = destination(WandbOptions(mode=of))  # type: ignore[arg-type]
        return to and to.mode

    assert [mode(None), mode("offline"), mode("disabled")] == ["offline", "offline", None]
    no_login.setenv("WANDB_MODE", "disabled")
    assert [mode(None), mode("offline")] == [None, "offline"]
    no_login.setenv("WANDB_MODE", "sometimes")
    with pytest.raises(TrackingError, match="WANDB_MODE is sometimes"):
        mode(None)
    no_login.delenv("WANDB_MODE")
    no_login.setenv("WANDB_API_KEY", CANARY)
    assert [mode(None), mode("offline"), mode("online")] == ["online", "offline", "online"]
    no_login.setenv("WANDB_MODE", "offline")
    assert [mode(None), mode("online")] == ["offline", "online"]


def test_a_key_of_a_login_is_found(no_login: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert destination(WandbOptions()) == Destination("offline", "prunesweep", None)
    no_login.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    found = subprocess.run(
        [sys.executable, "-c", "from orchestrator.tracking.service import *; print(key_source())"],
        env=dict(os.environ), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout.strip() == "None"
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1:9 login user password {CANARY}\n")
    found = subprocess.run(
        [sys.executable, "-c", "from orchestrator.tracking.service import *; print(key_source())"],
        env=dict(os.environ), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout.strip() == "what `wandb login` wrote"
    assert CANARY not in found.stderr


@pytest.mark.parametrize("changes", [{"project": "a/b"}, {"project": ""}, {"entity": ""}])
def test_names_that_w_and_b_does_not_take(changes: dict[str, str]) -> None:
    with pytest.raises(TrackingError, match=next(iter(changes))):
        overridden(WandbOptions(), **changes)


def test_the_report_shows_what_runs_are_sent(finished: Path) -> None:
    report = wandb_report(open_results(str(storage(finished)), "small").record, "pruning", "")
    spec = json.loads(report._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))
    (grid,) = (block for block in spec["blocks"] if block["type"] == "panel-grid")
    (runs,) = grid["metadata"]["runSets"]
    assert '"group"' in json.dumps(runs["filters"])
    assert '"small"' in json.dumps(runs["filters"])
    sent = {name for rows in expected_rows(finished, "small").values() for r in rows for name in r}
    panels = grid["metadata"]["panelBankSectionConfig"]["panels"]
    assert len(panels) == 8
    for panel in panels:
        config = panel["config"]
        assert {config["xAxis"], *config["metrics"]} <= sent, panel


def test_the_report_is_saved_as_a_draft(copy: Path, no_login: pytest.MonkeyPatch) -> None:
    results = open_results(str(storage(copy)), "small")
    with pytest.raises(TrackingError, match="there is no key"):
        build_wandb_report(results.record)
    with serving(LocalWandb()) as server:
        script = (
            "from orchestrator import open_results\n"
            "from orchestrator.tracking.report import build_wandb_report\n"
            f"print(build_wandb_report(open_results({str(storage(copy))!r}, 'small').record))"
        )
        env = environment(copy / "home", **login(server.url))
        done = subprocess.run(
            [sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, done.stderr
    (saved,) = server.reports
    assert (saved["type"], saved["displayName"]) == ("runs/draft", "small")
    assert saved["entityName"] == "someone"
    assert done.stdout.strip().startswith("http")
