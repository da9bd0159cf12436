"""Whatever the layers, the order and the batches: one logical call is one counted row with its true outcome."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elf_automations.model import SpanKind, SpanRecord, StatusCode, settle
from elf_automations.storage.writer import PostgresWriter
from records import START_NS, TRACE, span, tool_call

CLIENT, SERVER, INTERNAL = SpanKind.CLIENT, SpanKind.SERVER, SpanKind.INTERNAL
TOOLS = ["search", "write", "search"]


@dataclass(frozen=True)
class Called:
    """One logical call: layers of client spans, whether its server is seen, its end, the calls of its handler."""

    tool: str
    clients: int
    server: bool
    failed: bool
    client_sees_it: bool
    nested: tuple[Called, ...]

    @property
    def expected(self) -> tuple[str, str]:
        seen = self.server or (self.clients and self.client_sees_it)
        return self.tool, "error" if self.failed and seen else "success"


def _call(nested: st.SearchStrategy[tuple[Called, ...]]) -> st.SearchStrategy[Called]:
    shape = st.sampled_from([(1, True), (1, False), (0, True), (2, True), (3, True), (2, False)])
    return st.builds(
        lambda tool, layers, failed, sees, inner: Called(
            tool, layers[0], layers[1], failed, sees, inner if layers[1] else ()
        ),
        st.sampled_from(TOOLS),
        shape,
        st.booleans(),
        st.booleans(),
        nested,
    )


CALLS = st.recursive(_call(st.just(())), lambda inner: _call(st.lists(inner, max_size=2).map(tuple)), max_leaves=6)


def spans_of(call: Called, parent: int | None, made: list[SpanRecord]) -> None:
    """Append the spans of `call`; every layer lies directly below the one above it."""
    for layer in range(call.clients):
        parent = _add(made, CLIENT, call, parent, failed=call.failed and call.client_sees_it and layer == 0)
    if call.server:
        parent = _add(made, SERVER, call, parent, failed=call.failed)
        for inner in call.nested:
            handler = len(made) + 1
            made.append(span(handler, "handler", INTERNAL, parent=parent))
            spans_of(inner, _rowed(inner, parent, handler), made)


def _rowed(inner: Called, server: int, handler: int) -> int:
    # A span that makes no row breaks the chain for SQL, so only what starts a call of its own goes below it.
    return handler if inner.clients else server


def _add(made: list[SpanRecord], kind: SpanKind, call: Called, parent: int | None, *, failed: bool) -> int:
    number = len(made) + 1
    fields: dict[str, Any] = {"status": StatusCode.ERROR, "status_message": "it failed"} if failed else {}
    made.append(tool_call(number, kind, call.tool, parent=parent, start_ns=START_NS + number * 1000, **fields))
    return number


def flat(call: Called) -> list[Called]:
    return [call, *(deeper for inner in call.nested for deeper in flat(inner))]


@given(CALLS, st.randoms(use_true_random=False))
def test_in_one_batch_in_any_order(call, random):
    made: list[SpanRecord] = []
    spans_of(call, None, made)
    random.shuffle(made)
    rows = [row for row in settle(made).rows if row.counted]
    assert sorted((row.tool_name, row.status) for row in rows) == sorted(one.expected for one in flat(call))


@pytest.fixture(scope="module")
def writer(module_database_url):
    made = PostgresWriter(module_database_url)
    yield made, module_database_url
    made.close()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(CALLS, st.data())
def test_in_any_batches_once_sql_has_settled_them(writer, call, data):
    writing, url = writer
    made: list[SpanRecord] = []
    spans_of(call, None, made)
    cuts = data.draw(st.lists(st.integers(0, 3), min_size=len(made), max_size=len(made)), label="batch of each span")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("TRUNCATE communication_telemetry, unified_registry")
        for batch in range(4):
            settled = settle([one for one, cut in zip(made, cuts, strict=True) if cut == batch])
            writing.write(settled.rows, settled.entities, retry=False)
        connection.execute("SELECT settle_communications('-infinity')")
        rows = connection.execute(
            "SELECT tool_name, status FROM communication_telemetry WHERE counted AND trace_id = %s", [TRACE.hex()]
        ).fetchall()
        changed = connection.execute("SELECT settle_communications('-infinity')").fetchone()
    assert sorted(rows) == sorted(one.expected for one in flat(call))
    assert changed == (0,)
