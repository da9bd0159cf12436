"""Whose entity it is: nobody changes what was registered with more right, by somebody else, or says to be them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from psycopg.types.json import Jsonb

import supabase_roles
from elf_automations.storage import migrate as runner
from elf_automations.storage.migrate import migrate
from elf_automations.storage.sql_files import migrations
from supabase_roles import Project, acting, asked, login_role, value

_REGISTER = "select register_entity('crm', 'mcp_server', %s, 'factory', p_endpoint_url => %s)"
_STATE = "select update_entity_state('crm', 'mcp_server', %s)"


@contextmanager
def _claimant(hosted: Project, who: str) -> Iterator[psycopg.Connection[Any]]:
    if who == "owner":
        with psycopg.connect(hosted.owner, autocommit=True) as connection:
            yield connection
    elif who.startswith("user"):
        with acting(hosted.url, "authenticated", sub=who) as connection:
            yield connection
    else:
        with acting(hosted.url, who) as connection:
            yield connection


_RIGHTS = ["owner", "service_role", "user-1", "user-2", "anon", "telemetry"]
_RANK = {"owner": 3, "service_role": 3, "user-1": 2, "user-2": 2, "anon": 1, "telemetry": 0}


def _claim(hosted: Project, who: str) -> Any:
    if who == "telemetry":
        seen = [{"entity_id": "crm", "entity_type": "mcp_server", "entity_name": who, "endpoint_url": f"http://{who}"}]
        with _claimant(hosted, "anon") as connection:
            return value(connection, "select record_observed_entities(%s)", Jsonb(seen))
    with _claimant(hosted, who) as connection:
        return value(connection, _REGISTER, who, f"http://{who}")


@pytest.mark.parametrize("second", _RIGHTS)
@pytest.mark.parametrize("first", _RIGHTS)
def test_an_entity_is_changed_only_by_as_much_right(hosted: Project, first: str, second: str) -> None:
    """A2A tasks go where endpoint_url says: who could claim a team's id could read its tasks."""
    _claim(hosted, first)
    named = "select id, entity_name, endpoint_url from unified_registry"
    [[row_id, *_]] = before = asked(hosted.owner, named)
    answer = _claim(hosted, second)
    may = _RANK[second] > _RANK[first] or (_RANK[second] == _RANK[first] and {first, second} != {"user-1", "user-2"})
    expected = [(row_id, second, f"http://{second}")] if may else before
    assert asked(hosted.owner, named) == expected
    if second == "telemetry":
        return
    assert answer == row_id
    with _claimant(hosted, second) as connection:
        assert value(connection, _STATE, "archived") is may
        assert value(connection, "select record_entity_heartbeat('crm', 'mcp_server', 'unknown')") is may
        assert may or value(connection, "select deregister_entity('crm', 'mcp_server')") is False
    state = "archived" if may else ("active" if first == "telemetry" else "registered")
    assert asked(hosted.owner, "select current_state from unified_registry") == [(state,)]
    audit = "select count(*) from registration_audit where action = 'refused' and entity_id = 'crm'"
    assert asked(hosted.owner, audit) == [(0 if may else 1,)]


def test_a_sighting_fills_gaps_only_for_who_might_have_registered_them(hosted: Project) -> None:
    seen = [{"entity_id": "crm", "entity_type": "mcp_server", "version": "9", "calls": 1}]
    _claim(hosted, "service_role")
    with _claimant(hosted, "anon") as connection:
        value(connection, "select record_observed_entities(%s)", Jsonb(seen))
    assert asked(hosted.owner, "select version, activity_count from unified_registry") == [(None, 1)]
    with _claimant(hosted, "service_role") as connection:
        value(connection, "select record_observed_entities(%s)", Jsonb(seen))
    assert asked(hosted.owner, "select version, activity_count from unified_registry") == [("9", 2)]


