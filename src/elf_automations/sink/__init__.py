"""The sink: OTLP in, rows out; 200 only after commit."""

from __future__ import annotations

from elf_automations.sink.configuration import Address, SinkConfiguration, Tls, address, tls
from elf_automations.sink.workers import serve_with

__all__ = ["Address", "SinkConfiguration", "Tls", "address", "serve_with", "tls"]
