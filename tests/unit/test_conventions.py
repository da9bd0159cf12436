"""The names we write are the names we publish."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes, mcp_attributes
from opentelemetry.semconv.attributes import error_attributes, server_attributes, service_attributes

from elf_automations.conventions import a2a_draft, elf, n8n, otel

REGISTRY = json.loads((files("elf_automations.conventions") / "registry.json").read_text())


def _names(*modules) -> set[str]:
    return {value for module in modules for name, value in vars(module).items() if name.isupper()}


def test_the_registry_lists_exactly_the_names_in_use():
    assert set(REGISTRY) == _names(otel, a2a_draft, n8n, elf)
    assert all(set(entry) == {"type", "stability", "source"} for entry in REGISTRY.values())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_names_equal_the_python_semantic_conventions_where_those_still_have_them():
    theirs = _names(gen_ai_attributes, mcp_attributes, error_attributes, server_attributes, service_attributes)
    prefixes = ("gen_ai.", "mcp.", "error.", "server.")
    ours = {name for name in _names(otel) if name.startswith(prefixes)}
    assert ours - theirs == set()
