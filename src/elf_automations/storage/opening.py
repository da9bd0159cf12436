"""From a chosen target to the writer that serves it."""

from __future__ import annotations

from typing import assert_never

from elf_automations.storage.contract import Writer
from elf_automations.storage.supabase import SupabaseRpc
from elf_automations.storage.supabase_writer import SupabaseWriter
from elf_automations.storage.target import PostgresTarget, SupabaseTarget, Target
from elf_automations.storage.writer import PostgresWriter


def open_writer(target: Target) -> Writer:
    """Return a writer for `target`; it connects at first use."""
    match target:
        case PostgresTarget():
            return PostgresWriter(target.url)
        case SupabaseTarget():
            return SupabaseWriter(lambda: SupabaseRpc(target.url, target.key))
        case _:
            assert_never(target)
