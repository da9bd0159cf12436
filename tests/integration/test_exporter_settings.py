"""What the exporter makes of settings: one clear line for a bad one, silence but one INFO line for none."""

from __future__ import annotations

import logging

import pytest
from opentelemetry.sdk.trace.export import SpanExportResult

import elf_exporters.exporter
from elf_automations.errors import ConfigurationError
from elf_exporters import CommunicationTelemetryExporter
from spans import tool_call


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("ELF_DATABASE_URL", "mysql://u:hunter2@h/db", "ELF_DATABASE_URL is not a Postgres URL"),
        ("ELF_QUEUE_SIZE", "many", "ELF_QUEUE_SIZE='many' does not fit"),
        ("SUPABASE_URL", "https://x.supabase.co", "SUPABASE_URL is set but no key is"),
    ],
)
def test_a_bad_environment_disables_with_one_error_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str, value: str, says: str
) -> None:
    monkeypatch.setenv(name, value)
    exporter = CommunicationTelemetryExporter()
    assert exporter.export([tool_call(1)]) is SpanExportResult.SUCCESS
    assert exporter.force_flush()
    exporter.shutdown()
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith(f"telemetry is disabled: {says}")
    assert "hunter2" not in record.getMessage()


def test_a_bad_keyword_is_the_callers_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="batch_size is out of range: it must be 1 to 2048 spans"):
        CommunicationTelemetryExporter(batch_size=4096)
    with pytest.raises(ConfigurationError, match=r"^database_url is not a Postgres URL"):
        CommunicationTelemetryExporter(database_url="mysql://h/db")
    monkeypatch.setenv("ELF_DATABASE_URL", "mysql://h/db")
    with pytest.raises(ConfigurationError, match=r"^ELF_DATABASE_URL is not a Postgres URL"):
        CommunicationTelemetryExporter(entity_id="planner")


def test_no_database_is_one_info_line_for_the_process(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(elf_exporters.exporter, "_announced", type(elf_exporters.exporter._announced)())
    for _ in range(3):
        exporter = CommunicationTelemetryExporter()
        assert exporter.export([tool_call(1)]) is SpanExportResult.SUCCESS
        assert exporter.force_flush()
        exporter.shutdown()
        assert exporter.books().started == 0
        assert not exporter.enabled
    assert [record.getMessage() for record in caplog.records] == [
        "telemetry is disabled: no database is configured (set ELF_DATABASE_URL)"
    ]
