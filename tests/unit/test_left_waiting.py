"""What waits inside an instrumented call when its event loop goes away ends without an error of telemetry's own."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider

from elf_automations import acting_as
from elf_automations.instrumentation.a2a.driving import observing_stream, observing_unary
from elf_automations.instrumentation.a2a.methods import SEND
from elf_automations.instrumentation.a2a.observation import Observation
from elf_automations.instrumentation.spans import start_client_span


def _begin(*_: Any) -> Observation:
    tracer = TracerProvider().get_tracer("test")
    return Observation(start_client_span(tracer, "SendMessage", {}), SEND)


async def _stream(self: object) -> AsyncGenerator[int, None]:
    yield 1
    await asyncio.Event().wait()


async def _unary(self: object) -> None:
    await asyncio.Event().wait()


async def _reading_a_stream() -> None:
    async for _ in observing_stream(_stream, _begin)(None):
        pass


async def _awaiting_an_answer() -> None:
    await observing_unary(_unary, _begin)(None)


async def _acting() -> None:
    with acting_as("sales-team"):
        await asyncio.Event().wait()


@pytest.mark.parametrize("waiting", [_reading_a_stream, _awaiting_an_answer, _acting])
def test_a_call_that_the_garbage_collector_ends_logs_no_error(waiting: Any, caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # asyncio's own complaint about a task that never ended
    task = loop.create_task(waiting())
    for _ in range(3):
        loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    del task, loop
    gc.collect()
    assert [record.message for record in caplog.records if record.name.startswith("opentelemetry")] == []
