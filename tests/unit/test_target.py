"""Where rows go: the order in which settings are asked, and what a person reads when one is wrong."""

from __future__ import annotations

import pytest

from elf_automations.errors import ConfigurationError
from elf_automations.storage.target import PostgresTarget, SupabaseTarget, choose_target

ALL = {
    "ELF_DATABASE_URL": "postgresql://elf@h/1",
    "SUPABASE_DB_URL": "postgres://supa@h/2",
    "DATABASE_URL": "postgresql://app@h/3",
    "SUPABASE_URL": "https://x.supabase.co/",
    "SUPABASE_SERVICE_KEY": "service",
    "SUPABASE_SECRET_KEY": "secret",
    "SUPABASE_ANON_KEY": "anon",
}


def test_settings_are_asked_in_the_documented_order() -> None:
    environ = dict(ALL)
    seen = [choose_target("postgresql://arg@h/0", environ)]
    for name in ALL:
        seen.append(choose_target(None, environ))
        if name == "SUPABASE_URL":
            continue
        environ[name] = "  "
        if name == "SUPABASE_SECRET_KEY":
            seen.append(choose_target(None, environ))
            break
    assert seen == [
        PostgresTarget("postgresql://arg@h/0", "--database-url"),
        PostgresTarget("postgresql://elf@h/1", "ELF_DATABASE_URL"),
        PostgresTarget("postgres://supa@h/2", "SUPABASE_DB_URL"),
        PostgresTarget("postgresql://app@h/3", "DATABASE_URL"),
        SupabaseTarget("https://x.supabase.co", "service", "SUPABASE_URL and SUPABASE_SERVICE_KEY"),
        SupabaseTarget("https://x.supabase.co", "service", "SUPABASE_URL and SUPABASE_SERVICE_KEY"),
        SupabaseTarget("https://x.supabase.co", "secret", "SUPABASE_URL and SUPABASE_SECRET_KEY"),
        SupabaseTarget("https://x.supabase.co", "anon", "SUPABASE_URL and SUPABASE_ANON_KEY"),
    ]
    assert choose_target(None, {}) is None


@pytest.mark.parametrize(
    "url",
    [
        "mysql://u:hunter2@h/db",
        "u:hunter2@h/db",
        "postgresql://u:hunter2@h:port/db",
        "postgresql://u:hunter2@[::1/db",
        "postgresql://u:hunter2@h/db?no_such_option=1",
        "postgresql://u:hunt%zzer2@h/db",
    ],
)
def test_a_malformed_url_names_the_setting_and_the_mend_and_no_password(url: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        choose_target(None, {"ELF_DATABASE_URL": url})
    line = str(raised.value)
    assert line.startswith("ELF_DATABASE_URL is not a Postgres URL: ")
    assert line.endswith("; write postgresql://user:password@host:5432/database")
    assert "\n" not in line
    assert "hunt" not in line


def test_a_project_without_a_key_names_the_keys() -> None:
    with pytest.raises(ConfigurationError, match="SUPABASE_SERVICE_KEY, SUPABASE_SECRET_KEY, SUPABASE_ANON_KEY"):
        choose_target(None, {"SUPABASE_URL": "https://x.supabase.co"})


@pytest.mark.parametrize("changes", [{"SUPABASE_URL": "your-supabase-url"}, {"SUPABASE_ANON_KEY": "se cret\u00e9"}])
def test_a_malformed_project_is_one_line_without_the_key(changes: dict[str, str]) -> None:
    environ = {"SUPABASE_URL": "https://x.supabase.co", "SUPABASE_ANON_KEY": "secret"} | changes
    with pytest.raises(ConfigurationError, match=f"^{next(iter(changes))} is not") as raised:
        choose_target(None, environ)
    assert "se" + "cret" not in str(raised.value)
    assert "se cret" not in str(raised.value)


def test_a_target_shows_no_password() -> None:
    shown = repr(choose_target("postgresql://u:hunter2@h/db", {})) + repr(
        choose_target(None, {"SUPABASE_URL": "https://x.supabase.co", "SUPABASE_ANON_KEY": "hunter2"})
    )
    assert "hunter2" not in shown
