"""Turning the A2A instrumentation on and off: nothing is left behind, nothing breaks when a part is missing."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import Any

import pytest
from a2a.client.base_client import BaseClient
from a2a.client.transports.grpc import GrpcTransport
from a2a.client.transports.jsonrpc import JsonRpcTransport
from a2a.client.transports.rest import RestTransport
from a2a.server.events.event_queue_v2 import EventQueueSource
from a2a.server.request_handlers import DefaultRequestHandlerV2, LegacyRequestHandler
from a2a.server.routes import jsonrpc_dispatcher
from a2a.server.tasks import BasePushNotificationSender, task_manager
from a2a.types.a2a_pb2 import (
    GetTaskRequest,
)
from a2a.utils import error_handlers
from a2a.utils import telemetry as sdk_telemetry
from opentelemetry import trace

from a2a_agents import agent, events_of
from elf_automations.instrumentation.a2a import A2AInstrumentor
from elf_automations.instrumentation.a2a.methods import CLIENT_METHODS, SERVER_METHODS, TRANSPORT_METHODS
from tracing import Spans, instrumented

pytestmark = pytest.mark.anyio


def test_without_the_sdk_the_entry_point_is_skipped_and_the_client_says_what_to_install():
    script = """
import sys
from importlib.metadata import entry_points
sys.modules["a2a"] = None
(point,) = entry_points(group="opentelemetry_instrumentor", name="elf-a2a")
for load in (point.load, lambda: __import__("elf_automations.shared.a2a.client")):
    try:
        load()
    except ModuleNotFoundError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    skipped, said = done.stdout.splitlines()
    assert "a2a" in skipped
    assert said == "elf_automations.shared.a2a needs the A2A SDK, 1.3 or newer: pip install 'elf-automations[a2a]'"


@pytest.mark.parametrize("checked", [True, False], ids=["checked", "check skipped"])
def test_an_sdk_before_1_is_refused_in_one_line_and_left_alone(monkeypatch, caplog, checked):
    import importlib.metadata

    from elf_automations.instrumentation.a2a import instrumentor as module

    installed = importlib.metadata.version

    def version(name: str) -> str:
        return "0.3.26" if name == "a2a-sdk" else installed(name)

    monkeypatch.setattr(module, "version", version)
    monkeypatch.setattr("opentelemetry.instrumentation.dependencies.version", version)
    before = patched_objects()
    with caplog.at_level(logging.WARNING):
        A2AInstrumentor().instrument(skip_dep_check=not checked)
    (record,) = caplog.records
    assert "0.3.26" in record.message
    assert ">= 1.3, < 2" in record.message
    assert patched_objects() == before
    if A2AInstrumentor().is_instrumented_by_opentelemetry:
        A2AInstrumentor().uninstrument()


def test_before_1_nothing_of_the_sdks_newer_modules_is_needed_to_say_so():
    """Releases before 1.0 have neither protobuf types nor these handlers: loading the entry point must not ask."""
    script = """
import sys
for name in ("a2a.types.a2a_pb2", "a2a.server.request_handlers", "a2a.client.base_client"):
    sys.modules[name] = None
from importlib.metadata import entry_points
(point,) = entry_points(group="opentelemetry_instrumentor", name="elf-a2a")
print(*point.load()().instrumentation_dependencies())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "a2a-sdk >= 1.3, < 2"


def patched_objects() -> dict[str, Any]:
    owners: list[tuple[Any, Any]] = [
        (BasePushNotificationSender, ["_dispatch_notification"]),
        (BaseClient, CLIENT_METHODS),
        (JsonRpcTransport, TRANSPORT_METHODS),
        (RestTransport, TRANSPORT_METHODS),
        (GrpcTransport, TRANSPORT_METHODS),
        (EventQueueSource, ["enqueue_event", "dequeue_event"]),
        (DefaultRequestHandlerV2, SERVER_METHODS),
        (LegacyRequestHandler, SERVER_METHODS),
    ]
    found = {f"{owner.__name__}.{name}": vars(owner)[name] for owner, names in owners for name in names}
    functions = {
        "trace": sdk_telemetry.trace,
        "build_error_response": jsonrpc_dispatcher.build_error_response,
        "_create_error_response": error_handlers._create_error_response,
    }
    return {**found, **functions}


def test_uninstrumenting_puts_every_object_back():
    before = patched_objects()
    instrumentor = A2AInstrumentor()
    instrumentor.instrument()
    during = patched_objects()
    instrumentor.uninstrument()
    after = patched_objects()
    assert [name for name, thing in during.items() if thing is before[name]] == []
    assert [name for name, thing in after.items() if thing is not before[name]] == []


def test_what_the_sdk_traces_runs_without_its_wrappers_meanwhile():
    """Of a class, and of a module by itself."""

    def wrapped() -> list[bool]:
        traced = (EventQueueSource.enqueue_event, task_manager.append_artifact_to_task)
        return [function.__code__.co_filename == sdk_telemetry.__file__ for function in traced]

    before = wrapped()
    A2AInstrumentor().instrument()
    try:
        assert wrapped() == [False, False]
    finally:
        A2AInstrumentor().uninstrument()
    assert wrapped() == before == [True, True]


def test_a_moved_patch_point_costs_one_line_and_only_itself(monkeypatch, caplog):
    monkeypatch.delattr(BaseClient, "list_tasks")
    monkeypatch.setattr(BaseClient, "__abstractmethods__", frozenset())
    from a2a.client.client import Client

    monkeypatch.delattr(Client, "list_tasks")
    with caplog.at_level(logging.WARNING):
        A2AInstrumentor().instrument()
    try:
        assert [record.message for record in caplog.records if "list_tasks" in record.message] != []
        assert len(caplog.records) == 1
        assert hasattr(BaseClient.get_task, "__wrapped__")
    finally:
        A2AInstrumentor().uninstrument()


async def test_the_sdks_own_spans_stay_when_the_environment_asks_for_them(monkeypatch):
    monkeypatch.setenv("OTEL_INSTRUMENTATION_A2A_SDK_ENABLED", "true")
    spans = Spans()
    monkeypatch.setattr(trace, "get_tracer", lambda *names, **_: spans.provider.get_tracer(*names))
    async with agent("sales-team") as sales:
        with instrumented(A2AInstrumentor(), spans):
            client = await sales.client()
            await events_of(client, "fail")
            await client.close()
    assert "a2a-python-sdk" in {span.instrumentation_scope.name for span in spans.finished}
    assert [(row.status, row.observed_by) for row in spans.counted()] == [("error", "client")]


async def test_a_broken_tracer_costs_the_span_never_the_call(monkeypatch):
    async with agent("sales-team") as sales:
        spans = Spans()
        with instrumented(A2AInstrumentor(), spans):
            from elf_automations.instrumentation.a2a import client_side, server_side

            def explode(*_: Any, **__: Any) -> Any:
                raise ZeroDivisionError

            monkeypatch.setattr(client_side, "start_client_span", explode)
            monkeypatch.setattr(server_side, "start_server_span", explode)
            client = await sales.client(streaming=True)
            events = await events_of(client, "complete")
            found = await client.get_task(GetTaskRequest(id=events[0].task.id))
            await client.close()
    assert found.status.state == 3
    assert spans.finished == ()
