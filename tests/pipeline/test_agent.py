"""The Collector beside an application: it takes spans at once, and keeps them until the sink has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import yaml
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.sdk.trace.export import SpanExportResult

from collector_process import CONFIGURATIONS, free_address
from collector_tiers import agent, figure, gateway
from elf_automations.model import map_batch
from elf_automations.model.from_sdk import SdkSpans
from otlp import request_of
from sink_process import sink
from spans import eventually, tool_call

TOKEN = "fake-token-for-tests"


def stored(url: str) -> list[tuple[str, str, str, str]]:
    with psycopg.connect(url) as connection:
        return connection.execute(
            "select span_id, target_id, status, tool_name from communication_telemetry order by span_id"
        ).fetchall()


def test_calls_sent_to_the_agent_are_the_rows_the_exporter_makes(database_url: str, tmp_path: Path) -> None:
    """Over both transports, to a sink that asks for its token."""
    spans = [tool_call(number, error="503" if number % 3 == 0 else None) for number in range(40)]
    records = SdkSpans()
    rows = map_batch([record for span in spans if (record := records.record(span))]).rows
    with (
        sink(database_url, "--grpc", "off", environment={"ELF_SINK_TOKEN": TOKEN}) as running,
        agent(tmp_path, running.url, ELF_SINK_TOKEN=TOKEN) as beside,
    ):
        over_http = HttpExporter(endpoint=f"{beside.http}/v1/traces")
        over_grpc = GrpcExporter(endpoint=f"http://{beside.grpc}", insecure=True)
        assert over_http.export(spans[:20]) is over_grpc.export(spans[20:]) is SpanExportResult.SUCCESS
        eventually(lambda: len(stored(database_url)) == len(spans))
        over_http.shutdown()
        over_grpc.shutdown()
    assert stored(database_url) == sorted((row.span_id, row.target_id, row.status, row.tool_name) for row in rows)


@pytest.mark.parametrize("tier", [agent, gateway])
def test_collectors_send_one_token_while_the_sink_takes_two(tier: Any, database_url: str, tmp_path: Path) -> None:
    """All of them in one environment, as where compose.yaml reads it."""
    tokens = {"ELF_SINK_TOKEN": f"fake-new-token {TOKEN}", "ELF_SINK_CLIENT_TOKEN": "fake-new-token"}
    backend = (free_address(),) if tier is gateway else ()
    with (
        sink(database_url, "--grpc", "off", environment=tokens) as running,
        tier(tmp_path, running.url, *backend, **tokens) as before,
    ):
        exporter = HttpExporter(endpoint=f"{before.http}/v1/traces")
        assert exporter.export([tool_call(1)]) is SpanExportResult.SUCCESS
        eventually(lambda: len(stored(database_url)) == 1)
        exporter.shutdown()
        before.collector.kill()


def test_what_the_agent_took_survives_its_kill_while_the_sink_is_away(database_url: str, tmp_path: Path) -> None:
    at = free_address()
    with agent(tmp_path, f"http://{at}") as beside:
        exporter = HttpExporter(endpoint=f"{beside.http}/v1/traces")
        for first in range(0, 3000, 100):
            assert exporter.export([tool_call(first + number) for number in range(100)]) is SpanExportResult.SUCCESS
            if first == 1500:
                beside.collector.kill()
                beside.collector.start()
        beside.collector.kill()
        exporter.shutdown()
        with sink(database_url, "--http", at, "--grpc", "off"):
            beside.collector.start()
            eventually(lambda: len(stored(database_url)) == 3000, within=60)
    assert [span for span, *_ in stored(database_url)] == [f"{number + 1:016x}" for number in range(3000)]


def test_a_full_queue_refuses_what_it_cannot_keep(database_url: str, tmp_path: Path) -> None:
    """The client is told to come again; what was taken is stored, what was refused is not."""
    configuration = yaml.safe_load((CONFIGURATIONS / "agent.yaml").read_text())
    configuration["exporters"]["otlp_http/next"]["sending_queue"]["queue_size"] = 3
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(configuration))
    at = free_address()
    with agent(tmp_path, f"http://{at}", config=tmp_path / "small.yaml") as beside:
        answers = [
            httpx.post(
                f"{beside.http}/v1/traces",
                content=request_of([tool_call(number)]).SerializeToString(),
                headers={"content-type": "application/x-protobuf"},
            ).status_code
            for number in range(30)
        ]
        taken = [number for number, status in enumerate(answers) if status == 200]
        assert set(answers) == {200, 503}
        with sink(database_url, "--http", at, "--grpc", "off"):
            eventually(lambda: len(stored(database_url)) == len(taken), within=60)
    assert [span for span, *_ in stored(database_url)] == [f"{number + 1:016x}" for number in taken]


def test_the_agent_says_what_waits(database_url: str, tmp_path: Path) -> None:
    """Who runs it sees a sink that is away before anything is lost."""
    with agent(tmp_path, f"http://{free_address()}") as beside:
        exporter = HttpExporter(endpoint=f"{beside.http}/v1/traces")
        exporter.export([tool_call(number) for number in range(5)])
        exporter.shutdown()
        eventually(lambda: figure(beside.own, "otelcol_receiver_accepted_spans", transport="http") == 5)
        eventually(lambda: figure(beside.own, "otelcol_exporter_queue_size", exporter="otlp_http/next") == 1)
        beside.collector.kill()


def test_what_the_sink_refuses_for_good_is_counted(database_url: str, tmp_path: Path) -> None:
    """OTLP has no way to come again with another token: a Collector drops what is answered with 401."""
    with (
        sink(database_url, "--grpc", "off", environment={"ELF_SINK_TOKEN": TOKEN}) as running,
        agent(tmp_path, running.url, ELF_SINK_TOKEN="fake-wrong-token") as beside,
    ):
        exporter = HttpExporter(endpoint=f"{beside.http}/v1/traces")
        exporter.export([tool_call(number) for number in range(5)])
        exporter.shutdown()
        eventually(lambda: figure(beside.own, "otelcol_exporter_send_failed_spans", exporter="otlp_http/next") == 5)
        assert "401" in beside.collector.said()
    assert stored(database_url) == []
