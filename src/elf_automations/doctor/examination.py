"""All checks, in the order in which things fail."""

from __future__ import annotations

import os

from elf_automations.doctor.checks import Check
from elf_automations.doctor.https import examine_project
from elf_automations.doctor.postgres import examine_database
from elf_automations.doctor.process import n8n_name, recording, sdks, settings
from elf_automations.errors import ConfigurationError
from elf_automations.storage.connection import shown
from elf_automations.storage.target import SUPABASE_URL_SETTING, PostgresTarget, Target, choose_target


def examine(database_url: str | None = None) -> list[Check]:
    """Return every check of this process and its database; raises nothing for what is wrong with them.

    Changes nothing that counts: the span it sends is stored as a row with `counted = false`, which no view, rollup or
    alert reads, and is removed again where the user may (over HTTPS it stays until retention drops it).
    `database_url` comes before the environment's.
    """
    checks = settings()
    sends = recording()
    target, chosen = _target(database_url)
    checks.append(chosen)
    if isinstance(target, PostgresTarget):
        checks += examine_database(target, write=sends)
    elif target is not None:
        checks += examine_project(target, write=sends)
    return [*checks, *sdks(), n8n_name()]


def _target(database_url: str | None) -> tuple[Target | None, Check]:
    try:
        target = choose_target(database_url)
    except ConfigurationError as error:
        return None, Check("target", "misconfigured", str(error))
    if target is None:
        mend = "set ELF_DATABASE_URL, or SUPABASE_URL and a key; `elf-telemetry db start` gives you one to try"
        return None, Check("target", "misconfigured", "no database is configured: nothing is recorded", mend)
    if not isinstance(target, PostgresTarget):
        return target, Check("target", "ok", f"{target.url}, from {target.origin}")
    chosen = f"{shown(target.url)}, from {target.origin}"
    if target.origin == "DATABASE_URL" and os.environ.get(SUPABASE_URL_SETTING):
        return target, Check("target", "note", f"{chosen}, which comes before {SUPABASE_URL_SETTING}")
    return target, Check("target", "ok", chosen)
