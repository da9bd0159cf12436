"""The commands an operator lives with, as processes: top, entities, gaps, maintain, status, alerts and its webhook."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from elf_automations.cli.webhook import Message, Webhook, key_of, signed
from elf_automations.errors import ConfigurationError

COMMAND = str(Path(sys.executable).with_name("elf-telemetry"))
KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()

_CALLS = """
insert into communication_telemetry (
    timestamp, protocol, source_id, source_type, target_id, target_type, operation, duration_ms, status,
    tokens_used, estimated_cost, counted
)
select
    now() - ago::interval, protocol, source_id, 'team', target_id, target_type, 'call', duration_ms, status,
    tokens, cost, counted
from (values
    ('1 minute', 'mcp', 'sales', 'crm', 'mcp', 10, 'success', 5, 0.25, true),
    ('1 minute', 'mcp', 'sales', 'crm', 'mcp', 10, 'success', null, null, false),
    ('2 minutes', 'mcp', 'sales', 'crm', 'mcp', 30, 'timeout', 7, 0.5, true),
    ('3 hours', 'a2a', 'sales', 'support', 'team', 40, 'success', null, null, true),
    ('30 hours', 'mcp', 'sales', 'crm', 'mcp', 50, 'error', 1, 1, true)
) as call (ago, protocol, source_id, target_id, target_type, duration_ms, status, tokens, cost, counted)
"""
_ENTITIES = """
insert into unified_registry (entity_id, entity_type, entity_name, current_state, health_status, last_activity)
values
    ('sales', 'team', 'Sales', 'active', 'healthy', now() - interval '1 minute'),
    ('support', 'team', 'Support', 'inactive', 'healthy', now() - interval '3 hours'),
    ('crm', 'mcp_server', 'CRM', 'active', 'degraded', null),
    ('old', 'service', 'Old', 'deleted', 'unknown', null)
