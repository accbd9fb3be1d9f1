"""W&B as a mirror of the store: real runs, W&B's own reader, and servers on this machine."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from local_wandb import LocalWandb, Run, bad_server, serving

from orchestrator import open_results
from orchestrator.results.history import EPOCH_COLUMNS, ITERATION_COLUMNS
from orchestrator.results.wandb_report import build_wandb_report, wandb_report
from orchestrator.spec import WandbOptions
from orchestrator.tracking import Destination, TrackingError, destination, overridden
from trainables.artifacts import MASK, WEIGHTS, decode_masks, decode_tensors
from trainables.store import Store, iteration_path

COMMAND = str(Path(sys.executable).with_name("prunesweep"))
CANARY = "0123456789abcdef0123456789abcdef0badcafe"
"""A key of the right shape, to be found nowhere."""

SWEEP: dict[str, Any] = {
    "name": "small",
    "dataset": "digits",
    "model": {"name": "mlp", "hidden": [16]},
    "train": {"epochs": 2, "batch_size": 100},
    "prune": {"iterations": 2},
    "methods": ["lottery_ticket", {"name": "sap", "p": 0.5}],
    "wandb": {"project": "pruning", "tags": ["mine"]},
}
ONE = SWEEP | {"name": "one", "methods": ["one_shot"], "prune": {"iterations": 1}}
LONGER = SWEEP | {"name": "longer", "train": {"epochs": 20, "batch_size": 10}}
"""Long enough (about 1 s an iteration) to be interrupted in the middle."""

Rows = list[dict[str, Any]]


def environment(home: Path, **variables: str) -> dict[str, str]:
    """Without any login to W&B; what wandb keeps for itself goes to `home`."""
    home.mkdir(exist_ok=True)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "NETRC", "XDG"))}
    return kept | {"HOME": str(home), "COLUMNS": "150"} | variables


def start(folder: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [COMMAND, *arguments], cwd=folder, env=environment(folder / "home", **variables),
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def command(folder: Path, *arguments: str, expect: int = 0, **variables: str) -> tuple[str, str]:
    process = start(folder, *arguments, **variables)
    out, err = process.communicate(timeout=280)
    assert process.returncode == expect, f"exit code {process.returncode}\n{out}\n{err}"
    return out, err


def write(folder: Path, sweep: dict[str, Any], **wandb: Any) -> str:
    """A sweep file; JSON is YAML too."""
    file = folder / f"{sweep['name']}.yaml"
    file.write_text(json.dumps(sweep | {"wandb": sweep["wandb"] | wandb}))
    return str(file)


def sync(folder: Path, name: str, *options: str, expect: int = 0, **env: str) -> dict[str, Any]:
    return json.loads(
        command(folder, "wandb-sync", name, *options, "--json", expect=expect, **env)[0]
    )


def storage(folder: Path) -> Path:
    return folder / "prunesweep-store"


def offline_folders(folder: Path, sweep: str) -> list[Path]:
    return sorted(storage(folder).glob(f"wandb/{sweep}/*/wandb/offline-run-*"))


def records(offline_folder: Path) -> Rows:
    """Everything in an offline run, read by wandb itself."""
    shown = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(offline_folder)],
        env=environment(offline_folder.parents[4] / "home", WANDB_MODE="offline"),
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    return [json.loads(line) for line in shown.stdout.splitlines()]


def history(offline_folder: Path) -> Rows:
    return [each["history"]["item"] for each in records(offline_folder) if "history" in each]


def expected_rows(folder: Path, sweep: str) -> dict[str, Rows]:
    """What each lineage's W&B run should have, made from the tables of the sweep."""
    results = open_results(str(storage(folder)), sweep)
    epochs, measures = results.epochs.to_pylist(), results.iterations.to_pylist()
    expected: dict[str, Rows] = {line.id: [] for line in results.record.lineages}
    for epoch in epochs:
        rows = expected[epoch["lineage"]]
        rows.append({"_step": len(rows), "epoch": len(rows) + 1,
                     "epoch/iteration": epoch["iteration"]})  # fmt: skip
        rows[-1] |= {f"epoch/{c}": epoch[c] for c in EPOCH_COLUMNS if epoch[c] is not None}
    for at in measures:
        last = [r for r in expected[at["lineage"]] if r["epoch/iteration"] == at["iteration"]][-1]
        last |= {"iteration": at["iteration"]}
        last |= {f"iteration/{c}": at[c] for c in ITERATION_COLUMNS if at[c] is not None}
    return expected


