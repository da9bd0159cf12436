"""Requests that a server refuses before any handler sees them: bad JSON, unknown methods, versions, parameters.

The SDK has no hook there, so this stands where it writes the answer of an error, and reads the refused request out
of the frames below. Nothing of it runs for a request that is served. gRPC refuses inside its own library, out of reach.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import orjson
from a2a.utils.constants import TransportProtocol
from a2a.utils.errors import TaskNotFoundError
from opentelemetry.instrumentation.utils import is_instrumentation_enabled  # pyright: ignore[reportMissingTypeStubs]
from opentelemetry.trace import Tracer

from elf_automations.conventions import elf
from elf_automations.instrumentation.a2a.driving import passed_through
from elf_automations.instrumentation.a2a.methods import OTHER, REST_METHODS, WIRE_METHODS, Method
from elf_automations.instrumentation.a2a.observation import error_code
from elf_automations.instrumentation.a2a.peers import http_peer
from elf_automations.instrumentation.a2a.server_side import start_request
from elf_automations.instrumentation.patches import MakeWrapper, PatchPoint
from elf_automations.model.protocols.a2a import method_name

logger = logging.getLogger(__name__)

_MAX_FRAMES: Final = 12
_MAX_NAME: Final = 80
_JSONRPC: Final = TransportProtocol.JSONRPC.value
_REST: Final = TransportProtocol.HTTP_JSON.value


@dataclass(slots=True)
class _Refused:
    """What the SDK's frames hold of a refused request."""

    request: Any = None
    handler: Any = None
    body: Mapping[str, Any] | None = None
    route: str | None = None


def rejection_patch_points(tracer: Tracer) -> tuple[PatchPoint, ...]:
    """Return the patch points where the SDK's HTTP bindings answer with an error; none without their libraries."""
    if importlib.util.find_spec("starlette") is None or importlib.util.find_spec("sse_starlette") is None:
        return ()
    return (
        PatchPoint("a2a.server.routes.jsonrpc_dispatcher", "build_error_response", _wrapper(tracer, _JSONRPC)),
        PatchPoint(
            "a2a.compat.v0_3.jsonrpc_adapter", "JSONRPC03Adapter._generate_error_response", _wrapper(tracer, _JSONRPC)
        ),
        PatchPoint("a2a.utils.error_handlers", "_create_error_response", _wrapper(tracer, _REST)),
    )


def _wrapper(tracer: Tracer, binding: str) -> MakeWrapper:
    """Return what wraps a function that makes an error's answer; the error is its last argument."""

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def answer(*args: Any, **kwargs: Any) -> Any:
            _tell(tracer, args[-1] if args else None, binding)
            return original(*args, **kwargs)

        return answer

    return make


def _tell(tracer: Tracer, error: Any, binding: str) -> None:
    """Make the SERVER span of a refused request; none when a handler's span has told of the error."""
    try:
        cause = sys.exc_info()[1]
        if not is_instrumentation_enabled() or (cause is not None and passed_through(cause)):
            return
        if isinstance(error, TaskNotFoundError):  # what the SDK makes of a handler's None, which its span has told
            return
        refused = _refused()
        headers = {name.lower(): value for name, value in refused.request.headers.items()} if refused.request else {}
        method, asked = _asked(refused)
        said = {
            elf.ELF_A2A_BINDING: binding,
            elf.ELF_PAYLOAD_SIZE: _length(headers),
            **http_peer(getattr(refused.request, "client", None)),
            elf.ELF_METADATA: orjson.dumps({"requested_method": asked}).decode() if asked else None,
        }
        known = {name: value for name, value in said.items() if value is not None}
        call = start_request(tracer, method, refused.handler, headers, known)
        message = getattr(error, "message", None) or str(error) or type(error).__name__
        code = getattr(error, "code", None)
        call.fail(type(error).__name__, message, str(code) if isinstance(code, int) else error_code(error))
    except Exception:
        logger.debug("a refused A2A request could not be traced", exc_info=True)


def _asked(refused: _Refused) -> tuple[Method, str | None]:
    """Return the method of a refused request; for one that no protocol version knows, `_OTHER` and its name."""
    if refused.route is not None:
        return REST_METHODS.get(refused.route, OTHER), None
    said = refused.body.get("method") if refused.body is not None else None
    if not isinstance(said, str):
        return OTHER, None
    known = WIRE_METHODS.get(method_name(said))
    return (known, None) if known is not None else (OTHER, said[:_MAX_NAME])


def _refused() -> _Refused:
    refused = _Refused()
    for local in _locals():
        args = local.get("args")
        for value in (*local.values(), *(cast("tuple[Any, ...]", args) if isinstance(args, tuple) else ())):
            if refused.request is None and _is_request(value):
                refused.request = value
            if refused.handler is None:
                refused.handler = getattr(value, "request_handler", None)
        body: Any = local.get("body")
        if isinstance(body, dict):
            refused.body = cast("Mapping[str, Any]", body)
        route: Any = getattr(local.get("func"), "__name__", None)
        if route in REST_METHODS:
            refused.route = route
        if refused.request is not None and refused.handler is not None:
            break
    return refused


def _locals() -> Iterator[Mapping[str, Any]]:
    # The functions that could be wrapped are not given the request; their callers in the SDK have it.
    frame = sys._getframe(1)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    for _ in range(_MAX_FRAMES):
        if frame.f_back is None:
            return
        frame = frame.f_back
        if str(frame.f_globals.get("__name__")).startswith("a2a."):
            yield frame.f_locals


def _is_request(value: object) -> bool:
    return any(kind.__name__ == "Request" and kind.__module__ == "starlette.requests" for kind in type(value).__mro__)


def _length(headers: Mapping[str, str]) -> int | None:
    said = headers.get("content-length", "")
    return int(said) if said.isdecimal() else None
