"""`/metrics`: what became of every span, and of every request that was not read."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import grpc
import httpx
import psycopg
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from prometheus_client.parser import text_string_to_metric_families

from elf_automations.storage.migrate import migrate
from otlp import request_of
from sink_process import Sink, sink
from spans import eventually, other_span, tool_call

_PROTOBUF = {"content-type": "application/x-protobuf"}
_LIMIT = 100_000
_LARGE = "x" * 80_000


@pytest.fixture(scope="module")
def served(module_database_url: str) -> Iterator[Sink]:
    with sink(module_database_url, environment={"ELF_SINK_MAX_BYTES": str(_LIMIT)}) as running:
        yield running


def _counted(running: Sink, name: str, label: str) -> dict[str, float]:
    """Return the values of a metric by one of its labels, added up over the others; zeros are left out."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(httpx.get(f"{running.url}/metrics").text):
        for sample in family.samples:
            if sample.name == name and sample.value:
                found[sample.labels.get(label, "")] = found.get(sample.labels.get(label, ""), 0) + sample.value
    return found


def _spans(running: Sink) -> dict[str, float]:
    return _counted(running, "otel_sdk_exporter_span_exported_total", "outcome")


def _unread(running: Sink) -> dict[str, float]:
    return _counted(running, "elf_sink_unread_requests_total", "error_type")


def _waiting(running: Sink) -> float:
    return _counted(running, "elf_sink_waiting_requests", "").get("", 0)


def _mixed() -> ExportTraceServiceRequest:
    request = request_of([tool_call(1), tool_call(2), other_span(3)])
    request.resource_spans[0].scope_spans[0].spans[1].span_id = b""
    return request


def test_every_span_of_a_request_is_counted_each_time_it_comes(empty_database_url: str) -> None:
    """All of a request that was not stored comes again, with the spans that will be refused then."""
    body = _mixed().SerializeToString()
    with sink(empty_database_url) as running:
        assert httpx.post(running.traces, content=body, headers=_PROTOBUF).status_code == 503
        assert _spans(running) == {"failed": 3}
        migrate(empty_database_url)
        for _ in range(2):
            assert httpx.post(running.traces, content=body, headers=_PROTOBUF, timeout=20).status_code == 200
        assert _spans(running) == {"failed": 3, "stored": 1, "duplicate": 1, "ignored": 2, "refused": 2}


def test_requests_whose_spans_nobody_could_count_are_counted(served: Sink) -> None:
    spans = _spans(served)
    zipped = _PROTOBUF | {"content-encoding": "gzip"}
    for content, headers, status in (
        (b"\xff\xff", _PROTOBUF, 400),
        (b"no gzip", zipped, 400),
        (gzip.compress(bytes(2 * _LIMIT)), zipped, 413),
        (bytes(2 * _LIMIT), _PROTOBUF, 413),
    ):
        assert httpx.post(served.traces, content=content, headers=headers).status_code == status
    with grpc.insecure_channel(served.grpc) as channel:
        export = channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")
        with pytest.raises(grpc.RpcError):
            export(b"\xff\xff")
    assert _unread(served) == {"MalformedRequestError": 3, "TooLargeError": 2}
    assert _spans(served) == spans


def test_what_finds_no_room_is_told_to_come_again_and_counted(database_url: str) -> None:
    """While the database is slow, as much waits as two of the largest requests; then clients keep what they have."""
    statuses: list[int] = []

    def post(number: int) -> httpx.Response:
        body = request_of([tool_call(number, text=_LARGE)]).SerializeToString()
        return httpx.post(running.traces, content=body, headers=_PROTOBUF, timeout=60)

    senders = [
        threading.Thread(target=lambda number=number: statuses.append(post(number).status_code)) for number in range(4)
    ]
    with sink(database_url, environment={"ELF_SINK_MAX_BYTES": str(_LIMIT)}) as running:
        with psycopg.connect(database_url) as busy:
            busy.execute("lock table communication_telemetry")
            for number, sender in enumerate(senders):
                sender.start()
                # Two are in the hands of the sink's two threads, the others wait for these.
                expected = (min(number + 1, 2), max(number - 1, 0))
                eventually(lambda: (_locked_out(busy), _waiting(running)) == expected)  # noqa: B023 - called at once
            answer = post(4)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
            assert Status.FromString(answer.content).message == "too many requests wait for the database"
            with grpc.insecure_channel(running.grpc) as channel, pytest.raises(grpc.RpcError) as raised:
                TraceServiceStub(channel).Export(request_of([tool_call(5, text=_LARGE)]))
            assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
            packed = RetryInfo.FromString(dict(raised.value.trailing_metadata())["google.rpc.retryinfo-bin"])
            assert packed.retry_delay.seconds == 5
            assert _unread(running) == {"BusyError": 2}
        for sender in senders:
            sender.join(60)
        assert statuses == [200] * len(senders)
        assert _waiting(running) == 0
        assert _spans(running) == {"stored": 4}


def _locked_out(connection: psycopg.Connection[Any]) -> int:
    asked = (
        "select count(distinct pid) from pg_locks where not granted and relation = 'communication_telemetry'::regclass"
    )
    found = connection.execute(asked).fetchone()
    return found[0] if found else 0


def test_the_books_are_those_of_all_workers(database_url: str) -> None:
    with sink(database_url, "--workers", "2") as running:
        for number in range(0, 40, 2):
            body = request_of([tool_call(number)]).SerializeToString()
            assert httpx.post(running.traces, content=body, headers=_PROTOBUF, timeout=20).status_code == 200
            with grpc.insecure_channel(running.grpc, [("grpc.use_local_subchannel_pool", 1)]) as channel:
                TraceServiceStub(channel).Export(request_of([tool_call(number + 1)]), timeout=20)
        # Whichever of them is asked.
        assert [_spans(running) for _ in range(8)] == [{"stored": 40}] * 8
        answered = _counted(running, "http_server_request_duration_seconds_count", "status")
        assert answered == {"200": 20, "OK": 20}


def test_what_waited_in_a_worker_that_was_killed_waits_no_more(database_url: str) -> None:
    def post(number: int) -> None:
        body = request_of([tool_call(number)]).SerializeToString()
        with suppress(httpx.TransportError):
            httpx.post(running.traces, content=body, headers=_PROTOBUF, timeout=60)

    with sink(database_url, "--grpc", "off", "--workers", "2") as running:
        killed = _workers(running)
        assert len(killed) == 2
        senders: list[threading.Thread] = []
        with psycopg.connect(database_url) as busy:
            busy.execute("lock table communication_telemetry")

            def one_waits() -> bool:
                senders.append(threading.Thread(target=post, args=(len(senders),)))
                senders[-1].start()
                # The two threads of both workers are at it: what waits now waits on.
                return _locked_out(busy) == 4 and _waiting(running) > 0

            eventually(one_waits)
            for worker in killed:
                os.kill(worker, signal.SIGKILL)
        for sender in senders:
            sender.join(60)
        eventually(lambda: len(_workers(running) - killed) == 2, within=30)
        eventually(lambda: _is_healthy(running), within=30)
        assert _waiting(running) == 0


def _is_healthy(running: Sink) -> bool:
    try:
        return httpx.get(f"{running.url}/healthz").status_code == 200
    except httpx.TransportError:
        return False


def _workers(running: Sink) -> set[int]:
    command = ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(running.process.pid)]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return {int(line.split()[0]) for line in found if "spawn_main" in line}