def test_with_one_publishable_key_the_whole_life_of_an_entity_works(hosted: Project) -> None:
    with acting(hosted.url, "anon") as connection:
        value(connection, _REGISTER, "CRM", "http://crm")
        assert value(connection, _STATE, "active") is True
        assert value(connection, "select record_entity_heartbeat('crm', 'mcp_server')") is True
        assert value(connection, "select deregister_entity('crm', 'mcp_server')") is True
    assert asked(
        hosted.owner, "select claimed_as, claim_subject, current_state, health_status from unified_registry"
    ) == [("anon", None, "deleted", "healthy")]


def test_saying_to_be_somebody_gives_no_right(hosted: Project) -> None:
    """Neither a name in the arguments nor claims a session sets for itself."""
    _claim(hosted, "service_role")
    with acting(hosted.url, "anon") as connection:
        value(connection, "select register_entity('crm', 'mcp_server', 'evil', 'service_role')")
        connection.execute("""select set_config('request.jwt.claims', '{"role": "service_role"}', false)""")
        value(connection, "select register_entity('crm', 'mcp_server', 'evil', 'owner')")
        assert value(connection, _STATE, "deleted") is False
    assert asked(hosted.owner, "select entity_name, current_state from unified_registry") == [
        ("service_role", "registered")
    ]


def test_claims_take_right_away_from_a_strong_session(hosted: Project) -> None:
    with psycopg.connect(hosted.owner, autocommit=True) as connection:
        connection.execute("""select set_config('request.jwt.claims', '{"role": "anon"}', false)""")
        value(connection, _REGISTER, "CRM", "http://crm")
    assert asked(hosted.owner, "select claimed_as from unified_registry") == [("anon",)]


def test_refused_claims_do_not_fill_the_audit(hosted: Project) -> None:
    _claim(hosted, "owner")
    with acting(hosted.url, "anon") as connection:
        for _ in range(20):
            value(connection, _REGISTER, "evil", "http://evil")
            value(connection, _STATE, "deleted")
    assert asked(hosted.owner, "select action_by, details from registration_audit where action = 'refused'") == [
        ("factory", {"claimed_as": "anon", "what": "register_entity"})
    ]


def test_two_database_roles_do_not_take_over_from_each_other(hosted: Project) -> None:
    granted = "grant execute on function register_entity, update_entity_state to {}"
    with login_role(hosted, granted) as first, login_role(hosted, granted) as second:
        asked(first, _REGISTER, "first", "http://first")
        with psycopg.connect(second, autocommit=True) as connection:
            claims = json.dumps({"role": "service_role", "sub": f"role:{conninfo_to_dict(first)['user']}"})
            connection.execute("select set_config('request.jwt.claims', %s, false)", [claims])
            value(connection, _REGISTER, "second", "http://second")
            assert value(connection, _STATE, "deleted") is False
        assert asked(first, _STATE, "active") == [(True,)]
    assert asked(hosted.owner, "select entity_name from unified_registry") == [("first",)]


def test_entries_from_before_stay_open_until_claimed(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upgrade must not lock out clients whose key made the entry."""
    with supabase_roles.project(postgres_url, "all") as (url, owner):
        with monkeypatch.context() as older:
            before = tuple(known for known in migrations() if known.name < "0028")
            older.setattr(runner, "migrations", lambda: before)
            migrate(owner)
        asked(owner, _REGISTER, "old", "http://old")
        asked(owner, "select register_entity('seen', 'team', 'Seen', 'telemetry')")
        migrate(owner)
        known = "select entity_id, entity_name, claimed_as from unified_registry order by entity_id"
        assert asked(owner, known) == [("crm", "old", "anon"), ("seen", "Seen", "telemetry")]
        with acting(url, "anon") as connection:
            assert value(connection, _STATE, "active") is True
        asked(owner, _REGISTER, "new", "http://new")
        assert asked(owner, known)[0] == ("crm", "new", "owner")
