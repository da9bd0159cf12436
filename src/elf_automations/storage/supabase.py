"""A Supabase project over HTTPS: PostgREST's calls and what their failures mean.

Source of the mapping from SQLSTATE to HTTP status: PostgREST documentation, Errors. Requests go uncompressed:
PostgREST parses the body as it comes and knows no Content-Encoding (its sources, ApiRequest/Payload; gzip support was
removed in pull request 1854), and the gateways before it compress answers only. Answers may come compressed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NoReturn

import httpx
import orjson

from elf_automations.errors import SchemaMissingError, StorageRefusedError, StorageUnavailableError
from elf_automations.storage.columns import json_bytes
from elf_automations.storage.sqlstate import SETUP_HINT

_TIMEOUT: Final = httpx.Timeout(30.0, connect=10.0)
_RETRYABLE_STATUS: Final = frozenset({429, 502, 503, 504})
_RETRYABLE_STATES: Final = frozenset({"40001", "40P01", "57014", "57P01", "57P02", "57P03"})
_SCHEMA_MISSING: Final = frozenset({"PGRST202", "PGRST205", "42P01", "42883", "42703"})
_NOT_ALLOWED: Final = frozenset({401, 403})
_NO_GRANT: Final = "42501"
_TOO_LARGE: Final = 413
_JWT_PARTS: Final = 3


class StorageThrottledError(StorageUnavailableError):
    """The server asks to wait `retry_after` seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class SupabaseRpc:
    """Calls SQL functions and reads tables of one project; `url` is the project's, `key` any kind of its keys."""

    def __init__(self, url: str, key: str) -> None:
        self._place = url.rstrip("/")
        headers = {"apikey": key, "User-Agent": "elf-telemetry", "Content-Type": "application/json"}
        # New keys (sb_publishable_…, sb_secret_…) are no tokens: as a Bearer they are refused.
        if key.count(".") == _JWT_PARTS - 1 and key.startswith("ey"):
            headers["Authorization"] = f"Bearer {key}"
        self._client = httpx.Client(base_url=f"{self._place}/rest/v1/", headers=headers, timeout=_TIMEOUT)

    def call(self, function: str, arguments: Mapping[str, Any]) -> Any:
        """Call a SQL function with named `arguments` and return its answer as JSON values.

        Raises StorageUnavailableError when trying again may help, SchemaMissingError when there is no such
        function, StorageRefusedError for everything else.
        """
        return self._send("POST", f"rpc/{function}", content=json_bytes(arguments))

    def select(self, table: str, parameters: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
        """Read rows of a table or view; `parameters` are PostgREST's filters (`{"id": "eq.5", "limit": "1"}`).

        Same errors as `call`.
        """
        answer: list[dict[str, Any]] = self._send("GET", table, params=dict(parameters or {}))
        return answer

    def close(self) -> None:
        """Close the connections; a closed client cannot be used again."""
        self._client.close()

    def _send(self, method: str, path: str, **request: Any) -> Any:
        try:
            response = self._client.request(method, path, **request)
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            message = f"cannot reach Supabase at {self._place}: {reason}; check SUPABASE_URL and the network"
            raise StorageUnavailableError(message) from error
        if not response.is_success:
            self._fail(response, path)
        if not response.content:
            return None
        try:
            return orjson.loads(response.content)
        except orjson.JSONDecodeError as error:
            message = f"{self._place} answered something that is not JSON; is SUPABASE_URL the project's URL?"
            raise StorageRefusedError(message) from error

    def _fail(self, response: httpx.Response, path: str) -> NoReturn:
        code, text = _problem(response)
        status = response.status_code
        said = f"{status}{f' {code}' if code else ''}{f': {text}' if text else ''}"
        if status in _RETRYABLE_STATUS or (status >= httpx.codes.INTERNAL_SERVER_ERROR and code in _RETRYABLE_STATES):
            message = f"Supabase at {self._place} cannot take data now ({said}); trying again"
            wait = _seconds(response.headers.get("Retry-After"))
            raise StorageThrottledError(message, wait) if wait else StorageUnavailableError(message)
        if code in _SCHEMA_MISSING:
            message = f"Supabase at {self._place} has no {path.removeprefix('rpc/')} ({said}); {SETUP_HINT}"
            raise SchemaMissingError(message)
        if code == _NO_GRANT:
            mend = (
                "the key is valid, the grants of its role do not reach this: use SUPABASE_SERVICE_KEY or "
                f"SUPABASE_SECRET_KEY, or, if grants are missing, {SETUP_HINT}"
            )
        elif status in _NOT_ALLOWED:
            mend = "check SUPABASE_SERVICE_KEY, SUPABASE_SECRET_KEY or SUPABASE_ANON_KEY: is it a key of this project?"
        elif status == _TOO_LARGE:
            mend = "make batches smaller"
        else:
            mend = f"is its schema current? {SETUP_HINT}"
        message = f"Supabase at {self._place} refuses {path} ({said}); {mend}"
        raise StorageRefusedError(message)


def _problem(response: httpx.Response) -> tuple[str, str]:
    """Return PostgREST's error code and message; empty for answers of a proxy or gateway before it."""
    try:
        body: Any = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        return "", response.reason_phrase
    if not isinstance(body, dict):
        return "", response.reason_phrase
    found: dict[str, Any] = body  # pyright: ignore[reportUnknownVariableType]
    text = str(found.get("message") or "").partition("\n")[0][:300]
    return str(found.get("code") or ""), text or response.reason_phrase


def _seconds(value: str | None) -> float:
    """Return a Retry-After given in seconds, 0 for none or a date."""
    return min(float(value), 300.0) if value and value.isdigit() else 0.0
