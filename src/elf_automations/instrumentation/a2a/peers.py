"""The other end of a request, as far as its connection knows it: `client.address` and `client.port`."""

from __future__ import annotations

import functools
import logging
import weakref
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from a2a.server.context import ServerCallContext
from opentelemetry.util.types import AttributeValue

from elf_automations.conventions import otel
from elf_automations.instrumentation.a2a.propagation import grpc_context_of

logger = logging.getLogger(__name__)

# The peers of the HTTP requests being served, by the id of the context the SDK made for each.
_peers: dict[int, tuple[weakref.ref[ServerCallContext], Any]] = {}


def remembering_peer(original: Callable[..., ServerCallContext]) -> Callable[..., ServerCallContext]:
    """Return the SDK's making of an HTTP request's context so that the request's peer is kept beside it."""

    @functools.wraps(original)
    def build(self: Any, request: Any, *args: Any, **kwargs: Any) -> ServerCallContext:
        context = original(self, request, *args, **kwargs)
        try:
            key = id(context)
            _peers[key] = (weakref.ref(context, lambda _: _peers.pop(key, None)), request.client)
        except Exception:
            logger.debug("an A2A request's peer could not be kept", exc_info=True)
        return context

    return build


def peer_of(context: ServerCallContext) -> dict[str, AttributeValue]:
    """Return the attributes of the peer that sent a request; empty where the transport does not tell."""
    known = _peers.get(id(context))
    if known is not None and known[0]() is context:
        return http_peer(known[1])
    grpc_context = grpc_context_of(context)
    return _grpc_peer(str(grpc_context.peer())) if grpc_context is not None else {}


def http_peer(client: Any) -> dict[str, AttributeValue]:
    """Return the attributes of an HTTP request's `client`, host and port; empty for one that has none."""
    return _attributes(getattr(client, "host", None), getattr(client, "port", None))


def _grpc_peer(peer: str) -> dict[str, AttributeValue]:
    """Return the attributes of a gRPC peer, such as `ipv4:10.0.0.7:41234` or `ipv6:%5B::1%5D:41234`."""
    kind, _, place = unquote(peer).partition(":")
    host, _, port = place.rpartition(":")
    if kind not in {"ipv4", "ipv6"} or not port.isdecimal():
        return {}
    return _attributes(host.strip("[]"), int(port))


def _attributes(host: object, port: object) -> dict[str, AttributeValue]:
    if not isinstance(host, str) or not host:
        return {}
    return {otel.CLIENT_ADDRESS: host, **({otel.CLIENT_PORT: port} if isinstance(port, int) else {})}
