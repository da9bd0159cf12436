"""Alerts as data: the closest rule decides, an alert fires once and ends once, and everybody who listens is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row

from alerts import UNHEALTHY, Db
from elf_automations.storage import migrate as runner
from elf_automations.storage.migrate import migrate
from elf_automations.storage.notifications import ALERTS, Listener
from elf_automations.storage.sql_files import migrations


@pytest.fixture
def db(database_url: str) -> Iterator[Db]:
    """A transaction in which now() stands still."""
    with psycopg.connect(database_url) as connection:
        yield Db(connection)
        connection.rollback()


# Rules


def test_the_guide_s_four_rules_are_there_to_edit(db: Db):
    found = db.rows(
        "select alert, protocol, entity_type, entity_id, threshold, resolve_threshold, for_duration, window_length, "
        "severity, enabled from alert_rules order by alert"
    )
    everywhere, at_once, window = (None, None, None), timedelta(0), timedelta(minutes=5)
    assert found == [
        ("error_rate", *everywhere, 5, 4, at_once, window, "critical", True),
        ("inactive", *everywhere, 60, 60, at_once, window, "warning", True),
        ("latency", *everywhere, 1000, 800, at_once, window, "warning", True),
        ("unhealthy", *everywhere, 10, 10, at_once, window, "critical", True),
    ]


def test_thresholds_people_had_set_move_into_the_rules(empty_database_url: str, monkeypatch: pytest.MonkeyPatch):
    before = tuple(known for known in migrations() if known.name < "0025")
    monkeypatch.setattr(runner, "migrations", lambda: before)
    migrate(empty_database_url)
    with psycopg.connect(empty_database_url) as connection:
        set_to = {"alert_error_rate_percent": 20, "alert_unhealthy_minutes": 2, "alert_window_minutes": 15}
        for name, value in set_to.items():
            connection.execute("update telemetry_settings set value = %s where name = %s", [value, name])
        connection.execute("delete from telemetry_settings where name = 'alert_latency_ms'")
    monkeypatch.undo()
    migrate(empty_database_url)
    with psycopg.connect(empty_database_url) as connection:
        rules = connection.execute("select alert, threshold, window_length from alert_rules order by alert").fetchall()
        left = connection.execute("select name from telemetry_settings where name like 'alert\\_%'").fetchall()
    quarter = timedelta(minutes=15)
    assert rules == [("error_rate", 20, quarter), ("inactive", 60, quarter), ("latency", 1000, quarter), ("unhealthy", 2, quarter)]  # noqa: E501  # fmt: skip
    assert left == [("alert_history_days",)]


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        pytest.param([], {"mcp": 5, "a2a": 5}, id="the general rule"),
        pytest.param([("mcp", 60, True)], {"a2a": 5}, id="a protocol's own threshold"),
        pytest.param([("mcp", 20, True)], {"mcp": 20, "a2a": 5}, id="a protocol's own threshold, passed"),
        pytest.param([("mcp", 1, False)], {"a2a": 5}, id="a protocol's alert switched off"),
        pytest.param([(None, 0, False), ("mcp", 20, True)], {"mcp": 20}, id="all but one switched off"),
    ],
)
def test_the_rule_of_the_protocol_wins(db: Db, rules: list[tuple[str | None, float, bool]], expected: dict[str, float]):
    db.calls(10, errors=5)
    db.calls(10, errors=5, protocol="a2a")
    for protocol, threshold, enabled in rules:
        if protocol is None:
            db.run("update alert_rules set enabled = false where alert = 'error_rate'")
        else:
            db.rule("closer", "error_rate", threshold, protocol=protocol, enabled=enabled)
    assert db.active() == {("error_rate", protocol, None, 50, threshold) for protocol, threshold in expected.items()}


def test_the_rule_of_the_entity_wins_over_that_of_its_type_over_the_general_one(db: Db):
    for entity in ("a", "b", "c"):
        db.run(UNHEALTHY, entity, entity, 100)
    db.run(UNHEALTHY.replace("'mcp_server'", "'team'"), "a", "a", 100)
    db.rule("type", "unhealthy", 30, entity_type="mcp_server")
    db.rule("one", "unhealthy", 40, entity_type="mcp_server", entity_id="a")
    db.rule("muted", "unhealthy", 0, entity_type="mcp_server", entity_id="b", enabled=False)
    found = set(db.rows("select entity_type, entity_id, threshold from active_alerts()"))
    assert found == {("mcp_server", "a", 40), ("mcp_server", "c", 30), ("team", "a", 10)}


def test_error_rate_and_latency_of_an_entity_are_those_of_the_calls_it_takes_part_in(db: Db):
    db.run("update alert_rules set enabled = false")
    db.calls(8, errors=4, ms=100, source="sales", target="crm")
    db.calls(8, errors=0, ms=900, source="sales", target="files")
    db.rule("teams", "error_rate", 20, entity_type="team")
    db.rule("servers", "error_rate", 10, entity_type="mcp_server")
    db.rule("crm may", "error_rate", 60, entity_type="mcp_server", entity_id="crm")
    db.rule("slow servers", "latency", 500, entity_type="mcp_server", protocol="mcp")
    db.rule("of another protocol", "latency", 0, entity_type="mcp_server", protocol="n8n")
    assert db.active() == {("error_rate", None, "sales", 25, 20), ("latency", "mcp", "files", 900, 500)}


def test_the_window_of_a_rule_is_what_it_looks_back(db: Db):
    db.calls(10, errors=0, ago="2 minutes")
    db.calls(10, errors=5, ago="20 minutes")
    assert db.active() == set()
    db.run("update alert_rules set window_length = '30 minutes' where alert = 'error_rate'")
    assert db.active() == {("error_rate", "mcp", None, 25, 5)}
    db.run("update alert_rules set window_length = '1 minute' where alert = 'error_rate'")
    assert db.active() == set()


@pytest.mark.parametrize(
    "change",
    [
        "threshold = 'NaN'",
        "threshold = -1",
        "resolve_threshold = 1001",
        "protocol = 'smtp'",
        "entity_id = 'crm'",
        "window_length = '0'",
        "for_duration = '-1 minute'",
        "severity = 'loud'",
        "name = ''",
        "alert = 'error_rate'",
    ],
)
def test_a_rule_that_cannot_work_is_refused(db: Db, change: str):
    with pytest.raises(psycopg.errors.IntegrityError):
        db.run(f"update alert_rules set {change} where alert = 'latency'")


def test_an_entity_at_rest_is_not_missed(db: Db):
    for state in ("active", "inactive", "stopped", "archived", "deleted"):
        db.run(UNHEALTHY, state, state, 100)
        db.run("update unified_registry set current_state = entity_id, last_activity = now() - interval '2 hours'")
    assert {(alert, entity) for alert, _, entity, _, _ in db.active()} == {
        ("inactive", "active"),
        ("unhealthy", "active"),
    }


# Firing and resolving
_THRESHOLD, _RESOLVE, _FOR = 10, 5, 3

_steps = st.lists(st.tuples(st.sampled_from([0, 5, 6, 10, 11, 20]), st.integers(0, 4)), min_size=1, max_size=10)


class _Machine:
    """What an alert does, in Python: pending above the threshold, firing after a while, resolved below another."""

    def __init__(self, lasting: int) -> None:
        self.lasting = lasting
        self.state, self.age = "quiet", 0

    def step(self, value: int, minutes: int) -> str | None:
        self.age += minutes
        if self.state == "firing":
            if value > _RESOLVE:
                return None
            self.state = "quiet"
            return "resolved"
        if value <= _THRESHOLD:
            self.state = "quiet"
            return None
        if self.state == "quiet":
            self.state, self.age = "pending", 0
        if self.age < self.lasting:
            return None
        self.state = "firing"
        return "fired"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_steps, st.sampled_from([0, _FOR]))
def test_an_alert_waits_fires_holds_and_ends_as_the_machine_says(
    module_database_url: str, steps: list[tuple[int, int]], lasting: int
):
    machine = _Machine(lasting)
    fired = resolved = 0
    with psycopg.connect(module_database_url) as connection:
        db = Db(connection)
        db.run(UNHEALTHY, "crm", "CRM", 0)
        db.run(
            "update alert_rules set threshold = %s, resolve_threshold = %s, for_duration = %s * interval '1 minute' "
            "where alert = 'unhealthy'",
            _THRESHOLD, _RESOLVE, lasting,
        )  # fmt: skip
        for value, minutes in steps:
            # now() stands still: time passes by moving what was written down.
            db.run("update alert_history set pending_at = pending_at - %s * interval '1 minute'", minutes)
            db.run("update unified_registry set health_since = now() - %s * interval '1 minute'", value)
            change = machine.step(value, minutes)
            assert db.changed() == ([] if change is None else [("unhealthy", change, "crm")])
            assert db.changed() == []
            assert [alert for alert, *_ in db.active()] == (["unhealthy"] if machine.state == "firing" else [])
            fired += change == "fired"
            resolved += change == "resolved"
        counts = "select count(*), count(fired_at), count(resolved_at) from alert_history"
        assert db.rows(counts) == [(fired + (machine.state == "pending"), fired, resolved)]
        connection.rollback()


def test_the_history_tells_the_whole_alert(db: Db):
    db.calls(10, errors=1)
    assert db.changed() == [("error_rate", "fired", "mcp")]
    db.calls(10, errors=9)
    assert db.changed() == []
    db.calls(500)
    assert db.changed() == [("error_rate", "resolved", "mcp")]
    (now,) = db.rows("select now()")[0]
    with db.connection.cursor(row_factory=dict_row) as cursor:
        (told,) = cursor.execute("select * from alert_history").fetchall()
    del told["id"]
    assert told == {
        "rule": "Error rate of a protocol",
        "alert": "error_rate",
        "severity": "critical",
        "protocol": "mcp",
        "entity_type": None,
        "entity_id": None,
        "value": 50,
        "peak_value": 50,
        "threshold": 5,
        "since": now - timedelta(minutes=1),
        "pending_at": now,
        "fired_at": now,
        "resolved_at": now,
        "fired_number": 1,
        "resolved_number": 2,
        "message": "mcp: 50.0 % of calls failed in the last 5 minutes (threshold 5 %)",
    }


def test_a_rule_switched_off_or_a_subject_that_is_gone_ends_the_alert(db: Db):
    for entity in ("crm", "files"):
        db.run(UNHEALTHY, entity, entity, 20)
    assert db.changed() == [("unhealthy", "fired", "crm"), ("unhealthy", "fired", "files")]
    db.run("update unified_registry set current_state = 'deleted' where entity_id = 'crm'")
    assert db.changed() == [("unhealthy", "resolved", "crm")]
    db.run("delete from alert_rules where alert = 'unhealthy'")
    assert db.changed() == [("unhealthy", "resolved", "files")]


def test_a_closer_rule_takes_over_an_alert_that_fires(db: Db):
    db.run(UNHEALTHY, "crm", "CRM", 20)
    assert len(db.changed()) == 1
    db.rule("closer", "unhealthy", 15, entity_type="mcp_server", severity="info")
    assert db.changed() == []
    assert db.rows("select rule, severity, threshold from alert_history") == [("closer", "info", 15)]


def test_evaluators_at_the_same_time_fire_once_and_everybody_is_told_once(direct_url: str):
    with psycopg.connect(direct_url, autocommit=True) as connection:
        connection.execute(UNHEALTHY.encode(), ["crm", "CRM", 20])
        connection.execute("listen elf_alerts")
        together = Barrier(6)

        def evaluate(_: int) -> int:
            with psycopg.connect(direct_url, autocommit=True) as other:
                together.wait()
                return len(other.execute("select * from evaluate_alerts()").fetchall())

        with ThreadPoolExecutor(6) as pool:
            assert sorted(pool.map(evaluate, range(6))) == [0, 0, 0, 0, 0, 1]
        assert connection.execute("select count(*) from alert_history").fetchall() == [(1,)]
        told = [json.loads(note.payload) for note in connection.notifies(timeout=0.5)]
    assert [(note["change"], note["alert"], note["entity_id"]) for note in told] == [("fired", "unhealthy", "crm")]


def test_the_longest_names_fit_into_a_notification(db: Db):
    """NOTIFY takes 8000 bytes, and a name may be of any characters."""
    db.run(UNHEALTHY, "\x01" * 255, "x", 20)
    db.run("update alert_rules set name = repeat('\U0001f60a', 100) where alert = 'unhealthy'")
    assert len(db.changed()) == 1


def test_a_listener_hears_the_channel_and_knows_that_it_can(direct_url: str):
    listener = Listener(direct_url, ALERTS)
    try:
        assert listener.direct
        assert not listener.wait(0)
        with psycopg.connect(direct_url, autocommit=True) as other:
            other.execute(UNHEALTHY.encode(), ["crm", "CRM", 20])
            other.execute("select evaluate_alerts()")
        assert listener.wait(10)
    finally:
        listener.close()


# Upkeep


def test_maintenance_evaluates_and_forgets_old_alerts(db: Db):
    db.run(UNHEALTHY, "crm", "CRM", 20)
    (done,) = db.rows("select maintain_telemetry()")[0]
    assert (done["alerts_fired"], done["alerts_resolved"], done["alerts_forgotten"]) == (1, 0, 0)
    db.run("update unified_registry set health_status = 'healthy'")
    (done,) = db.rows("select maintain_telemetry()")[0]
    assert (done["alerts_fired"], done["alerts_resolved"], done["alerts_forgotten"]) == (0, 1, 0)
    db.run("update alert_history set pending_at = %s, fired_at = %s, resolved_at = %s", *[datetime(2020, 1, 1, tzinfo=UTC)] * 3)  # noqa: E501  # fmt: skip
    (done,) = db.rows("select maintain_telemetry()")[0]
    assert done["alerts_forgotten"] == 1
