"""The commands an operator lives with, as processes: top, entities, gaps, maintain, status, alerts."""

from __future__ import annotations

import json
import signal

import pytest

from command import ENTITIES, HEALTHY, UNHEALTHY, answer, eventually, execute, run, running

_CALLS = """
insert into communication_telemetry (
    timestamp, protocol, source_id, source_type, target_id, target_type, operation, duration_ms, status,
    tokens_used, estimated_cost, counted
)
select
    now() - ago::interval, protocol, source_id, 'team', target_id, target_type, 'call', duration_ms, status,
    tokens, cost, counted
from (values
    ('1 minute', 'mcp', 'sales', 'crm', 'mcp', 10, 'success', 5, 0.25, true),
    ('1 minute', 'mcp', 'sales', 'crm', 'mcp', 10, 'success', null, null, false),
    ('2 minutes', 'mcp', 'sales', 'crm', 'mcp', 30, 'timeout', 7, 0.5, true),
    ('3 hours', 'a2a', 'sales', 'support', 'team', 40, 'success', null, null, true),
    ('30 hours', 'mcp', 'sales', 'crm', 'mcp', 50, 'error', 1, 1, true)
) as call (ago, protocol, source_id, target_id, target_type, duration_ms, status, tokens, cost, counted)
"""


def test_top_counts_each_call_once_and_sums_what_it_cost(database_url: str):
    execute(database_url, _CALLS)
    crm = {"source_id": "sales", "target_id": "crm", "protocol": "mcp"}
    day = [
        {**crm, "calls": 2, "errors": 1, "avg_ms": 20.0, "tokens": 12, "cost": 0.75},
        {
            **crm,
            "target_id": "support",
            "protocol": "a2a",
            "calls": 1,
            "errors": 0,
            "avg_ms": 40.0,
            "tokens": 0,
            "cost": 0,
        },
    ]
    assert answer(database_url, "top")["pairs"] == day
    assert answer(database_url, "top", "--since", "1h")["pairs"] == day[:1]
    assert answer(database_url, "top", "--since", "2d", "--limit", "1")["pairs"] == [
        {**crm, "calls": 3, "errors": 2, "avg_ms": 30.0, "tokens": 13, "cost": 1.75}
    ]
    shown = run(database_url, "top").stdout
    assert [line.split() for line in shown.splitlines() if "crm" in line] == [
        ["sales", "crm", "mcp", "2", "1", "20.0", "12", "0.7500"]
    ]


def test_a_time_span_or_a_type_that_is_none_is_one_clear_line(database_url: str):
    for arguments, said in ((("top", "--since", "yesterday"), "30m"), (("entities", "--type", "teams"), "mcp_server")):
        done = run(database_url, *arguments, code=2)
        assert said in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_entities_is_the_guide_s_dashboard_narrowed_when_asked(database_url: str):
    execute(database_url, ENTITIES)

    def names(*arguments: str) -> list[str]:
        return [row["entity_name"] for row in answer(database_url, "entities", *arguments)["entities"]]

    assert names() == ["CRM", "Sales", "Support"]
    assert names("--type", "team") == ["Sales", "Support"]
    assert names("--type", "team", "--state", "active") == ["Sales"]
    assert list(answer(database_url, "entities")["entities"][0]) == [
        "entity_type",
        "entity_name",
        "current_state",
        "health_status",
        "last_activity",
        "seconds_since_activity",
    ]
    assert "3 h ago" in run(database_url, "entities").stdout


def test_gaps_are_a_finding(database_url: str):
    assert answer(database_url, "gaps")["gaps"] == []
    execute(database_url, _CALLS)
    found = answer(database_url, "gaps", code=1)["gaps"]
    assert [(gap["gap_type"], gap["entity_identifier"]) for gap in found] == [
        ("missing_mcp", "crm"),
        ("missing_team", "sales"),
        ("missing_team", "support"),
    ]
    assert "missing_mcp" in run(database_url, "gaps", code=1).stdout


