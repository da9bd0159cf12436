"""A process that exports twice, over OTLP to the gateway and straight to the database, set up without code.

The gateway's sink writes into the same database: what arrives both ways is there once.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from collector_process import CONFIGURATIONS
from collector_tiers import Tier, gateway
from jaeger_process import jaeger
from pipeline_application import application, stored
from sink_process import sink
from spans import eventually

ROUNDS = 2
# The SDK says so itself whenever opentelemetry-instrument meets a configuration file.
IGNORED = "OTEL_CONFIG_FILE is set; ignoring configurator kwargs: ['auto_instrumentation_version']\n"


def declared(tier: Tier) -> dict[str, str]:
    return {"OTEL_CONFIG_FILE": str(CONFIGURATIONS / "otel-sdk.yaml"), "ELF_OTLP_TRACES": f"{tier.http}/v1/traces"}


def variables(tier: Tier) -> dict[str, str]:
    return {
        "OTEL_TRACES_EXPORTER": "otlp,communication_telemetry",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{tier.grpc}",
    }


@pytest.mark.parametrize("configured", [declared, variables], ids=["OTEL_CONFIG_FILE", "OTEL_TRACES_EXPORTER"])
def test_both_backends_get_every_call_and_each_is_one_row(configured, database_url: str, tmp_path: Path) -> None:
    with (
        jaeger(tmp_path / "jaeger.log") as backend,
        sink(database_url, "--grpc", "off") as running,
        gateway(tmp_path, running.url, backend.grpc, ELF_BACKEND_PERCENT="100", ELF_BACKEND_WAIT="1s") as tier,
    ):
        complaint = IGNORED if configured is declared else ""
        seen = application(ROUNDS, complaint=complaint, ELF_DATABASE_URL=database_url, **configured(tier))
        # The process has ended, so its own exporter has stored everything.
        rows = stored(database_url)
        eventually(lambda: {row["trace_id"] for row in rows} <= backend.trace_ids("planner"))
        # And the gateway has nothing left that it could store again.
        eventually(lambda: tier.waiting == 0)
        assert len(stored(database_url)) == len({(row["trace_id"], row["span_id"]) for row in rows}) == len(rows)
    counted = Counter((row["tool_name"] or row["operation"], row["status"]) for row in rows if row["counted"])
    assert counted == {(name, status): n for name, ends in seen.items() for status, n in ends.items()}
    assert {row["source_id"] for row in rows if row["counted"]} == {"planning-team"}
    assert {row["service_name"] for row in rows} == {"planner"}
