"""Whatever stack of libraries a call goes through: one counted row, its tokens once, in any order."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hypothesis import given
from hypothesis import strategies as st

from elf_automations.model import ResourceRecord, SpanKind, SpanRecord, settle
from records import START_NS, span

CLIENT, SERVER, INTERNAL = SpanKind.CLIENT, SpanKind.SERVER, SpanKind.INTERNAL
HERE = ResourceRecord({"service.name": "planner", "service.instance.id": "planner-1"})
THERE = ResourceRecord({"service.name": "tools", "service.instance.id": "tools-1"})
TRACELOOP = "opentelemetry.instrumentation.mcp.instrumentation"


@dataclass(frozen=True)
class Layer:
    """One span of a call: `tells` when it names method and tool by the convention; `is_row` when it becomes a row."""

    scope: str
    name: str
    kind: SpanKind
    tells: bool = True
    is_row: bool = True
    there: bool = False
    prefix: str = ""


SDK_CLIENT = Layer("mcp-python-sdk", "MCP send tools/call {tool}", CLIENT)
SDK_SERVER = Layer("mcp-python-sdk", "tools/call {tool}", SERVER, there=True)
OURS = Layer("elf-automations.mcp", "tools/call {tool}", CLIENT)
HTTP = Layer("opentelemetry.instrumentation.httpx", "POST", CLIENT, tells=False, is_row=False)
FASTMCP_SERVER = Layer("fastmcp", "tools/call {tool}", SERVER, there=True)
STACKS = [
    [SDK_CLIENT, SDK_SERVER],
    [SDK_CLIENT],
    [SDK_SERVER],
    [OURS, HTTP, SDK_SERVER],
    [Layer("fastmcp", "tools/call {tool}", CLIENT), SDK_CLIENT, FASTMCP_SERVER],
    [
        FASTMCP_SERVER,
        Layer("fastmcp", "delegate {tool}", INTERNAL, is_row=False, there=True),
        Layer("fastmcp", "tools/call {tool}", SERVER, there=True),
    ],
    [
        Layer(TRACELOOP, "{tool}.tool", INTERNAL, tells=False),
        Layer(TRACELOOP, "ResponseStreamWriter", INTERNAL, tells=False, is_row=False),
        FASTMCP_SERVER,
    ],
    [
        Layer("logfire.mcp", "MCP request: tools/call {tool}", INTERNAL, tells=False),
        Layer("logfire.mcp", "MCP server handle request: tools/call", INTERNAL, tells=False, there=True),
    ],
    [Layer("openlit.instrumentation.mcp", "mcp tools/call", CLIENT, tells=False), SDK_CLIENT, SDK_SERVER],
    [
        Layer("elf-automations.mcp", "tools/call crm_{tool}", CLIENT, prefix="crm_"),
        Layer("agentgateway", "tools/call", SERVER),
        Layer("agentgateway", "tools/call crm_{tool}", CLIENT),
        SDK_SERVER,
    ],
]


@dataclass(frozen=True)
class Called:
    """One call: its stack, its tool, what each layer says of tokens, and the calls of its handler."""

    stack: list[Layer]
    tool: str
    tokens: list[int | None]
    nested: tuple[Called, ...]

    @property
    def expected(self) -> tuple[str, int | None]:
        """The tool as its outermost layer names it, and the tokens as the outermost layer that knows says."""
        said = [tokens for layer, tokens in zip(self.stack, self.tokens, strict=True) if layer.is_row]
        return self.stack[0].prefix + self.tool, next((tokens for tokens in said if tokens is not None), None)


def _call(nested: st.SearchStrategy[tuple[Called, ...]]) -> st.SearchStrategy[Called]:
    return st.sampled_from(STACKS).flatmap(
        lambda stack: st.builds(
            Called,
            st.just(stack),
            st.sampled_from(["search", "write"]),
            st.lists(st.none() | st.integers(0, 1000), min_size=len(stack), max_size=len(stack)),
            nested if stack[-1].there else st.just(()),
        )
    )


CALLS = st.recursive(_call(st.just(())), lambda inner: _call(st.lists(inner, max_size=2).map(tuple)), max_leaves=6)


def spans_of(call: Called, parent: int | None, made: list[SpanRecord]) -> None:
    """Append the spans of `call`; a call of a handler begins below a span of the application."""
    for layer, tokens in zip(call.stack, call.tokens, strict=True):
        said = {"mcp.method.name": "tools/call", "gen_ai.tool.name": layer.prefix + call.tool} if layer.tells else {}
        used = {} if tokens is None else {"gen_ai.usage.input_tokens": tokens}
        number = len(made) + 1
        made.append(
            span(
                number,
                layer.name.format(tool=call.tool),
                layer.kind,
                {**said, **used},
                parent=parent,
                scope_name=layer.scope,
                resource=THERE if layer.there else HERE,
                start_ns=START_NS + number * 1_000_000,
            )
        )
        parent = number
    for inner in call.nested:
        number = len(made) + 1
        made.append(span(number, "handler", INTERNAL, parent=parent, resource=THERE))
        # Nobody can tell a FastMCP server mounted in another from one that a handler calls in its own process.
        elsewhere = number if inner.stack[0].kind is not SERVER else None
        spans_of(inner, elsewhere, made)


def flat(call: Called) -> list[Called]:
    return [call, *(deeper for inner in call.nested for deeper in flat(inner))]


@given(CALLS, st.randoms(use_true_random=False))
def test_each_call_counts_once_with_its_tokens_once_in_any_order(call, random):
    made: list[SpanRecord] = []
    spans_of(call, None, made)
    in_order = settle(made).rows
    random.shuffle(made)
    assert sorted(settle(made).rows, key=lambda row: row.id) == sorted(in_order, key=lambda row: row.id)
    counted = [(row.tool_name, row.tokens_used) for row in in_order if row.counted]
    assert sorted(counted, key=repr) == sorted((one.expected for one in flat(call)), key=repr)


@given(st.lists(CALLS, max_size=5), st.data())
def test_batches_that_cut_no_call_give_the_rows_of_one_batch(calls, data):
    traces: list[list[SpanRecord]] = []
    for number, call in enumerate(calls):
        made: list[SpanRecord] = []
        spans_of(call, None, made)
        traces.append([_in_trace(one, number) for one in made])
    cuts = data.draw(st.lists(st.integers(0, 2), min_size=len(traces), max_size=len(traces)), label="batch of a trace")
    batches = [
        [one for trace, cut in zip(traces, cuts, strict=True) if cut == batch for one in trace] for batch in (0, 1, 2)
    ]
    together = settle([one for trace in traces for one in trace]).rows
    apart = [row for batch in batches for row in settle(batch).rows]
    assert sorted(apart, key=lambda row: row.id) == sorted(together, key=lambda row: row.id)


def _in_trace(one: SpanRecord, number: int) -> SpanRecord:
    return replace(one, trace_id=bytes(14) + (number + 1).to_bytes(2))
