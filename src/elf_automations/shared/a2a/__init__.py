"""Agents that talk to agents: the guide's A2A clients, with telemetry (`telemetry_client`) and without (`client`).

`serve_team` is the other side: it runs an agent as a registered, instrumented team that reports its health.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

try:
    _sdk = find_spec("a2a.types.a2a_pb2")
except ModuleNotFoundError:  # no SDK, or one of A2A 0.3
    _sdk = None
if _sdk is None:
    message = "elf_automations.shared.a2a needs the A2A SDK, 1.3 or newer: pip install 'elf-automations[a2a]'"
    raise ModuleNotFoundError(message, name="a2a")

from elf_automations.shared.a2a.client import A2AClient, TeamNotFoundError
from elf_automations.shared.a2a.telemetry_client import A2AClientWithTelemetry, create_a2a_client

if TYPE_CHECKING:
    from elf_automations.shared.a2a.serving import ServedTeam, serve_team

__all__ = [
    "A2AClient",
    "A2AClientWithTelemetry",
    "ServedTeam",
    "TeamNotFoundError",
    "create_a2a_client",
    "serve_team",
]

# Loaded at first use: a client needs no server.
_SERVING = frozenset({"ServedTeam", "serve_team"})


def __getattr__(name: str) -> Any:
    if name not in _SERVING:
        unknown = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(unknown)
    try:
        from elf_automations.shared.a2a import serving  # noqa: PLC0415
    except ModuleNotFoundError as error:
        needed = f"{name} needs {error.name}: pip install 'elf-automations[a2a]'"
        raise ModuleNotFoundError(needed, name=error.name) from None
    return getattr(serving, name)
