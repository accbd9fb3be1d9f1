"""The dashboard: who may read it, what it answers, and that its page follows what is committed."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from asking import ask as command
from measured import SOME_METRICS, committed_files, measured, sweep_file
from playwright.sync_api import Browser, Page, expect

from orchestrator.commands.dashboard import Dashboard, serve
from orchestrator.errors import DashboardError
from orchestrator.records.heartbeat import (
    AlikeNodes,
    AtWork,
    Counts,
    Heartbeat,
    LostNode,
    Process,
    Sight,
    SlotTime,
    write_heartbeat,
)
from orchestrator.records.recording import record_sweep
from orchestrator.records.status import sweep_status
from orchestrator.records.sweep import NoSuchSweep, write_sweep
from orchestrator.results.opening import Results, open_results
from orchestrator.results.report import report_payload
from orchestrator.run.datasets import resolve_datasets
from orchestrator.run.planning import sweep_lineages
from orchestrator.sweepfile.yaml_source import load_sweep
from trainables.data import data_roots, load_dataset
from trainables.lineage.bench import Bench
from trainables.lineage.keys import Lineage
from trainables.lineage.loop import run_lineage
from trainables.store import Store, iteration_path
from trainables.store.processes import this_process
from trainables.training.batches import DeviceData

COMMAND = str(Path(sys.executable).with_name("prunesweep"))
SECTIONS: dict[str, Any] = {"prune": {"iterations": 1}, "methods": ["one_shot", "lottery_ticket"]}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("results")
    return measured(folder, sweep_file(folder, **SECTIONS), lambda line, t: SOME_METRICS)


@contextmanager
def served(store: Store, name: str | None = None) -> Iterator[Dashboard]:
    with serve(store, name, 0) as dashboard:
        thread = threading.Thread(target=dashboard.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield dashboard
        finally:
            dashboard.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def dashboard(results: Results) -> Iterator[Dashboard]:
    """A dashboard of the whole storage."""
    with served(results.store) as dashboard:
        yield dashboard


Answer = tuple[int, http.client.HTTPMessage, str]


def ask(dashboard: Dashboard, path: str, method: str = "GET", host: str | None = None) -> Answer:
    """The status, headers and text of an answer; the path goes out as it is written."""
    connection = http.client.HTTPConnection("127.0.0.1", dashboard.server_port, timeout=120)
    headers = {} if host is None else {"Host": host}
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, answer.headers, text


def test_it_listens_on_this_machine_alone(dashboard: Dashboard) -> None:
    assert dashboard.server_address[0] == "127.0.0.1"
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", dashboard.url)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:{port}", 200),
        ("localhost:{port}", 200),
        ("localhost:9000", 200),  # a forwarded port
        ("evil.example:{port}", 403),
        ("127.0.0.1.evil.example", 403),
        ("", 403),
    ],
)
def test_a_request_for_another_host_is_refused(
    dashboard: Dashboard, host: str, status: int
) -> None:
    answer = ask(dashboard, "/s/state.json", host=host.format(port=dashboard.server_port))
    assert answer[0] == status
    assert ("version" in answer[2]) == (status == 200)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
def test_it_is_only_read(dashboard: Dashboard, method: str) -> None:
    assert ask(dashboard, "/s/", method)[0] == 405


@pytest.mark.parametrize(
    "path",
    [
        "/other/",
        "/s/run.json",
        "/s/../s/state.json",
        "/../../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/s/state.json/",
        "/s%00/",
    ],
)
def test_other_paths_are_nothing(dashboard: Dashboard, path: str) -> None:
    assert ask(dashboard, path)[0] == 404


def test_a_sweep_without_its_slash_is_redirected(dashboard: Dashboard) -> None:
    status, headers, _ = ask(dashboard, "/s")
    assert (status, headers["Location"]) == (302, "/s/")


def test_every_answer_has_its_headers(dashboard: Dashboard) -> None:
    for path in ("/", "/s/", "/s/state.json", "/s/data.json", "/missing"):
        headers = ask(dashboard, path)[1]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    for path in ("/", "/s/"):
        policy = ask(dashboard, path)[1]["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe-eval" not in policy


@pytest.fixture
def bare_page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page()
    yield page
    page.close()


def test_the_index_names_every_sweep(dashboard: Dashboard, bare_page: Page) -> None:
    bare_page.goto(dashboard.url)
    row = bare_page.locator("tbody tr")
    assert row.inner_text().split("\t") == ["s", "finished", "2 of 2", "3 of 3", "0"]
    bare_page.get_by_role("link", name="s", exact=True).click()
    bare_page.wait_for_selector('[data-table="iterations"] tbody tr')
    assert bare_page.locator("h1").inner_text() == "s"


def test_a_dashboard_of_one_sweep_shows_no_other(results: Results) -> None:
    with served(results.store, "s") as dashboard:
        status, headers, _ = ask(dashboard, "/")
        assert (status, headers["Location"]) == (302, "/s/")
        assert ask(dashboard, "/s/state.json")[0] == 200
        assert ask(dashboard, "/other/")[0] == 404


def test_an_empty_storage_has_an_index(tmp_path: Path) -> None:
    with served(Store(str(tmp_path / "nothing"))) as dashboard:
        assert "This storage has no sweep yet" in ask(dashboard, "/")[2]


def test_a_sweep_whose_record_is_damaged_says_so(results: Results, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write("sweeps/torn/sweep.json", b"{")
    store.write("sweeps/torn/lineages.json", b"{")
    with served(store) as dashboard:
        assert "sweeps/torn/" in ask(dashboard, "/")[2]
        status, _, text = ask(dashboard, "/torn/")
        assert status == 500
        assert text.startswith("sweeps/torn/")


def test_a_port_that_is_taken_is_one_message(dashboard: Dashboard, results: Results) -> None:
    port = dashboard.server_port
    with (
        pytest.raises(DashboardError, match=rf"port {port} is taken; give another --port"),
        serve(results.store, None, port),
    ):
        pass
    with pytest.raises(NoSuchSweep), serve(results.store, "other", 0):
        pass


# --- live


def train(lineage: Lineage, store: Store) -> Iterator[dict[str, Any]]:
    """Trains a lineage in this process; each next() commits one more iteration."""
    torch.set_num_threads(1)
    spec = load_sweep(Path(store.location).parent / "sweep.yaml")
    device = torch.device("cpu")
    data = DeviceData.of(load_dataset(spec.dataset[0], data_roots(None, os.environ)), device)
    committed = run_lineage(lineage, Bench(store, data, device))
    return (metrics for metrics in committed if metrics is not None)


def test_the_page_follows_what_is_committed(
    tmp_path: Path, open_page: Callable[[str], Page]
) -> None:
    sections = SECTIONS | {
        "model": {"name": "mlp", "hidden": [16]},
        "prune": {"iterations": 2},
        "train": {"epochs": 1, "batch_size": 100},
    }
    spec = load_sweep(sweep_file(tmp_path, **sections))
    store = Store(str(tmp_path / "store"))
    lineages = sweep_lineages(spec, resolve_datasets(spec, data_roots(None, {})))
    write_sweep(store, record_sweep(spec, lineages))
    first, second = (train(line, store) for line in lineages)
    next(first)
    with served(store) as dashboard:
        page = open_page(f"{dashboard.url}s/")
        counted = page.locator("#iterations .count")
        assert counted.inner_text() == "1–2 of 2 rows"  # the trunk, in both lineages
        page.locator('[data-dimension="method"] label', has_text="one_shot").click()
        page.get_by_label("Filter iterations").fill("iteration>=0")
        page.set_viewport_size({"width": 1400, "height": 300})
        heading = "document.querySelector('#h-lineages')"
        page.evaluate(f"{heading}.scrollIntoView()")
        assert page.evaluate("scrollY") > 0
        read_at = page.evaluate(f"{heading}.getBoundingClientRect().top")
        metrics = [*second]
        assert [each["iteration"] for each in metrics] == [1, 2]
        expect(counted).to_have_text("1–3 of 3 rows", timeout=120_000)
        last = page.locator('[data-table="iterations"] tbody tr').last.inner_text().split("\t")
        assert last[0] == "lottery_ticket"
        assert f"{100 * metrics[1]['test_accuracy']:.2f}" in last
        # What the reader looks at stays where it is, though there are more figures above it now.
        now_at = page.evaluate(f"{heading}.getBoundingClientRect().top")
        assert now_at == pytest.approx(read_at, abs=2)
        assert page.get_by_label("Filter iterations").input_value() == "iteration>=0"
        assert page.locator("#selection").inner_text().startswith("Showing 1 of 2 methods")
        state = json.loads(ask(dashboard, "/s/state.json")[2])
        assert state["state"] == "incomplete"
        assert page.locator("#live").inner_text() == "live"
        page.close()


@pytest.fixture
def in_flight(tmp_path: Path) -> Callable[[str], Results]:
    """A run that says it is in a state, of a sweep of which two of three iterations are there."""
    results = measured(
        tmp_path, sweep_file(tmp_path, **SECTIONS),
        lambda line, t: SOME_METRICS if (line.config["method"]["name"], t) != LAST else None,
    )  # fmt: skip

    def say(state: str) -> Results:
        process = Process(**this_process())
        counts = Counts(lineages=2, done=1, iterations=2, to_train=3)
        beat = Heartbeat(
            state=state, host="here", pid=1, process=process, counts=counts, running={},
            heartbeat=datetime.now(UTC).isoformat(), eta_seconds=1.0,
        )  # fmt: skip
        write_heartbeat(results.store, "s", beat, "a-run")
        return results

    return say


LAST = ("lottery_ticket", 1)


def commit_last(results: Results) -> None:
    (line,) = (e for e in results.record.lineages if e.config["method"]["name"] == LAST[0])
    files = committed_files(line.keys[1], 1, SOME_METRICS)
    results.store.commit(iteration_path(line.keys[1]), files)


def test_a_page_is_of_one_reading(in_flight: Callable[[str], Results]) -> None:
    """What is committed, or said, while a page is gathered is no part of it."""
    results = in_flight("running")
    opened = open_results(results.store, "s")
    commit_last(results)
    in_flight("ended")
    payload = report_payload(opened)
    assert payload["left_out"] == []
    assert payload["state"] == "running"
    assert unpacked(payload["lineages"], "state") == ["done", "partial"]
    later = report_payload(open_results(results.store, "s"))
    assert later["state"] == "finished"
    assert unpacked(later["lineages"], "state") == ["done", "done"]


def test_the_state_is_of_the_data_that_is_shown(
    in_flight: Callable[[str], Results], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.commands.dashboard.STATUS_SECONDS", 0.0)
    monkeypatch.setattr("orchestrator.commands.dashboard.REST", 1e9)
    results = in_flight("running")
    with served(results.store) as dashboard:
        shown = json.loads(ask(dashboard, "/s/data.json")[2])
        news = json.loads(ask(dashboard, "/s/state.json")[2])
        assert news["version"] == shown["data_version"]
        commit_last(results)
        in_flight("running")
        # The data rests, and so does what is said of it.
        news = json.loads(ask(dashboard, "/s/state.json")[2])
        assert (news["version"], news["run"]) == (shown["data_version"], shown["run"])
        in_flight("ended")
        news = json.loads(ask(dashboard, "/s/state.json")[2])
        shown = json.loads(ask(dashboard, "/s/data.json")[2])
        assert news["state"] == shown["state"] == "finished"
        assert news["version"] == shown["data_version"]
        assert unpacked(shown["lineages"], "state") == ["done", "done"]


def unpacked(table: dict[str, Any], column: str) -> list[Any]:
    found = table["columns"][column]
    if "constant" in found:
        return [found["constant"]] * table["rows"]
    return [found["values"][code] for code in found["codes"]]


def test_the_page_shows_nodes_as_they_come_and_go(
    in_flight: Callable[[str], Results], open_page: Callable[[str], Page]
) -> None:
    results = in_flight("running")
    line = next(
        each for each in results.record.lineages if each.config["method"]["name"] == LAST[0]
    )

    def say(*names: str, lost: list[LostNode]) -> None:
        kind = AlikeNodes(cpus=8, gpus=1, slots=2, names=dict.fromkeys(names, "10.0.0.1"))
        slots = SlotTime(now={"training": 1, "shared": 3}, seconds={"training": 3.0, "shared": 1.0})
        (beat,) = sweep_status(results.store, "s").runs
        at_work = AtWork(iteration=0, accuracy=None, attempt=1, node=names[0])
        sight = Sight(nodes=[kind], slots=slots, lost=lost, lost_in_all=len(lost))
        now = beat.model_copy(update={"sight": sight, "running": {line.id: at_work}})
        write_heartbeat(results.store, "s", now, "a-run")

    with served(results.store) as dashboard:
        page = open_page(f"{dashboard.url}s/")
        section = page.locator("section[aria-labelledby=h-nodes]")
        assert not section.is_visible()
        say("one", "other", lost=[])
        expect(page.locator('[data-table="nodes"] tbody tr')).to_have_count(2, timeout=60_000)
        rows = [row.split("\t") for row in page.locator('[data-table="nodes"] tbody tr')
                .all_inner_texts()]  # fmt: skip
        at_work = "lottery_ticket, seed 0, iteration 0 committed"
        assert rows == [
            ["one", "10.0.0.1", "2", "1", at_work],
            ["other", "10.0.0.1", "2", "0", "–"],
        ]
        assert "1 of 4 slots at work" in section.inner_text()
        assert "75 % in training\n25 % waiting for an iteration" in section.inner_text()
        gone = LostNode(name="other", at="2026-01-02T03:04:05+00:00", lineages=2, seconds=90)
        say("one", lost=[gone])
        lost = page.locator('[data-table="lost"] tbody tr')
        expect(lost).to_have_count(1, timeout=60_000)
        assert lost.inner_text().split("\t") == ["other", "2026-01-02 03:04", "2", "1 min 30 s"]
        expect(page.locator('[data-table="nodes"] tbody tr')).to_have_count(1, timeout=60_000)
        page.close()


def test_a_page_whose_dashboard_has_ended_says_so(results: Results, bare_page: Page) -> None:
    with served(results.store) as dashboard:
        bare_page.goto(f"{dashboard.url}s/")
        expect(bare_page.locator("#live")).to_have_text("live", timeout=60_000)
    expect(bare_page.locator("#live")).to_contain_text("no longer live", timeout=60_000)
    assert bare_page.locator('[data-table="iterations"] tbody tr').count() == 4


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_ended(
    results: Results, signal_number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    process = subprocess.Popen(
        [COMMAND, "dashboard", "--storage", results.store.location, "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"http://127\.0\.0\.1:(\d+)/", line)
    assert found, line
    connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=120)
    connection.request("GET", "/")
    assert connection.getresponse().status == 200
    same = ("dashboard", "--storage", results.store.location, "--port", found[1])
    command(Path.cwd(), *same, expect=2)
    assert capsys.readouterr().err.startswith(f"prunesweep: port {found[1]} is taken")
    process.send_signal(signal_number)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert "Traceback" not in err