def assert_mirrored(folder: Path, sweep: str) -> None:
    """Every lineage has one offline run, with exactly the rows of the tables, each once."""
    expected = expected_rows(folder, sweep)
    folders = offline_folders(folder, sweep)
    assert [f.parents[1].name for f in folders] == sorted(expected)
    for each in folders:
        found = history(each)
        assert plain(found) == expected[each.parents[1].name]


def plain(rows: Rows) -> Rows:
    """Rows without W&B's clocks."""
    clocks = ("_timestamp", "_runtime")
    return [{k: v for k, v in row.items() if k not in clocks} for row in rows]


def server_rows(server: LocalWandb) -> dict[str, Rows]:
    for run in server.runs.values():
        assert len(run.steps) == len(set(run.steps)), "a step was sent twice"
    return {name: plain(run.history) for name, run in server.runs.items()}


def wait_for(condition: Callable[[], Any], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def commits(folder: Path) -> int:
    return len(Store(str(storage(folder))).committed("iterations"))


def assert_secret(secret: str, *outputs: str, **folders: Path) -> None:
    for output in outputs:
        assert secret not in output
    for folder in folders.values():
        for file in folder.rglob("*"):
            if file.is_file():
                assert secret.encode() not in file.read_bytes(), file


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


def test_a_second_run_leaves_offline_runs_alone(finished: Path) -> None:
    def files() -> dict[Path, int]:
        found = [file for f in offline_folders(finished, "small") for file in f.rglob("*")]
        return {file: file.stat().st_mtime_ns for file in found}

    before = files()
    command(finished, "run", write(finished, SWEEP))
    assert files() == before


def test_killed_runs_leave_no_point_out_and_none_twice(tmp_path: Path) -> None:
    process = start(tmp_path, "run", write(tmp_path, LONGER))
    wait_for(lambda: storage(tmp_path).exists() and commits(tmp_path) >= 3)
    process.kill()
    process.wait()
    assert offline_folders(tmp_path, "longer")
    wait_for(lambda: not core_processes(tmp_path))
    command(tmp_path, "run", write(tmp_path, LONGER))
    assert_mirrored(tmp_path, "longer")


def core_processes(folder: Path) -> list[int]:
    """W&B's services that have `folder` open."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"wandb-core" in (process / "cmdline").read_bytes():
                links = [os.readlink(link) for link in (process / "fd").iterdir()]
                found += [int(process.name)] if any(str(folder) in link for link in links) else []
        except OSError:
            continue
    return found


def test_more_iterations_supersede_the_offline_run(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    command(folder, "run", write(folder, SWEEP | {"prune": {"iterations": 3}}))
    assert_mirrored(folder, "small")
    assert {len(history(f)) for f in offline_folders(folder, "small")} == {4 * 2}


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
        env = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": CANARY}
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
        env = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": CANARY}
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
        env = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": CANARY}
        sync(copy, "small", "--mode", "online", **env)
        assert server_rows(server) == expected


def test_a_run_is_online_where_there_is_a_key(tmp_path: Path) -> None:
    with serving(LocalWandb()) as server:
        env = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": CANARY}
        out, err = command(tmp_path, "run", write(tmp_path, ONE), **env)
        assert server_rows(server) == expected_rows(tmp_path, "one")
    assert f"W&B: 1 lineages at {server.url}/pruning" in out
    assert not offline_folders(tmp_path, "one")
    assert_secret(CANARY, out, err, store=storage(tmp_path), home=tmp_path / "home")


@pytest.mark.parametrize("kind", ["silent", "unauthorized", "absent"])
def test_no_lineage_fails_for_a_server(kind: str, tmp_path: Path) -> None:
    with bad_server(kind) as url:
        env = {"WANDB_BASE_URL": url, "WANDB_API_KEY": CANARY}
        out, err = command(tmp_path, "run", write(tmp_path, ONE), "--json", **env)
    summary = json.loads(out)
    assert summary["failures"] == []
    assert commits(tmp_path) == 2
    assert summary["wandb"]["left"] == 1
    assert "CommError" in summary["wandb"]["problem"]
    assert_mirrored(tmp_path, "one")
    assert_secret(CANARY, out, err, store=storage(tmp_path), home=tmp_path / "home")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_no_lineage_fails_for_a_service_that_dies_or_hangs(number: int, tmp_path: Path) -> None:
    process = start(tmp_path, "run", write(tmp_path, LONGER), "--json")
    wait_for(lambda: storage(tmp_path).exists() and commits(tmp_path) >= 2)
    services = core_processes(tmp_path)
    assert services
    try:
        for service in services:
            os.kill(service, number)
        out, err = process.communicate(timeout=250)
    finally:
        for service in services:
            with suppress(ProcessLookupError):
                os.kill(service, signal.SIGKILL)
    assert process.returncode == 0, err
    assert json.loads(out)["failures"] == []
    command(tmp_path, "run", write(tmp_path, LONGER))
    assert_mirrored(tmp_path, "longer")


def test_no_lineage_fails_for_a_server_that_falls_silent(tmp_path: Path) -> None:
    with serving(LocalWandb()) as server:
        env = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": CANARY}
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


def test_a_full_disk_is_not_taken_for_success(copy: Path) -> None:
    folder = storage(copy) / "wandb"
    folder.mkdir()
    script = f"mount -t tmpfs -o size=1m tmpfs {folder} && {COMMAND} wandb-sync small"
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", script],
        cwd=copy, env=environment(copy / "home"), capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("this user may not mount a small disk")
    assert done.returncode == 1
    assert "2 not sent" in done.stdout
    assert "has no room left" in done.stdout


def test_a_sync_that_is_interrupted_ends(copy: Path) -> None:
    with bad_server("silent") as url:
        env = {"WANDB_BASE_URL": url, "WANDB_API_KEY": CANARY}
        process = start(copy, "wandb-sync", "small", "--mode", "online", **env)
        wait_for(lambda: list(storage(copy).glob("wandb/small/*/online/wandb/run-*")))
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=100)
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
    env = {"WANDB_BASE_URL": "nonsense", "WANDB_API_KEY": CANARY}
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
        [sys.executable, "-c", "from orchestrator.tracking import *; print(key_source())"],
        env=dict(os.environ), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout.strip() == "None"
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1:9 login user password {CANARY}\n")
    found = subprocess.run(
        [sys.executable, "-c", "from orchestrator.tracking import *; print(key_source())"],
        env=dict(os.environ), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout.strip() == "what `wandb login` wrote"
    assert CANARY not in found.stderr


@pytest.mark.parametrize("changes", [{"project": "a/b"}, {"project": ""}, {"entity": ""}])
def test_names_that_w_and_b_does_not_take(changes: dict[str, str]) -> None:
    with pytest.raises(TrackingError, match=next(iter(changes))):
        overridden(WandbOptions(), **changes)


def test_the_report_shows_what_runs_are_sent(finished: Path) -> None:
    report = wandb_report(open_results(str(storage(finished)), "small"), "pruning", "")
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
        build_wandb_report(results)
    with serving(LocalWandb()) as server:
        script = (
            "from orchestrator import open_results\n"
            "from orchestrator.results.wandb_report import build_wandb_report\n"
            f"print(build_wandb_report(open_results({str(storage(copy))!r}, 'small')))"
        )
        env = environment(copy / "home", WANDB_BASE_URL=server.url, WANDB_API_KEY=CANARY)
        done = subprocess.run(
            [sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=100
        )
        assert done.returncode == 0, done.stderr
    (saved,) = server.reports
    assert (saved["type"], saved["displayName"]) == ("runs/draft", "small")
    assert saved["entityName"] == "someone"
    assert done.stdout.strip().startswith("http")
