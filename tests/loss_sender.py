"""Calls recorded by our SDK and sent to a Collector, each span's id written down: `loss_sender.py URL COUNT TOGETHER`.

It prints the ids, one a line. An export that failed for good would be on stderr, by the SDK.
"""

from __future__ import annotations

import asyncio
import sys

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from elf_automations.shared.telemetry import telemetry_client


class Ids(SpanProcessor):
    def on_end(self, span: ReadableSpan) -> None:
        print(f"{span.context.span_id:016x}")


async def main(url: str, count: int, together: int) -> None:
    """Record `count` calls and have each `together` of them exported before the next."""
    provider = TracerProvider(
        resource=Resource({"service.name": "sender", "elf.entity.id": "sending-team", "elf.entity.type": "team"})
    )
    provider.add_span_processor(Ids())
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{url}/v1/traces", timeout=60)))
    trace.set_tracer_provider(provider)
    for number in range(1, count + 1):
        failed = number % 10 == 0
        await telemetry_client.record_mcp(
            source_id="sending-team",
            mcp_name=f"server-{number % 7}",
            tool_name="search",
            status="error" if failed else "success",
            duration_ms=number % 200,
            error_message="the upstream answered 503" if failed else None,
        )
        if number % together == 0:
            provider.force_flush()
    provider.shutdown()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
