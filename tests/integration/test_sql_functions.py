"""The SQL functions as clients call them: safe with many at once, exact when repeated, nothing lost with a bad row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import Any, cast

import psycopg
import pytest
from psycopg.types.json import Jsonb

_TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as opened:
        yield opened


def _all(connection: psycopg.Connection[Any], query: str, *parameters: object) -> list[tuple[Any, ...]]:
    return connection.execute(query.encode(), parameters or None).fetchall()


def _one(connection: psycopg.Connection[Any], query: str, *parameters: object) -> Any:
    [[value]] = _all(connection, query, *parameters)
    return value


def _together(url: str, workers: int, work: Callable[[psycopg.Connection[Any], int], object]) -> list[object]:
    """Run `work` on as many connections as workers, all let go at the same moment."""
    start = Barrier(workers)

    def run(number: int) -> object:
        with psycopg.connect(url, autocommit=True) as connection:
            start.wait(timeout=60)
            return work(connection, number)

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(run, range(workers)))


# --- registry ---------------------------------------------------------------------------------------------------------


def test_registration_race_gives_one_entity(database_url: str, connection: psycopg.Connection[Any]) -> None:
    """Fifty replicas of one service start at once."""
    ids = _together(
        database_url,
        50,
        lambda mine, _: _one(mine, "select register_entity('svc', 'service', 'Service', 'factory')"),
    )
    assert len(set(ids)) == 1
    assert _all(connection, "select id from unified_registry") == [(ids[0],)]
    assert _all(connection, "select action, count(*) from registration_audit group by action order by action") == [
        ("registered", 1),
        ("updated", 49),
    ]


def test_registering_again_changes_what_is_given_and_keeps_the_rest(connection: psycopg.Connection[Any]) -> None:
    first = _one(
        connection,
        "select register_entity('crm', 'mcp_server', 'CRM', 'factory', %s, array['read'], 'http://crm', 'sales', "
        "'Customer data', 'mcp factory', 'prod', 'k8s', array['core'], '1.0', 'front')",
        Jsonb({"a": 1, "b": 1}),
    )
    again = _one(
        connection,
        "select register_entity(p_entity_id => 'crm', p_entity_type => 'mcp_server', p_entity_name => 'CRM 2', "
        "p_registered_by => 'hand', p_metadata => %s, p_version => '1.1')",
        Jsonb({"b": 2}),
    )
    assert again == first
    assert _all(
        connection,
        "select entity_name, registered_by, metadata, capabilities, endpoint_url, parent_entity_id, display_name, "
        "registration_source, namespace, deployment_type, tags, version, department, current_state "
        "from unified_registry",
    ) == [
        (
            *("CRM 2", "hand", {"a": 1, "b": 2}, ["read"], "http://crm", "sales", "Customer data"),
            *("mcp factory", "prod", "k8s", ["core"], "1.1", "front", "registered"),
        )
    ]


def test_telemetry_does_not_rewrite_what_a_factory_registered(connection: psycopg.Connection[Any]) -> None:
    registered = _one(connection, "select register_entity('sales', 'team', 'Sales', 'team factory')")
    assert _one(connection, "select register_entity('sales', 'team', 'evil', 'telemetry')") == registered
    assert _all(connection, "select entity_name, registered_by from unified_registry") == [("Sales", "team factory")]


@pytest.mark.parametrize("kind", ["database", ""])
def test_unknown_entity_type_is_refused(connection: psycopg.Connection[Any], kind: str) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match="unified_registry_type_known"):
        _one(connection, "select register_entity('x', %s, 'X', 'hand')", kind)


def test_state_changes_leave_one_line_each(connection: psycopg.Connection[Any]) -> None:
    """A heartbeat that repeats the same state every minute must not fill the history."""
    update = "select update_entity_state('wf', 'n8n_workflow', %s, %s, 'n8n', %s)"
    assert _one(connection, update, "active", "healthy", None) is False
    _one(connection, "select register_entity('wf', 'n8n_workflow', 'Flow', 'webhook')")
    for state, health, reason in (
        ("active", None, "published"),
        ("active", "healthy", None),
        ("active", "healthy", "heartbeat"),
        ("inactive", None, "unpublished"),
    ):
        assert _one(connection, update, state, health, reason) is True
    assert _all(
        connection,
        "select from_state, to_state, from_health, health_status, transitioned_by, transition_reason "
        "from registry_state_transitions order by id",
    ) == [
        ("registered", "active", "unknown", "unknown", "n8n", "published"),
        ("active", "active", "unknown", "healthy", "n8n", None),
        ("active", "inactive", "healthy", "healthy", "n8n", "unpublished"),
    ]
    assert _one(
        connection, "select last_health_check is not null and health_since > registered_at from unified_registry"
    )


def test_activity_is_counted_for_known_entities_only(connection: psycopg.Connection[Any]) -> None:
    _one(connection, "select register_entity('a', 'team', 'A', 'hand')")
    assert _one(connection, "select record_entity_activity('a', 'team')") is True
    assert _one(connection, "select record_entity_activity('a', 'team', p_is_error => true)") is True
    assert _one(connection, "select record_entity_activity('a', 'service')") is False
    assert _all(connection, "select entity_id, activity_count, error_count from unified_registry") == [("a", 2, 1)]


def test_observed_entities_create_complete_and_count(connection: psycopg.Connection[Any]) -> None:
    """What telemetry saw fills gaps of a hand-made entry, describes its own, and a mere sighting makes none."""
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    _one(connection, "select register_entity('crm', 'mcp_server', 'CRM', 'factory', p_version => '1')")
    batch = [
        {
            "entity_id": "crm",
            "entity_type": "mcp_server",
            "entity_name": "x",
            "version": "2",
            "endpoint_url": "http://crm",
        },
        {
            "entity_id": "new",
            "entity_type": "team",
            "entity_name": "New",
            "capabilities": ["sell"],
            "metadata": {"k": 1},
        },
        {
            "entity_id": "crm",
            "entity_type": "mcp_server",
            "observed": False,
            "calls": 3,
            "errors": 1,
            "last_activity": at,
        },
        {"entity_id": "new", "entity_type": "team", "observed": False, "calls": 2, "last_activity": at},
        {"entity_id": "ghost", "entity_type": "team", "observed": False, "calls": 1, "last_activity": at},
        {"entity_id": "odd", "entity_type": "external"},
        {"entity_id": "", "entity_type": "team"},
        {"entity_id": "n" * 300, "entity_type": "service", "observed": True},
    ]
    documents = Jsonb([{**entity, "last_activity": str(entity.get("last_activity", "")) or None} for entity in batch])
    assert _one(connection, "select record_observed_entities(%s)", documents) == 3
    late = [
        {"entity_id": "new", "entity_type": "team", "entity_name": "New 2", "last_activity": "2026-01-01T00:00:00Z"}
    ]
    assert _one(connection, "select record_observed_entities(%s)", Jsonb(late)) == 1
    assert _all(
        connection,
        "select entity_id, entity_name, registered_by, current_state, version, endpoint_url, capabilities, metadata, "
        "activity_count, error_count, last_activity from unified_registry order by entity_id",
    ) == [
        ("crm", "CRM", "factory", "registered", "1", "http://crm", [], {}, 3, 1, at),
        ("new", "New 2", "telemetry", "active", None, None, ["sell"], {"k": 1}, 2, 0, at),
        ("n" * 255, "n" * 255, "telemetry", "active", None, None, [], {}, 0, 0, None),
    ]
    assert _all(connection, "select entity_id, action, action_by from registration_audit order by id") == [
        ("crm", "registered", "factory"),
        ("n" * 255, "registered", "telemetry"),
        ("new", "registered", "telemetry"),
    ]


def test_clock_ahead_does_not_keep_an_entity_alive(connection: psycopg.Connection[Any]) -> None:
    ahead = (datetime.now(UTC) + timedelta(days=3650)).isoformat()
    entity = {"entity_id": "a", "entity_type": "team", "calls": 1, "last_activity": ahead}
    _one(connection, "select record_observed_entities(%s)", Jsonb([entity]))
    assert _one(connection, "select last_activity <= now() from unified_registry")


def test_writers_with_the_same_entities_in_opposite_order_do_not_deadlock(
    database_url: str, connection: psycopg.Connection[Any]
) -> None:
    """A per-row trigger deadlocked here; sorted batches must not, and no count may be lost."""
    names = [f"team-{number:02}" for number in range(40)]

    def work(mine: psycopg.Connection[Any], number: int) -> None:
        order = names if number % 2 else names[::-1]
        batch = [{"entity_id": name, "entity_type": "team", "calls": 1} for name in order]
        for _ in range(10):
            _one(mine, "select record_observed_entities(%s)", Jsonb(batch))

    _together(database_url, 4, work)
    assert _all(connection, "select distinct activity_count from unified_registry") == [(40,)]
    assert _one(connection, "select count(*) from registration_audit where action = 'registered'") == len(names)


# --- rows -------------------------------------------------------------------------------------------------------------


def _row(span: str, **columns: object) -> dict[str, object]:
    return {
        "timestamp": columns.pop("timestamp", datetime.now(UTC).isoformat()),
        "protocol": "mcp",
        "source_id": "sales",
        "source_type": "team",
        "target_id": "crm",
        "target_type": "mcp",
        "operation": "tool_call",
        "status": "success",
        "tool_name": "find",
        "trace_id": _TRACE,
        "span_id": span * 16,
        "observed_by": "client",
        **columns,
    }


def _ingest(connection: psycopg.Connection[Any], *rows: object) -> dict[str, Any]:
    answer = _one(connection, "select ingest_communication_telemetry(p_batch => %s)", Jsonb(list(rows)))
    return cast("dict[str, Any]", answer)


def test_a_bad_element_is_refused_alone(connection: psycopg.Connection[Any]) -> None:
    answer = _ingest(
        connection,
        _row("1"),
        _row("2", protocol="smtp"),
        _row("3", target_id=None),
        "no row at all",
        _row("4", duration_ms="soon"),
        _row("5", duration_ms=-1),
        _row("6", tokens_used=2**63),
        _row("7", duration_ms=1.5, estimated_cost="0.000125", capabilities_required=["a"], extra="kept"),
    )
    assert (answer["stored"], answer["duplicate"]) == (2, 0)
    assert [refusal["index"] for refusal in answer["rejected"]] == [1, 2, 3, 4, 5, 6]
    assert "communication_telemetry_protocol_known" in answer["rejected"][0]["reason"]
    assert 'null value in column "target_id"' in answer["rejected"][1]["reason"]
    assert _all(
        connection,
        "select id::text, duration_ms, estimated_cost::text, capabilities_required, metadata, counted "
        "from communication_telemetry order by span_id",
    ) == [
        ("8448eb21-1c80-319c-1111-111111111111", None, None, None, {}, True),
        ("8448eb21-1c80-319c-7777-777777777777", 1.5, "0.000125", ["a"], {"extra": "kept"}, True),
    ]


def test_delivered_again_is_a_duplicate(connection: psycopg.Connection[Any]) -> None:
    batch = [_row("1"), _row("2"), _row("2")]
    batch[2] = batch[1]
    assert _ingest(connection, *batch) == {"stored": 2, "duplicate": 1, "rejected": []}
    assert _ingest(connection, *batch, _row("3")) == {"stored": 1, "duplicate": 3, "rejected": []}
    assert _one(connection, "select count(*) from communication_telemetry") == 3


@pytest.mark.parametrize(("setting", "limit"), [("ingest_max_rows", 1), ("ingest_max_bytes", 100)])
def test_oversized_batch_is_refused_whole(connection: psycopg.Connection[Any], setting: str, limit: int) -> None:
    connection.execute("update telemetry_settings set value = %s where name = %s", [limit, setting])
    with pytest.raises(psycopg.errors.ProgramLimitExceeded, match="too large"):
        _ingest(connection, _row("1"), _row("2"))
    assert _one(connection, "select count(*) from communication_telemetry") == 0


@pytest.mark.parametrize("batch", [{"a": 1}, "text", None])
def test_what_is_no_array_is_refused(connection: psycopg.Connection[Any], batch: object) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="p_batch must be a JSON array"):
        _one(connection, "select ingest_communication_telemetry(%s)", Jsonb(batch))


def test_calls_recorded_in_sql(connection: psycopg.Connection[Any]) -> None:
    """The three recording functions write a full row and count for both ends."""
    for entity, kind in (("sales", "team"), ("support", "team"), ("crm", "mcp_server")):
        _one(connection, "select register_entity(%s, %s, 'x', 'hand')", entity, kind)
    made = _one(
        connection,
        "select record_telemetry('n8n', 'wf_1', 'workflow', 'mail', 'external', 'workflow_step', 'timeout', 12.5, %s)",
        Jsonb({"k": 1}),
    )
    _one(connection, "select record_a2a_telemetry('sales', 'support', 'Help', 'success', 7, 'order-1')")
    _one(connection, "select record_mcp_telemetry('sales', 'crm', 'find', 'error', 9, 42, 'order-1')")
    assert _one(connection, "select id from communication_telemetry where protocol = 'n8n'") == made
    assert _all(
        connection,
        "select protocol, source_id, source_type, target_id, target_type, operation, status, duration_ms, tool_name, "
        "task_description, message_type, tokens_used, correlation_id, metadata, observed_by, counted "
        "from communication_telemetry order by protocol",
    ) == [
        (
            *("a2a", "sales", "team", "support", "team", "send_task", "success", 7.0),
            *(None, "Help", "task_request", None, "order-1", {}, "manual", True),
        ),
        (
            *("mcp", "sales", "team", "crm", "mcp", "tool_call", "error", 9.0),
            *("find", None, None, 42, "order-1", {}, "manual", True),
        ),
        (
            *("n8n", "wf_1", "workflow", "mail", "external", "workflow_step", "timeout", 12.5),
            *(None, None, None, None, None, {"k": 1}, "manual", True),
        ),
    ]
    assert _all(
        connection, "select entity_id, activity_count, error_count from unified_registry order by entity_id"
    ) == [("crm", 1, 1), ("sales", 2, 1), ("support", 1, 0)]


def test_sides_that_arrive_apart_are_settled_once(connection: psycopg.Connection[Any]) -> None:
    """Client and server live in two processes: one call counts, with the error only the server saw.

    Spans: 1 agent task (client) > 2 its server > 3 tool call (client) > 4 inner client layer > 5 tool server;
    6 is the tool's server called by nobody we know, 7 its nested client, 8 that call's server.
    """
    task = {"protocol": "a2a", "operation": "send_task", "tool_name": None, "target_type": "team"}
    _ingest(connection, _row("5", parent_span_id="4" * 16, observed_by="server", status="error", error_message="boom"))
    _ingest(connection, _row("2", parent_span_id="1" * 16, observed_by="server", **task))
    _ingest(connection, _row("8", parent_span_id="7" * 16, observed_by="server"))
    assert _one(connection, "select settle_communications()") == 0
    _ingest(
        connection,
        _row("1", **task),
        _row("3", parent_span_id="2" * 16),
        _row("4", parent_span_id="3" * 16),
        _row("6", observed_by="server"),
        _row("7", parent_span_id="6" * 16),
    )
    assert _one(connection, "select settle_communications()") == 5
    settled = [
        ("1", "client", True, "success", None),
        ("2", "server", False, "success", None),
        ("3", "client", True, "error", "boom"),
        ("4", "client", False, "success", None),
        ("5", "server", False, "error", "boom"),
        ("6", "server", True, "success", None),
        ("7", "client", True, "success", None),
        ("8", "server", False, "success", None),
    ]
    query = (
        "select left(span_id, 1), observed_by, counted, status, error_message from communication_telemetry order by 1"
    )
    assert _all(connection, query) == settled
    assert _one(connection, "select settle_communications(now() - interval '1 day')") == 0
    assert _all(connection, query) == settled


def test_settling_corrects_the_activity_of_both_ends(connection: psycopg.Connection[Any]) -> None:
    """Client and server process each reported the call; the registry must say one call, and that it failed."""
    ends = [{"entity_id": "sales", "entity_type": "team"}, {"entity_id": "crm", "entity_type": "mcp_server"}]
    sides = (_row("1"), _row("2", parent_span_id="1" * 16, observed_by="server", status="error"))
    for side in sides:
        _ingest(connection, side)
        errors = 1 if side["status"] == "error" else 0
        batch = [{**end, "calls": 1, "errors": errors} for end in ends]
        _one(connection, "select record_observed_entities(%s)", Jsonb(batch))
    query = "select entity_id, activity_count, error_count from unified_registry order by entity_id"
    assert _all(connection, query) == [("crm", 2, 1), ("sales", 2, 1)]
    for changed in (2, 0):
        assert _one(connection, "select settle_communications()") == changed
        assert _all(connection, query) == [("crm", 1, 1), ("sales", 1, 1)]


def test_settling_leaves_other_calls_alone(connection: psycopg.Connection[Any]) -> None:
    """Another tool, another protocol, a parent that is not here, and a parent cycle."""
    _ingest(
        connection,
        _row("1"),
        _row("2", parent_span_id="1" * 16, observed_by="server", tool_name="other"),
        _row("3", parent_span_id="1" * 16, observed_by="server", protocol="a2a", tool_name=None),
        _row("4", parent_span_id="f" * 16, observed_by="server"),
        _row("5", parent_span_id="6" * 16, observed_by="server", status="error"),
        _row("6", parent_span_id="5" * 16, observed_by="server"),
        _row("7", parent_span_id="1" * 16, observed_by="manual"),
    )
    assert _one(connection, "select settle_communications()") == 0
    assert _one(connection, "select bool_and(counted) from communication_telemetry") is True


# --- partitions and retention -----------------------------------------------------------------------------------------


def test_rows_waiting_in_default_move_into_their_day(connection: psycopg.Connection[Any]) -> None:
    """Nobody ran maintenance for a while: rows of those days wait in DEFAULT and nothing is lost."""
    for days in (-40, -2, 0, 10):
        at = (datetime.now(UTC) + timedelta(days=days)).isoformat()
        assert _ingest(connection, _row("1", timestamp=at))["stored"] == 1
    where = (
        "select (timestamp at time zone 'UTC')::date - (now() at time zone 'UTC')::date, "
        "tableoid::regclass::text = 'communication_telemetry_' || to_char(timestamp at time zone 'UTC', 'YYYYMMDD') "
        "from communication_telemetry order by timestamp"
    )
    assert _all(connection, where) == [(-40, False), (-2, False), (0, True), (10, False)]
    assert _one(connection, "select ensure_telemetry_partitions(10)") == 8
    assert _all(connection, where) == [(-40, False), (-2, True), (0, True), (10, True)]
    assert _one(connection, "select ensure_telemetry_partitions(10)") == 0
    partitions = "relkind = 'r' and relname ~ '^communication_telemetry_[0-9]{8}$'"
    assert _one(connection, f"select bool_and(relrowsecurity) from pg_class where {partitions}")


def test_maintenance_drops_what_is_older_than_the_setting(connection: psycopg.Connection[Any]) -> None:
    for days in (-40, -5, -2, 0):
        _ingest(connection, _row("1", timestamp=(datetime.now(UTC) + timedelta(days=days)).isoformat()))
    assert _one(connection, "select maintain_telemetry()") == {
        "partitions_created": 2,
        "partitions_dropped": 0,
        "rows_settled": 0,
        "alerts_fired": 0,
        "alerts_resolved": 0,
        "alerts_forgotten": 0,
    }
    connection.execute("update telemetry_settings set value = 3 where name = 'retention_days'")
    assert _one(connection, "select maintain_telemetry() ->> 'partitions_dropped'") == "1"
    kept = (
        "select (timestamp at time zone 'UTC')::date - (now() at time zone 'UTC')::date "
        "from communication_telemetry order by 1"
    )
    assert _all(connection, kept) == [(-2,), (0,)]


def test_partitions_can_be_made_while_rows_arrive(database_url: str, connection: psycopg.Connection[Any]) -> None:
    """A writer that had chosen DEFAULT must not be refused by the partition made meanwhile."""
    at = [(datetime.now(UTC) - timedelta(days=days)).isoformat() for days in range(1, 9)]

    def work(mine: psycopg.Connection[Any], number: int) -> None:
        if number == 0:
            for _ in range(10):
                _one(mine, "select ensure_telemetry_partitions()")
            return
        for day in at:
            for step in range(5):
                span = f"{number}{step}" * 8
                assert _ingest(mine, _row("1", timestamp=day, span_id=span))["stored"] == 1

    _together(database_url, 3, work)
    assert _one(connection, "select count(*) from communication_telemetry") == 2 * 5 * len(at)


def test_setting_that_was_deleted_is_named(connection: psycopg.Connection[Any]) -> None:
    connection.execute("delete from telemetry_settings where name = 'retention_days'")
    with pytest.raises(psycopg.errors.RaiseException, match="telemetry_settings has no row 'retention_days'"):
        _one(connection, "select maintain_telemetry()")


def test_refresh_is_harmless(connection: psycopg.Connection[Any]) -> None:
    assert _all(connection, "select refresh_telemetry_metrics()")[0] is not None
