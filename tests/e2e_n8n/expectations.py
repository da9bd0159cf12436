"""What each scenario must leave in the table, by source of executions, and why sources differ where they do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from workflows import CHILD, ERROR_HANDLER

N8N, SERVICE = "service:n8n", "external:service"


@dataclass(frozen=True, slots=True)
class Row:
    """One counted row; `of` tells the executions of a scenario apart: its own, its retry, a child, an error handler."""

    workflow: str
    status: str
    node: str | None = None
    source: str = N8N
    target: str = SERVICE
    of: str = "first"

    @property
    def operation(self) -> str:
        return "workflow_step" if self.node else "workflow_execution"


def execution(workflow: str, status: str = "success", *, source: str = N8N, of: str = "first") -> Row:
    return Row(workflow, status, None, source, f"workflow:{workflow}", of)


def step(workflow: str, node: str, status: str = "success", *, target: str = SERVICE, of: str = "first") -> Row:
    return Row(workflow, status, node, f"workflow:{workflow}", target, of)


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    path: str
    rows: tuple[Row, ...]
    """From native OTLP."""
    other: Mapping[str, tuple[Row, ...]] = field(default_factory=dict)
    """From another source, where it cannot tell the same."""
    why: str = ""
    excused: frozenset[str] = frozenset()
    """Columns that differ from OTLP's for that reason."""


_PARENT, _TIMEOUT, _STOP, _IMPATIENT, _ASKS = (
    "elfParent0000001", "elfTimeout000001", "elfStop000000001", "elfNodeTimeout01", "elfAsksTeam00001",
)  # fmt: skip
_BILLING, _GOES_ON, _WAIT, _RETRY = "elfFailure000001", "elfGoesOn0000001", "elfWait000000001", "elfRetry00000001"


def _cut_off(workflow: str, status: str) -> dict[str, tuple[Row, ...]]:
    return dict.fromkeys(("events", "api"), (execution(workflow, status),))


def _impatient(status: str) -> tuple[Row, ...]:
    return execution(_IMPATIENT, status), step(_IMPATIENT, "Impatient call", status)


def _asks(target: str) -> tuple[Row, ...]:
    return execution(_ASKS, source="team:ops-team"), step(_ASKS, "Ask proposal team", target=target)


SCENARIOS = (
    Scenario("success", "success", (execution("elfSuccess000001"), step("elfSuccess000001", "Call inventory"))),
    Scenario(
        "failing node, error workflow", "failure",
        (
            execution(_BILLING, "error"), step(_BILLING, "Charge card", "error"),
            execution(ERROR_HANDLER, source=f"workflow:{_BILLING}", of="error"),
            step(ERROR_HANDLER, "Report", of="error"),
        ),
    ),
    Scenario(
        "continue on fail", "goes-on", (execution(_GOES_ON), step(_GOES_ON, "Optional"), step(_GOES_ON, "Go on")),
    ),
    Scenario(
        "sub-workflow", "sub-workflow",
        (
            execution(_PARENT), execution(CHILD, source=f"workflow:{_PARENT}", of="child"),
            step(CHILD, "Price", of="child"),
        ),
    ),
    Scenario("wait and resume", "wait", (execution(_WAIT), step(_WAIT, "Notify"))),
    Scenario(
        "execution timeout", "timeout", (execution(_TIMEOUT, "timeout"), step(_TIMEOUT, "Too slow", "timeout")),
        _cut_off(_TIMEOUT, "timeout"), "n8n keeps nothing of a node that is cut off; only OTLP has its span",
    ),
    Scenario(
        "manual stop", "stop", (execution(_STOP, "cancelled"), step(_STOP, "Endless", "cancelled")),
        _cut_off(_STOP, "cancelled"),
        "n8n keeps nothing of a node that is cut off, only OTLP has its span; only the API has the words of the stop",
        frozenset({"error_message"}),
    ),
    Scenario(
        "node timeout", "node-timeout", _impatient("error"), dict.fromkeys(("events", "api"), _impatient("timeout")),
        "OTLP has no word of a timeout", frozenset({"status", "error_message", "error_code"}),
    ),
    Scenario(
        "retry", "retry",
        (
            execution(_RETRY, "error"), step(_RETRY, "Flaky service", "error"),
            execution(_RETRY, of="retry"), step(_RETRY, "Flaky service", of="retry"),
        ),
    ),
    Scenario(
        "a team's call, an A2A team called", "team", _asks("team:proposal-team"),
        dict.fromkeys(("events", "api"), _asks("external:team")),
        "the called team continues the trace from n8n's own span, which only OTLP has",
        frozenset({"target_type", "target_id"}),
    ),
)  # fmt: skip
