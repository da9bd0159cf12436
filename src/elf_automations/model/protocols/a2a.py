"""A2A spans: ours, `record_a2a`, and any that speak the draft A2A convention or one of its forerunners.

A task that ends FAILED, REJECTED or AUTH_REQUIRED is an error although its HTTP answer is 200; the draft
convention leaves this open. Source of the other spellings: the A2A 0.3 method names, kagent (`a2a.method`)
and traceAI (`gen_ai.a2a.rpc.method`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from elf_automations.conventions import a2a_draft, elf, otel
from elf_automations.model.call import (
    Call,
    Details,
    Outcome,
    Side,
    elapsed_ms,
    stated_details,
    stated_duration,
    stated_outcome,
    stated_side,
    stated_size,
    stated_source,
    stated_target,
)
from elf_automations.model.entity import Entity, EntityRef, identify
from elf_automations.model.immutable import changed
from elf_automations.model.noise import Noise
from elf_automations.model.outcome import span_outcome
from elf_automations.model.records import AttributeValue, SpanKind, SpanRecord
from elf_automations.model.redact import bounded_metadata

SDK_SCOPE: Final = "a2a-python-sdk"
UNKNOWN: Final = "unknown"
# Not Noise("a2a"): the SDK's spans are layers inside a call, not chatter, so a server span below one is a real call.
_NOISE: Final = Noise(SDK_SCOPE)

OPERATIONS: Final[Mapping[str, str]] = {
    "SendMessage": "send_task",
    "SendStreamingMessage": "send_task",
    "GetTask": "get_task",
    "ListTasks": "list_tasks",
    "CancelTask": "cancel_task",
    "SubscribeToTask": "subscribe_task",
    "CreateTaskPushNotificationConfig": "push_notification_config",
    "GetTaskPushNotificationConfig": "push_notification_config",
    "ListTaskPushNotificationConfigs": "push_notification_config",
    "DeleteTaskPushNotificationConfig": "push_notification_config",
    "GetExtendedAgentCard": "get_capabilities",
    "GetAgentCard": "get_capabilities",
    "DiscoverTeams": "discover_teams",
    "SendPushNotification": "push_notification",
    "_OTHER": "invalid_request",
}
STATE_PREFIX: Final = "TASK_STATE_"
FAILED_STATES: Final = frozenset({"TASK_STATE_FAILED", "TASK_STATE_REJECTED", "TASK_STATE_AUTH_REQUIRED"})
CANCELLED_STATE: Final = "TASK_STATE_CANCELED"
STREAMS: Final = frozenset({"SendStreamingMessage", "SubscribeToTask"})
_STATUS_UPDATES: Final = frozenset({"get_task", "subscribe_task", "push_notification"})
# The operations whose answer is the task's own end; GetTask that finds a failed task has itself succeeded.
TASK_RUNS: Final = frozenset({"send_task", "subscribe_task"})

_METHOD_NAMES: Final = (a2a_draft.A2A_METHOD_NAME, "a2a.method", "gen_ai.a2a.rpc.method")
_STATE_NAMES: Final = (a2a_draft.A2A_TASK_STATE, "gen_ai.a2a.task.state")
_METHODS_0_3: Final[Mapping[str, str]] = {
    "message/send": "SendMessage",
    "message/stream": "SendStreamingMessage",
    "tasks/get": "GetTask",
    "tasks/list": "ListTasks",
    "tasks/cancel": "CancelTask",
    "tasks/resubscribe": "SubscribeToTask",
    "tasks/pushNotificationConfig/set": "CreateTaskPushNotificationConfig",
    "tasks/pushNotificationConfig/get": "GetTaskPushNotificationConfig",
    "tasks/pushNotificationConfig/list": "ListTaskPushNotificationConfigs",
    "tasks/pushNotificationConfig/delete": "DeleteTaskPushNotificationConfig",
    "agent/getAuthenticatedExtendedCard": "GetExtendedAgentCard",
    "agent/getCard": "GetAgentCard",
}
_GRPC_SERVICE: Final = re.compile(r"^/?(?:lf\.)?a2a\.v\d+\w*\.A2AService/")
_WORD: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9]+")
_TASK_NOT_FOUND: Final = "-32001"
_SIDES: Final[Mapping[SpanKind, Side]] = {SpanKind.CLIENT: "client", SpanKind.SERVER: "server"}
_KEPT: Final[Mapping[str, str]] = {
    a2a_draft.A2A_METHOD_NAME: "method",
    a2a_draft.A2A_MESSAGE_ID: "message_id",
    a2a_draft.A2A_TASK_ID: "task_id",
    a2a_draft.A2A_TENANT: "tenant",
    a2a_draft.A2A_PROTOCOL_VERSION: "protocol_version",
    a2a_draft.A2A_REFERENCE_TASK_IDS: "reference_task_ids",
    otel.GEN_AI_CONVERSATION_ID: "context_id",
    elf.ELF_A2A_BINDING: "binding",
    elf.ELF_A2A_RETURN_IMMEDIATELY: "return_immediately",
    elf.ELF_A2A_EVENTS: "events",
    elf.ELF_A2A_TIME_TO_FIRST_EVENT: "first_event_ms",
    elf.ELF_RESPONSE_SIZE: "response_size_bytes",
}

# What a card says of its team beside the registry's columns, by its name there.
_TOLD: Final[Mapping[str, str]] = {
    otel.GEN_AI_AGENT_DESCRIPTION: "description",
    elf.ELF_TARGET_PROVIDER: "provider",
    elf.ELF_TARGET_PROVIDER_URL: "provider_url",
}


def recognise(span: SpanRecord) -> Call | Noise | None:
    """Return the A2A call of `span`; `Noise` for the SDK's own spans, which are inside a call and carry nothing."""
    if span.scope_name == SDK_SCOPE:
        return _NOISE
    said = span.text(*_METHOD_NAMES)
    if said is None:
        return None
    method = method_name(said)
    operation = OPERATIONS.get(method) or _WORD.sub("_", method).strip("_").lower()
    state = task_state(span.text(*_STATE_NAMES))
    observed: Side = _SIDES.get(span.kind, "internal")
    side = stated_side(span, observed)
    target, _ = stated_target(span, lambda: _target(span, observed))
    received = observed == "server"
    return Call(
        span=span,
        protocol="a2a",
        operation=span.text(elf.ELF_OPERATION) or operation,
        side=side,
        source=stated_source(
            span, lambda: EntityRef(UNKNOWN, "service") if received else identify(span.resource.attributes)
        ),
        target=target,
        outcome=stated_outcome(span, lambda: _outcome(span, operation, state)),
        duration_ms=stated_duration(span, elapsed_ms(span)),
        details=stated_details(
            span,
            Details(
                payload_size_bytes=stated_size(span),
                tokens_used=_tokens(span),
                message_type=_message_type(span, operation, observed),
                metadata=_metadata(span, state, method),
            ),
        ),
        key=_key(span, operation),
        entities=_team(span, target) if side != "manual" else (),
    )


