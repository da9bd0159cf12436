"""A real n8n from end to end: every scenario, by every source of executions, against what the table must hold.

    make e2e-n8n                                   all of it, about three minutes once n8n is installed
    make e2e-n8n ARGS="--sources otlp,events"      without the sync by its API

Prints a table of scenario and source, expected and got; exits 1 when anything differs.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from comparing import differences
from driving import Driven, drive
from expectations import SCENARIOS, Row, Scenario
from lifecycle import check_registry
from opentelemetry import trace
from real_n8n import N8n
from real_n8n import running as n8n_running
from rich.console import Console
from rich.table import Table
from workflows import CHILD, ERROR_HANDLER, all_workflows
from world import SOURCES, TEAM, World, around_n8n, can_sync, sync

import private_postgres
from a2a_agents import Executor, obey
from elf_automations.n8n import hooks_file
from elf_automations.registry import UnifiedRegistry
from elf_automations.shared.a2a import serve_team

_LATE_SECONDS = 45.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n8n", type=Path, default=Path("build/n8n"), help="where install.sh put it")
    parser.add_argument("--sources", default=",".join(SOURCES), help="of executions, comma separated")
    parser.add_argument("--keep", action="store_true", help="leave n8n's folder with its log")
    options = parser.parse_args()
    sources = options.sources.split(",")
    if "api" in sources and not can_sync():
        parser.error("elf-telemetry has no `n8n sync`: leave api out of --sources")
    folder = Path(tempfile.mkdtemp(prefix="elf-e2e-n8n-"))
    try:
        with private_postgres.running() as server, around_n8n(server) as world:
            return asyncio.run(_run(world, options.n8n.resolve(), folder, sources))
    finally:
        if options.keep:
            print(f"n8n's folder: {folder}")
        else:
            import shutil

            shutil.rmtree(folder, ignore_errors=True)


async def _run(world: World, cache: Path, folder: Path, sources: Sequence[str]) -> int:
    trace.set_tracer_provider(world.teams)
    registry = UnifiedRegistry(world.databases["otlp"])
    async with serve_team(TEAM, Executor(obey), skills=["propose"], registry=registry) as team:
        url = team.card.supported_interfaces[0].url
        try:
            return await asyncio.to_thread(_scenarios, world, cache, folder, url, sources)
        finally:
            registry.close()


def _scenarios(world: World, cache: Path, folder: Path, team_url: str, sources: Sequence[str]) -> int:
    workflows = all_workflows(world.service, team_url)
    more = {
        "EXTERNAL_HOOK_FILES": str(hooks_file()),
        "ELF_N8N_WEBHOOK_URL": world.hook,
        "N8N_OTEL_ENABLED": "true",
        "N8N_OTEL_EXPORTER_OTLP_ENDPOINT": world.otlp,
    }
    console = Console(width=int(os.environ.get("COLUMNS", "150")), highlight=False)
    began = time.monotonic()
    with n8n_running(cache, folder, workflows, more) as n8n:
        console.print(f"n8n {_version(cache)} is up after {time.monotonic() - began:.0f} s")
        n8n.publish(ERROR_HANDLER, CHILD)
        n8n.publish(*(each["id"] for each in workflows if each["id"] not in {ERROR_HANDLER, CHILD}))
        driven = {scenario.name: drive(n8n, world, scenario) for scenario in SCENARIOS}
        world.teams.force_flush(10_000)
        named = {world.service.removeprefix("http://"): "service", _host(team_url): "team"}
        failures = _rows(console, n8n, world, driven, sources, named)
        if "api" in sources:
            failures += _read_again(console, n8n, world)
        failures += check_registry(console, n8n, world, named)
    console.print("all as expected" if not failures else f"[red]{failures} differences[/red]")
    return 1 if failures else 0


def _rows(
    console: Console,
    n8n: N8n,
    world: World,
    driven: Mapping[str, Driven],
    sources: Sequence[str],
    named: Mapping[str, str],
) -> int:
    table = Table("scenario", "expected rows", *sources, title="Counted rows of each execution", show_lines=True)
    settled = {source: _settled(world, n8n, source, driven, named) for source in sources}
    failures = 0
    for scenario in SCENARIOS:
        cells: list[str] = []
        for source in sources:
            got = _got(settled[source], driven[scenario.name], named)
            problems = _problems(scenario, source, settled[source], driven[scenario.name])
            if source != "otlp" and "otlp" in settled:
                ours = set(driven[scenario.name].executions.values())
                both = ([row for row in settled[each] if row["execution_id"] in ours] for each in ("otlp", source))
                problems += differences(*both, excused=scenario.excused)
            if (
                source == "otlp"
                and (trace_id := driven[scenario.name].trace_id)
                and not world.team_calls(source, trace_id)
            ):
                problems.append("the called team's own row is not in the trace")
            if sorted(map(str, got)) != sorted(map(str, _expected(scenario, source))) or problems:
                failures += 1
                cells.append("[red]" + "\n".join([*map(_told, got), *problems]) + "[/red]")
            else:
                cells.append("as expected" if source not in scenario.other else "as told below")
        table.add_row(scenario.name, "\n".join(map(_told, scenario.rows)), *cells)
    console.print(table)
    console.print("Where other sources cannot tell the same:")
    for scenario in SCENARIOS:
        for source in sources:
            if source in scenario.other:
                console.print(f"  {scenario.name}, {source}: {scenario.why}")
                for row in scenario.other[source]:
                    console.print(f"      {_told(row)}")
    return failures


def _settled(
    world: World, n8n: N8n, source: str, driven: Mapping[str, Driven], named: Mapping[str, str]
) -> list[dict[str, Any]]:
    """The rows once they are as expected, or as they are when time is over."""
    if source == "api":
        sync(world, n8n.url, n8n.key)
    deadline = time.monotonic() + _LATE_SECONDS
    while True:
        found = world.rows(source)
        wanted = sorted(str(row) for scenario in SCENARIOS for row in _expected(scenario, source))
        got = sorted(str(row) for each in driven.values() for row in _got(found, each, named))
        if got == wanted or time.monotonic() > deadline:
            return found
        time.sleep(1)


def _read_again(console: Console, n8n: N8n, world: World) -> int:
    """Reading every execution of the API once more must change nothing."""
    before = world.rows("api")
    sync(world, n8n.url, n8n.key, "--since", "1d")
    same = world.rows("api") == before
    console.print(
        f"every execution read once more by the API: {len(before)} rows, {'unchanged' if same else 'changed'}"
    )
    return 0 if same else 1


def _expected(scenario: Scenario, source: str) -> tuple[Row, ...]:
    return scenario.other.get(source, scenario.rows)


def _got(found: Sequence[Mapping[str, Any]], driven: Driven, named: Mapping[str, str]) -> list[Row]:
    labels = {execution: label for label, execution in driven.executions.items()}
    return [
        Row(
            row["workflow_id"] or "?",
            row["status"],
            row["workflow_node"],
            f"{row['source_type']}:{row['source_id']}",
            f"{row['target_type']}:{named.get(row['target_id'], row['target_id'])}",
            labels[row["execution_id"]],
        )
        for row in found
        if row["execution_id"] in labels
    ]


def _problems(scenario: Scenario, source: str, found: Sequence[Mapping[str, Any]], driven: Driven) -> list[str]:
    """What the columns beside those of `Row` must say."""
    ours = [row for row in found if row["execution_id"] in set(driven.executions.values())]
    problems = [f"no workflow_name in {row['operation']}" for row in ours if not row["workflow_name"]]
    problems += [f"no duration in {row['operation']}" for row in ours if row["duration_ms"] is None]
    problems += [
        f"no error_message in {row['operation']} {row['status']}"
        for row in ours
        if row["status"] == "error" and not row["error_message"]
    ]
    if driven.trace_id:
        problems += [f"{row['operation']} is in another trace" for row in ours if row["trace_id"] != driven.trace_id]
    first, retry = driven.executions["first"], driven.executions.get("retry")
    if retry and not any(row["execution_id"] == retry and row["retry_of"] == first for row in ours):
        problems.append("the retry does not say what it repeats")
    for label in ("child", "error"):
        execution = driven.executions.get(label)
        if execution and not any(
            row["execution_id"] == execution and row["parent_execution_id"] == first for row in ours
        ):
            problems.append(f"the {label} execution does not say which started it")
    if scenario.path == "goes-on" and source != "otlp" and not any(row["soft_error"] for row in ours):
        problems.append("no soft_error")
    return problems


def _told(row: Row) -> str:
    return f"{row.status:<9} {row.node or 'execution'}: {row.source} -> {row.target}"


def _host(url: str) -> str:
    return url.split("/")[2]


def _version(cache: Path) -> str:
    import json

    return json.loads((cache / "node_modules" / "n8n" / "package.json").read_text())["version"]


if __name__ == "__main__":
    sys.exit(main())
