"""n8n's public REST API, as far as it is polled: workflows and executions, page by page, patiently."""

from __future__ import annotations

import math
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import orjson

from elf_automations.errors import ConfigurationError, ElfTelemetryError
from elf_automations.model.n8n_fields import Json, mapping, mappings, text

_TRIES: Final = 6
_FIRST_WAIT_S: Final = 1.0
_LONGEST_WAIT_S: Final = 120.0
_TIMEOUT: Final = httpx.Timeout(60.0, connect=10.0)
_PATH: Final = "/api/v1"
_BAD_REQUEST, _UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _TOO_MANY, _SERVER_ERROR = 400, 401, 403, 404, 429, 500


class N8NUnavailableError(ElfTelemetryError):
    """n8n cannot answer now; the same call may succeed later."""


class N8NRefusedError(ConfigurationError):
    """n8n refuses the question: the URL, the key or its rights are not what they must be."""


class UnknownQueryError(N8NRefusedError):
    """n8n does not know a parameter of the question: it is older than that, or a cursor is no longer good."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing, and where the next one begins; None after the last."""

    items: tuple[Json, ...]
    next_cursor: str | None


class N8NApi:
    """Asks one n8n: at most `rate` requests a second, and again when it is busy (429, 5xx), as late as it wants.

    Methods raise N8NRefusedError for what a person must mend (wrong URL, wrong key, no API, TLS), N8NUnavailableError
    when trying again did not help, or whatever `pause` raises. An API that answered once is taken to be there.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        rate: float = 5.0,
        pause: Callable[[float], None] = time.sleep,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Take the instance's URL, with or without /api/v1, and an API key; `pause` waits that many seconds."""
        self.url = _base(url)
        self.name = self.url.partition("://")[2]
        self._between, self._pause, self._next = 1 / rate, pause, 0.0
        self._answered = self._spoke = False
        headers = {"X-N8N-API-KEY": _usable(key), "Accept": "application/json"}
        self._client = httpx.Client(headers=headers, timeout=_TIMEOUT, transport=transport)

    def workflows(self) -> Iterator[Json]:
        """Yield every workflow the key may see."""
        cursor: str | None = None
        while True:
            page = self._page("/workflows", {"limit": "100", **({"cursor": cursor} if cursor else {})})
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return

    def executions(
        self, *, cursor: str | None = None, limit: int = 50, data: bool = False, status: str | None = None
    ) -> Page:
        """Return a page of executions, newest first; running ones only when `status` asks for them."""
        asked = {
            "limit": str(limit),
            "includeData": "true" if data else "false",
            **({"status": status} if status else {}),
            **({"cursor": cursor} if cursor else {}),
        }
        return self._page("/executions", asked)

    def execution(self, execution_id: str) -> Json | None:
        """Return one execution with its data, however large; None when it is gone."""
        path = f"/executions/{httpx.URL(path=f'/{execution_id}').raw_path.decode().strip('/')}"
        try:
            found = self._ask(path, {"includeData": "true", "ignoreDataSizeLimit": "true"})
        except UnknownQueryError:
            found = self._ask(path, {"includeData": "true"})
        return mapping(found) if found is not None else None

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def _page(self, path: str, asked: Mapping[str, str]) -> Page:
        answer = self._ask(path, asked)
        said = mapping(answer)
        if answer is None or not isinstance(said.get("data"), list):
            raise self._no_api()
        return Page(tuple(mappings(said["data"])), text(said.get("nextCursor")))

    def _ask(self, path: str, asked: Mapping[str, str]) -> Any:
        """Return the JSON of an answer, None for 404."""
        wait = _FIRST_WAIT_S
        for attempt in range(1, _TRIES + 1):
            self._pace()
            try:
                response = self._client.get(f"{self.url}{_PATH}{path}", params=dict(asked))
            except httpx.HTTPError as error:
                problem, told = self._unreachable(error), None
                if not self._answered:
                    raise problem from None
            else:
                self._answered = True
                try:
                    return self._read(response)
                except N8NUnavailableError as error:
                    problem, told = error, _seconds(response.headers.get("Retry-After"))
            if attempt == _TRIES:
                raise problem
            self._pause(min(told if told is not None else wait, _LONGEST_WAIT_S))
            wait *= 2
        raise AssertionError  # the last attempt returns or raises

    def _pace(self) -> None:
        now = time.monotonic()
        self._pause(max(0.0, self._next - now))
        self._next = max(now, self._next) + self._between

    def _read(self, response: httpx.Response) -> Any:
        status = response.status_code
        if status == _TOO_MANY or status >= _SERVER_ERROR:
            raise N8NUnavailableError(f"n8n at {self.url} is busy (HTTP {status}): try again later")
        try:
            answer: Any = orjson.loads(response.content)
        except orjson.JSONDecodeError:
            raise self._no_api() from None
        if status == _NOT_FOUND:
            return None
        if response.is_success:
            self._spoke = True
            return answer
        said = text(mapping(answer).get("message")) or f"HTTP {status}"
        if status == _UNAUTHORIZED:
            raise N8NRefusedError(
                f"n8n at {self.url} refuses the API key (401 {said}): make one in n8n under Settings, n8n API, "
                "and set ELF_N8N_API_KEY"
            )
        if status == _FORBIDDEN:
            raise N8NRefusedError(
                f"the API key may not read this at {self.url} (403 {said}): it needs the scopes workflow:list, "
                "workflow:read, execution:list and execution:read"
            )
        kind = UnknownQueryError if status == _BAD_REQUEST else N8NRefusedError
        raise kind(f"n8n at {self.url} refuses {response.request.url.path} ({status} {said})")

    def _no_api(self) -> ElfTelemetryError:
        # While it starts n8n answers with pages, by 200 and by 404.
        if self._spoke:
            return N8NUnavailableError(f"n8n at {self.url} does not answer as its API: it may be starting up")
        return N8NRefusedError(
            f"there is no n8n API at {self.url}{_PATH}: is it the instance's own address, as in the browser, and is "
            "its public API on (N8N_PUBLIC_API_DISABLED)? Set ELF_N8N_URL"
        )

    def _unreachable(self, error: httpx.HTTPError) -> ElfTelemetryError:
        if _is_tls(error):
            return N8NRefusedError(
                f"TLS with {self.url} fails: {error}; for a certificate of your own authority set SSL_CERT_FILE"
            )
        if isinstance(error, httpx.UnsupportedProtocol | httpx.TooManyRedirects):
            return self._no_api()
        cause = str(error) or type(error).__name__
        return N8NUnavailableError(f"n8n at {self.url} does not answer ({cause}): is it running, is ELF_N8N_URL right?")


def _base(url: str) -> str:
    given = url.strip().rstrip("/").removesuffix(_PATH)
    try:
        parts = urlsplit(given)
        bare = not (parts.username or parts.password or parts.query)
        usable = bare and parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigurationError("ELF_N8N_URL is not the address of an n8n: write https://n8n.example.com")
    return given


def _usable(key: str) -> str:
    stripped = key.strip()
    if stripped and stripped.isascii() and stripped.isprintable() and " " not in stripped:
        return stripped
    raise ConfigurationError(
        "ELF_N8N_API_KEY is not an API key: it is empty or holds characters no key has; copy it again"
    )


def _seconds(told: str | None) -> float | None:
    """Return what a Retry-After says, a number of seconds or a date."""
    if not told:
        return None
    try:
        seconds = float(told)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(told) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _is_tls(error: BaseException) -> bool:
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLError):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
