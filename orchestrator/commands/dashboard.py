"""The dashboard: the report's page over HTTP, on this machine only, following a run in flight."""

import errno
import hashlib
import json
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

from orchestrator.errors import DashboardError
from orchestrator.records.ends import until_ends
from orchestrator.records.status import SweepStatus, signs_of, status_by
from orchestrator.records.sweep import NoSuchSweep, SweepRecord, existing_sweep
from orchestrator.results.opening import open_results
from orchestrator.results.page import INDEX_POLICY, Payload, content_policy, render, render_index
from orchestrator.results.report import report_payload
from trainables.errors import UserError
from trainables.store import Damaged, Store

HOST = "127.0.0.1"
HOSTS = (HOST, "localhost")
"""The hosts a request may be for, at any port: this one may be forwarded. Another host means that a
name of someone else's was made to point here, for a page of theirs to read this one."""

STATUS_SECONDS = 1.0
REST = 4
"""A page is not gathered anew before four times as long as that took has passed."""

HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@contextmanager
def serve(store: Store, name: str | None, port: int) -> Iterator["Dashboard"]:
    """A dashboard of the sweep `name`, or of all in `store`; it listens while the block runs.

    Port 0 is any that is free. Raises NoSuchSweep, or DashboardError when it cannot listen there.
    """
    if name is not None:
        existing_sweep(store, name)
    try:
        dashboard = Dashboard(store, name, port)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        reason = "taken" if taken else f"not to be had ({error.strerror})"
        raise DashboardError(
            f"port {port} is {reason}; give another --port, or 0 for any that is free"
        ) from error
    with dashboard:
        yield dashboard


class Dashboard(ThreadingHTTPServer):
    """Listens on this machine alone. `name` is the only sweep it shows, or None for all."""

    daemon_threads = True

    def __init__(self, store: Store, name: str | None, port: int) -> None:
        super().__init__((HOST, port), _Request)
        self.store, self.name = store, name
        self._sweeps: dict[str, _Sweep] = {}
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_port}/"

    def names(self) -> list[str]:
        return [self.name] if self.name else self.store.folders("sweeps")

    def sweep(self, name: str) -> "_Sweep":
        with self._lock:
            return self._sweeps.setdefault(name, _Sweep(self.store, name))


@dataclass(frozen=True)
class _Gathered:
    """The data of a page: of which `version`, when it was ready, and how long it took."""

    payload: Payload
    version: str
    at: float
    seconds: float

    def is_resting(self, status: SweepStatus) -> bool:
        """Whether it is not gathered anew yet."""
        resting = time.monotonic() - self.at < REST * self.seconds
        return resting and status.state == self.payload["state"]


class _Sweep:
    """One sweep as last looked at. Of many readers who ask at once, one looks and one gathers."""

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._name = store, name
        self._looking, self._gathering = threading.Lock(), threading.Lock()
        self._status: tuple[float, SweepStatus, str] | None = None
        self._gathered: _Gathered | None = None

    def state(self) -> dict[str, Any]:
        """How far the sweep is, and the version that its data has or would have now.

        While the data rests, how far it was then: a page is of one reading. That a run has ended
        is worth a new one.
        """
        status, version = self._look()
        last = self._gathered
        if last is not None and version != last.version and last.is_resting(status):
            then = {name: last.payload[name] for name in ("state", "run")}
            return then | {"version": last.version}
        run = status.run and status.run.model_dump()
        return {"state": status.state, "run": run, "version": version}

    def payload(self) -> Payload:
        """The data of the page, gathered anew when the store has news."""
        with self._gathering:
            _, version = self._look()
            if self._gathered is None or self._gathered.version != version:
                began = time.monotonic()
                results = open_results(self._store, self._name)
                payload = report_payload(results)
                at = time.monotonic()
                version = _version(results.record, results.committed, *results.statuses)
                payload |= {"data_version": version}
                self._gathered = _Gathered(payload, version, at, at - began)
            return self._gathered.payload

    def _look(self) -> tuple[SweepStatus, str]:
        """The status and the version of the data, not older than a second."""
        with self._looking:
            if self._status is None or time.monotonic() - self._status[0] > STATUS_SECONDS:
                record = existing_sweep(self._store, self._name)
                signs = signs_of(self._store, self._name)
                stored = self._store.committed("iterations")
                record = until_ends(record, signs.ends)
                status = status_by(record, signs, stored)
                self._status = time.monotonic(), status, _version(record, stored, status)
            return self._status[1:]


