"""Whom the nodes of an n8n workflow call: what telemetry of n8n itself never says."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, cast

from elf_automations.model.n8n_nodes import reaches_outside, short_type

__all__ = ["node_targets"]

# Where n8n's own nodes keep the address they call; the hooks file of n8n reads the same.
_ADDRESSES: Final = ("url", "endpointUrl", "endpoint", "sseEndpoint", "serverUrl", "baseUrl", "uri", "webhookUri")
# An expression may follow the host, never be in it: "=https://api.example.com/{{ $json.id }}".
_HOST: Final = re.compile(r"=?https?://(?:[^/?#\s{}]*@)?([^/?#\s{}@]+)(?=$|[/?#])", re.IGNORECASE)
# The credential a generic HTTP node borrows names the service: slackOAuth2Api is slack.
_CREDENTIAL: Final = re.compile(r"(?!http|oAuth)([A-Za-z0-9]+?)(?:OAuth2)?(?:Api)?$")
_GENERIC: Final = ("httprequest", "graphql", "toolhttprequest", "http", "mcpclient")
_MAX_TEXT: Final = 255


def node_targets(nodes: Iterable[Mapping[str, object]]) -> dict[str, str]:
    """Return the target of each node that reaches outside and says where: its name, and a host or a service.

    A host is that of the node's URL with the port the URL names, never a path, query or user; a node whose host is
    an expression is left out unless it borrows the credential of a service. Nodes that integrate one service have that
    as target, by their short type.

    Args:
        nodes: n8n's nodes: `name`, `type`, and `parameters` or the `service` that the hooks file found in them.
    """
    found: dict[str, str] = {}
    for node in nodes:
        name, node_type = node.get("name"), node.get("type")
        if not (isinstance(name, str) and isinstance(node_type, str)) or node.get("disabled") is True:
            continue
        target = _target(node, node_type) if reaches_outside(node_type) else None
        if target:
            found[name[:_MAX_TEXT]] = target
    return found


def _target(node: Mapping[str, object], node_type: str) -> str | None:
    said = node.get("service")
    if isinstance(said, str) and said:
        return said[:_MAX_TEXT]
    parameters = _object(node.get("parameters"))
    for name in _ADDRESSES:
        address = parameters.get(name)
        host = _HOST.match(address[:1000]) if isinstance(address, str) else None
        if host:
            return host[1].lower()[:_MAX_TEXT]
    credential = parameters.get("nodeCredentialType")
    service = _CREDENTIAL.match(credential[:100]) if isinstance(credential, str) else None
    if service:
        return service[1]
    kind = short_type(node_type)
    return None if kind.lower().removesuffix("tool") in _GENERIC else kind[:_MAX_TEXT]


def _object(value: object) -> Mapping[str, object]:
    return cast("Mapping[str, object]", value) if isinstance(value, Mapping) else {}
