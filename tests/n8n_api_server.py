"""The public API of n8n 2.41 over real HTTP, as far as it is polled: paging, filters, refusals and bad days."""

from __future__ import annotations

import json
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

KEY = "n8n-api-key-of-a-test"
_ACTIVE = {"running", "new"}
_LISTED = (
    "id", "finished", "mode", "retryOf", "retrySuccessId", "status", "startedAt", "stoppedAt", "workflowId", "waitTill",
)  # fmt: skip


@dataclass
class Instance:
    """What an n8n has, and how it behaves; change it while it serves.

    `trouble` answers the next requests, each (status, headers), before anything else; `delay_s` slows every answer.
    An `old` one cannot list what runs. `html` is what it says to any question, as a web page would, with `html_status`.
    """

    workflows: list[dict[str, Any]] = field(default_factory=list)
    executions: list[dict[str, Any]] = field(default_factory=list)
    trouble: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    delay_s: float = 0.0
    old: bool = False
    html: str | None = None
    html_status: int = 200
    asked: list[str] = field(default_factory=list)
    posted: list[str] = field(default_factory=list)
    before: Any = None
    """Called with each path and query before it is answered."""

    def pages(self) -> int:
        """Return how many pages of executions with their data were asked for."""
        return sum("/executions?" in each and "includeData=true" in each for each in self.asked)

    def answer(self, path: str, asked: dict[str, str]) -> tuple[int, Any]:
        if path == "/api/v1/workflows":
            return 200, _by_offset(self.workflows, asked)
        if path == "/api/v1/executions":
            return self._executions(asked)
        if path.startswith("/api/v1/executions/"):
            wanted = path.rpartition("/")[2]
            found = next((each for each in self.executions if each["id"] == wanted), None)
            return (200, found) if found else (404, {"message": "Not Found"})
        return 404, {"message": "not found"}

    def _executions(self, asked: dict[str, str]) -> tuple[int, Any]:
        status = asked.get("status")
        if self.old and status in _ACTIVE:
            return 400, {"message": "request/query/status must be equal to one of the allowed values"}
        said = _cursor(asked)
        limit, last = int(said.get("limit", asked.get("limit", "100"))), said.get("lastId")
        listed = [
            each for each in self.executions if (each["status"] == status if status else each["status"] not in _ACTIVE)
        ]
        listed.sort(key=lambda each: int(each["id"]), reverse=True)
        rest = [each for each in listed if last is None or int(each["id"]) < int(last)]
        page, more = rest[:limit], len(rest) > limit
        data = asked.get("includeData") == "true"
        shown = page if data else [{name: each.get(name) for name in _LISTED} for each in page]
        return 200, {
            "data": shown,
            "nextCursor": _encoded({"lastId": page[-1]["id"], "limit": limit}) if more else None,
        }


def _by_offset(everything: list[dict[str, Any]], asked: dict[str, str]) -> dict[str, Any]:
    said = _cursor(asked)
    limit, offset = int(said.get("limit", asked.get("limit", "100"))), int(said.get("offset", 0))
    end = offset + limit
    more = _encoded({"limit": limit, "offset": end}) if end < len(everything) else None
    return {"data": everything[offset:end], "nextCursor": more}


def _cursor(asked: dict[str, str]) -> dict[str, Any]:
    return json.loads(b64decode(asked["cursor"])) if "cursor" in asked else {}


def _encoded(said: dict[str, Any]) -> str:
    return b64encode(json.dumps(said).encode()).decode()


@contextmanager
def serving(instance: Instance, port: int = 0) -> Iterator[str]:
    """Serve `instance` on loopback; the value is its URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 65_536  # head and body in one segment: two cost 40 ms between Nagle and delayed acknowledgement

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
            instance.asked.append(self.path)
            if instance.before:
                instance.before(self.path)
            time.sleep(instance.delay_s)
            if instance.html is not None:
                self._send(instance.html_status, {"Content-Type": "text/html"}, instance.html.encode())
            elif instance.trouble:
                status, headers = instance.trouble.pop(0)
                self._send(status, headers, b'{"message":"no"}')
            elif self.headers.get("X-N8N-API-KEY") != KEY:
                self._send(401, {}, b'{"message":"unauthorized"}')
            else:
                status, body = instance.answer(parts.path, asked)
                self._send(status, {"Content-Type": "application/json"}, json.dumps(body).encode())

        def do_POST(self) -> None:
            """Take no spans, nor anything else."""
            instance.posted.append(self.path)
            self.rfile.read(int(self.headers["Content-Length"]))
            self._send(400, {}, b"{}")

        def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
