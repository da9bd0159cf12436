"""One MCP request as one side sees it: its span, its duration, its true end.

Wrappers start an operation, run the wrapped code in the context of its call and conclude it with the result or the
exception. Nothing here raises into the application.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast

from opentelemetry import trace
from opentelemetry.metrics import Histogram
from opentelemetry.trace import SpanKind, Tracer
from opentelemetry.util.types import AttributeValue

from elf_automations.conventions import elf, otel
from elf_automations.instrumentation.mcp import payload
from elf_automations.instrumentation.mcp.metrics import Durations, record
from elf_automations.instrumentation.mcp.outcome import SUCCESS, Ending, ending_of_error, ending_of_result
from elf_automations.instrumentation.mcp.usage import usage_attributes
from elf_automations.instrumentation.spans import CallSpan, adopt_client_span, start_client_span

logger = logging.getLogger(__name__)

# What every request over a connection says of it, in either direction.
CONNECTION: Final = (
    otel.NETWORK_TRANSPORT,
    otel.NETWORK_PROTOCOL_NAME,
    otel.MCP_PROTOCOL_VERSION,
    otel.MCP_SESSION_ID,
)
_MAX_TOOLS: Final = 100
_INPUT_REQUIRED: Final = "input_required"
# FastMCP opens its own CLIENT span around the SDK's request: that span is the call's, we add to it.
_OUTER_CLIENT_SCOPE: Final = "fastmcp"


@dataclass(slots=True)
class Instruments:
    """What the wrappers of one instrumentor write to, while it is `on`.

    A session keeps the wrappers it was opened with; turned off, they only pass through.
    """

    tracer: Tracer
    durations: Durations
    on: bool = True


def asks_for_input(result: object) -> bool:
    """Return whether a result is none yet: the server needs input first."""
    return payload.field(result, "resultType") == _INPUT_REQUIRED


class Operation:
    """A started request; `adopted` once an SDK layer below works on its span instead of opening its own."""

    __slots__ = ("_attributes", "_histogram", "_started", "_wire_result", "adopted", "call", "method")

    def __init__(
        self, call: CallSpan, method: str, attributes: Mapping[str, AttributeValue], histogram: Histogram
    ) -> None:
        self.call = call
        self.method = method
        self.adopted = False
        self._attributes = attributes
        self._histogram = histogram
        self._wire_result: object = None
        self._started = time.perf_counter()

    @property
    def in_session(self) -> bool:
        """Whether the request belongs to a session of the protocol's own (legacy streamable HTTP)."""
        return otel.MCP_SESSION_ID in self._attributes

    @property
    def implicit(self) -> bool:
        """Whether the request is a library's own, which no application asked for."""
        return elf.ELF_IMPLICIT in self._attributes

    @property
    def connection(self) -> dict[str, AttributeValue]:
        """What is known of the connection the request came over."""
        return {name: self._attributes[name] for name in CONNECTION if name in self._attributes}

    @property
    def behind_a_network(self) -> bool:
        """Whether there may be a gateway between both ends that puts a span of its own between theirs."""
        return self._attributes.get(otel.NETWORK_TRANSPORT) == "tcp"

    @property
    def interim(self) -> bool:
        """Whether the answer over the wire was no result yet: the server needs input first."""
        return asks_for_input(self._wire_result)

    def answered(self, wire_result: object) -> None:
        """Note the result as it came over the wire, for its size and what it tells of its usage."""
        self._wire_result = wire_result

    def conclude(self, result: object) -> None:
        """End with the result of the request, typed or as the wire's mapping."""
        try:
            wire = self._wire_result if self._wire_result is not None else result
            ending = ending_of_result(wire)
            if self.call.recording:
                self.call.at_end(self._told(wire))
        except Exception:
            logger.debug("an MCP result could not be looked at", exc_info=True)
            ending = SUCCESS
        self.end(ending)

    def fail(self, error: BaseException) -> None:
        """End with the exception that ended the request."""
        self.end(ending_of_error(error))

    def end(self, ending: Ending) -> None:
        """End the span and record the duration."""
        try:
            if ending.rpc_code is not None:
                self.call.at_end({otel.RPC_RESPONSE_STATUS_CODE: ending.rpc_code})
            self.call.conclude(ending.status, ending.error_type, ending.message, ending.rpc_code)
            record(
                self._histogram,
                time.perf_counter() - self._started,
                self._attributes,
                error_type=ending.error_type,
                rpc_code=ending.rpc_code,
                context=self.call.context,
            )
        except Exception:
            logger.debug("an MCP call could not be concluded", exc_info=True)

    def _told(self, result: object) -> dict[str, AttributeValue | None]:
        told: dict[str, AttributeValue | None] = {elf.ELF_RESPONSE_SIZE: payload.size(result)}
        if self.method == "tools/call":
            usage = usage_attributes(result)
            if usage:
                told.update(usage)
        elif self.method == "tools/list":
            told[elf.ELF_TARGET_CAPABILITIES] = _tool_names(result)
        return told


def start_client(
    instruments: Instruments, name: str, method: str, attributes: Mapping[str, AttributeValue]
) -> Operation:
    """Start a request made here, on a CLIENT span of its own or on the one FastMCP has just opened for it."""
    span = trace.get_current_span()
    if _is_outer_client_span(span, method):
        call = adopt_client_span(span, attributes)
    else:
        call = start_client_span(instruments.tracer, name, attributes, marked=False)
    return Operation(call, method, attributes, instruments.durations.client_operation)


def _is_outer_client_span(span: trace.Span, method: str) -> bool:
    scope = getattr(span, "instrumentation_scope", None)
    if scope is None or scope.name != _OUTER_CLIENT_SCOPE:
        return False
    if not span.is_recording() or getattr(span, "kind", None) is not SpanKind.CLIENT:
        return False
    attributes = cast("Mapping[str, object]", getattr(span, "attributes", None) or {})
    return attributes.get(otel.MCP_METHOD_NAME) == method


def _tool_names(result: object) -> list[str] | None:
    tools = payload.field(result, "tools")
    if not isinstance(tools, list):
        return None
    return [payload.text(tool, "name") or "" for tool in cast("list[object]", tools)[:_MAX_TOOLS]]
