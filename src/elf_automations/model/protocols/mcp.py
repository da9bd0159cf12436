"""MCP spans: ours, the official SDK's, and those of every library of the table in `mcp_dialects`.

Source of the names: the GenAI MCP semantic convention, and for each library the spans it was seen to make.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from elf_automations.conventions import elf, otel
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
    states_outcome,
)
from elf_automations.model.claims import LISTINGS
from elf_automations.model.cost import estimated_cost, tokens_used
from elf_automations.model.entity import Entity, EntityRef, identify
from elf_automations.model.immutable import record
from elf_automations.model.noise import Noise
from elf_automations.model.outcome import span_outcome
from elf_automations.model.protocols.mcp_dialects import (
    CONVENTION,
    DIALECTS,
    FASTMCP_PASSES_ON,
    FASTMCP_PROVIDER,
    FASTMCP_SERVER,
    Dialect,
)
from elf_automations.model.protocols.mcp_messages import Request, read_failure, read_request
from elf_automations.model.records import AttributeValue, SpanKind, SpanRecord, StatusCode

UNKNOWN: Final = "unknown"
# Chatter takes its server's half along; a library's internals are layers inside a call, and what is below them is not.
_CHATTER: Final = Noise("mcp")
_LISTING: Final = Noise("mcp", listing=True)
_INTERNAL: Final = Noise("mcp internals")

OPERATIONS: Final[Mapping[str, str]] = {
    "tools/call": "tool_call",
    "tools/list": "tool_list",
    "prompts/get": "prompt_get",
    "prompts/list": "prompt_list",
    "resources/read": "resource_read",
    "resources/list": "resource_list",
    "resources/templates/list": "resource_template_list",
    "resources/subscribe": "resource_subscribe",
    "resources/unsubscribe": "resource_unsubscribe",
    "completion/complete": "completion",
    "logging/setLevel": "logging_set_level",
    "sampling/createMessage": "sampling",
    "elicitation/create": "elicitation",
    "roots/list": "roots_list",
}
CHATTER: Final = frozenset({"initialize", "ping", "server/discover", "subscriptions/listen"})
_HANDLED: Final = frozenset({"tools/call", "prompts/get", "resources/read"})
_HTTP_REFUSED: Final = 400
_NOTHING_READ: Final = Request()
_KEPT: Final[Mapping[str, str]] = {
    otel.MCP_PROTOCOL_VERSION: "protocol_version",
    otel.NETWORK_TRANSPORT: "transport",
    otel.JSONRPC_REQUEST_ID: "jsonrpc_request_id",
    elf.ELF_RESPONSE_SIZE: "response_size_bytes",
}


def recognise(span: SpanRecord) -> Call | Noise | None:
    """Return the MCP call of `span`; `Noise` for handshakes, notifications, listings nobody asked for and internals.

    What the application recorded by hand is a call whatever its method, of the tool it names.
    """
    dialect = DIALECTS.get(span.scope_name)
    if dialect is None:
        # Most spans of most programs are no MCP; they end here.
        if otel.MCP_METHOD_NAME not in span.attributes:
            return None
        dialect = CONVENTION
    said = _read(span, dialect)
    if said is None or _has_any(span, dialect.internal):
        return _INTERNAL if dialect.closed else None
    side = stated_side(span, said.side)
    by_hand = side == "manual"
    if not by_hand and _is_noise(span, said, dialect):
        return _LISTING if OPERATIONS.get(said.method) in LISTINGS else _CHATTER
    request = read_request(span.attributes.get(dialect.request)) if dialect.request else _NOTHING_READ
    called = said.called or request.name
    tool = span.text(*dialect.tools) if by_hand else None
    if said.method == "tools/call":
        tool = span.text(*dialect.tools) or called
    prompt = (span.text(*dialect.prompts) or called) if said.method == "prompts/get" else None
    uri = span.text(otel.MCP_RESOURCE_URI) or request.uri
    server = span.text(*dialect.servers) if dialect.servers else None
    target, named = stated_target(span, lambda: EntityRef(server, "mcp") if server else _target(span, said.side))
    tokens, size = tokens_used(span), stated_size(span)
    relayed, unhandled = _is_relayed(span, said, dialect), _is_unhandled(span, said)
    outcome = stated_outcome(span, lambda: _outcome(span, dialect))
    # A registry entity is what the span names, not what is only guessed; and a server may ask its client.
    is_server = (named or server is not None) and target.registry_type == "mcp_server" and not by_hand
    return Call(
        span=span,
        protocol="mcp",
        operation=span.text(elf.ELF_OPERATION) or OPERATIONS.get(said.method) or said.method.replace("/", "_"),
        side=side,
        source=stated_source(span, lambda: _source(span, said.side, dialect)),
        target=target,
        # A gateway that names no server answered for several, by itself.
        target_named=named or server is not None or (said.side == "client" and span.kind is SpanKind.SERVER),
        outcome=outcome,
        outcome_derived=outcome.status == "success" and _is_derived(span, side),
        duration_ms=stated_duration(span, elapsed_ms(span)),
        details=stated_details(
            span,
            Details(
                tool_name=tool,
                payload_size_bytes=request.size_bytes if size is None else size,
                tokens_used=tokens,
                estimated_cost=estimated_cost(span, tokens),
                metadata=_metadata(span, dialect, prompt, uri) | _marks(relayed=relayed, unhandled=unhandled),
            ),
        ),
        key=tool or prompt or uri or "",
        entities=(_server(span, target.id),) if is_server else (),
        relayed=relayed,
        unhandled=unhandled,
        unasked=dialect.checks and said.method == "tools/list" and span.text(elf.ELF_OUTCOME) is None,
    )


def is_chatter(method: str) -> bool:
    """Return whether the MCP `method` is protocol chatter that is nobody's call."""
    return method in CHATTER or method.startswith("notifications/")


