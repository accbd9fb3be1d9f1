"""Servers on this machine in the place of W&B's: one that works, and some that do not."""

import gzip
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PROJECT = {"id": "p", "name": "p", "entity": {"id": "e", "name": "someone"}}


@dataclass
class Run:
    """What the server has of a run. `lines` are its history lines by their offset, `steps` the
    steps as they came in."""

    created: dict[str, Any]
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    lines: dict[int, dict[str, Any]] = field(default_factory=dict)
    steps: list[int] = field(default_factory=list)
    exit_code: int | None = None

    @property
    def history(self) -> list[dict[str, Any]]:
        return [self.lines[offset] for offset in sorted(self.lines)]


class LocalWandb(ThreadingHTTPServer):
    """As much of W&B's server as creating, filling and resuming runs needs; a `closed` one refuses
    every key."""

    daemon_threads = True

    def __init__(self, delay: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.delay = delay
        self.closed = False
        self.runs: dict[str, Run] = {}
        self.requests = 0
        self.reports: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables.get("name") or ""
        if "RunResumeStatus" in query:
            bucket = _bucket(name, self.runs[name]) if name in self.runs else None
            return {"model": PROJECT | {"bucket": bucket}}
        if "mutation UpsertBucket" in query:
            new = name not in self.runs
            run = self.runs.setdefault(name, Run(created=variables))
            run.config |= json.loads(variables["config"] or "{}")
            return {"upsertBucket": {"bucket": _bucket(name, run), "inserted": new}}
        if "CreateRunFiles" in query:
            files = [{"name": f, "uploadUrl": f"{self.url}/up/{f}"} for f in variables["files"]]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        if "upsertView" in query:
            self.reports.append(variables)
            view = {"id": "view1", "name": "n", "displayName": variables["displayName"],
                    "description": "", "type": variables["type"], "spec": variables["spec"],
                    "project": {"name": variables["projectName"],
                                "entityName": variables["entityName"]}}  # fmt: skip
            return {"upsertView": {"view": view, "inserted": True}}
        if "query GetProjects" in query:
            project = PROJECT | {"entityName": "someone", "name": "pruning", "createdAt": "",
                                 "isBenchmark": False, "user": None}  # fmt: skip
            page = {"endCursor": None, "hasNextPage": False}
            return {"models": {"edges": [{"cursor": "c", "node": project}], "pageInfo": page}}
        if "internalId" in query:
            return {"project": {"internalId": "UHJvamVjdDox"}}
        if "viewer" in query:
            return {"viewer": {"id": "u", "entity": "someone", "username": "someone",
                               "email": "x@y", "flags": "{}", "teams": {"edges": []}}}  # fmt: skip
        return {}

    def stream(self, name: str, sent: dict[str, Any]) -> None:
        run, files = self.runs[name], sent.get("files") or {}
        history = files.get("wandb-history.jsonl")
        if history:
            rows = [json.loads(line) for line in history["content"]]
            run.lines |= dict(enumerate(rows, history["offset"]))
            run.steps += [row["_step"] for row in rows]
        if "wandb-summary.json" in files:
            run.summary = json.loads(files["wandb-summary.json"]["content"][-1])
        if sent.get("complete"):
            run.exit_code = sent["exitcode"]


def _bucket(name: str, run: Run) -> dict[str, Any]:
    """A run as the server tells of it; its last history line is where a resumed one goes on."""
    tail = [json.dumps(row) for row in run.history[-1:]]
    return {
        "id": f"id-{name}", "name": name, "displayName": name, "description": None,
        "sweepName": None, "config": json.dumps(run.config), "project": PROJECT,
        "summaryMetrics": json.dumps(run.summary), "historyLineCount": len(run.lines),
        "historyTail": json.dumps(tail), "eventsLineCount": 0, "eventsTail": "[]",
        "logLineCount": 0, "tags": [], "notes": None, "wandbConfig": json.dumps({"t": 1}),
    }  # fmt: skip


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def wandb(self) -> LocalWandb:
        assert isinstance(self.server, LocalWandb)
        return self.server

    def do_POST(self) -> None:
        self.wandb.requests += 1
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if self.wandb.closed:
            self._send(401, b'{"errors": [{"message": "user is not logged in"}]}')
            return
        answer: dict[str, Any] = {}
        if self.path.endswith("graphql"):
            asked = json.loads(body)
            answer = {"data": self.wandb.answer(asked["query"], asked.get("variables") or {})}
        elif self.path.endswith("file_stream"):
            self.wandb.stream(self.path.split("/")[-2], json.loads(body))
        time.sleep(self.wandb.delay)
        self._send(200, json.dumps(answer).encode())

    do_GET = do_PUT = do_POST

    def _send(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@contextmanager
def serving(server: LocalWandb) -> Iterator[LocalWandb]:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def bad_server(kind: str) -> Iterator[str]:
    """The URL of a server that is `silent`, `unauthorized` or `absent`."""
    if kind == "unauthorized":
        with serving(LocalWandb()) as server:
            server.closed = True
            yield server.url
        return
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    if kind == "absent":
        listener.close()
    try:
        yield f"http://127.0.0.1:{port}"  # the kernel accepts, and nobody ever answers
    finally:
        listener.close()
