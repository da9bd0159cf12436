"""The bindings this process can speak, and how a gRPC channel is opened for an address of an Agent Card."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Final
from urllib.parse import urlsplit

from a2a.utils.constants import TransportProtocol

__all__ = ["bindings", "open_channel"]

_SECURE_PORT: Final = 443
_SECURE_SCHEMES: Final = frozenset({"https", "grpcs"})


def bindings() -> list[str]:
    """Return JSONRPC, HTTP+JSON and, where grpcio is installed, GRPC; of these an Agent Card's order decides."""
    spoken = [TransportProtocol.JSONRPC.value, TransportProtocol.HTTP_JSON.value]
    return [*spoken, TransportProtocol.GRPC.value] if find_spec("grpc") is not None else spoken


def open_channel(address: str) -> Any:
    """Return a gRPC channel to `host:port` or a URL: with TLS for https, grpcs and port 443, else in the clear."""
    import grpc  # noqa: PLC0415  (an optional dependency)

    parts = urlsplit(address if "://" in address else f"//{address}")
    if parts.scheme in _SECURE_SCHEMES or parts.port == _SECURE_PORT:
        target = parts.netloc if parts.port else f"{parts.netloc}:{_SECURE_PORT}"
        return grpc.aio.secure_channel(target, grpc.ssl_channel_credentials())
    return grpc.aio.insecure_channel(parts.netloc)
