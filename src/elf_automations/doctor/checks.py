"""What one check found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

Verdict: TypeAlias = Literal["ok", "note", "finding", "misconfigured"]


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the doctor: what was looked at, how it is, and, for a finding, the mend.

    A note is worth knowing and nothing to mend, or something that cannot be seen from here.
    """

    name: str
    verdict: Verdict
    says: str
    mend: str | None = None


def exit_code(checks: Iterable[Check]) -> int:
    """Return 2 for a configuration that cannot work, 1 for any other finding, else 0."""
    verdicts = {check.verdict for check in checks}
    return 2 if "misconfigured" in verdicts else int("finding" in verdicts)


def found(name: str, error: Exception | str, before: str = "") -> Check:
    """Return the finding an error of this package is, after the words `before`: its text names cause and mend."""
    cause, _, mend = str(error).rpartition("; ")
    return Check(name, "finding", before + (cause or mend), mend if cause else None)
