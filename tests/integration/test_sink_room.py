"""What a sink holds of requests that are not there yet: of strangers nothing, of all clients together so much."""

from __future__ import annotations

import asyncio
import http.client
import select
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import pytest
from google.rpc.status_pb2 import Status
from grpc import aio

from elf_automations.sink.accounts import Accounts
from elf_automations.sink.bearer import Token
from elf_automations.sink.grpc_receiver import GrpcReceiver
from elf_automations.sink.intake import Intake
from elf_automations.storage.writer import PostgresWriter
from otlp import request_of
from sink_process import sink
from spans import tool_call

_LIMIT = 100_000
_EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


def _request(number: int, text: str = "") -> bytes:
    return request_of([tool_call(number, text=text)]).SerializeToString()


def test_the_body_of_a_stranger_is_not_read(database_url: str) -> None:
    """A body over the limit tells: whoever began to read it would have refused it for its size."""
    environment = {"ELF_SINK_TOKEN": "fake-token-for-tests", "ELF_SINK_MAX_BYTES": str(_LIMIT)}
    with sink(database_url, "--http", "off", environment=environment) as running:
        with grpc.insecure_channel(running.grpc) as channel:
            export = channel.unary_unary(_EXPORT)
            for body in (_request(1), bytes(2 * _LIMIT)):
                for metadata in ((), (("authorization", "Bearer wrong"),)):
                    with pytest.raises(grpc.RpcError) as raised:
                        export(body, metadata=metadata, timeout=20)
                    assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
            with pytest.raises(grpc.RpcError) as raised:
                export(bytes(2 * _LIMIT), metadata=(("authorization", "Bearer fake-token-for-tests"),), timeout=20)
            assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert running.stop() == 0


def test_bodies_that_are_being_received_share_what_they_may_hold(database_url: str) -> None:
    bodies = [_request(number, "x" * 90_000) for number in range(5)]
    with sink(database_url, "--grpc", "off", environment={"ELF_SINK_MAX_BYTES": str(_LIMIT)}) as running:
        host, _, port = running.url.removeprefix("http://").partition(":")
        connections = [socket.create_connection((host, int(port)), timeout=20) for _ in bodies]
        try:
            for connection, body in zip(connections, bodies, strict=True):
                head = f"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
                connection.sendall(f"{head}Content-Type: application/x-protobuf\r\n\r\n".encode() + body[:-1])
            (sent_away,) = select.select(connections, [], [], 20)[0]
            answer = http.client.HTTPResponse(sent_away)
            answer.begin()
            assert (answer.status, answer.headers["retry-after"]) == (503, "5")
            assert Status.FromString(answer.read()).message == "too many requests are being received"
            for connection, body in zip(connections, bodies, strict=True):
                if connection is not sent_away:
                    connection.sendall(body[-1:])
                    assert connection.recv(10_000).startswith(b"HTTP/1.1 200 ")
        finally:
            for connection in connections:
                connection.close()


@asynccontextmanager
async def _served(url: str, **options: Any) -> AsyncGenerator[aio.Channel]:
    accounts = Accounts()
    intake = Intake(lambda: PostgresWriter(url), accounts, waiting_bytes=_LIMIT)
    server = aio.server()
    server.add_generic_rpc_handlers((GrpcReceiver(intake, accounts, Token(None), **options).handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(0)
        assert await asyncio.to_thread(intake.close, 20)


def _silent(channel: aio.Channel) -> aio.StreamUnaryCall[bytes, bytes]:
    """Begin a call that brings no message."""
    return channel.stream_unary(_EXPORT)()


def test_calls_beyond_those_that_may_be_under_way_come_again(database_url: str) -> None:
    async def run() -> None:
        async with _served(database_url, calls=2) as channel:
            silent = [_silent(channel) for _ in range(2)]
            for call in silent:
                await call.wait_for_connection()
            export = channel.unary_unary(_EXPORT)
            with pytest.raises(aio.AioRpcError) as raised:
                await export(_request(1), timeout=20)
            assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
            assert "google.rpc.retryinfo-bin" in dict(raised.value.trailing_metadata() or ())
            silent[0].cancel()
            while True:  # until the sink has heard of it
                with suppress(aio.AioRpcError):
                    assert await export(_request(1), timeout=20) == b""
                    break

    asyncio.run(run())


def test_messages_are_received_so_many_at_once_and_not_for_ever(database_url: str) -> None:
    async def run() -> None:
        async with _served(database_url, receiving=1, body_seconds=1.0) as channel:
            silent = _silent(channel)
            await silent.wait_for_connection()
            with pytest.raises(aio.AioRpcError) as raised:
                await silent
            assert (raised.value.code(), raised.value.details()) == (
                grpc.StatusCode.UNAVAILABLE,
                "the body did not arrive within 1 seconds",
            )
            assert await channel.unary_unary(_EXPORT)(_request(1), timeout=20) == b""

    asyncio.run(run())


def test_a_call_without_a_message_is_invalid(database_url: str) -> None:
    async def run() -> None:
        async with _served(database_url) as channel:
            empty = _silent(channel)
            await empty.done_writing()
            with pytest.raises(aio.AioRpcError) as raised:
                await empty
            assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    asyncio.run(run())
