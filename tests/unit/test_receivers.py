"""What a client is told about data that is good: to come again with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import httpx
from google.rpc.status_pb2 import Status

from elf_automations.sink.accounts import Accounts
from elf_automations.sink.bearer import Token
from elf_automations.sink.http_receiver import HttpReceiver
from elf_automations.sink.intake import Intake
from elf_automations.storage.contract import WriteResult
from otlp import request_of
from spans import tool_call

_PROTOBUF = {"content-type": "application/x-protobuf"}
_LIMIT = 1_000_000


class _Faulty:
    """A writer with a fault of its own: the data is good, and so is the database."""

    def write(self, *_: Any, **__: Any) -> WriteResult:
        raise ValueError("planned by the test")

    def check(self) -> None: ...

    def settle(self, since: datetime, *, wait: bool = True) -> bool:
        del since
        return wait

    def close(self) -> None: ...


@contextmanager
def _receiver(**options: Any) -> Iterator[HttpReceiver]:
    accounts = Accounts()
    intake = Intake(_Faulty, accounts, waiting_bytes=_LIMIT)
    receiver = HttpReceiver(intake, accounts, Token(None), max_bytes=_LIMIT, **options)
    try:
        yield receiver
    finally:
        receiver.close()
        assert intake.close(5)


def _asked(receiver: HttpReceiver, method: str, path: str, **request: Any) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(receiver.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://sink") as client:
            return await client.request(method, path, **request)

    return asyncio.run(ask())


def test_a_fault_of_the_sink_costs_no_data_and_says_nothing_of_the_database() -> None:
    with _receiver() as receiver:
        body = request_of([tool_call(1)]).SerializeToString()
        answer = _asked(receiver, "POST", "/v1/traces", content=body, headers=_PROTOBUF)
        assert (answer.status_code, answer.headers.get("retry-after")) == (503, "5")
        assert Status.FromString(answer.content).message == "the spans could not be stored: ValueError"
        assert _asked(receiver, "GET", "/readyz").status_code == 200
        malformed = _asked(receiver, "POST", "/v1/traces", content=b"\xff", headers=_PROTOBUF)
        assert (malformed.status_code, malformed.headers.get("retry-after")) == (400, None)


async def _slow() -> AsyncIterator[bytes]:
    yield request_of([tool_call(1)]).SerializeToString()
    await asyncio.sleep(5)


def test_a_body_that_is_too_slow_may_come_again() -> None:
    """Clients send again after 429, 502, 503 and 504 alone."""
    with _receiver(body_seconds=0.1) as receiver:
        answer = _asked(receiver, "POST", "/v1/traces", content=_slow(), headers=_PROTOBUF)
        assert (answer.status_code, answer.headers.get("retry-after")) == (503, "5")
        assert Status.FromString(answer.content).message == "the body did not arrive within 0.1 seconds"
