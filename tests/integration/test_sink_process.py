"""What happens to spans when the sink or its database goes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import psycopg
import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags

from asking import span_ids
from elf_automations.storage.migrate import migrate
from otlp import request_of
from own_postgres import own_postgres
from sink_process import sink
from spans import START_NS, eventually, tool_call

_PROTOBUF = {"content-type": "application/x-protobuf"}


@pytest.mark.parametrize("workers", ["1", "3"])
def test_what_was_answered_is_stored_when_the_sink_is_asked_to_end(database_url: str, workers: str) -> None:
    """Senders keep sending while SIGTERM arrives: every span that got its 200 is in the table, and no other."""
    answered: set[str] = set()
    sent = threading.Event()
    with sink(database_url, "--grpc", "off", "--workers", workers) as running:

        def send(first: int) -> None:
            with httpx.Client() as client:
                for number in range(first, first + 400):
                    try:
                        body = request_of([tool_call(number)]).SerializeToString()
                        answer = client.post(running.traces, content=body, headers=_PROTOBUF)
                    except httpx.TransportError:
                        return
                    if answer.status_code != 200:
                        return
                    answered.add(f"{number + 1:016x}")
                    if len(answered) > 40:
                        sent.set()

        senders = [threading.Thread(target=send, args=(10_000 * at,)) for at in range(1, 5)]
        for sender in senders:
            sender.start()
        assert sent.wait(60)
        assert running.stop() == 0
        for sender in senders:
            sender.join()
    stored = span_ids(database_url)
    assert answered <= stored
    # A connection may end after the commit and before the answer: at most one request of each sender.
    assert len(stored - answered) <= len(senders)


def test_a_sink_that_ended_leaves_right_counts(database_url: str) -> None:
    """Both halves of a call came in requests of their own, and nobody waits ten seconds for the next settling."""
    client = tool_call(7)
    parent = client.get_span_context()
    assert parent
    served = ReadableSpan(
        name="tools/call search",
        context=SpanContext(parent.trace_id, 99, is_remote=False, trace_flags=TraceFlags(1)),
        parent=parent,
        resource=Resource({"service.name": "search"}),
        kind=SpanKind.SERVER,
        attributes={"mcp.method.name": "tools/call", "gen_ai.tool.name": "search"},
        start_time=START_NS + 1_000_000,
        end_time=START_NS + 2_000_000,
    )
    with sink(database_url, "--grpc", "off") as running:
        for half in (served, client):
            body = request_of([half]).SerializeToString()
            httpx.post(running.traces, content=body, headers=_PROTOBUF).raise_for_status()
        assert running.stop() == 0
    with psycopg.connect(database_url) as connection:
        found = connection.execute("select observed_by, counted from communication_telemetry order by 1").fetchall()
    assert found == [("client", True), ("server", False)]


def test_a_worker_that_dies_is_replaced(database_url: str) -> None:
    with sink(database_url, "--grpc", "off", "--workers", "2") as running:
        found = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(running.process.pid)], capture_output=True, text=True, check=True
        )
        children = [int(line) for line in found.stdout.split()]
        workers = [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        assert len(workers) == 2
        subprocess.run(["kill", "-9", str(workers[0])], check=True)

        def whole() -> bool:
            try:
                answers = [httpx.get(f"{running.url}/healthz").status_code for _ in range(8)]
            except httpx.TransportError:
                return False
            return answers == [200] * 8

        eventually(whole, within=30)
        assert running.stop() == 0


def test_spans_sent_while_the_database_is_away_are_stored_when_it_is_back() -> None:
    """The SDK's own exporter is told to come again, and does."""
    results: list[SpanExportResult] = []
    with own_postgres(fsync="off") as (server, url):
        migrate(url)
        with sink(url, "--grpc", "off") as running:
            exporter = OTLPSpanExporter(endpoint=running.traces, timeout=60)
            assert exporter.export([tool_call(1)]) is SpanExportResult.SUCCESS
            server.stop()
            sender = threading.Thread(target=lambda: results.append(exporter.export([tool_call(2)])))
            sender.start()
            eventually(lambda: httpx.get(f"{running.url}/readyz").status_code == 503)
            assert httpx.get(f"{running.url}/healthz").status_code == 200
            server.start()
            sender.join(60)
            assert results == [SpanExportResult.SUCCESS]
            assert httpx.get(f"{running.url}/readyz").status_code == 200
            exporter.shutdown()
        assert span_ids(url) == {f"{2:016x}", f"{3:016x}"}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--http", "nowhere"), "--http takes HOST:PORT such as 127.0.0.1:4318, or off; not 'nowhere'"),
        (("--http", "off", "--grpc", "off"), "the sink has nothing to listen on: give --http or --grpc"),
        (("--tls-cert", "cert.pem"), "TLS needs both --tls-cert and --tls-key"),
        (("--tls-cert", "a.pem", "--tls-key", "b.pem"), "there is no file a.pem: TLS takes PEM files"),
        (("--http", "203.0.113.1:0"), "cannot listen on 203.0.113.1:0: Cannot assign requested address"),
        (("--grpc", "203.0.113.1:0"), "cannot listen on 203.0.113.1:0: Cannot assign requested address"),
        (("--grpc", "nowhere.invalid:4317"), "cannot listen on nowhere.invalid:4317: "),
    ],
)
def test_a_wrong_option_is_one_clear_line(options: tuple[str, ...], line: str) -> None:
    command = [str(Path(sys.executable).with_name("elf-telemetry")), "sink"]
    chosen = (
        "--database-url",
        "postgresql://nobody@127.0.0.1:1/none",
        "--grpc",
        "127.0.0.1:0",
        "--http",
        "127.0.0.1:0",
    )
    done = subprocess.run(
        [*command, *chosen, *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=os.environ | {"ELF_SINK_TOKEN": "fake-token-for-tests"},
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: {line}")
    assert done.stderr.count("\n") == 1


def test_a_port_that_is_taken_is_named(database_url: str) -> None:
    with sink(database_url) as running:
        for option, at in (("--http", running.url.removeprefix("http://")), ("--grpc", running.grpc)):
            other = "--grpc" if option == "--http" else "--http"
            command = [str(Path(sys.executable).with_name("elf-telemetry")), "sink", option, at, other, "off"]
            done = subprocess.run(
                [*command, "--database-url", database_url], capture_output=True, text=True, check=False, timeout=60
            )
            assert done.returncode == 2
            assert done.stderr.startswith(f"error: cannot listen on {at}: Address already in use")
            assert done.stderr.count("\n") == 1


def test_an_open_address_is_warned_of(database_url: str) -> None:
    command = [str(Path(sys.executable).with_name("elf-telemetry")), "sink", "--http", "0.0.0.0:0", "--grpc", "off"]
    process = subprocess.Popen([*command, "--database-url", database_url], stderr=subprocess.PIPE, text=True)
    assert process.stderr
    lines = [process.stderr.readline() for _ in range(2)]
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    process.stderr.close()
    assert lines[0] == "warning: anybody who reaches 0.0.0.0:0 may write; set ELF_SINK_TOKEN or --tls-client-ca\n"
