"""Agent Cards: where one is served, and whether it changed since it was read last (RFC 9111, RFC 9110 section 13)."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
from a2a.client.card_resolver import parse_agent_card
from a2a.client.errors import A2AClientTimeoutError, AgentCardResolutionError
from a2a.types.a2a_pb2 import AgentCard
from a2a.utils.constants import AGENT_CARD_WELL_KNOWN_PATH
from google.protobuf.json_format import ParseError

__all__ = ["FoundCard", "fetch_card", "refresh_card"]

_OLDER_PATH: Final = "/.well-known/agent.json"  # until A2A 0.3
_DEEPEST_PATH: Final = 8
_NO_CARD_HERE: Final = frozenset({404, 405})
_MAX_AGE: Final = re.compile(r"(?:^|[,\s])max-age=\"?(\d+)")
# A card that tells neither its age nor a tag to ask by is read again after this.
_UNTOLD_SECONDS: Final = 60.0
_NOT_MODIFIED: Final = 304


@dataclass(frozen=True, slots=True)
class FoundCard:
    """An Agent Card, the URL it was read from, the base URL it was found below, and how to ask for a newer one."""

    card: AgentCard
    url: str
    place: str
    validators: tuple[tuple[str, str], ...] = ()
    fresh_until: float = 0.0

    @property
    def fresh(self) -> bool:
        """Whether its server said that it need not be asked for again yet."""
        return time.monotonic() < self.fresh_until


async def fetch_card(http: httpx.AsyncClient, endpoint: str, seconds: float) -> FoundCard:
    """Return the card below `endpoint` or, when that is the RPC address itself, below the folders above it.

    Looks at the well-known path and at the one of A2A 0.3. Raises AgentCardResolutionError, whose text names the URL
    and the cause, and A2AClientTimeoutError when a request takes more than `seconds`.
    """
    missing: AgentCardResolutionError | None = None
    for url, place in _places(endpoint):
        try:
            return _read(await _get(http, url, seconds), url, place)
        except AgentCardResolutionError as error:
            if error.status_code not in _NO_CARD_HERE:
                raise
            missing = missing or error
    raise missing or AgentCardResolutionError(f"{endpoint!r} is no http:// or https:// URL of a team")


async def refresh_card(http: httpx.AsyncClient, known: FoundCard, seconds: float) -> FoundCard:
    """Return the card as it is now, with the same `card` object when it did not change; errors as `fetch_card`."""
    response = await _get(http, known.url, seconds, dict(known.validators))
    if response.status_code == _NOT_MODIFIED:
        return replace(known, fresh_until=_fresh_until(response, known.validators))
    found = _read(response, known.url, known.place)
    return replace(found, card=known.card) if found.card == known.card else found


def _places(endpoint: str) -> list[tuple[str, str]]:
    """Return (URL of the card, base URL) to try in turn."""
    parts = urlsplit(endpoint)
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        return []
    base = f"{parts.scheme}://{parts.netloc}"
    if parts.path.endswith(".json"):
        return [(endpoint, base + parts.path.partition("/.well-known/")[0])]
    folders = [folder for folder in parts.path.split("/") if folder][:_DEEPEST_PATH]
    bases = ["/".join((base, *folders[:depth])) for depth in range(len(folders), -1, -1)]
    return [(place + path, place) for place in bases for path in (AGENT_CARD_WELL_KNOWN_PATH, _OLDER_PATH)]


async def _get(
    http: httpx.AsyncClient, url: str, seconds: float, headers: dict[str, str] | None = None
) -> httpx.Response:
    try:
        response = await http.get(url, headers=headers, timeout=httpx.Timeout(seconds), follow_redirects=True)
    except httpx.TimeoutException as error:
        raise A2AClientTimeoutError(f"the Agent Card at {url} did not come within {seconds:g} s") from error
    except (httpx.RequestError, httpx.InvalidURL) as error:
        reason = str(error) or type(error).__name__
        raise AgentCardResolutionError(f"the Agent Card at {url} cannot be reached: {reason}") from error
    if response.is_success or (response.status_code == _NOT_MODIFIED and headers):
        return response
    status = response.status_code
    raise AgentCardResolutionError(f"the Agent Card at {url} is not served: HTTP {status}", status_code=status)


def _read(response: httpx.Response, url: str, place: str) -> FoundCard:
    try:
        told: Any = response.json()
    except ValueError as error:
        raise AgentCardResolutionError(f"the Agent Card at {url} is no JSON: {error}") from error
    try:
        card = parse_agent_card(told)
    except (ParseError, ValueError, TypeError, AttributeError) as error:
        raise AgentCardResolutionError(f"the Agent Card at {url} is no valid card: {error}") from error
    asked = {"ETag": "If-None-Match", "Last-Modified": "If-Modified-Since"}
    validators = tuple((name, response.headers[tag]) for tag, name in asked.items() if tag in response.headers)
    return FoundCard(card, url, place, validators, _fresh_until(response, validators))


def _fresh_until(response: httpx.Response, validators: tuple[tuple[str, str], ...]) -> float:
    told = response.headers.get("Cache-Control", "").lower()
    if "no-store" in told or "no-cache" in told:
        return 0.0
    limit = _MAX_AGE.search(told)
    if limit is None:
        return 0.0 if validators else time.monotonic() + _UNTOLD_SECONDS
    age = response.headers.get("Age", "")
    return time.monotonic() + int(limit[1]) - (int(age) if age.isdigit() else 0)
