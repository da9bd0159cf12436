"""Posting to a webhook as the Standard Webhooks specification says: signed, in order, until it is taken.

Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import httpx

from elf_automations.errors import ConfigurationError

_TIMEOUT: Final = httpx.Timeout(10, connect=5)
_FIRST_WAIT_S: Final = 1.0
_LONGEST_WAIT_S: Final = 60.0
_KEY_BYTES: Final = range(24, 65)
_LATER: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})


@dataclass(frozen=True, slots=True)
class Message:
    """What is posted: `id` stays the same however often it is, so that the receiver can tell a repetition."""

    id: str
    body: bytes


def key_of(secret: str) -> bytes:
    """Return the key of a secret: base64 of 24 to 64 bytes, after an optional `whsec_`.

    Raises ConfigurationError, which does not show it.
    """
    try:
        key = base64.b64decode(secret.strip().removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) not in _KEY_BYTES:
        raise ConfigurationError(
            'the webhook secret is not "whsec_" and base64 of 24 to 64 bytes: '
            'make one with echo "whsec_$(openssl rand -base64 32)"'
        )
    return key


def signed(message: Message, key: bytes, at: int) -> Mapping[str, str]:
    """Return the headers of `message` when it is sent `at` (seconds since 1970)."""
    content = b".".join((message.id.encode(), str(at).encode(), message.body))
    signature = base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()
    return {
        "content-type": "application/json",
        "webhook-id": message.id,
        "webhook-timestamp": str(at),
        "webhook-signature": f"v1,{signature}",
    }


class Webhook:
    """Posts messages one after the other from a thread of its own; one that cannot be delivered yet holds the rest.

    Not taken for now (no answer, 5xx, 408, 425, 429): tried again with growing waits for as long as it takes.
    Refused (other 3xx and 4xx): said once through `complain`, not tried again. Gone (410): nothing more is posted.
    """

    def __init__(self, url: str, key: bytes, complain: Callable[[str], None]) -> None:
        parsed = _checked(url)
        # The path of a webhook is often its password.
        self._place = f"{parsed.scheme}://{parsed.netloc.decode().rpartition('@')[2]}"
        self._url, self._key, self._complain = url, key, complain
        self._said: str | None = None
        self._waiting: deque[Message] = deque()
        self._news = threading.Condition()
        self._closed = threading.Event()
        self._gone = False
        self._thread = threading.Thread(target=self._run, name="elf-webhook", daemon=True)
        self._thread.start()

    def post(self, message: Message) -> None:
        """Post `message` after those before it; returns at once."""
        with self._news:
            if not self._gone:
                self._waiting.append(message)
                self._news.notify_all()

    def close(self, seconds: float) -> int:
        """Give what waits `seconds` to be delivered, then stop; returns how many messages were not."""
        with self._news:
            self._news.wait_for(lambda: not self._waiting, seconds)
            self._closed.set()
            self._news.notify_all()
        self._thread.join(seconds)
        with self._news:
            return len(self._waiting)

    def _run(self) -> None:
        with httpx.Client(timeout=_TIMEOUT) as client:
            failures = 0
            while not self._closed.is_set():
                with self._news:
                    self._news.wait_for(lambda: self._waiting or self._closed.is_set())
                    if not self._waiting or self._closed.is_set():
                        return
                    message = self._waiting[0]
                wait = self._attempt(client, message, failures)
                if wait is None:
                    failures = 0
                    self._done()
                else:
                    failures += 1
                    self._closed.wait(wait)

    def _attempt(self, client: httpx.Client, message: Message, failures: int) -> float | None:
        """Post once; return the seconds to wait before the next try, None when there is none."""
        asked = 0.0
        try:
            answer = client.post(self._url, content=message.body, headers=signed(message, self._key, int(time.time())))
        except httpx.HTTPError as error:
            self._say(f"cannot be reached ({type(error).__name__}); trying again")
        else:
            if answer.is_success:
                self._say(None)
                return None
            if not answer.is_server_error and answer.status_code not in _LATER:
                self._refused(answer.status_code)
                return None
            self._say(f"answers {answer.status_code}; trying again")
            asked = _retry_after(answer)
        wait = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** min(failures, 10)) * random.uniform(0.5, 1)  # noqa: S311
        return max(wait, asked)

    def _refused(self, status: int) -> None:
        if status == HTTPStatus.GONE:
            self._say("is gone (410): nothing more is posted there")
            with self._news:
                self._gone = True
        elif status < HTTPStatus.BAD_REQUEST:
            self._say(f"answers {status}, a redirect: give the URL it leads to; the change was not posted")
        else:
            self._say(f"refuses the change ({status}), it is not tried again: check the URL and the secret")

    def _done(self) -> None:
        with self._news:
            if self._gone:
                self._waiting.clear()
            else:
                self._waiting.popleft()
            self._news.notify_all()

    def _say(self, what: str | None) -> None:
        """Say what became of a post unless it was said last; None is the end of trouble."""
        if what != self._said:
            self._said = what
            self._complain(f"the webhook {self._place} {what or 'takes changes again'}")


def _checked(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL("")
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise ConfigurationError("--webhook takes an http or https URL such as https://example.com/alerts")
    return parsed


def _retry_after(answer: httpx.Response) -> float:
    """Return the seconds the receiver asks for, at most an hour; dates are rare and not read."""
    asked = answer.headers.get("retry-after", "")
    return min(float(asked), 3600.0) if asked.isdecimal() else 0.0