def test_status_shows_the_guide_s_key_metrics(database_url: str):
    execute(database_url, _CALLS, ENTITIES)
    found = answer(database_url, "status")
    assert list(found) == ["database_url", "health", "entities", "alerts", "gaps", "metrics"]
    volume = found["metrics"].pop("request_volume")
    assert [(row["protocol"], row["calls"]) for row in volume] == [("mcp", 1), ("mcp", 1)]
    assert found["metrics"] == {
        "error_rates": [{"protocol": "mcp", "calls": 2, "errors": 1, "error_rate": 50.0}],
        "latency": [{"protocol": "mcp", "p50_ms": 10.0, "p95_ms": 30.0, "p99_ms": 30.0}],
        "entity_health_share": [{"entities": 3, "healthy": 2, "healthy_percent": pytest.approx(200 / 3)}],
    }
    shown = run(database_url, "status").stdout
    assert "2 of 3 entities are healthy (67 %)." in shown
    rows = [line.split() for line in shown.splitlines() if line.strip().startswith("mcp ")]
    assert rows == [
        ["mcp", "2", "0.0", "50.0", "10.0", "30.0", "30.0"],
        ["mcp", "2", "1", "50.0", "10.0", "30.0", "30.0"],
    ]
    execute(database_url, "delete from unified_registry")
    assert "No entities are registered." in run(database_url, "status").stdout


def test_maintain_makes_one_pass_and_says_what_it_did(database_url: str):
    execute(database_url, ENTITIES, UNHEALTHY)
    done = answer(database_url, "maintain")
    assert done["alerts_fired"] >= 1
    assert done["partitions_dropped"] == 0
    assert "nothing to do" in run(database_url, "maintain").stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_maintain_goes_on_until_told_to_end_and_ends_well(database_url: str, number: signal.Signals):
    with running(database_url, "maintain", "--every", "1", "--json") as (process, out, err):
        eventually(lambda: len(out) >= 2)
        process.send_signal(number)
        assert process.wait(20) == 0
    assert all("rows_settled" in json.loads(line) for line in out)
    assert err == []


def test_maintain_waits_out_a_database_without_schema(database_url: str):
    """As while another release is being set up."""
    execute(database_url, "alter function maintain_telemetry() rename to maintain_later")
    assert "elf-telemetry setup" in run(database_url, "maintain", code=2).stderr
    with running(database_url, "maintain", "--every", "1") as (process, out, err):
        eventually(lambda: err)
        execute(database_url, "alter function maintain_later() rename to maintain_telemetry")
        eventually(lambda: out)
        process.terminate()
        assert process.wait(20) == 0


def test_alerts_are_a_finding(database_url: str):
    assert answer(database_url, "alerts")["alerts"] == []
    execute(database_url, ENTITIES, UNHEALTHY)
    (found,) = answer(database_url, "alerts", code=1)["alerts"]
    assert (found["alert"], found["entity_id"], found["threshold"]) == ("unhealthy", "crm", 10)
    assert "unhealthy for 60 minutes" in " ".join(run(database_url, "alerts", code=1).stdout.split())


def test_watch_shows_at_once_what_another_evaluator_finds(direct_url: str):
    """The watch itself would look in ten minutes only."""
    execute(direct_url, ENTITIES)
    with running(direct_url, "alerts", "--watch", "--every", "600") as (process, out, err):
        eventually(lambda: out)
        execute(direct_url, UNHEALTHY, "select evaluate_alerts()")
        eventually(lambda: len(out) >= 2)
        execute(direct_url, HEALTHY, "select evaluate_alerts()")
        eventually(lambda: len(out) >= 3)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    assert out[0] == "no alerts; waiting for changes\n"
    assert "fired     critical  mcp_server crm: unhealthy for 60 minutes" in out[1]
    assert "resolved  critical  mcp_server crm: unhealthy is over after 0 minutes, peak 60.0" in out[2]
    assert err == []


def test_watch_evaluates_itself_and_survives_the_loss_of_its_connections(direct_url: str):
    execute(direct_url, ENTITIES, UNHEALTHY)
    with running(direct_url, "alerts", "--watch", "--every", "1", "--json") as (process, out, err):
        eventually(lambda: out)
        execute(
            direct_url,
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and pid <> pg_backend_pid()",
            HEALTHY,
        )
        eventually(lambda: len(out) >= 2)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    assert [json.loads(line)["type"] for line in out] == ["alert.fired", "alert.resolved"]
    assert [line.strip() for line in err][1:] == ["the database is back"]


def test_behind_a_transaction_pooler_a_watch_says_that_it_looks_now_and_then(pooled_database_url: str):
    """PgBouncer takes LISTEN and drops what it would bring, without an error."""
    execute(pooled_database_url, ENTITIES)
    with running(pooled_database_url, "alerts", "--watch", "--every", "1") as (process, out, err):
        eventually(lambda: out)
        execute(pooled_database_url, UNHEALTHY)
        eventually(lambda: len(out) >= 2)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    assert [line.partition(":")[0] for line in err] == [
        "this connection goes through a transaction pooler, which cannot carry notifications"
    ]
