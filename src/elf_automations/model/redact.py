"""Make text fit to store: secrets out first, then bounds, then the characters Postgres refuses.

The order matters (reliability sheet, section 5): a secret cut by a length limit must not survive as a
prefix, so redaction comes before truncation. Every pattern is linear in the length of its input.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Final, cast

from elf_automations.model.records import AttributeValue

REDACTED: Final = "[REDACTED]"

_MAX_DEPTH, _MAX_ITEMS, _MAX_KEY, _MAX_VALUE, _MAX_SCAN = 8, 128, 128, 2000, 65_536
_SURROGATES = re.compile("[\ud800-\udfff]")
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[^-]*(?:-----END [A-Z ]{0,30}PRIVATE KEY-----)?"), REDACTED),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}"), rf"\1 {REDACTED}"),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"), REDACTED),
    (re.compile(r"\b(?:sk|pk|rk|xox[abprs]|gh[opsu]|sb_secret|sb_publishable)[-_][A-Za-z0-9_-]{8,}"), REDACTED),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), REDACTED),
    (re.compile(r"(?<=://)[^\s/@:]{1,256}:[^\s/@]{1,256}(?=@)"), f"{REDACTED}:{REDACTED}"),
    (
        re.compile(
            r"(?i)([?&](?:sig|signature|token|key|api_key|apikey|access_token|password|secret|"
            r"x-amz-signature|x-amz-credential|x-amz-security-token|awsaccesskeyid|x-goog-signature)=)[^&\s\"']+"
        ),
        rf"\1{REDACTED}",
    ),
    (
        re.compile(
            r"(?i)\b(password|passwd|pwd|secret|api[_-]?key|access[_-]?token|auth[_-]?token)"
            r"([\"']?\s{0,4}[=:]\s{0,4}[\"']?)[^\s\"',;&}]{3,}"
        ),
        rf"\1\2{REDACTED}",
    ),
    # Pydantic's validation errors quote the arguments of a call; MCP servers answer with them.
    (re.compile(r"\binput_value=.{0,200}?(?=, input_type=)"), f"input_value={REDACTED}"),
)


# What each pattern above cannot do without: most texts hold none of it, and one search says so.
_SUSPICIOUS: Final = re.compile(
    r"-----BEGIN|bearer|basic|eyj|(?:sk|pk|rk|xox[abprs]|gh[opsu])[-_]|sb_|akia|asia|://|[?&]"
    r"|passw|pwd|secret|key|token|input_value=",
    re.IGNORECASE,
)


# No pattern matches fewer characters than `?key=x` has.
_SHORTEST_SECRET: Final = 6
_SHORT, _MOST = 128, 4096
# Short texts that were found to hold no secret, at most `_MOST`: telemetry says the same few all day.
_harmless: set[str] = set()


def redact(text: str) -> str:
    """Return `text` with credentials replaced by `[REDACTED]`; text beyond 64 KiB is not scanned but dropped."""
    if len(text) < _SHORTEST_SECRET or text in _harmless:
        return text
    text = text[:_MAX_SCAN]
    if not _SUSPICIOUS.search(text):
        if len(text) <= _SHORT:
            if len(_harmless) >= _MOST:
                _harmless.clear()
            _harmless.add(text)
        return text
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def bounded(text: str, limit: int) -> str:
    """Return `text` without NUL and lone surrogates (each becomes U+FFFD) and at most `limit` characters long."""
    if text.isascii():
        if len(text) <= limit and "\x00" not in text:
            return text
        return text[:limit].replace("\x00", "\ufffd")
    return _SURROGATES.sub("\ufffd", text[:limit].replace("\x00", "\ufffd"))


def safe_text(text: str, limit: int) -> str:
    """Return prose fit to store: redacted, then bounded to `limit` characters."""
    return bounded(redact(text), limit)


def bounded_metadata(metadata: Mapping[str, AttributeValue]) -> dict[str, AttributeValue]:
    """Return metadata fit for jsonb: at most 8 levels, 128 items a level, 2,000 characters a string."""
    items = metadata.items() if len(metadata) <= _MAX_ITEMS else list(metadata.items())[:_MAX_ITEMS]
    return {bounded(str(key), _MAX_KEY): _bounded_value(value, 1) for key, value in items if value is not None}


def _bounded_value(value: object, depth: int) -> AttributeValue:  # noqa: PLR0911  (one answer a type)
    if isinstance(value, str):
        return safe_text(value, _MAX_VALUE)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)[:40]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if depth >= _MAX_DEPTH:
        return "[too deep]"
    if isinstance(value, Mapping):
        return {
            bounded(str(key), _MAX_KEY): _bounded_value(item, depth + 1)
            for key, item in list(cast("Mapping[object, object]", value).items())[:_MAX_ITEMS]
        }
    if isinstance(value, bytes):
        return value[:_MAX_VALUE].hex()
    if isinstance(value, Sequence):
        return [_bounded_value(item, depth + 1) for item in list(cast("Sequence[object]", value))[:_MAX_ITEMS]]
    return safe_text(repr(value), _MAX_VALUE)
