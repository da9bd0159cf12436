"""`elf-telemetry alerts --webhook`: each change told once, signed, in order, through outages and refusals."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from command import ENTITIES, HEALTHY, UNHEALTHY, eventually, execute, run, running
from elf_automations.cli.webhook import Message, Webhook, key_of, signed
from elf_automations.errors import ConfigurationError

KEY = bytes(range(32))

SECRET = "whsec_" + base64.b64encode(KEY).decode()


class Receiver(ThreadingHTTPServer):
    """A webhook endpoint that answers with the given statuses, the last one for ever."""

    daemon_threads = True

    def __init__(self, *statuses: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.statuses = list(statuses)
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.url = f"http://127.0.0.1:{self.server_port}/hook/with-a-secret-path"

    def taken(self, body: bytes, headers: dict[str, str]) -> int:
        self.requests.append((headers, body))
        return self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.send_response(self.server.taken(body, headers))
        self.send_header("location", "http://127.0.0.1:1/")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@contextmanager
def receiver(*statuses: int) -> Iterator[Receiver]:
    with Receiver(*statuses) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def verified(headers: dict[str, str], body: bytes) -> dict[str, Any]:
    """What a receiver does with a request, written from the specification and not from our code."""
    content = headers["webhook-id"].encode() + b"." + headers["webhook-timestamp"].encode() + b"." + body
    expected = base64.b64encode(hmac.new(KEY, content, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert abs(time.time() - int(headers["webhook-timestamp"])) < 60
    return json.loads(body)


def test_each_change_is_posted_signed_again_after_an_outage_and_in_order(direct_url: str):
    execute(direct_url, ENTITIES, UNHEALTHY)
    with (
        receiver(503, 503, 200) as endpoint,
        running(
            direct_url, "alerts", "--watch", "--every", "1", "--webhook", endpoint.url, ELF_WEBHOOK_SECRET=SECRET
        ) as (process, _, err),
    ):
        eventually(lambda: endpoint.requests)
        execute(direct_url, HEALTHY)
        eventually(lambda: len(endpoint.requests) >= 4)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    events = [verified(*request) for request in endpoint.requests]
    assert [event["type"] for event in events] == ["alert.fired"] * 3 + ["alert.resolved"]
    ids = [headers["webhook-id"] for headers, _ in endpoint.requests]
    assert len(set(ids[:3])) == 1
    assert len(set(ids)) == 2
    assert all("." not in identifier for identifier in ids)
    assert {body for _, body in endpoint.requests[:3]} == {endpoint.requests[0][1]}
    data = events[0]["data"]
    assert (data["alert"], data["severity"], data["entity_type"], data["entity_id"], data["value"] >= 60) == (
        "unhealthy",
        "critical",
        "mcp_server",
        "crm",
        True,
    )
    place = f"http://127.0.0.1:{endpoint.server_port}"
    assert [line.strip() for line in err] == [
        f"the webhook {place} answers 503; trying again",
        f"the webhook {place} takes changes again",
    ]


@pytest.mark.parametrize(
    ("statuses", "posted", "said"),
    [
        pytest.param(
            [404], 3, ["refuses the change (404), it is not tried again: check the URL and the secret"], id="404"
        ),
        pytest.param([410, 200], 1, ["is gone (410): nothing more is posted there"], id="410"),
        pytest.param([302, 200], 3, ["answers 302, a redirect: ", "takes changes again"], id="302"),
        pytest.param([429, 200], 4, ["answers 429; trying again", "takes changes again"], id="429"),
    ],
)
def test_a_refusal_is_one_clear_line_and_not_tried_again(statuses: list[int], posted: int, said: list[str]):
    told: list[str] = []
    with receiver(*statuses) as endpoint:
        hook = Webhook(endpoint.url, KEY, told.append)
        for number in range(3):
            hook.post(Message(f"alert_{number}", b"{}"))
        assert hook.close(20) == 0
    assert len(endpoint.requests) == posted
    assert len(told) == len(said)
    assert all(part in line for part, line in zip(said, told, strict=True))
    assert not any("secret-path" in line for line in told)


def test_an_endpoint_that_is_not_there_keeps_changes_waiting_and_their_number_is_told():
    with receiver(200) as endpoint:
        url = endpoint.url
    told: list[str] = []
    hook = Webhook(url, KEY, told.append)
    for number in range(3):
        hook.post(Message(f"alert_{number}", b"{}"))
    eventually(lambda: told)
    assert hook.close(0.1) == 3
    assert told == [f"the webhook {url.rpartition('/hook')[0]} cannot be reached (ConnectError); trying again"]


def test_signature_is_that_of_the_specification():
    """The worked example of the Standard Webhooks libraries."""
    key = key_of("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    message = Message("msg_p5jXN8AQM9LWM0D4loKWxJek", b'{"test": 2432232314}')
    headers = signed(message, key, 1614265330)
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert headers["webhook-id"] == message.id
    assert headers["webhook-timestamp"] == "1614265330"


@pytest.mark.parametrize("secret", ["", "whsec_!", "my own", "whsec_c2hvcnQ=", "Zm9v" * 40])
def test_a_secret_that_is_none_is_refused_without_being_shown(secret: str):
    with pytest.raises(ConfigurationError, match="base64 of 24 to 64 bytes") as refused:
        key_of(secret)
    assert not secret or secret not in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--webhook", "http://127.0.0.1:1/"], "add --watch"),
        (["--every", "30"], "add --watch"),
        (["--watch", "--webhook", "http://127.0.0.1:1/"], "ELF_WEBHOOK_SECRET"),
        (["--watch", "--webhook", "http://127.0.0.1:1/", "--secret", "MY_SECRET"], "MY_SECRET"),
        (["--watch", "--webhook", "ftp://x", "--secret", "GOOD"], "http or https URL"),
        (["--watch", "--webhook", "http://127.0.0.1:1/", "--secret", SECRET], "ELF_WEBHOOK_SECRET"),
    ],
)
def test_a_webhook_that_cannot_work_is_one_clear_line(database_url: str, arguments: list[str], said: str):
    done = run(database_url, "alerts", *arguments, code=2, GOOD=SECRET)
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert SECRET not in done.stderr
