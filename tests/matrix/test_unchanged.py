"""Instrumented, an application runs as before: lazily, in the same order, with the same exceptions; and it can stop."""

from __future__ import annotations

import asyncio
import importlib
import sys
import warnings
from contextlib import nullcontext
from types import FunctionType, ModuleType
from typing import Any

import pytest

from elf_automations.instrumentation.mcp import MCPInstrumentor
from matrix.in_memory import linked
from matrix.server import weather_tools
from matrix.stacks import FASTMCP, STACKS
from tracing import Spans, instrumented

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("stack", STACKS)]


def telemetry(on: bool, spans: Spans) -> Any:
    return instrumented(MCPInstrumentor(), spans) if on else nullcontext()


class Interrupted(BaseException):
    """What is no error: the program is told to end."""


REASONS = [ConnectionResetError("the wire is cut"), TimeoutError("too late"), Interrupted("enough"), GeneratorExit()]


class Refusing:
    """Something to send with that raises one and the same exception."""

    def __init__(self, reason: BaseException) -> None:
        self.reason = reason

    async def send_raw_request(self, *_: Any, **__: Any) -> Any:
        raise self.reason

    async def send(self, *_: Any, **__: Any) -> Any:
        raise self.reason

    async def notify(self, *_: Any, **__: Any) -> Any:
        raise self.reason


@pytest.mark.parametrize("on", [False, True])
@pytest.mark.parametrize("reason", REASONS, ids=lambda reason: type(reason).__name__)
@pytest.mark.parametrize("request_for", ["list_tools", "call_tool", "get_prompt", "send_progress_notification"])
async def test_an_exception_from_below_is_the_very_same_object(stack, on, reason, request_for, monkeypatch):
    arguments = {"list_tools": (), "send_progress_notification": ("token", 0.5)}.get(request_for, ("get_weather", {}))
    with telemetry(on, Spans()):
        async with linked(stack, weather_tools(stack)) as (_, session):
            below = "_dispatcher" if hasattr(session, "_dispatcher") else "_write_stream"
            with monkeypatch.context() as cut, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                cut.setattr(session, below, Refusing(reason))
                with pytest.raises(type(reason)) as raised:
                    await getattr(session, request_for)(*arguments)
            assert raised.value is reason
            assert raised.value.__cause__ is None
            assert raised.value.__context__ is None


async def test_a_call_that_is_not_awaited_is_not_made(stack):
    with instrumented(MCPInstrumentor(), Spans()) as spans:
        async with linked(stack, weather_tools(stack)) as (caller, _):
            spans.clear()
            caller.tool("get_weather", {"city": "Oslo"}).close()
            await asyncio.sleep(0)
            assert spans.finished == ()


async def test_calls_reach_the_server_in_the_order_they_are_made(stack):
    assert await order_of_calls(stack, on=True) == await order_of_calls(stack, on=False)


async def order_of_calls(stack: str, *, on: bool) -> list[int]:
    server, order = weather_tools(stack), []

    @server.tool()
    async def note(number: int) -> str:
        order.append(number)
        return str(number)

    with telemetry(on, Spans()):
        async with linked(stack, server) as (caller, _):
            await asyncio.gather(*(caller.tool("note", {"number": number}) for number in range(12)))
    return order


@pytest.mark.parametrize("on", [False, True])
async def test_an_exception_after_the_answer_is_the_very_same_object(stack, on, monkeypatch):
    """The request was answered; what then checks the result raises, with and without telemetry."""
    reason = LookupError("no such schema")

    def unreadable(*_: Any, **__: Any) -> Any:
        raise reason

    with telemetry(on, Spans()):
        async with linked(stack, weather_tools(stack)) as (caller, session):
            await caller.tool("get_weather", {"city": "Oslo"})
            name = "validate_tool_result" if hasattr(session, "validate_tool_result") else "_validate_tool_result"
            with monkeypatch.context() as broken:
                broken.setattr(session, name, unreadable)
                with pytest.raises(LookupError) as raised:
                    await caller.tool("get_weather", {"city": "Oslo"})
            assert raised.value is reason


async def test_a_cancelled_call_says_why_as_before(stack):
    assert await reason_of_cancellation(stack, on=True) == await reason_of_cancellation(stack, on=False)


async def reason_of_cancellation(stack: str, *, on: bool) -> tuple[object, ...]:
    server, started = weather_tools(stack), asyncio.Event()

    @server.tool()
    async def waits() -> str:
        started.set()
        await asyncio.sleep(5)
        return "at last"

    with telemetry(on, Spans()):
        async with linked(stack, server) as (caller, _):
            task = asyncio.create_task(caller.tool("waits", {}))
            await started.wait()
            task.cancel("enough")
            with pytest.raises(asyncio.CancelledError) as raised:
                await task
    return type(raised.value), raised.value.args


def test_uninstrumenting_puts_back_everything(stack):
    del stack
    for name in ("mcp.client.sse", "mcp.client.stdio", "mcp.server.streamable_http_manager"):
        importlib.import_module(name)
    if FASTMCP:
        importlib.import_module("fastmcp")
        importlib.import_module("fastmcp.server.low_level")
    instrumentor = MCPInstrumentor()
    instrumentor.instrument(tracer_provider=Spans().provider)
    instrumentor.uninstrument()  # everything it looks at is loaded now
    before = everything_in_place()
    instrumentor.instrument(tracer_provider=Spans().provider)
    changed = {name for name, item in everything_in_place().items() if before.get(name) is not item}
    assert len(changed) >= 15
    instrumentor.uninstrument()
    after = everything_in_place()
    assert {name for name, item in after.items() if before.get(name) is not item} == set()
    assert set(before) == set(after)


def everything_in_place() -> dict[str, Any]:
    """Return each attribute of each module and class of the SDK and FastMCP, and what decorated functions wrap."""
    found: dict[str, Any] = {}
    for name, module in list(sys.modules.items()):
        if isinstance(module, ModuleType) and name.partition(".")[0] in {"mcp", "fastmcp"}:
            for attribute, item in list(vars(module).items()):
                found[f"{name}.{attribute}"] = item
                if isinstance(item, type) and item.__module__ == name:
                    found |= {f"{name}.{attribute}.{inner}": value for inner, value in vars(item).items()}
                elif isinstance(item, FunctionType) and item.__closure__:
                    cells = zip(item.__code__.co_freevars, item.__closure__, strict=True)
                    found |= {f"{name}.{attribute}<{free}>": cell.cell_contents for free, cell in cells if _full(cell)}
    return {name: item for name, item in found.items() if not name.endswith(("__pycache__", "_abc_impl"))}


def _full(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False