def _version(record: SweepRecord, stored: Collection[str], status: SweepStatus) -> str:
    """Equal for equal data: what was committed, what failed, and whether a run is in flight."""
    committed = [[key in stored for key in line.committed_keys] for line in record.lineages]
    failures = [asdict(failure) for failure in status.failures]
    running = sorted(status.run.running) if status.run else []
    text = json.dumps([asdict(record), committed, failures, status.state, running])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class _Request(BaseHTTPRequestHandler):
    """One request: a page, or JSON for a page."""

    timeout = 30

    @property
    def _dashboard(self) -> Dashboard:
        assert isinstance(self.server, Dashboard)
        return self.server

    def do_GET(self) -> None:
        if self.headers.get("Host", "").partition(":")[0] not in HOSTS:
            self._text(HTTPStatus.FORBIDDEN, f"this dashboard is at {self._dashboard.url} alone")
            return
        try:
            self._answer(self.path.partition("?")[0])
        except NoSuchSweep as error:
            self._text(HTTPStatus.NOT_FOUND, str(error))
        except UserError as error:
            self._text(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))

    def do_POST(self) -> None:
        self._text(HTTPStatus.METHOD_NOT_ALLOWED, "a dashboard is only read")

    do_HEAD = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_POST

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged: a page asks every two seconds."""

    def _answer(self, path: str) -> None:
        dashboard = self._dashboard
        if path == "/":
            self._home()
            return
        name, slash, file = path.removeprefix("/").partition("/")
        answer = self._files.get(file)
        if name not in dashboard.names() or answer is None:
            self._text(HTTPStatus.NOT_FOUND, "there is nothing here")
        elif not slash:
            self._redirect(name)
        else:
            answer(self, dashboard.sweep(name))

    def _home(self) -> None:
        dashboard = self._dashboard
        if dashboard.name is not None:
            self._redirect(dashboard.name)
            return
        page = render_index(dashboard.store.location, sweeps(dashboard.store))
        self._html(page, INDEX_POLICY)

    def _page(self, sweep: _Sweep) -> None:
        self._html(render(sweep.payload(), live=True), content_policy(live=True))

    def _state(self, sweep: _Sweep) -> None:
        self._json(sweep.state())

    def _data(self, sweep: _Sweep) -> None:
        self._json(sweep.payload())

    _files: ClassVar = {"": _page, "state.json": _state, "data.json": _data}

    def _html(self, page: str, policy: str) -> None:
        headers = {"Content-Security-Policy": f"{policy}; frame-ancestors 'none'"}
        self._send(HTTPStatus.OK, page.encode(), "text/html", headers)

    def _json(self, value: Any) -> None:
        self._send(HTTPStatus.OK, json.dumps(value, allow_nan=False).encode(), "application/json")

    def _redirect(self, name: str) -> None:
        self._send(HTTPStatus.FOUND, b"", "text/plain", {"Location": f"/{name}/"})

    def _text(self, status: HTTPStatus, text: str) -> None:
        self._send(status, f"{text}\n".encode(), "text/plain")

    def _send(
        self, status: HTTPStatus, body: bytes, kind: str, headers: Mapping[str, str] = HEADERS
    ) -> None:
        self.send_response(status)
        every = {"Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(body))}
        for name, value in (HEADERS | every | dict(headers)).items():
            self.send_header(name, value)
        with suppress(ConnectionError):  # the reader has left
            self.end_headers()
            self.wfile.write(body)


def sweeps(store: Store) -> list[dict[str, Any]]:
    """The sweeps of a storage, each with its name and how far it is; what is damaged says so."""
    signs = {name: signs_of(store, name) for name in store.folders("sweeps")}
    stored = store.committed("iterations")
    found = []
    for name in signs:
        try:
            status = status_by(existing_sweep(store, name), signs[name], stored)
        except (Damaged, NoSuchSweep) as error:
            found.append({"name": name, "problem": str(error)})
        else:
            found.append({"name": name, "problem": None, "status": status})
    return found
