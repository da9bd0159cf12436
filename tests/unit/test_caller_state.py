"""Who calls survives what drops baggage: the member of `tracestate`, who writes it and who reads it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import propagate, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from elf_automations import acting_as, inject_context
from elf_automations.instrumentation.carriers import is_default
from elf_automations.instrumentation.trace_state import CallerPropagator, join_propagator
from elf_automations.model import EntityRef
from elf_automations.model.caller_state import caller_of, with_caller_member
from tracing import Spans

# W3C Trace Context, 3.3.1.3.2: printable, no comma, no equals sign, at most 256, no blank at the end.
_VALUE = re.compile(r"[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]")
_TEAM = EntityRef("sales-team", "team")


@pytest.fixture(autouse=True)
def _propagator() -> Iterator[None]:
    before = propagate.get_global_textmap()
    yield
    propagate.set_global_textmap(before)


@given(st.text(min_size=1), st.sampled_from(["team", "workflow", "service", "mcp_client", "mcp"]))
def test_any_caller_is_read_as_it_was_written(entity_id: str, kind: str) -> None:
    try:
        entity_id.encode()
    except UnicodeEncodeError:
        return
    header = with_caller_member("h3=1,elf=team:before", EntityRef(entity_id, kind))
    if header == "h3=1":
        assert len(entity_id.encode()) > 60
        return
    member, _, others = header.partition(",")
    assert _VALUE.fullmatch(member.removeprefix("elf="))
    assert others == "h3=1"
    assert caller_of(header) == EntityRef(entity_id, kind)
    assert TraceState.from_header([header]).get("elf") == member.removeprefix("elf=")


@pytest.mark.parametrize(
    "header", ["", "h3=1", "elf=", "elf=sales-team", "elf=team:", "elf=ceo:me", "selfish=1", "elf", "=,=,elf=:"]
)
def test_what_is_no_caller_is_none(header: str) -> None:
    assert caller_of(header) is None


def test_others_keep_their_places_and_the_oldest_gives_way() -> None:
    full = ",".join(f"k{number}={number}" for number in range(32))
    members = with_caller_member(full, _TEAM).split(",")
    assert (members[0], members[1], members[-1], len(members)) == ("elf=team:sales-team", "k0=0", "k30=30", 32)
    assert with_caller_member(f" {full} ,", EntityRef("", "team")) == full


def test_a_request_names_the_caller_beside_what_came_in() -> None:
    spans = Spans(**{"elf.entity.id": "planning-team", "elf.entity.type": "team"})
    remote = SpanContext(7, 8, is_remote=True, trace_flags=TraceFlags(1), trace_state=TraceState([("h3", "1")]))
    join_propagator()
    tracer = spans.provider.get_tracer("application")
    with tracer.start_as_current_span("work", trace.set_span_in_context(NonRecordingSpan(remote))):
        by_itself, acting = {}, {}
        propagate.inject(by_itself)
        with acting_as("sales-team"):
            propagate.inject(acting)
    assert by_itself["tracestate"] == "elf=team:planning-team,h3=1"
    assert acting["tracestate"] == "elf=team:sales-team,h3=1"
    (read,), (expected,) = propagate.extract(acting).values(), TraceContextTextMapPropagator().extract(acting).values()
    assert read.get_span_context() == expected.get_span_context()


def test_without_span_or_caller_nothing_is_written() -> None:
    join_propagator()
    headers: dict[str, str] = {}
    with acting_as("sales-team"):
        propagate.inject(headers)
    assert headers == {}
    with trace.use_span(NonRecordingSpan(SpanContext(7, 8, is_remote=True))):
        propagate.inject(headers)
    assert set(headers) == {"traceparent"}
    with TracerProvider().get_tracer("application").start_as_current_span("work"):
        propagate.inject(headers)  # `unknown_service` is nobody
    assert set(headers) == {"traceparent"}


def test_the_propagator_joins_what_is_there_once() -> None:
    mine = W3CBaggagePropagator()
    propagate.set_global_textmap(CompositePropagator([TraceContextTextMapPropagator(), mine]))
    join_propagator()
    joined = propagate.get_global_textmap()
    join_propagator()
    assert propagate.get_global_textmap() is joined
    parts = joined._propagators
    assert [type(part) for part in parts] == [TraceContextTextMapPropagator, W3CBaggagePropagator, CallerPropagator]
    assert parts[1] is mine
    assert joined.fields == {"traceparent", "tracestate", "baggage"}
    # Calls that tell the caller in baggage go the short way as before.
    assert is_default()


@pytest.mark.parametrize("off", [CompositePropagator([]), W3CBaggagePropagator()])
def test_where_no_trace_goes_out_no_caller_does(off: CompositePropagator) -> None:
    propagate.set_global_textmap(off)
    join_propagator()
    assert propagate.get_global_textmap() is off


def test_headers_of_a_client_that_nothing_instruments() -> None:
    spans = Spans()
    tracer = spans.provider.get_tracer("application")
    with tracer.start_as_current_span("work") as work, acting_as("sales-team", correlation_id="order-7"):
        headers = inject_context({"Accept": "text/plain"})
    made = work.get_span_context()
    assert headers.pop("traceparent").startswith(f"00-{made.trace_id:032x}-{made.span_id:016x}-")
    assert headers == {
        "Accept": "text/plain",
        "tracestate": "elf=team:sales-team",
        "baggage": "elf.correlation.id=order-7",
    }


def test_a_caller_without_a_span_begins_the_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    spans = Spans()
    monkeypatch.setattr(trace, "get_tracer", spans.provider.get_tracer)
    with acting_as("sales-team"):
        headers = inject_context({})
    (begun,) = spans.finished
    assert headers["traceparent"].split("-")[2] == f"{begun.context.span_id:016x}"
    assert caller_of(headers["tracestate"]) == _TEAM
    assert spans.settled().rows == ()


def test_without_code_the_environment_selects_it() -> None:
    code = (
        "from opentelemetry import propagate\n"
        "from opentelemetry.sdk.trace import TracerProvider\n"
        "from opentelemetry.sdk.resources import Resource\n"
        "tracer = TracerProvider(resource=Resource({'service.name': 'planner'})).get_tracer('x')\n"
        "from elf_automations.instrumentation.trace_state import join_propagator\n"
        "join_propagator()\n"
        "headers = {}\n"
        "with tracer.start_as_current_span('work'):\n"
        "    propagate.inject(headers)\n"
        "print(headers['tracestate'], len(propagate.get_global_textmap()._propagators))"
    )
    environment = {"OTEL_PROPAGATORS": "tracecontext,baggage,elf", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "elf=service:planner 3\n", done.stderr
