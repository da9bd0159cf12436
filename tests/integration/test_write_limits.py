"""A publishable key that leaked: one call writes so much and no more, and says so in one line."""

from __future__ import annotations

import psycopg
import pytest
from psycopg.types.json import Jsonb

from supabase_roles import Project, acting, asked, rows, value

_BIG = "x" * 300_000
_ROW = {
    "protocol": "mcp", "source_id": "a", "source_type": "team", "target_id": "b", "target_type": "mcp",
    "operation": "tool_call", "status": "success",
}  # fmt: skip
_OVERSIZED: dict[str, tuple[str, list[object]]] = {
    "register: name": ("select register_entity('a', 'team', %s, 'x')", [_BIG]),
    "register: by": ("select register_entity('a', 'team', 'A', %s)", [_BIG]),
    "register: id": ("select register_entity(%s, 'team', 'A', 'x')", ["i" * 256]),
    "register: metadata": ("select register_entity('a', 'team', 'A', 'x', %s)", [Jsonb({"k": _BIG})]),
    "register: tags": ("select register_entity('a', 'team', 'A', 'x', p_tags => %s)", [["t"] * 300_000]),
    "state": ("select update_entity_state('a', 'team', %s)", ["s" * 256]),
    "a2a: source": ("select record_a2a_telemetry(%s, 'b', 't', 'success', 1)", [_BIG]),
    "a2a: correlation": ("select record_a2a_telemetry('a', 'b', 't', 'success', 1, %s)", [_BIG]),
    "mcp: tool": ("select record_mcp_telemetry('a', 'b', %s, 'success', 1)", [_BIG]),
    "record: operation": ("select record_telemetry('mcp', 'a', 'team', 'b', 'mcp', %s, 'success')", [_BIG]),
    "record: metadata": (
        "select record_telemetry('mcp', 'a', 'team', 'b', 'mcp', 'tool_call', 'success', 1, %s)",
        [Jsonb({"k": "x" * 5_000_000})],
    ),
    "ingest: bytes": ("select ingest_communication_telemetry(%s)", [Jsonb([_ROW, {"k": "x" * 17_000_000}])]),
    "ingest: rows": ("select ingest_communication_telemetry(%s)", [Jsonb([{}] * 10_001)]),
    "observed: entities": ("select record_observed_entities(%s)", [Jsonb([{}] * 10_001)]),
    "observed: bytes": ("select record_observed_entities(%s)", [Jsonb([{"k": "x" * 17_000_000}])]),
}


@pytest.mark.parametrize("what", _OVERSIZED)
def test_no_write_takes_more_than_its_limit(hosted: Project, what: str) -> None:
    """One clear line, nothing stored."""
    statement, arguments = _OVERSIZED[what]
    too_much = (psycopg.errors.ProgramLimitExceeded, psycopg.errors.CheckViolation)
    with acting(hosted.url, "anon") as connection, pytest.raises(too_much) as refused:
        rows(connection, statement, *arguments)
    assert "\n" not in str(refused.value.diag.message_primary)
    assert len(str(refused.value.diag.message_primary)) < 300
    for table in ("communication_telemetry", "unified_registry", "registration_audit"):
        assert asked(hosted.owner, f"select count(*) from {table}") == [(0,)]


def test_an_oversized_row_of_a_batch_is_refused_alone(hosted: Project) -> None:
    batch = [_ROW, {**_ROW, "tool_name": _BIG}, {**_ROW, "error_message": "x" * 4000}]
    with acting(hosted.url, "anon") as connection:
        answer = value(connection, "select ingest_communication_telemetry(%s)", Jsonb(batch))
    assert (answer["stored"], [line["index"] for line in answer["rejected"]]) == (2, [1])
    assert "communication_telemetry_texts_bounded" in answer["rejected"][0]["reason"]


def test_what_telemetry_says_of_an_entity_stays_bounded_and_its_calls_count(hosted: Project) -> None:
    with acting(hosted.url, "anon") as connection:
        for number in range(8):
            seen = {
                "entity_id": "a", "entity_type": "team", "entity_name": _BIG, "endpoint_url": _BIG, "version": _BIG,
                "capabilities": ["c" * 1000] * 1000, "metadata": {f"k{number}": "x" * 20_000}, "calls": 1,
            }  # fmt: skip
            value(connection, "select record_observed_entities(%s)", Jsonb([seen]))
    [[size, calls]] = asked(
        hosted.owner,
        "select length(unified_registry::text), activity_count from unified_registry where entity_id = 'a'",
    )
    assert calls == 8
    assert size < 100_000


def test_adding_to_the_metadata_of_an_entity_has_an_end(hosted: Project) -> None:
    grow = "select register_entity('a', 'team', 'A', 'x', %s)"
    with acting(hosted.url, "anon") as connection:
        value(connection, grow, Jsonb({"first": "x" * 40_000}))
        with pytest.raises(psycopg.errors.ProgramLimitExceeded, match="the description of a is too large"):
            value(connection, grow, Jsonb({"second": "x" * 40_000}))
        value(connection, grow, Jsonb({"first": "y"}))
