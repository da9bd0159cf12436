"""OTLP over gRPC: the trace service's `Export`, on the same intake as HTTP.

Source of the rules: OTLP specification, OTLP/gRPC (UNAVAILABLE with RetryInfo for now, INVALID_ARGUMENT for bad data).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc
from grpc import aio

from elf_automations.errors import ElfTelemetryError
from elf_automations.model.from_otlp_bytes import MalformedRequestError, from_protobuf
from elf_automations.sink import answers
from elf_automations.sink.accounts import Accounts
from elf_automations.sink.bearer import Token
from elf_automations.sink.failures import BusyError
from elf_automations.sink.intake import Intake

_SERVICE: Final = "opentelemetry.proto.collector.trace.v1.TraceService"
# Each that is being received may be as large as the largest; more calls may be under way, and wait for the database.
_RECEIVING: Final = 16
_CALLS: Final = 1000
# In which a call whose message gRPC refused for its size has ended.
_REFUSED_SECONDS: Final = 0.1
_STATUS_TRAILER: Final = "grpc-status-details-bin"
# The Python exporter ignores the standard trailer and reads this one.
_PYTHON_RETRY_TRAILER: Final = "google.rpc.retryinfo-bin"


class GrpcReceiver:
    """The trace service of a sink, for a `grpc.aio` server.

    `calls` may be under way at once, `receiving` of them may send their message; the others come again, or wait.
    `body_seconds` and `retry_seconds` as in `HttpReceiver`. gRPC's own limit of calls answers RESOURCE_EXHAUSTED, for
    which clients drop their data.
    """

    def __init__(
        self,
        intake: Intake,
        accounts: Accounts,
        token: Token,
        *,
        calls: int = _CALLS,
        receiving: int = _RECEIVING,
        body_seconds: float = 30.0,
        retry_seconds: int = 5,
    ) -> None:
        self._intake, self._accounts, self._token = intake, accounts, token
        self._calls, self._most_calls, self._receiving = 0, calls, asyncio.Semaphore(receiving)
        self._body_seconds, self._retry_seconds = body_seconds, retry_seconds

    def handler(self) -> grpc.GenericRpcHandler:
        """Return the handler to register; bodies stay bytes until the intake decodes them.

        It takes the one message of a call as a stream: gRPC reads that of a unary call before anybody is asked.
        """
        export: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_unary_rpc_method_handler(self._export)
        return grpc.method_handlers_generic_handler(_SERVICE, {"Export": export})

    async def _export(self, messages: AsyncIterator[bytes], context: aio.ServicerContext[bytes, bytes]) -> bytes:
        began = time.monotonic()
        code = grpc.StatusCode.UNKNOWN
        self._calls += 1
        try:
            answer = await self._stored(messages, context)
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED
            raise
        except _StatusError as error:
            code = error.code
            await context.abort(code, str(error), error.trailers)
            raise
        else:
            code = grpc.StatusCode.OK
            return answer
        finally:
            self._calls -= 1
            self._accounts.request("grpc", code.name, time.monotonic() - began)

    async def _stored(self, messages: AsyncIterator[bytes], context: aio.ServicerContext[bytes, bytes]) -> bytes:
        metadata: dict[str, Any] = dict(context.invocation_metadata() or ())
        if not self._token.admits(metadata.get("authorization")):
            raise _StatusError(grpc.StatusCode.UNAUTHENTICATED, "the bearer token is missing or wrong")
        body = await self._message(messages)
        try:
            receipt = await asyncio.wrap_future(self._intake.submit(body, from_protobuf))
        except MalformedRequestError as error:
            raise _StatusError(grpc.StatusCode.INVALID_ARGUMENT, str(error)) from None
        except ElfTelemetryError as error:
            raise self._later(str(error)) from None
        except Exception as error:
            raise self._later(f"the spans could not be stored: {type(error).__name__}") from error
        return answers.accepted(receipt.refused).SerializeToString()

    async def _message(self, messages: AsyncIterator[bytes]) -> bytes:
        if self._calls > self._most_calls:
            raise self._unread(BusyError("too many calls are under way"))
        try:
            async with asyncio.timeout(self._body_seconds), self._receiving:
                return await anext(messages)
        except TimeoutError:
            message = f"the body did not arrive within {self._body_seconds:g} seconds"
            raise self._unread(TimeoutError(message)) from None
        except StopAsyncIteration:
            await asyncio.sleep(_REFUSED_SECONDS)
            raise _StatusError(grpc.StatusCode.INVALID_ARGUMENT, "the call brought no message") from None

    def _unread(self, error: Exception) -> _StatusError:
        self._accounts.unread(error)
        return self._later(str(error))

    def _later(self, message: str) -> _StatusError:
        seconds = self._retry_seconds
        status = answers.failure(answers.UNAVAILABLE, message, retry_seconds=seconds)
        return _StatusError(
            grpc.StatusCode.UNAVAILABLE,
            message,
            (
                (_STATUS_TRAILER, status.SerializeToString()),
                (_PYTHON_RETRY_TRAILER, answers.retry_info(seconds).SerializeToString()),
            ),
        )


class _StatusError(Exception):
    def __init__(self, code: grpc.StatusCode, message: str, trailers: tuple[tuple[str, bytes], ...] = ()) -> None:
        super().__init__(message)
        self.code, self.trailers = code, trailers