def method_name(said: str) -> str:
    """Return the 1.0 name of a method that may be spelled the 0.3 way or with its gRPC service."""
    return _METHODS_0_3.get(said) or _GRPC_SERVICE.sub("", said)


def task_state(said: str | None) -> str | None:
    """Return the `TASK_STATE_*` name of a state that may be spelled the 0.3 way (`input-required`)."""
    if not said:
        return None
    name = said.upper().replace("-", "_")
    name = "CANCELED" if name == "CANCELLED" else name
    return name if name.startswith(STATE_PREFIX) else STATE_PREFIX + name


def _outcome(span: SpanRecord, operation: str, state: str | None) -> Outcome:
    seen = span_outcome(span)
    if seen.status == "timeout" and _TASK_NOT_FOUND in {seen.error_code, span.text(otel.ERROR_TYPE)}:
        # -32001 is a timeout in MCP; in A2A it is TaskNotFound.
        seen = changed(seen, status="error")
    if operation not in TASK_RUNS or seen.status in {"timeout", "cancelled"}:
        return seen
    if state == CANCELLED_STATE:
        return Outcome("cancelled", seen.error_message)
    if state in FAILED_STATES and seen.status == "success":
        return Outcome("error", span.status_message or f"the task ended in {state}", state)
    return seen


def _target(span: SpanRecord, side: Side) -> EntityRef:
    agent = span.text(otel.GEN_AI_AGENT_NAME)
    if agent:
        return EntityRef(agent, "team")
    if side == "server":
        return identify(span.resource.attributes)
    host, port = span.text(otel.SERVER_ADDRESS), span.text(otel.SERVER_PORT)
    return EntityRef(f"{host}:{port}" if host and port else host or UNKNOWN, "external")


def _key(span: SpanRecord, operation: str) -> str:
    """Only the message id is one request's own on every binding; a task id names the other operations' object."""
    return span.text(a2a_draft.A2A_MESSAGE_ID if operation == "send_task" else a2a_draft.A2A_TASK_ID) or ""


def _tokens(span: SpanRecord) -> int | None:
    used = [span.number(name) for name in (otel.GEN_AI_USAGE_INPUT_TOKENS, otel.GEN_AI_USAGE_OUTPUT_TOKENS)]
    known = [int(count) for count in used if count is not None]
    return sum(known) if known else None


def _message_type(span: SpanRecord, operation: str, side: Side) -> str | None:
    if _by_hand(span):
        return None
    if operation == "send_task":
        return "task_response" if side == "server" else "task_request"
    return "status_update" if operation in _STATUS_UPDATES else None


def _by_hand(span: SpanRecord) -> bool:
    return span.text(elf.ELF_OBSERVED_BY) == "manual"


def _metadata(span: SpanRecord, state: str | None, method: str) -> dict[str, AttributeValue]:
    kept = {label: span.attributes[name] for name, label in _KEPT.items() if name in span.attributes}
    if OPERATIONS.get(method) in TASK_RUNS and not _by_hand(span):
        kept["streaming"] = method in STREAMS
    if state:
        kept["task_state"] = state
    return kept


def _team(span: SpanRecord, target: EntityRef) -> tuple[Entity, ...]:
    """Return the team as a registry entity when its Agent Card named it, not when a caller only asked for it."""
    if target.type != "team" or span.text(otel.GEN_AI_AGENT_NAME) is None:
        return ()
    told = {label: text for name, label in _TOLD.items() if (text := span.text(name))}
    team = Entity(
        entity_id=target.id,
        entity_type="team",
        entity_name=target.id,
        endpoint_url=span.text(elf.ELF_TARGET_ENDPOINT),
        version=span.text(otel.GEN_AI_AGENT_VERSION),
        capabilities=span.texts(elf.ELF_TARGET_CAPABILITIES) or (),
        metadata=bounded_metadata(told) if told else {},
    )
    return (team,)
