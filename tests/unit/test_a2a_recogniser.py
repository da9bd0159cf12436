"""What an A2A span says: every spelling in the wild, the task's own end, and the SDK's spans that say nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elf_automations.model import Entity, EntityRef, Outcome, ResourceRecord, SpanKind, SpanRecord, StatusCode, settle
from elf_automations.model.call import Call
from elf_automations.model.protocols import recognise
from records import START_NS, TRACE, span, span_id

FIXTURE = Path(__file__).parents[1] / "fixtures" / "a2a" / "native_jsonrpc_stream.json"


def call_of(kind: SpanKind = SpanKind.CLIENT, /, name: str = "SendMessage", **fields: Any) -> Call:
    attributes = {"a2a.method.name": name, **fields.pop("attributes", {})}
    answer = recognise(span(1, name, kind, attributes, **fields))
    assert isinstance(answer, Call)
    return answer


def native_spans() -> list[SpanRecord]:
    return [
        SpanRecord(
            trace_id=bytes.fromhex(trace),
            span_id=bytes.fromhex(own),
            parent_span_id=bytes.fromhex(parent) if parent else None,
            name=name,
            kind=SpanKind(kind),
            start_ns=START_NS,
            end_ns=START_NS + 1,
            scope_name=scope,
            resource=ResourceRecord({"service.name": service}),
        )
        for service, scope, name, kind, own, parent, trace in json.loads(FIXTURE.read_text())["spans"]
    ]


@pytest.mark.parametrize(
    ("attribute", "method", "operation"),
    [
        ("a2a.method.name", "SendMessage", "send_task"),
        ("a2a.method.name", "SendStreamingMessage", "send_task"),
        ("a2a.method", "message/send", "send_task"),
        ("gen_ai.a2a.rpc.method", "message/stream", "send_task"),
        ("a2a.method.name", "lf.a2a.v1.A2AService/GetTask", "get_task"),
        ("a2a.method", "tasks/get", "get_task"),
        ("a2a.method.name", "ListTasks", "list_tasks"),
        ("a2a.method", "tasks/cancel", "cancel_task"),
        ("a2a.method", "tasks/resubscribe", "subscribe_task"),
        ("a2a.method.name", "GetExtendedAgentCard", "get_capabilities"),
        ("a2a.method", "tasks/pushNotificationConfig/set", "push_notification_config"),
        ("a2a.method.name", "DeleteTaskPushNotificationConfig", "push_notification_config"),
        ("a2a.method.name", "DiscoverTeams", "discover_teams"),
        ("a2a.method.name", "SendPushNotification", "push_notification"),
        ("a2a.method.name", "_OTHER", "invalid_request"),
        ("a2a.method.name", "SomethingNew", "something_new"),
        ("a2a.method.name", "discover_teams", "discover_teams"),
    ],
)
def test_every_spelling_of_a_method_is_one_operation(attribute, method, operation):
    answer = recognise(span(1, method, SpanKind.CLIENT, {attribute: method}))
    assert isinstance(answer, Call)
    assert (answer.protocol, answer.operation) == ("a2a", operation)


@pytest.mark.parametrize(
    ("state", "outcome"),
    [
        ("TASK_STATE_COMPLETED", Outcome("success")),
        ("completed", Outcome("success")),
        ("input-required", Outcome("success")),
        ("working", Outcome("success")),
        ("failed", Outcome("error", "the task ended in TASK_STATE_FAILED", "TASK_STATE_FAILED")),
        ("TASK_STATE_REJECTED", Outcome("error", "the task ended in TASK_STATE_REJECTED", "TASK_STATE_REJECTED")),
        (
            "auth-required",
            Outcome("error", "the task ended in TASK_STATE_AUTH_REQUIRED", "TASK_STATE_AUTH_REQUIRED"),
        ),
        ("canceled", Outcome("cancelled")),
        ("cancelled", Outcome("cancelled")),
    ],
)
def test_the_end_of_the_task_decides_although_the_span_looks_fine(state, outcome):
    call = call_of(attributes={"a2a.task.state": state})
    assert call.outcome == outcome
    assert call.details.metadata["task_state"].startswith("TASK_STATE_")


@pytest.mark.parametrize(
    ("method", "client", "server"),
    [
        ("SendMessage", "task_request", "task_response"),
        ("message/stream", "task_request", "task_response"),
        ("GetTask", "status_update", "status_update"),
        ("SubscribeToTask", "status_update", "status_update"),
        ("SendPushNotification", "status_update", "status_update"),
        ("CancelTask", None, None),
    ],
)
def test_a_method_tells_what_kind_of_message_it_is_whoever_wrote_the_span(method, client, server):
    types = [call_of(kind, name=method).details.message_type for kind in (SpanKind.CLIENT, SpanKind.SERVER)]
    assert types == [client, server]
    by_hand = call_of(name=method, attributes={"elf.observed_by": "manual"})
    assert by_hand.details.message_type is None


def test_what_a_span_says_of_its_stream_is_kept():
    said = {
        "elf.a2a.binding": "GRPC",
        "elf.a2a.events": 4,
        "elf.a2a.time_to_first_event": 1.5,
        "elf.response.size": 377,
        "a2a.message.reference_task_ids": ("t1",),
    }
    assert call_of(name="SendStreamingMessage", attributes=said).details.metadata == {
        "method": "SendStreamingMessage",
        "streaming": True,
        "binding": "GRPC",
        "events": 4,
        "first_event_ms": 1.5,
        "response_size_bytes": 377,
        "reference_task_ids": ("t1",),
    }


def test_reading_a_failed_task_has_itself_succeeded():
    assert call_of(name="GetTask", attributes={"a2a.task.state": "failed"}).outcome == Outcome("success")


def test_a_cancelled_task_that_a_library_marks_as_an_error_is_cancelled():
    call = call_of(attributes={"a2a.task.state": "canceled", "error.type": "canceled"}, status=StatusCode.ERROR)
    assert call.outcome.status == "cancelled"


@pytest.mark.parametrize(
    ("error_type", "status"),
    [
        ("-32001", "error"),  # TaskNotFound here, a timeout in MCP
        ("-32603", "error"),
        ("A2AClientTimeoutError", "timeout"),
        ("DEADLINE_EXCEEDED", "timeout"),
        ("asyncio.CancelledError", "cancelled"),
    ],
)
def test_a_failed_call_is_told_by_its_error_type(error_type, status):
    call = call_of(name="GetTask", attributes={"error.type": error_type}, status=StatusCode.ERROR)
    assert call.outcome.status == status


def test_the_named_agent_is_the_team_on_both_sides_and_enters_the_registry():
    card = {
        "gen_ai.agent.name": "sales-team",
        "gen_ai.agent.version": "2.1",
        "gen_ai.agent.description": "Sells",
        "elf.target.endpoint": "http://sales:9001",
        "elf.target.capabilities": ("proposals",),
    }
    client, server = call_of(attributes=card), call_of(SpanKind.SERVER, attributes=card)
    assert (client.source, client.target) == (EntityRef("planner", "service"), EntityRef("sales-team", "team"))
    assert (server.source, server.target) == (EntityRef("unknown", "service"), EntityRef("sales-team", "team"))
    assert client.entities == server.entities
    assert client.entities == (
        Entity(
            entity_id="sales-team",
            entity_type="team",
            entity_name="sales-team",
            endpoint_url="http://sales:9001",
            version="2.1",
            capabilities=("proposals",),
            metadata={"description": "Sells"},
        ),
    )


def test_an_unnamed_agent_is_external_and_an_unmet_team_is_not_registered():
    unnamed = call_of(attributes={"server.address": "10.0.0.7", "server.port": 9001})
    unmet = call_of(attributes={"elf.target.id": "ghost-team", "elf.target.type": "team"})
    assert (unnamed.target, unnamed.entities) == (EntityRef("10.0.0.7:9001", "external"), ())
    assert (unmet.target, unmet.entities) == (EntityRef("ghost-team", "team"), ())


def test_what_is_said_explicitly_wins():
    call = call_of(
        attributes={
            "gen_ai.agent.name": "sales-team",
            "a2a.task.state": "failed",
            "elf.observed_by": "manual",
            "elf.operation": "discover_teams",
            "elf.outcome": "success",
            "elf.source.id": "marketing-team",
            "elf.source.type": "team",
            "elf.target.id": "legal-team",
            "elf.target.type": "team",
            "elf.task.description": "Generate proposal",
            "elf.capabilities.required": ("law",),
            "elf.message.type": "task_request",
            "elf.payload.size": 77,
            "elf.duration_ms": 12.5,
        }
    )
    assert (call.side, call.operation, call.outcome, call.duration_ms) == (
        "manual",
        "discover_teams",
        Outcome("success"),
        12.5,
    )
    assert (call.source, call.target) == (EntityRef("marketing-team", "team"), EntityRef("legal-team", "team"))
    assert (call.details.task_description, call.details.capabilities_required) == ("Generate proposal", ("law",))
    assert (call.details.message_type, call.details.payload_size_bytes) == ("task_request", 77)
    assert call.entities == ()


def test_the_sdks_own_seventy_spans_are_no_row():
    spans = native_spans()
    assert len(spans) > 70
    assert settle(spans).rows == ()


def test_a_call_among_the_sdks_own_spans_is_still_one_counted_row():
    """Client and server in one batch, the server's half below the SDK's client span and the HTTP spans."""
    spans = native_spans()
    trace = spans[0].trace_id
    outermost = next(one for one in spans if one.parent_span_id is None)
    serving = next(one for one in spans if one.kind is SpanKind.SERVER and "asgi" in one.scope_name)
    attributes = {"a2a.method.name": "SendStreamingMessage", "a2a.message.id": "m1"}
    server = span(91, "SendStreamingMessage", SpanKind.SERVER, attributes, trace_id=trace)
    below = SpanRecord(
        **{name: getattr(server, name) for name in server.__slots__ if name != "parent_span_id"},
        parent_span_id=serving.span_id,
    )
    # Nobody traced the client but the SDK itself: the server's row is the only one and counts.
    assert [row.counted for row in settle([*spans, below]).rows] == [True]
    client = SpanRecord(
        trace_id=trace,
        span_id=outermost.span_id,
        name="SendStreamingMessage",
        kind=SpanKind.CLIENT,
        start_ns=START_NS,
        end_ns=START_NS + 1,
        attributes=attributes,
    )
    rows = settle([client, *(one for one in spans if one is not outermost), below]).rows
    assert sorted((row.observed_by, row.counted) for row in rows) == [("client", True), ("server", False)]


def test_two_messages_of_one_conversation_are_two_calls_and_two_layers_of_one_message_are_one():
    def send(number: int, message: str, parent: int | None = None) -> SpanRecord:
        attributes = {"a2a.method.name": "SendMessage", "a2a.message.id": message}
        return span(number, "SendMessage", SpanKind.CLIENT, attributes, parent=parent, trace_id=TRACE)

    rows = settle([send(1, "a"), send(2, "a", parent=1), send(3, "b", parent=1)]).rows
    assert [(row.span_id, row.counted) for row in rows] == [
        (span_id(1).hex(), True),
        (span_id(2).hex(), False),
        (span_id(3).hex(), True),
    ]


_VALUES = st.one_of(st.text(max_size=20), st.integers(), st.booleans(), st.none(), st.lists(st.text(max_size=5)))
_NAMES = st.sampled_from(
    ["a2a.task.state", "a2a.message.id", "gen_ai.agent.name", "error.type", "server.port", "elf.target.id"]
)


@given(st.text(min_size=1, max_size=30), st.dictionaries(_NAMES, _VALUES), st.sampled_from(SpanKind))
def test_no_span_however_odd_breaks_the_recogniser(method, attributes, kind):
    rows = settle([span(1, method, kind, {"a2a.method.name": method, **attributes})]).rows
    assert [row.protocol for row in rows] == ["a2a"]
