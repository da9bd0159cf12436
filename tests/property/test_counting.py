"""Whatever the layers, the order and the batches: one logical call is one counted row with its true outcome."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elf_automations.model import ResourceRecord, SpanKind, SpanRecord, StatusCode, settle
from elf_automations.storage.writer import PostgresWriter
from naive_views import assert_rollups_are_right
from records import START_NS, TRACE, span, tool_call

CLIENT, SERVER, INTERNAL = SpanKind.CLIENT, SpanKind.SERVER, SpanKind.INTERNAL
TOOLS = ["search", "write", "search"]
SHAPES = [(1, True), (1, False), (0, True), (2, True), (3, True), (2, False)]
# From one layer to the next; and between calls, so far that no clock mistakes one for the other.
STEP_NS, GAP_NS = 2_000_000, 6_000_000


@dataclass(frozen=True)
class Told:
    """What the spans of a call say beside its end: by `layers` of them, the outermost first, what it used.

    The server knows its name, and so do those clients. `gateway`: the outermost client calls the tool by a longer name.
    `listing`: a client below it lists the tools before it calls. `cancelled`: its server says that it was, if it saw no
    error; the clients of `sure` that saw none say that it succeeded. `texts`: what each layer that saw an error says of
    it; with `heard` all clients see what the outermost sees.
    """

    tokens: int | None = None
    cost: float | None = None
    layers: tuple[bool, ...] = (False,) * 4
    gateway: bool = False
    listing: bool = False
    cancelled: bool = False
    sure: tuple[bool, ...] = (False,) * 4
    texts: tuple[str, ...] = ("it failed",) * 4
    heard: bool = False


@dataclass(frozen=True)
class Called:
    """One logical call: layers of client spans, whether its server is seen and where, its end, its handler's calls.

    `recorded` is by how much the caller's own record of it, if it made one, is wider than the outermost span (ns);
    within the millisecond that two clocks may differ it may be narrower as well.
    """

    tool: str
    clients: int
    server: bool
    in_process: bool
    recorded: int | None
    failed: bool
    client_sees_it: bool
    nested: tuple[Called, ...]
    told: Told = Told()

    @property
    def expected(self) -> list[tuple[str, str]]:
        told = "error" if self.failed and self.client_sees_it else "success"
        seen = "error" if self.failed and (self.server or (self.clients and self.client_sees_it)) else "success"
        if self.recorded is None:
            return [(self.tool, seen)]
        # Nothing tells that a server elsewhere answered the call the caller wrote down.
        if not self.clients and not self.in_process:
            return [(self.tool, told), (self.tool, seen)]
        return [(self.tool, max(told, seen, key=("success", "error").index))]


def _call(nested: st.SearchStrategy[tuple[Called, ...]], told: st.SearchStrategy[Told]) -> st.SearchStrategy[Called]:
    return st.builds(
        lambda tool, layers, in_process, recorded, failed, sees, inner, told: Called(
            tool, *layers, in_process, recorded, failed, sees, inner if layers[1] else (), told
        ),
        st.sampled_from(TOOLS),
        st.sampled_from(SHAPES),
        st.booleans(),
        st.none() | st.integers(-900_000, 900_000),
        st.booleans(),
        st.booleans(),
        nested,
        told,
    )


def _calls(told: st.SearchStrategy[Told]) -> st.SearchStrategy[Called]:
    return st.recursive(
        _call(st.just(()), told), lambda inner: _call(st.lists(inner, max_size=2).map(tuple), told), max_leaves=6
    )


CALLS = _calls(st.just(Told()))
TEXTS = st.sampled_from(["no such city", "it failed", "unknown exception", ""])
TELLING_CALLS = _calls(
    st.builds(
        Told,
        st.none() | st.integers(0, 1000),
        st.none() | st.sampled_from([0.0, 0.25]),
        st.tuples(st.booleans(), st.booleans(), st.booleans(), st.booleans()),
        st.booleans(),
        st.booleans(),
        st.booleans(),
        st.tuples(st.booleans(), st.booleans(), st.booleans(), st.booleans()),
        st.tuples(TEXTS, TEXTS, TEXTS, TEXTS),
        st.booleans(),
    )
)


@dataclass
class Trace:
    """The spans of one trace, made in the order of their beginnings on one clock."""

    now_ns: int = START_NS
    processes: int = 0
    spans: list[SpanRecord] = field(default_factory=list[SpanRecord])

    def add(self, call: Called, parent: int | None = None, process: str = "process-0", *, breaks: bool = False) -> None:
        """Add `call`, made in `process`; its layers lie one in the other, and so do the calls of its handler.

        With `breaks`, its first span lies below one that makes no row.
        """
        self.now_ns += GAP_NS
        began, number, layers = self.now_ns, len(self.spans) + 1, []
        # A span that makes no row breaks the chain for SQL, so only what starts a call of its own goes below it.
        if breaks and call.clients:
            self.spans.append(span(number, "handler", INTERNAL, parent=parent))
            parent = number
        above, where = parent, process
        for kind in [CLIENT] * call.clients + [SERVER] * call.server:
            if kind is SERVER and not call.in_process:
                where = self._another()
            self.now_ns += STEP_NS
            layers.append((self._reserve(), kind, above, where, self.now_ns, len(layers)))
            above = layers[-1][0]
        if call.told.listing and call.clients:
            self._list(layers[call.clients - 1][0], process)
        place = self._another()  # what a handler calls is told from what called it
        for inner in call.nested:
            self.add(inner, above, place, breaks=True)
        if call.nested:
            self.now_ns += GAP_NS
        first_ns = layers[0][4]
        for layer in reversed(layers):
            self.now_ns += STEP_NS
            self._finish(call, *layer)
        if call.recorded is not None:
            self._record(call, parent, process, first_ns - call.recorded, self.now_ns + call.recorded)
        self.now_ns = max(self.now_ns, began) + GAP_NS

    def _another(self) -> str:
        self.processes += 1
        return f"process-{self.processes}"

    def _reserve(self) -> int:
        number = len(self.spans) + 1
        self.spans.append(span(number, "not finished", INTERNAL))
        return number

    def _finish(
        self,
        call: Called,
        number: int,
        kind: SpanKind,
        parent: int | None,
        process: str,
        start_ns: int,
        depth: int,
    ) -> None:
        sees_it = call.client_sees_it and (depth == 0 or call.told.heard)
        failed = call.failed and (kind is SERVER or sees_it)
        text = call.told.texts[depth]
        told: dict[str, Any] = {"status": StatusCode.ERROR, "status_message": text} if failed else {}
        tool = self._tool(call) if depth == 0 else call.tool
        self.spans[number - 1] = tool_call(
            number, kind, tool, parent=parent, start_ns=start_ns, end_ns=self.now_ns, resource=_of(process),
            attributes=_said(call.told, kind, depth) | ({} if failed else _ended(call.told, kind, depth)), **told,
        )  # fmt: skip

    @staticmethod
    def _tool(call: Called) -> str:
        return f"hub_{call.tool}" if call.told.gateway and call.clients else call.tool

    def _list(self, parent: int, process: str) -> None:
        number = self._reserve()
        self.now_ns += STEP_NS
        self.spans[number - 1] = span(
            number, "tools/list", CLIENT, {"mcp.method.name": "tools/list"}, parent=parent,
            start_ns=self.now_ns - STEP_NS, end_ns=self.now_ns, resource=_of(process),
        )  # fmt: skip

    def _record(self, call: Called, parent: int | None, process: str, start_ns: int, end_ns: int) -> None:
        attributes = {
            "elf.observed_by": "manual",
            "elf.duration_ms": (end_ns - start_ns) / 1e6,
            "elf.outcome": "error" if call.failed and call.client_sees_it else "success",
        }
        made = tool_call(
            len(self.spans) + 1, CLIENT, self._tool(call), attributes=attributes, parent=parent, start_ns=start_ns,
            end_ns=end_ns, resource=_of(process),
        )  # fmt: skip
        self.spans.append(made)


def _said(told: Told, kind: SpanKind, depth: int) -> dict[str, Any]:
    if not told.layers[depth]:
        return {"elf.target.id": "crm"} if kind is SERVER and any(told.layers) else {}
    used = {"elf.tokens.used": told.tokens, "elf.cost.usd": told.cost}
    return {"elf.target.id": "crm"} | {name: value for name, value in used.items() if value is not None}


def _ended(told: Told, kind: SpanKind, depth: int) -> dict[str, Any]:
    if kind is SERVER:
        return {"elf.outcome": "cancelled"} if told.cancelled else {}
    return {"elf.outcome": "success"} if told.sure[depth] else {}


def _of(process: str) -> ResourceRecord:
    return ResourceRecord({"service.name": "planner", "service.instance.id": process})


def spans_of(call: Called) -> list[SpanRecord]:
    trace = Trace()
    trace.add(call)
    return trace.spans


def expected_of(call: Called) -> list[tuple[str, str]]:
    return sorted([*call.expected, *(row for inner in call.nested for row in expected_of(inner))])


@given(CALLS, st.randoms(use_true_random=False))
def test_in_one_batch_in_any_order(call, random):
    made = spans_of(call)
    random.shuffle(made)
    rows = [row for row in settle(made).rows if row.counted]
    assert sorted((row.tool_name, row.status) for row in rows) == expected_of(call)


@pytest.fixture(scope="module")
def writer(module_database_url):
    made = PostgresWriter(module_database_url)
    yield made, module_database_url
    made.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(CALLS, st.data())
def test_in_any_batches_once_sql_has_settled_them(writer, call, data):
    """Also the activity of the entities is that of the calls, whatever was taken back in between."""
    writing, url = writer
    made = spans_of(call)
    cuts = data.draw(st.lists(st.integers(0, 3), min_size=len(made), max_size=len(made)), label="batch of each span")
    eager = data.draw(st.booleans(), label="settle after each batch")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("TRUNCATE communication_telemetry, unified_registry")
        for batch in range(4):
            settled = settle([one for one, cut in zip(made, cuts, strict=True) if cut == batch])
            writing.write(settled.rows, settled.entities, retry=False)
            if eager:
                connection.execute("SELECT settle_communications('-infinity')")
        connection.execute("SELECT settle_communications('-infinity')")
        rows = connection.execute(
            "SELECT tool_name, status FROM communication_telemetry WHERE counted AND trace_id = %s", [TRACE.hex()]
        ).fetchall()
        changed = connection.execute("SELECT settle_communications('-infinity')").fetchone()
        activity = connection.execute(_ACTIVITY).fetchall()
    assert sorted(rows) == expected_of(call)
    assert changed == (0,)
    assert activity == []


_DECIDED = """
select span_id, tool_name, status, error_message, target_id, target_type, tokens_used, estimated_cost
from communication_telemetry where counted order by span_id
"""


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(TELLING_CALLS, st.data())
def test_what_comes_in_pieces_ends_as_if_it_came_at_once(writer, call, data):
    """Who counts, where it went, how and why it ended and what it used are the same, wherever the batches are cut.

    Writers settle what came, as they do; the maintenance reads all of it.
    """
    writing, url = writer
    made = spans_of(call)
    cuts = data.draw(st.lists(st.integers(0, 3), min_size=len(made), max_size=len(made)), label="batch of each span")
    passes = data.draw(st.lists(st.sampled_from(["", *_PASSES]), min_size=4, max_size=4), label="after each batch")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("TRUNCATE communication_telemetry, unified_registry, telemetry_unsettled")
        for batch, settling in enumerate(passes):
            settled = settle([one for one, cut in zip(made, cuts, strict=True) if cut == batch])
            writing.write(settled.rows, settled.entities, retry=False)
            if settling:
                connection.execute(settling.encode())
        last = data.draw(st.sampled_from(_PASSES), label="the last pass")
        connection.execute(last.encode())
        decided = connection.execute(_DECIDED).fetchall()
        done = connection.execute("SELECT settle_communications_if_due(p_wait => true)").fetchone()
        changed = connection.execute("SELECT settle_communications('-infinity')").fetchone()
        left = connection.execute("SELECT count(*) FROM telemetry_unsettled").fetchone()
        activity = connection.execute(_ACTIVITY).fetchall()
        assert_rollups_are_right(connection)
    at_once = [row for row in settle(made).rows if row.counted]
    assert decided == sorted(
        (
            row.span_id, row.tool_name, row.status, row.error_message, row.target_id, row.target_type, row.tokens_used,
            row.estimated_cost,
        )
        for row in at_once
    )  # fmt: skip
    assert (done, changed, left, activity) == ((True,), (0,), (0,), [])


_PASSES = ["SELECT settle_communications('-infinity')", "SELECT settle_communications_if_due(p_wait => true)"]
_ACTIVITY = """
with ends as (
    select source_id as entity_id, registry_entity_type(source_type) as entity_type, id, status
    from communication_telemetry where counted
    union
    select target_id, registry_entity_type(target_type), id, status from communication_telemetry where counted
), calls as (
    select entity_id, entity_type, count(*) as calls, count(*) filter (where status in ('error', 'timeout')) as errors
    from ends group by entity_id, entity_type
)
select known.entity_id, known.activity_count, known.error_count, calls.calls, calls.errors
from unified_registry as known
left join calls using (entity_id, entity_type)
where (known.activity_count, known.error_count) <> (coalesce(calls.calls, 0), coalesce(calls.errors, 0))
"""