"""
_UNHEALTHY = """
update unified_registry set health_status = 'unhealthy', health_since = now() - interval '1 hour'
where entity_id = 'crm'
"""
_HEALTHY = "update unified_registry set health_status = 'healthy' where entity_id = 'crm'"


@pytest.fixture
def direct_url(postgres_url: str, database_url: str) -> str:
    """The same database without a pooler between, which notifications need."""
    return urlsplit(postgres_url)._replace(path=urlsplit(database_url).path).geturl()


def run(url: str, *arguments: str, code: int = 0, **environ: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [COMMAND, *arguments, "--database-url", url],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, **environ},
    )
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    return done


def answer(url: str, *arguments: str, code: int = 0) -> dict[str, Any]:
    return json.loads(run(url, *arguments, "--json", code=code).stdout)


def execute(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def eventually(check: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def running(url: str, *arguments: str, **environ: str) -> Iterator[tuple[subprocess.Popen[str], list[str], list[str]]]:
    """A command that goes on: its process, and its lines on stdout and stderr as they come."""
    process = subprocess.Popen(
        [COMMAND, *arguments, "--database-url", url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environ},
    )
    out: list[str] = []
    err: list[str] = []
    readers = [
        threading.Thread(target=lambda stream=stream, lines=lines: lines.extend(iter(stream.readline, "")))
        for stream, lines in ((process.stdout, out), (process.stderr, err))
    ]
    for reader in readers:
        reader.start()
    try:
        yield process, out, err
    finally:
        process.kill()
        process.wait()
        for reader in readers:
            reader.join()
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        process.stderr.close()


def test_top_counts_each_call_once_and_sums_what_it_cost(database_url: str):
    execute(database_url, _CALLS)
    crm = {"source_id": "sales", "target_id": "crm", "protocol": "mcp"}
    day = [
        {**crm, "calls": 2, "errors": 1, "avg_ms": 20.0, "tokens": 12, "cost": 0.75},
        {
            **crm,
            "target_id": "support",
            "protocol": "a2a",
            "calls": 1,
            "errors": 0,
            "avg_ms": 40.0,
            "tokens": 0,
            "cost": 0,
        },
    ]
    assert answer(database_url, "top")["pairs"] == day
    assert answer(database_url, "top", "--since", "1h")["pairs"] == day[:1]
    assert answer(database_url, "top", "--since", "2d", "--limit", "1")["pairs"] == [
        {**crm, "calls": 3, "errors": 2, "avg_ms": 30.0, "tokens": 13, "cost": 1.75}
    ]
    shown = run(database_url, "top").stdout
    assert [line.split() for line in shown.splitlines() if "crm" in line] == [
        ["sales", "crm", "mcp", "2", "1", "20.0", "12", "0.7500"]
    ]


def test_a_time_span_or_a_type_that_is_none_is_one_clear_line(database_url: str):
    for arguments, said in ((("top", "--since", "yesterday"), "30m"), (("entities", "--type", "teams"), "mcp_server")):
        done = run(database_url, *arguments, code=2)
        assert said in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_entities_is_the_guide_s_dashboard_narrowed_when_asked(database_url: str):
    execute(database_url, _ENTITIES)

    def names(*arguments: str) -> list[str]:
        return [row["entity_name"] for row in answer(database_url, "entities", *arguments)["entities"]]

    assert names() == ["CRM", "Sales", "Support"]
    assert names("--type", "team") == ["Sales", "Support"]
    assert names("--type", "team", "--state", "active") == ["Sales"]
    assert list(answer(database_url, "entities")["entities"][0]) == [
        "entity_type",
        "entity_name",
        "current_state",
        "health_status",
        "last_activity",
        "seconds_since_activity",
    ]
    assert "3 h ago" in run(database_url, "entities").stdout


def test_gaps_are_a_finding(database_url: str):
    assert answer(database_url, "gaps")["gaps"] == []
    execute(database_url, _CALLS)
    found = answer(database_url, "gaps", code=1)["gaps"]
    assert [(gap["gap_type"], gap["entity_identifier"]) for gap in found] == [
        ("missing_mcp", "crm"),
        ("missing_team", "sales"),
        ("missing_team", "support"),
    ]
    assert "missing_mcp" in run(database_url, "gaps", code=1).stdout


def test_status_shows_the_guide_s_key_metrics(database_url: str):
    execute(database_url, _CALLS, _ENTITIES)
    found = answer(database_url, "status")
    assert list(found) == ["database_url", "health", "entities", "alerts", "gaps", "metrics"]
    volume = found["metrics"].pop("request_volume")
    assert [(row["protocol"], row["calls"]) for row in volume] == [("mcp", 1), ("mcp", 1)]
    assert found["metrics"] == {
        "error_rates": [{"protocol": "mcp", "calls": 2, "errors": 1, "error_rate": 50.0}],
        "latency": [{"protocol": "mcp", "p50_ms": 10.0, "p95_ms": 30.0, "p99_ms": 30.0}],
        "entity_health_share": [{"entities": 3, "healthy": 2, "healthy_percent": pytest.approx(200 / 3)}],
    }
    shown = run(database_url, "status").stdout
    assert "2 of 3 entities are healthy (67 %)." in shown
    rows = [line.split() for line in shown.splitlines() if line.strip().startswith("mcp ")]
    assert rows == [
        ["mcp", "2", "0.0", "50.0", "10.0", "30.0", "30.0"],
        ["mcp", "2", "1", "50.0", "10.0", "30.0", "30.0"],
    ]
    execute(database_url, "delete from unified_registry")
    assert "No entities are registered." in run(database_url, "status").stdout


def test_maintain_makes_one_pass_and_says_what_it_did(database_url: str):
    execute(database_url, _ENTITIES, _UNHEALTHY)
    done = answer(database_url, "maintain")
    assert done["alerts_fired"] >= 1
    assert done["partitions_dropped"] == 0
    assert "nothing to do" in run(database_url, "maintain").stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_maintain_goes_on_until_told_to_end_and_ends_well(database_url: str, number: signal.Signals):
    with running(database_url, "maintain", "--every", "1", "--json") as (process, out, err):
        eventually(lambda: len(out) >= 2)
        process.send_signal(number)
        assert process.wait(20) == 0
    assert all("rows_settled" in json.loads(line) for line in out)
    assert err == []


def test_maintain_waits_out_a_database_without_schema(database_url: str):
    """As while another release is being set up."""
    execute(database_url, "alter function maintain_telemetry() rename to maintain_later")
    assert "elf-telemetry setup" in run(database_url, "maintain", code=2).stderr
    with running(database_url, "maintain", "--every", "1") as (process, out, err):
        eventually(lambda: err)
        execute(database_url, "alter function maintain_later() rename to maintain_telemetry")
        eventually(lambda: out)
        process.terminate()
        assert process.wait(20) == 0


def test_alerts_are_a_finding(database_url: str):
    assert answer(database_url, "alerts")["alerts"] == []
    execute(database_url, _ENTITIES, _UNHEALTHY)
    (found,) = answer(database_url, "alerts", code=1)["alerts"]
    assert (found["alert"], found["entity_id"], found["threshold"]) == ("unhealthy", "crm", 10)
    assert "unhealthy for 60 minutes" in " ".join(run(database_url, "alerts", code=1).stdout.split())


def test_watch_shows_at_once_what_another_evaluator_finds(direct_url: str):
    """The watch itself would look in ten minutes only."""
    execute(direct_url, _ENTITIES)
    with running(direct_url, "alerts", "--watch", "--every", "600") as (process, out, err):
        eventually(lambda: out)
        execute(direct_url, _UNHEALTHY, "select evaluate_alerts()")
        eventually(lambda: len(out) >= 2)
        execute(direct_url, _HEALTHY, "select evaluate_alerts()")
        eventually(lambda: len(out) >= 3)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    assert out[0] == "no alerts; waiting for changes\n"
    assert "fired     critical  mcp_server crm: unhealthy for 60 minutes" in out[1]
    assert "resolved  critical  mcp_server crm: unhealthy is over after 0 minutes, peak 60.0" in out[2]
    assert err == []


def test_watch_evaluates_itself_and_survives_the_loss_of_its_connections(direct_url: str):
    execute(direct_url, _ENTITIES, _UNHEALTHY)
    with running(direct_url, "alerts", "--watch", "--every", "1", "--json") as (process, out, err):
        eventually(lambda: out)
        execute(
            direct_url,
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and pid <> pg_backend_pid()",
            _HEALTHY,
        )
        eventually(lambda: len(out) >= 2)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    assert [json.loads(line)["type"] for line in out] == ["alert.fired", "alert.resolved"]
    assert [line.strip() for line in err][1:] == ["the database is back"]


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
    execute(direct_url, _ENTITIES, _UNHEALTHY)
    with (
        receiver(503, 503, 200) as endpoint,
        running(
            direct_url, "alerts", "--watch", "--every", "1", "--webhook", endpoint.url, ELF_WEBHOOK_SECRET=SECRET
        ) as (process, _, err),
    ):
        eventually(lambda: endpoint.requests)
        execute(direct_url, _HEALTHY)
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


def test_behind_a_transaction_pooler_a_watch_says_that_it_looks_now_and_then(pooled_database_url: str):
    """PgBouncer takes LISTEN and drops what it would bring, without an error."""
    execute(pooled_database_url, _ENTITIES)
    with running(pooled_database_url, "alerts", "--watch", "--every", "1") as (process, out, err):
        eventually(lambda: out)
        execute(pooled_database_url, _UNHEALTHY)
        eventually(lambda: len(out) >= 2)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    assert [line.partition(":")[0] for line in err] == [
        "this connection goes through a transaction pooler, which cannot carry notifications"
    ]
