"""The short way to carry a context says exactly what the propagator would: another peer must not see a difference."""

from __future__ import annotations

from urllib.parse import quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import baggage, propagate, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

from elf_automations.instrumentation.carriers import context_from, headers_for, with_baggage

TEXT = st.text(st.characters(codec="utf-8"), max_size=30)
NAMES = st.text("abz.09_- %+é", min_size=1, max_size=12)
TRACEPARENT = f"00-{'a' * 31}1-{'b' * 15}2-01"
# What peers send: well formed, odd, wrong.
ENTRIES = st.one_of(
    st.builds(lambda name, value: f"{name}={quote_plus(value)}", st.sampled_from(["elf.entity.id", "x", "y-1"]), TEXT),
    st.text('ab=;,% +"\té.-', max_size=12),
    st.just(" a = b ; p=1"),
    st.just("a=" + "v" * 5000),
)
PARENTS = st.one_of(
    st.just(TRACEPARENT),
    st.from_regex(r"\A(00|01|ff)-[0-9a-f]{32}-[0-9a-f]{16}-0[0-3](-x)?\Z"),
    st.sampled_from([f"00-{'0' * 32}-{'b' * 16}-01", f"00-{'a' * 32}-{'0' * 16}-01", f" {TRACEPARENT} ", "", "no"]),
    st.text(max_size=60),
)


def said_by(context: Context) -> tuple[SpanContext, dict[str, object]]:
    return trace.get_current_span(context).get_span_context(), dict(baggage.get_all(context))


@given(st.dictionaries(NAMES, st.one_of(TEXT, st.integers()), max_size=4), st.booleans(), st.booleans())
def test_headers_are_what_the_propagator_writes(entries: dict[str, object], spanned: bool, state: bool):
    context = with_baggage(Context(), entries)
    if spanned:
        states = TraceState([("vendor", "1")]) if state else None
        made = SpanContext(7, 9, is_remote=False, trace_flags=TraceFlags(3), trace_state=states)
        context = trace.set_span_in_context(NonRecordingSpan(made), context)
    expected: dict[str, str] = {}
    propagate.inject(expected, context)
    assert headers_for(context) == expected


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "traceparent": PARENTS,
            "tracestate": st.sampled_from(["vendor=1", "", "wrong"]),
            "baggage": st.lists(ENTRIES, max_size=4).map(",".join),
        },
    )
)
def test_a_context_is_what_the_propagator_reads(headers: dict[str, str]):
    ambient = with_baggage(Context(), {"left": "over"})
    context = context_from(headers, ambient)
    assert said_by(context) == said_by(propagate.extract(headers, baggage.clear(ambient)))
    assert said_by(ambient)[1] == {"left": "over"}


def test_more_baggage_than_the_standard_allows_is_left_to_the_propagator():
    many = with_baggage(Context(), {f"entry{number}": "v" * 100 for number in range(200)})
    expected: dict[str, str] = {}
    propagate.inject(expected, many)
    assert headers_for(many) == expected
    assert said_by(context_from(expected, Context())) == said_by(propagate.extract(expected, Context()))


@pytest.fixture
def _baggage_only():
    before = propagate.get_global_textmap()
    propagate.set_global_textmap(CompositePropagator([W3CBaggagePropagator()]))
    yield
    propagate.set_global_textmap(before)


@pytest.mark.usefixtures("_baggage_only")
def test_a_propagator_that_the_application_chose_is_obeyed():
    made = SpanContext(7, 9, is_remote=False, trace_flags=TraceFlags(1))
    context = trace.set_span_in_context(NonRecordingSpan(made), with_baggage(Context(), {"a": "b"}))
    assert headers_for(context) == {"baggage": "a=b"}
    assert said_by(context_from({"traceparent": TRACEPARENT, "baggage": "a=b"}, Context())) == said_by(
        with_baggage(Context(), {"a": "b"})
    )
