"""An S3 server on loopback: moto's, in a process of its own, whose objects outlive it.

As a program it serves; `ObjectServer` is how tests have one. What it is told under `/-/` is how to
behave: to be slow, to fail at random, to store bytes as they are not, to kill who asks.
"""

import io
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import parse_qsl, urlencode
from urllib.request import Request, urlopen

from trainables.store import Store, iteration_path

STARTED_WITHIN = 120.0
BUCKET = "bucket"


@dataclass
class ObjectServer:
    """A server whose objects are kept in `folder`; with a `mirror`, each is a file there too."""

    folder: Path
    port: int = 0
    mirror: Path | None = None
    _process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    def location(self, folder: str = "store", bucket: str = BUCKET) -> str:
        return f"s3://{bucket}/{folder}?endpoint_override={self.endpoint}&scheme=http"

    def start(self) -> None:
        """Serve, on the same port as before; with a bucket."""
        told = self.folder / "port"
        told.unlink(missing_ok=True)
        with open(self.folder / "log", "ab") as log:
            asked = [str(self.port), str(self.folder), *([str(self.mirror)] if self.mirror else [])]
            self._process = subprocess.Popen(
                [sys.executable, __file__, *asked], stdout=log, stderr=log
            )
        deadline = time.monotonic() + STARTED_WITHIN
        while not told.exists():
            assert time.monotonic() < deadline
            assert self._process.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.05)
        self.port = int(told.read_text())
        while not self._answers():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            self.ask(f"/{BUCKET}", "PUT")
        except URLError:
            return False
        return True

    def kill(self) -> None:
        """Be gone at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def ask(self, path: str, method: str = "GET", data: bytes | None = None) -> bytes:
        with urlopen(Request(f"http://{self.endpoint}{path}", data, method=method)) as answer:
            return answer.read()

    def behave(self, **how: float) -> None:
        """`delay` seconds for each request; a part `failing` of them is refused, and of a part
        `lost` the answer does not arrive; `garble` what is written; at
        the request `kill_at` from now (`after` it is done, or before) kill `pid`."""
        self.ask(f"/-/behave?{urlencode(how)}")

    def requests(self) -> list[str]:
        """The requests since this was last asked for, such as `PUT store/claims/k`."""
        return json.loads(self.ask("/-/requests"))


def commit_often(location: str, rounds: int, start: Any, won: Any) -> None:
    """Commit the same as others do, again and again, each time when all are ready."""
    store = Store(location)
    for n in range(rounds):
        start.wait()
        won.put((n, store.commit(iteration_path(f"{n}"), {"who": b"%d" % os.getpid()})))


@dataclass
class Misbehaving:
    """A WSGI application around moto's."""

    app: Any
    journal: Path
    mirror: "Mirror | None" = None
    how: dict[str, float] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)
    count: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path, query = environ["PATH_INFO"], environ.get("QUERY_STRING", "")
        if path.startswith("/-/"):
            return self._told(path, query, start_response)
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        time.sleep(self.how.get("delay", 0.0))
        with self._lock:
            self.seen.append(f"{environ['REQUEST_METHOD']} {path.partition(BUCKET)[2][1:]}")
            self.count += 1
            fatal = self.count - 1 == self.how.get("kill_at")
            if fatal and not self.how.get("after"):
                self._kill()
            if random.random() < self.how.get("failing", 0.0):
                start_response("503 Slow Down", [("Content-Length", "0")])
                return [b""]
            lost = random.random() < self.how.get("lost", 0.0)
            answer = self._served(environ, body, (lambda *_: None) if lost else start_response)
            if fatal:
                self._kill()
            if lost:
                start_response("503 Slow Down", [("Content-Length", "0")])
            return [b""] if lost else answer

    def _kill(self) -> None:
        os.kill(int(self.how["pid"]), signal.SIGKILL)

    def _served(self, environ: dict[str, Any], body: bytes, start_response: Any) -> list[bytes]:
        """Each request by itself, as if in one step; what changes something is kept."""
        changes = environ["REQUEST_METHOD"] in ("PUT", "POST", "DELETE")
        if self.how.get("garble") and environ["REQUEST_METHOD"] == "PUT":
            body += b"0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n"
        kept = {name: value for name, value in environ.items() if isinstance(value, str)}
        kept["CONTENT_LENGTH"] = str(len(body))
        status: list[Any] = []
        answer = self._asked(kept, body, status)
        if changes and status[0].startswith("2"):
            with open(self.journal, "ab") as journal:
                pickle.dump((kept, body), journal)
            if self.mirror is not None:
                self.mirror.follow()
        start_response(*status)
        return answer

    def _asked(self, kept: dict[str, str], body: bytes, status: list[Any]) -> list[bytes]:
        environ = kept | {
            "wsgi.input": io.BytesIO(body),
            "wsgi.errors": sys.stderr,
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
        }

        def note(*given: Any) -> None:
            status[:] = given[:2]

        answer = self.app(environ, note)
        return [b"".join(answer)]

    def replay(self) -> None:
        """Do again what was done by an earlier process."""
        if self.journal.exists():
            with open(self.journal, "rb") as journal:
                while True:
                    try:
                        kept, body = pickle.load(journal)
                    except (EOFError, pickle.UnpicklingError):
                        return
                    self._asked(kept, body, [])

    def _told(self, path: str, query: str, start_response: Any) -> list[bytes]:
        with self._lock:
            if path == "/-/behave":
                self.how = {name: float(value) for name, value in parse_qsl(query)}
                self.count = 0
            answer = json.dumps(self.seen).encode()
            self.seen = []
        start_response("200 OK", [("Content-Length", str(len(answer)))])
        return [answer]


@dataclass
class Mirror:
    """The objects of the bucket as files in `folder`, to be looked at: one that is written again is
    another file."""

    folder: Path
    _there: dict[str, Any] = field(default_factory=dict)

    def follow(self) -> None:
        """Do what was done in the bucket."""
        from moto.s3.models import s3_backends

        (backends,) = s3_backends.values()
        keys = dict(backends["aws"].buckets[BUCKET].keys.items())
        for name in self._there.keys() - keys.keys():
            self._remove(self.folder / name)
            del self._there[name]
        for name, key in keys.items():
            if self._there.get(name) is not key:
                self._write(self.folder / name, key.value)
                self._there[name] = key

    def _write(self, file: Path, value: bytes) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        new = self.folder / ".new"
        new.write_bytes(value)
        new.rename(file)

    def _remove(self, file: Path) -> None:
        file.unlink()
        with suppress(OSError):  # not empty
            for folder in file.parents:
                if folder == self.folder:
                    break
                folder.rmdir()


def main() -> None:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    port, folder = int(sys.argv[1]), Path(sys.argv[2])
    mirror = Mirror(Path(sys.argv[3])) if len(sys.argv) > 3 else None
    app = Misbehaving(DomainDispatcherApplication(create_backend_app), folder / "journal", mirror)
    app.replay()
    WSGIRequestHandler.protocol_version = "HTTP/1.1"
    server = make_server("127.0.0.1", port, app, threaded=True)
    (folder / "port.new").write_text(str(server.server_port))
    (folder / "port.new").rename(folder / "port")
    server.serve_forever()


if __name__ == "__main__":
    main()
