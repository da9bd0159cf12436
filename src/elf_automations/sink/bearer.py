"""The bearer token of the sink, compared in constant time."""

from __future__ import annotations

import hmac


class Token:
    """What a client must send as `Authorization: Bearer …`; None lets everybody in."""

    def __init__(self, secret: str | None) -> None:
        self._expected = f"Bearer {secret}".encode() if secret else None

    def admits(self, authorization: str | None) -> bool:
        """Say whether a request with this Authorization header may write."""
        if self._expected is None:
            return True
        scheme, _, said = (authorization or "").partition(" ")
        given = f"Bearer {said.strip()}" if scheme.lower() == "bearer" else ""
        return hmac.compare_digest(given.encode(errors="replace"), self._expected)
