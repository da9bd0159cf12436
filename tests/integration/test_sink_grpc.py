"""OTLP over gRPC, against the command itself."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import grpc
import psycopg
import pytest
import trustme
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.sdk.trace.export import SpanExportResult

from otlp import request_of
from sink_process import Sink, sink
from spans import tool_call

_LIMIT = 200_000
_numbers = count(1)


@pytest.fixture(scope="module")
def served(module_database_url: str) -> Iterator[Sink]:
    with sink(module_database_url, "--http", "off", environment={"ELF_SINK_MAX_BYTES": str(_LIMIT)}) as running:
        yield running


def _request(spans: int = 1) -> ExportTraceServiceRequest:
    return request_of([tool_call(next(_numbers)) for _ in range(spans)])


def _rows(url: str) -> int:
    with psycopg.connect(url) as connection:
        found = connection.execute("select count(*) from communication_telemetry").fetchone()
    return found[0] if found else 0


@pytest.mark.parametrize("compression", grpc.Compression)
def test_a_request_is_answered_when_its_rows_are_there(
    served: Sink, module_database_url: str, compression: grpc.Compression
) -> None:
    before = _rows(module_database_url)
    with grpc.insecure_channel(served.grpc) as channel:
        answer = TraceServiceStub(channel).Export(_request(3), compression=compression)
    assert not answer.HasField("partial_success")
    assert _rows(module_database_url) == before + 3


def test_a_bad_span_is_reported_and_the_rest_stored(served: Sink, module_database_url: str) -> None:
    before = _rows(module_database_url)
    request = _request(3)
    request.resource_spans[0].scope_spans[0].spans[1].span_id = b""
    with grpc.insecure_channel(served.grpc) as channel:
        said = TraceServiceStub(channel).Export(request).partial_success
    assert (said.rejected_spans, said.error_message) == (
        1,
        "span 'tools/call search' has no valid span id (8 bytes, not all zero)",
    )
    assert _rows(module_database_url) == before + 2


def test_bytes_that_are_no_request_are_invalid(served: Sink) -> None:
    assert _failure(served, b"\xff\xff").code() is grpc.StatusCode.INVALID_ARGUMENT


def test_more_than_the_limit_must_not_come_again(served: Sink) -> None:
    error = _failure(served, bytes(_LIMIT + 1))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "grpc-status-details-bin" not in _trailers(error)


def test_a_database_that_cannot_take_data_is_said_with_the_time_to_come_again(empty_database_url: str) -> None:
    with sink(empty_database_url, "--http", "off") as running:
        error = _failure(running, _request().SerializeToString())
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "run `elf-telemetry setup`" in str(error.details())
    trailers = _trailers(error)
    status = Status.FromString(trailers["grpc-status-details-bin"])
    packed = RetryInfo()
    assert status.details[0].Unpack(packed)
    assert packed.retry_delay.seconds == 5
    assert RetryInfo.FromString(trailers["google.rpc.retryinfo-bin"]) == packed


def test_tls_with_client_certificates_and_a_token(module_database_url: str, tmp_path: Path) -> None:
    authority = trustme.CA()
    server, client = authority.issue_cert("localhost"), authority.issue_cert("agent@example.com")
    stranger = trustme.CA().issue_cert("agent@example.com")
    files = {name: str(tmp_path / name) for name in ("cert", "key", "ca")}
    server.cert_chain_pems[0].write_to_path(files["cert"])
    server.private_key_pem.write_to_path(files["key"])
    authority.cert_pem.write_to_path(files["ca"])
    options = ("--tls-cert", files["cert"], "--tls-key", files["key"], "--tls-client-ca", files["ca"])
    before = _rows(module_database_url)
    with sink(
        module_database_url,
        *("--http", "off", "--grpc", "localhost:0", *options),
        environment={"ELF_SINK_TOKEN": "fake-token-for-tests"},
    ) as running:

        def exported(who: trustme.LeafCert, token: str) -> SpanExportResult:
            credentials = grpc.ssl_channel_credentials(
                authority.cert_pem.bytes(), who.private_key_pem.bytes(), who.cert_chain_pems[0].bytes()
            )
            exporter = OTLPSpanExporter(
                endpoint=f"https://{running.grpc}",
                credentials=credentials,
                headers=(("authorization", f"Bearer {token}"),),
                timeout=2,
            )
            try:
                return exporter.export([tool_call(next(_numbers))])
            finally:
                exporter.shutdown()

        assert exported(client, "fake-token-for-tests") is SpanExportResult.SUCCESS
        assert exported(client, "wrong") is SpanExportResult.FAILURE
        assert exported(stranger, "fake-token-for-tests") is SpanExportResult.FAILURE
    assert _rows(module_database_url) == before + 1


def _failure(running: Sink, body: bytes) -> grpc.RpcError:
    with grpc.insecure_channel(running.grpc) as channel:
        export = channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")
        with pytest.raises(grpc.RpcError) as raised:
            export(body)
    return raised.value


def _trailers(error: grpc.RpcError) -> dict[str, bytes]:
    return dict(error.trailing_metadata())