@record(frozen=True, slots=True)
class _Said:
    method: str
    side: Side
    called: str | None


def _read(span: SpanRecord, dialect: Dialect) -> _Said | None:
    """Return what attributes and name say of method, side and what is called; None for a span without a method."""
    stated_method = span.text(*dialect.methods)
    if stated_method is None and not dialect.closed:
        return None
    side: Side = dialect.sides.get(span.kind, "internal")
    # Whoever says by attributes what is called need not have its name read.
    spoken = not dialect.closed and span.text(*dialect.tools, *dialect.prompts) is not None
    for naming in () if spoken else dialect.names:
        match = naming.pattern.fullmatch(span.name)
        if match:
            groups = match.groupdict()
            named_method = naming.method or groups.get("method")
            method = stated_method or named_method
            called = groups.get("called") if named_method in {None, method} else None
            return _Said(method, naming.side or side, called) if method else None
    # What a library with a table of names names otherwise, and calls INTERNAL, is its own business.
    internal = dialect.closed and side == "internal"
    return _Said(stated_method, side, None) if stated_method and not internal else None


def _is_noise(span: SpanRecord, said: _Said, dialect: Dialect) -> bool:
    return is_chatter(said.method) or span.attributes.get(elf.ELF_IMPLICIT) is True or _is_orphan(span, said, dialect)


def _is_orphan(span: SpanRecord, said: _Said, dialect: Dialect) -> bool:
    """Return whether this is a server span without a caller; ours knows better, and says so by an outcome."""
    may_be = said.side == "server" and said.method in dialect.orphans
    return may_be and span.caller_span_id is None and span.text(elf.ELF_OUTCOME) is None


def _is_relayed(span: SpanRecord, said: _Said, dialect: Dialect) -> bool:
    if said.side == "server":
        return dialect.mounts or span.attributes.get(elf.ELF_CONTINUES) is True
    return _has_any(span, dialect.relays)


def _is_derived(span: SpanRecord, side: Side) -> bool:
    """Return whether nobody said that the call succeeded: a server that asks for input first has not ended it."""
    if side == "server":
        return span.attributes.get(elf.ELF_INTERIM) is True
    return side == "client" and not states_outcome(span)


def _is_unhandled(span: SpanRecord, said: _Said) -> bool:
    """Return whether a FastMCP server passes the call on, or found nobody to answer it; it says so on our spans too."""
    if said.side != "server" or said.method not in _HANDLED or FASTMCP_SERVER not in span.attributes:
        return False
    return span.text(FASTMCP_PROVIDER) in FASTMCP_PASSES_ON


def _marks(**marks: bool) -> dict[str, AttributeValue]:
    """Return those of `marks` that are true as metadata: settling in SQL reads them there."""
    return {name: True for name, is_true in marks.items() if is_true}


def _has_any(span: SpanRecord, marks: Mapping[str, AttributeValue]) -> bool:
    return bool(marks) and any(span.attributes.get(name) == value for name, value in marks.items())


def _source(span: SpanRecord, side: Side, dialect: Dialect) -> EntityRef:
    caller = span.text(*dialect.callers) if dialect.callers else None
    received = caller is not None or side == "server" or span.kind is SpanKind.SERVER
    return EntityRef(caller or UNKNOWN, "mcp_client") if received else identify(span.resource.attributes)


def _target(span: SpanRecord, side: Side) -> EntityRef:
    """Return the best guess of a server that is not named: the process that answered, else where it is."""
    if side == "server" or span.kind is SpanKind.SERVER:
        return EntityRef(identify(span.resource.attributes).id, "mcp")
    host, port = span.text(otel.SERVER_ADDRESS), span.text(otel.SERVER_PORT)
    return EntityRef(f"{host}:{port}" if host and port else host or UNKNOWN, "mcp")


def _outcome(span: SpanRecord, dialect: Dialect) -> Outcome:
    code = span.text(*dialect.error_codes) if dialect.error_codes else None
    if code is None and dialect.http_statuses:
        statuses = (span.number(name) for name in dialect.http_statuses)
        code = next((str(status) for status in statuses if status is not None and status >= _HTTP_REFUSED), None)
    message = span.text(*dialect.error_messages) if dialect.error_messages else None
    seen = span_outcome(span, code=code, message=message)
    if seen.status != "success":
        return seen
    if dialect.only_ok and span.status is StatusCode.UNSET:
        return Outcome("cancelled")
    reported = read_failure(span.attributes.get(dialect.response)) if dialect.response else None
    return reported or seen


def _metadata(span: SpanRecord, dialect: Dialect, prompt: str | None, uri: str | None) -> dict[str, AttributeValue]:
    attributes = span.attributes
    kept: dict[str, AttributeValue] = {label: attributes[name] for name, label in _KEPT.items() if name in attributes}
    if dialect.kept:
        kept |= {label: attributes[name] for name, label in dialect.kept.items() if name in attributes}
    if prompt:
        kept["prompt"] = prompt
    if uri:
        kept["resource_uri"] = uri
    return kept


def _server(span: SpanRecord, name: str) -> Entity:
    return Entity(
        entity_id=name,
        entity_type="mcp_server",
        entity_name=name,
        endpoint_url=span.text(elf.ELF_TARGET_ENDPOINT),
        capabilities=span.texts(elf.ELF_TARGET_CAPABILITIES) or (),
    )
