"""Tokens and dollars of an MCP call: as stated, else from the model's list price; never more than was said."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from typing import Any

import pytest

from elf_automations.model import SpanKind, settle
from records import span, tool_call

USAGE = {"gen_ai.usage.input_tokens": 1000, "gen_ai.usage.output_tokens": 100}
MODEL = {"gen_ai.response.model": "gpt-4o", "gen_ai.provider.name": "openai"}
LIST_PRICE = Decimal("0.0035")  # 1,000 tokens at $2.50 and 100 at $10.00 a million


def used(**attributes: Any) -> tuple[int | None, Decimal | None]:
    named = {name.replace("__", "."): value for name, value in attributes.items()}
    (row,) = settle([tool_call(1, SpanKind.CLIENT, attributes=named)]).rows
    return row.tokens_used, row.estimated_cost


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, (None, None)),
        (USAGE, (1100, None)),
        (USAGE | MODEL, (1100, LIST_PRICE)),
        (USAGE | {"gen_ai.request.model": "gpt-4o"}, (1100, LIST_PRICE)),
        (USAGE | MODEL | {"gen_ai.provider.name": "a provider nobody knows"}, (1100, LIST_PRICE)),
        (USAGE | {"gen_ai.response.model": "a model nobody knows"}, (1100, None)),
        (MODEL, (None, None)),
        (USAGE | MODEL | {"elf.cost.usd": 0.5}, (1100, Decimal("0.5"))),
        (USAGE | MODEL | {"agw.ai.usage.cost.total": "0.25"}, (1100, Decimal("0.25"))),
        (USAGE | MODEL | {"agw.ai.usage.cost.total": 0.25}, (1100, Decimal("0.25"))),
        (USAGE | MODEL | {"agw.ai.usage.cost.total": "free"}, (1100, LIST_PRICE)),
        (USAGE | {"elf.tokens.used": 7}, (7, None)),
        ({"gen_ai.usage.input_tokens": -5, "gen_ai.usage.output_tokens": 3}, (3, None)),
        ({"gen_ai.usage.input_tokens": "1000"}, (None, None)),
    ],
)
def test_usage_and_cost(said, expected):
    assert used(**{name.replace(".", "__"): value for name, value in said.items()}) == expected


def test_cached_input_is_cheaper():
    _, dearer = used(**{name.replace(".", "__"): value for name, value in (USAGE | MODEL).items()})
    cached = USAGE | MODEL | {"gen_ai.usage.cache_read.input_tokens": 800}
    _, cheaper = used(**{name.replace(".", "__"): value for name, value in cached.items()})
    assert cheaper < dearer


def test_usage_seen_by_several_layers_is_counted_once():
    client = tool_call(1, SpanKind.CLIENT, attributes=USAGE | MODEL)
    server = tool_call(2, SpanKind.SERVER, parent=1, attributes=USAGE | MODEL)
    assert sum(row.tokens_used or 0 for row in settle([client, server]).rows if row.counted) == 1100


def test_usage_only_the_server_reports_reaches_the_counted_row_with_its_cost():
    client = tool_call(1, SpanKind.CLIENT)
    server = tool_call(2, SpanKind.SERVER, parent=1, attributes=USAGE | MODEL)
    (row,) = [row for row in settle([client, server]).rows if row.counted]
    assert (row.tokens_used, row.estimated_cost) == (1100, LIST_PRICE)


def test_a_cost_is_not_taken_from_another_layer_than_its_tokens():
    client = tool_call(1, SpanKind.CLIENT, attributes={"elf.tokens.used": 40})
    server = tool_call(2, SpanKind.SERVER, parent=1, attributes=USAGE | MODEL)
    (row,) = [row for row in settle([client, server]).rows if row.counted]
    assert (row.tokens_used, row.estimated_cost) == (40, None)


def test_a_model_called_by_a_tool_is_not_added_to_the_tool():
    server = tool_call(1, SpanKind.SERVER)
    chat = span(2, "chat gpt-4o", SpanKind.CLIENT, {"gen_ai.operation.name": "chat", **USAGE, **MODEL}, parent=1)
    (row,) = settle([server, chat]).rows
    assert (row.tokens_used, row.estimated_cost) == (None, None)


def test_prices_are_loaded_when_a_call_names_a_model_and_not_before():
    code = "import sys, elf_automations.model, elf_exporters; print('genai_prices' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
