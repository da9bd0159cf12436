"""Clients that do not wait for the answer: what they sent is stored all the same, and the sink lives on."""

from __future__ import annotations

import grpc
import httpx
import psycopg
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub

from otlp import request_of
from sink_process import sink
from spans import eventually, tool_call

_PROTOBUF = {"content-type": "application/x-protobuf"}
_CANCELLED = 3


def test_calls_whose_deadline_passed_are_stored_once_and_cost_no_thread(database_url: str) -> None:
    with sink(database_url) as running, grpc.insecure_channel(running.grpc) as channel:
        traces = TraceServiceStub(channel)
        with psycopg.connect(database_url) as busy:
            busy.execute("lock table communication_telemetry")
            for number in range(_CANCELLED):
                with pytest.raises(grpc.RpcError) as raised:
                    traces.Export(request_of([tool_call(number)]), timeout=0.2)
                assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert not traces.Export(request_of([tool_call(10)]), timeout=20).HasField("partial_success")
        over_http = request_of([tool_call(11)]).SerializeToString()
        assert httpx.post(running.traces, content=over_http, headers=_PROTOBUF, timeout=20).status_code == 200
        expected = [f"{number + 1:016x}" for number in (*range(_CANCELLED), 10, 11)]
        eventually(lambda: _span_ids(database_url) == expected)
        assert _answers(running.url) == {("grpc", "CANCELLED"): _CANCELLED, ("grpc", "OK"): 1, ("http", "200"): 1}
        assert running.stop() == 0


def _span_ids(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        found = connection.execute("select span_id from communication_telemetry order by 1").fetchall()
    return [span_id for (span_id,) in found]


def _answers(url: str) -> dict[tuple[str, str], int]:
    found: dict[tuple[str, str], int] = {}
    for line in httpx.get(f"{url}/metrics").text.splitlines():
        if line.startswith("http_server_request_duration_seconds_count{"):
            labels = dict(part.split("=") for part in line.partition("{")[2].partition("}")[0].split(","))
            found[labels["transport"].strip('"'), labels["status"].strip('"')] = int(float(line.rpartition(" ")[2]))
    return found
