"""OTLP over HTTP, row by row of the specification's table, against the command itself."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import socket
import zlib
from collections.abc import Iterator
from itertools import count
from typing import Any

import httpx
import orjson
import psycopg
import pytest
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from otlp import as_json, request_of
from sink_process import Sink, sink
from spans import eventually, tool_call

_PROTOBUF = {"content-type": "application/x-protobuf"}
_JSON = {"content-type": "application/json"}
_LIMIT = 200_000
_numbers = count(1)


@pytest.fixture(scope="module")
def served(module_database_url: str) -> Iterator[Sink]:
    with sink(module_database_url, environment={"ELF_SINK_MAX_BYTES": str(_LIMIT)}) as running:
        yield running


def _body(spans: int = 1) -> bytes:
    return request_of([tool_call(next(_numbers)) for _ in range(spans)]).SerializeToString()


def _rows(url: str) -> int:
    with psycopg.connect(url) as connection:
        found = connection.execute("select count(*) from communication_telemetry").fetchone()
    return found[0] if found else 0


@pytest.mark.parametrize("encoding", ["identity", "gzip", "deflate", None])
def test_a_request_is_answered_when_its_rows_are_there(served: Sink, module_database_url: str, encoding: str) -> None:
    before = _rows(module_database_url)
    pack = {"gzip": gzip.compress, "deflate": zlib.compress}.get(encoding, bytes)
    headers = _PROTOBUF | ({"content-encoding": encoding} if encoding else {})
    answer = httpx.post(served.traces, content=pack(_body(3)), headers=headers)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"] == "application/x-protobuf"
    assert _rows(module_database_url) == before + 3


def test_json_is_answered_in_json(served: Sink, module_database_url: str) -> None:
    before = _rows(module_database_url)
    document = as_json(request_of([tool_call(next(_numbers))]))
    answer = httpx.post(
        served.traces, content=orjson.dumps(document), headers={"content-type": "application/json; charset=utf-8"}
    )
    assert (answer.status_code, answer.json()) == (200, {})
    assert answer.headers["content-type"] == "application/json"
    assert _rows(module_database_url) == before + 1


def test_an_empty_request_is_a_success(served: Sink) -> None:
    assert httpx.post(served.traces, content=b"", headers=_PROTOBUF).status_code == 200
    assert httpx.post(served.traces, content=b"{}", headers=_JSON).json() == {}


def test_a_body_in_chunks_needs_no_length(served: Sink, module_database_url: str) -> None:
    before = _rows(module_database_url)
    body = _body(2)
    parts = (body[at : at + 100] for at in range(0, len(body), 100))
    answer = httpx.post(served.traces, content=parts, headers=_PROTOBUF)
    assert answer.status_code == 200
    assert _rows(module_database_url) == before + 2


def test_a_bad_span_is_reported_and_the_rest_stored(served: Sink, module_database_url: str) -> None:
    before = _rows(module_database_url)
    request = request_of([tool_call(next(_numbers)) for _ in range(3)])
    request.resource_spans[0].scope_spans[0].spans[1].trace_id = b"short"
    answer = httpx.post(served.traces, content=request.SerializeToString(), headers=_PROTOBUF)
    said = ExportTraceServiceResponse.FromString(answer.content).partial_success
    assert answer.status_code == 200
    assert (said.rejected_spans, said.error_message) == (
        1,
        "span 'tools/call search' has no valid trace id (16 bytes, not all zero)",
    )
    assert _rows(module_database_url) == before + 2
    in_json = httpx.post(served.traces, content=orjson.dumps(as_json(request)), headers=_JSON).json()
    assert in_json["partialSuccess"]["rejectedSpans"] == "1"


@pytest.mark.parametrize(
    ("content", "headers", "status", "said"),
    [
        (b"\xff\xff", _PROTOBUF, 400, "the body ends in the middle of a message"),
        (b"{", _JSON, 400, "the body is not JSON: unexpected end of data: line 1 column 2 (char 1)"),
        (b"no gzip", _PROTOBUF | {"content-encoding": "gzip"}, 400, "the body is not valid gzip"),
        (b"x", _PROTOBUF | {"content-encoding": "br"}, 400, "the content encoding 'br' is not one of gzip"),
        (b"x", {"content-type": "text/plain"}, 415, "the content type is not one of application/x-protobuf"),
        (b"x" * (_LIMIT + 1), _PROTOBUF, 413, f"the body is larger than {_LIMIT} bytes"),
        (gzip.compress(bytes(50_000_000)), _PROTOBUF | {"content-encoding": "gzip"}, 413, "when inflated"),
    ],
    ids=["protobuf", "json", "gzip", "encoding", "type", "large", "bomb"],
)
def test_what_is_wrong_is_said_in_the_requests_encoding(
    served: Sink, content: bytes, headers: dict[str, str], status: int, said: str
) -> None:
    answer = httpx.post(served.traces, content=content, headers=headers)
    message = answer.json()["message"] if headers == _JSON else Status.FromString(answer.content).message
    assert answer.status_code == status
    assert said in message


def test_a_chunked_body_over_the_limit_is_not_read_to_its_end(served: Sink) -> None:
    endless = (b"x" * 10_000 for _ in range(10_000))
    try:
        status = httpx.post(served.traces, content=endless, headers=_PROTOBUF, timeout=20).status_code
    except httpx.WriteError:  # the connection was closed while it was still sending
        status = 413
    assert status == 413


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/traces", 405),
        ("HEAD", "/v1/traces", 405),
        ("POST", "/v1/metrics", 404),
        ("POST", "/", 404),
        ("GET", "/healthz", 200),
        ("HEAD", "/healthz", 200),
        ("GET", "/readyz", 200),
        ("GET", "/metrics", 200),
    ],
)
def test_paths_and_methods(served: Sink, method: str, path: str, status: int) -> None:
    assert httpx.request(method, served.url + path).status_code == status


def test_one_connection_serves_many_requests(served: Sink) -> None:
    with httpx.Client() as client:
        answers = [client.post(served.traces, content=_body(), headers=_PROTOBUF).status_code for _ in range(5)]
    assert answers == [200] * 5


def test_the_books_are_public_and_balance(served: Sink) -> None:
    before = _books(served)
    body = _body(4)
    for _ in range(2):
        assert httpx.post(served.traces, content=body, headers=_PROTOBUF).status_code == 200
    after = _books(served)
    gained = {key: after[key] - before.get(key, 0) for key in after if after[key] != before.get(key, 0)}
    assert gained == {"stored": 4, "duplicate": 4}


def _books(served: Sink) -> dict[str, float]:
    found: dict[str, float] = {}
    for line in httpx.get(f"{served.url}/metrics").text.splitlines():
        if line.startswith("otel_sdk_exporter_span_exported_total{"):
            outcome = line.partition('outcome="')[2].partition('"')[0]
            found[outcome] = found.get(outcome, 0) + float(line.rpartition(" ")[2])
    return found


def test_a_client_that_never_ends_its_request_head_is_sent_away(served: Sink) -> None:
    host, _, port = served.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as slow:
        slow.sendall(b"POST /v1/traces HTTP/1.1\r\nHost: x\r\n")
        assert slow.recv(1000) == b""


@pytest.fixture(scope="module")
def guarded(module_database_url: str) -> Iterator[Sink]:
    with sink(
        module_database_url, "--grpc", "off", environment={"ELF_SINK_TOKEN": "fake-token-for-tests fake-next"}
    ) as running:
        yield running


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (None, 401),
        ("Bearer wrong", 401),
        ("Basic fake-token-for-tests", 401),
        ("Bearer fake-token-for-tests", 200),
        ("bearer fake-token-for-tests", 200),
        ("Bearer fake-next", 200),
        ("Bearer fake-token-for-tests fake-next", 401),
    ],
)
def test_a_token_is_asked_for_one_of_those_that_hold(guarded: Sink, authorization: str | None, status: int) -> None:
    headers: dict[str, Any] = {"authorization": authorization} if authorization else {}
    answer = httpx.post(guarded.traces, content=_body(), headers=_PROTOBUF | headers)
    assert answer.status_code == status
    assert httpx.get(f"{guarded.url}/metrics", headers=headers).status_code == status
    assert httpx.get(f"{guarded.url}/healthz").status_code == 200


def test_a_database_without_schema_is_not_the_clients_loss(empty_database_url: str) -> None:
    """Before `setup` ran nothing can be stored: clients are told to come again, and what they send then is stored."""
    with sink(empty_database_url, "--grpc", "off") as running:
        answer = httpx.post(running.traces, content=_body(), headers=_PROTOBUF)
        status = Status.FromString(answer.content)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert "run `elf-telemetry setup`" in status.message
        assert [detail.TypeName() for detail in status.details] == ["google.rpc.RetryInfo"]
        assert httpx.get(f"{running.url}/readyz").status_code == 503


def test_head_of_the_server_says_nothing_of_its_make(served: Sink) -> None:
    host, _, port = served.url.removeprefix("http://").partition(":")
    connection = http.client.HTTPConnection(host, int(port))
    connection.request("GET", "/healthz")
    assert connection.getresponse().getheader("server") is None
    connection.close()


def test_requests_at_once_are_stored_together(served: Sink, module_database_url: str) -> None:
    before = _rows(module_database_url)
    bodies = [_body() for _ in range(30)]

    async def post_all() -> list[int]:
        async with httpx.AsyncClient() as client:
            answers = await asyncio.gather(
                *(client.post(served.traces, content=body, headers=_PROTOBUF) for body in bodies)
            )
        return [answer.status_code for answer in answers]

    assert asyncio.run(post_all()) == [200] * 30
    eventually(lambda: _rows(module_database_url) == before + 30)
