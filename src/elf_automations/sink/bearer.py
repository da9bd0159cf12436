"""The bearer token of the sink, compared in constant time."""

from __future__ import annotations

import hmac


class Token:
    """What a client must send as `Authorization: Bearer …`; None lets everybody in.

    A secret of several tokens with blanks between them, which no token can contain (RFC 6750), takes each of them: so
    clients can change from one to the next while both hold.
    """

    def __init__(self, secret: str | None) -> None:
        self._open = not secret
        self._expected = [f"Bearer {token}".encode() for token in (secret or "").split()]

    def admits(self, authorization: str | None) -> bool:
        """Say whether a request with this Authorization header may write."""
        if self._open:
            return True
        scheme, _, said = (authorization or "").partition(" ")
        given = (f"Bearer {said.strip()}" if scheme.lower() == "bearer" else "").encode(errors="replace")
        return any(hmac.compare_digest(given, expected) for expected in self._expected)
