"""How each library's spans speak of MCP: the table of the recogniser.

A row per instrumentation scope; whatever has no row of its own is read by the GenAI MCP convention. A library that
is new here is one row and a captured trace in the tests.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from elf_automations.conventions import otel
from elf_automations.model.call import Side
from elf_automations.model.records import AttributeValue, SpanKind


@dataclass(frozen=True, slots=True)
class Naming:
    """Span names that speak: `pattern` has the groups `method` and, where the name says it, `called`.

    `method` is what the pattern stands for when it has no such group; `side` overrules the span's kind.
    """

    pattern: re.Pattern[str]
    method: str | None = None
    side: Side | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """Where a library's spans say what; tuples of attribute names are tried in order.

    `request` and `response` are attributes with the JSON of the messages, which is read and never kept. Spans with an
    attribute of `internal`, and with `closed` every span without a method, are the library's own business.
    `only_ok`: a success is always OK, so a span without a status was abandoned. `relays` mark a client span that
    passes on the call its server received; with `mounts`, so do server spans below server spans. `orphans` are methods
    whose server spans, when they have no parent, are nobody's call. `checks`: after a call its client lists the tools
    on its own account, beside the call's span.
    """

    names: tuple[Naming, ...] = ()
    methods: tuple[str, ...] = (otel.MCP_METHOD_NAME,)
    tools: tuple[str, ...] = (otel.GEN_AI_TOOL_NAME, "mcp.tool.name")
    prompts: tuple[str, ...] = (otel.GEN_AI_PROMPT_NAME,)
    servers: tuple[str, ...] = ()
    callers: tuple[str, ...] = ()
    error_codes: tuple[str, ...] = ()
    error_messages: tuple[str, ...] = ()
    http_statuses: tuple[str, ...] = ()
    request: str | None = None
    response: str | None = None
    sides: Mapping[SpanKind, Side] = field(default_factory=lambda: _BY_KIND)
    internal: Mapping[str, AttributeValue] = field(default_factory=dict[str, AttributeValue])
    closed: bool = False
    only_ok: bool = False
    relays: Mapping[str, AttributeValue] = field(default_factory=dict[str, AttributeValue])
    mounts: bool = False
    orphans: frozenset[str] = frozenset()
    checks: bool = False
    kept: Mapping[str, str] = field(default_factory=dict[str, str])


_BY_KIND: Final[Mapping[SpanKind, Side]] = {SpanKind.CLIENT: "client", SpanKind.SERVER: "server"}
_NAMED: Final = r"(?P<method>[a-z]+/\S+)(?: (?P<called>.+))?"
_OPENLIT: Final = Dialect(
    names=(Naming(re.compile(r"mcp (?P<method>(?:tools|prompts|resources|completion|sampling|roots)/\S+)")),),
    methods=(),
    error_codes=("mcp.error.code",),
    error_messages=("mcp.error.message",),
    closed=True,
    kept={"mcp.response.size": "response_size_bytes"},
)

FASTMCP_SERVER: Final = "fastmcp.server.name"
FASTMCP_PROVIDER: Final = "fastmcp.provider.type"
# Who provides what is called where no function of the server does; of what it does not know it says nothing.
FASTMCP_PASSES_ON: Final = frozenset({"ProxyProvider", "FastMCPProvider", None})

CONVENTION: Final = Dialect(names=(Naming(re.compile(r"(?:tools/call|prompts/get) (?P<called>.+)")),))

DIALECTS: Final[Mapping[str, Dialect]] = {
    # The official SDK, 2.x; its client names nothing but the method, outside the span's name.
    "mcp-python-sdk": Dialect(names=(Naming(re.compile(f"(?:MCP send )?{_NAMED}")),), closed=True, checks=True),
    # A listing without a parent is FastMCP looking up a schema for itself, or the half of one that its client counts.
    "fastmcp": Dialect(
        names=(Naming(re.compile(_NAMED)),),
        servers=(FASTMCP_SERVER,),
        closed=True,
        relays={FASTMCP_PROVIDER: "ProxyProvider"},
        mounts=True,
        orphans=frozenset({"tools/list"}),
    ),
    # Traceloop: all its spans are INTERNAL and the client's.
    "opentelemetry.instrumentation.mcp.instrumentation": Dialect(
        names=(
            Naming(re.compile(r"(?P<called>.+)\.tool"), method="tools/call", side="client"),
            Naming(re.compile(r"(?P<method>[a-z]+(?:/\S+)?)\.mcp"), side="client"),
        ),
        methods=(),
        tools=("traceloop.entity.name",),
        request="traceloop.entity.input",
        closed=True,
        only_ok=True,
        checks=True,
    ),
    # Pydantic Logfire with the SDK 1.x; it marks a span that has only begun as pending.
    "logfire.mcp": Dialect(
        names=(
            Naming(re.compile(r"MCP request: (?P<method>\S+)(?: (?P<called>.+))?"), side="client"),
            Naming(re.compile(r"MCP server handle request: (?P<method>\S+)"), side="server"),
        ),
        methods=("rpc.method",),
        request="request",
        response="response",
        internal={"logfire.span_type": "pending_span"},
        closed=True,
        checks=True,
    ),
    # AgentGateway passes calls on: what it received and what it sent are layers of its client's call. Its LLM and
    # A2A spans have no MCP method. A status beyond HTTP's 200s is its own refusal.
    "agentgateway": Dialect(
        servers=("mcp.target",),
        callers=("jwt.sub", "src.identity"),
        error_codes=("mcp.error.code",),
        error_messages=("mcp.error.message", "error"),
        http_statuses=("http.status", "http.response.status_code"),
        sides={SpanKind.CLIENT: "client", SpanKind.SERVER: "client"},
        kept={
            "gateway": "gateway",
            "route": "route",
            "endpoint": "endpoint",
            "http.status": "http_status",
            "http.response.status_code": "http_status",
            "retry.attempt": "retry_attempt",
        },
    ),
    "openlit.instrumentation.mcp": _OPENLIT,
    "openlit.otel.tracing": _OPENLIT,
}
