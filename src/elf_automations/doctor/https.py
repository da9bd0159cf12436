"""The checks of a Supabase project reached over HTTPS, with whatever its key may."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from elf_automations.doctor import probe
from elf_automations.doctor.checks import Check, found
from elf_automations.doctor.postgres import gaps_check
from elf_automations.errors import ElfTelemetryError, SchemaMissingError, StorageRefusedError
from elf_automations.storage.supabase import SupabaseRpc
from elf_automations.storage.target import SupabaseTarget

_NOBODY: Final = {"p_entity_id": probe.NAME, "p_entity_type": "service"}
# Calls that change nothing: empty batches, and an entity nobody registers.
_CALLS: Final[Mapping[str, Mapping[str, Any]]] = {
    "update_entity_state": {**_NOBODY, "p_new_state": ""},
    "ingest_communications": {"p_batch": []},
    "record_observed_entities": {"p_entities": []},
    "record_entity_heartbeat": _NOBODY,
    "deregister_entity": _NOBODY,
}
_SETUP: Final = "run `elf-telemetry setup` with ELF_DATABASE_URL (on Supabase: Connect, connection string)"


def examine_project(target: SupabaseTarget, *, write: bool) -> list[Check]:
    """Return what is to say of the project at `target`; with `write`, also whether a row arrives."""
    rpc = SupabaseRpc(target.url, target.key)
    try:
        reached = _reached(rpc, target)
        if reached.verdict != "ok":
            return [reached]
        checks = [reached, _functions(rpc)]
        if write and checks[-1].verdict == "ok":
            checks.append(_write(rpc, target))
        return [*checks, _upkeep(rpc), _gaps(rpc)]
    finally:
        rpc.close()


def _reached(rpc: SupabaseRpc, target: SupabaseTarget) -> Check:
    started = time.monotonic()
    try:
        rpc.call("update_entity_state", _CALLS["update_entity_state"])
    except SchemaMissingError:
        pass  # it answered; what is missing is the next check's
    except ElfTelemetryError as error:
        return found("database", error)
    took = (time.monotonic() - started) * 1000
    return Check("database", "ok", f"{target.url} answers over HTTPS in {took:.0f} ms and takes the key")


def _functions(rpc: SupabaseRpc) -> Check:
    missing: list[str] = []
    for function, arguments in _CALLS.items():
        try:
            rpc.call(function, arguments)
        except SchemaMissingError:
            missing.append(function)
        except ElfTelemetryError as error:
            return found("schema", error)
    if missing:
        return Check("schema", "finding", f"the project has no {', '.join(missing)}", _SETUP)
    says = "the functions of this release are there; which migrations are applied shows only a database connection"
    return Check("schema", "ok", says)


def _write(rpc: SupabaseRpc, target: SupabaseTarget) -> Check:
    sent = probe.send(target)
    if sent.problem:
        return found("write", sent.problem, "a span does not arrive: ")
    stored = f"a span was stored in {sent.seconds * 1000:.0f} ms, not counted"
    try:
        rows = rpc.select("communication_telemetry", {"id": f"eq.{sent.id}", "select": "counted"})
    except StorageRefusedError:
        return Check("write", "ok", f"{stored}: the answer says so, this key may not read it back")
    except ElfTelemetryError as error:
        return found("write", error)
    if not rows:
        return Check("write", "ok", f"{stored}: the answer says so, a row policy hides it from this key")
    return Check("write", "ok", f"{stored}, and read back")


def _upkeep(rpc: SupabaseRpc) -> Check:
    try:
        ran = rpc.select("telemetry_upkeep", {"task": "eq.maintain_telemetry", "select": "last_run,last_error"})
    except ElfTelemetryError:
        return Check("upkeep", "note", "this key may not see whether upkeep runs and partitions are ahead")
    if not ran:
        return Check(
            "upkeep", "note", "upkeep never ran, or this key may not see it; run `elf-telemetry maintain` daily"
        )
    if ran[0]["last_error"]:
        return Check("upkeep", "finding", f"upkeep failed: {ran[0]['last_error']}", "run `elf-telemetry maintain`")
    return Check("upkeep", "ok", f"upkeep ran at {ran[0]['last_run']}")


def _gaps(rpc: SupabaseRpc) -> Check:
    try:
        gaps: list[dict[str, Any]] = rpc.call("check_registration_gaps", {})
    except ElfTelemetryError:
        return Check("registry", "note", "this key may not ask for registration gaps")
    return gaps_check(dict(Counter(str(gap["gap_type"]) for gap in gaps)))
