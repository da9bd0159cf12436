"""What import-linter cannot say: instrumentation speaks the OpenTelemetry API, and only `from_*` knows the SDK."""

from __future__ import annotations

import ast
from pathlib import Path

import elf_automations

PACKAGE = Path(elf_automations.__file__).parent


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def test_only_the_readers_of_spans_know_the_sdk():
    users = {
        str(path.relative_to(PACKAGE))
        for folder in ("conventions", "model", "instrumentation")
        for path in (PACKAGE / folder).rglob("*.py")
        if any(name.startswith(("opentelemetry.sdk", "opentelemetry.proto")) for name in _imports(path))
    }
    assert users == {"model/from_sdk.py", "model/from_otlp.py", "model/from_otlp_bytes.py", "model/otlp_messages.py"}
