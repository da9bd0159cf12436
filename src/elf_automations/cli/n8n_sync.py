"""`elf-telemetry n8n sync`: an n8n's workflows and executions by its public API, once or for good."""

from __future__ import annotations

import os
import queue
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.status import Status

from elf_automations.cli.ending import told_to_end
from elf_automations.cli.tables import Json, as_json
from elf_automations.cli.target import DatabaseUrl, postgres_url
from elf_automations.errors import ConfigurationError, StorageUnavailableError
from elf_automations.model.n8n_fields import instant
from elf_automations.n8n.api import N8NApi, N8NUnavailableError
from elf_automations.n8n.execution_sync import Executions, ExecutionSync, Reading
from elf_automations.n8n.otlp import OtlpExport, traces_endpoint
from elf_automations.n8n.progress import Progress
from elf_automations.n8n.workflow_sync import Workflows, sync_workflows
from elf_automations.registry import N8NWorkflowRegistry
from elf_automations.settings import load_settings
from elf_automations.storage.sync_states import SyncState
from elf_automations.storage.writer import PostgresWriter

_FIRST_DAYS: Final = 30
_SINCE: Final = re.compile(r"(\d+)([mhd])")
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days"}


class _EndedError(Exception):
    """Somebody asked for the end while nothing was under way."""


def sync(
    url: Annotated[
        str | None, typer.Option("--url", envvar="ELF_N8N_URL", help="The n8n, such as https://n8n.example.com.")
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option("--api-key", envvar="ELF_N8N_API_KEY", help="An API key of it; better as a variable than here."),
    ] = None,
    database_url: DatabaseUrl = None,
    since: Annotated[
        str | None,
        typer.Option("--since", help="Read everything since then once more: 90m, 12h, 7d, or a date. First time: 30d."),
    ] = None,
    every: Annotated[
        float | None, typer.Option("--every", min=1, help="Seconds between passes, until SIGTERM; default: one pass.")
    ] = None,
    limit_rate: Annotated[
        float, typer.Option("--limit-rate", min=0.01, max=1000, help="Requests a second, at most.")
    ] = 5.0,
    otlp_endpoint: Annotated[
        str | None,
        typer.Option(
            "--otlp-endpoint",
            help="Where the spans go as well (OTLP/HTTP); default: what OTEL_EXPORTER_OTLP_ENDPOINT says.",
        ),
    ] = None,
    instance: Annotated[
        str | None,
        typer.Option(
            "--instance", envvar="ELF_N8N_INSTANCE", help="What tells this n8n from others; default: its address."
        ),
    ] = None,
    service_name: Annotated[
        str,
        typer.Option("--service-name", envvar="N8N_OTEL_EXPORTER_SERVICE_NAME", help="Its name as a caller in rows."),
    ] = "n8n",
    manual: Annotated[bool, typer.Option("--manual", help="Take test runs in the editor too.")] = False,
    json: Json = False,
) -> int:
    """Poll an n8n: its workflows into the registry and, with ELF_N8N_EXECUTIONS=api, its executions into rows.

    Goes on where the last pass ended, also when that was killed, and stores nothing twice. Executions of an n8n have
    one source: with ELF_N8N_EXECUTIONS=otlp or events only workflows are read. Exits 1 when something was refused.
    """
    work = _Work(
        url=_needed(url, "--url or ELF_N8N_URL", "the address of the n8n"),
        key=_needed(api_key, "ELF_N8N_API_KEY", "an API key of the n8n (Settings, n8n API)"),
        database_url=postgres_url(database_url),
        since=_moment(since) if since else None,
        rate=limit_rate,
        otlp_endpoint=traces_endpoint(otlp_endpoint, os.environ),
        instance=instance,
        service=service_name,
        manual=manual,
        json=json,
    )
    try:
        if every is None:
            return work.once()
        return work.for_good(every)
    except _EndedError:
        return 0
    finally:
        work.close()


class _Work:
    """One n8n, and where it goes."""

    def __init__(
        self,
        *,
        url: str,
        key: str,
        database_url: str,
        since: int | None,
        rate: float,
        otlp_endpoint: str | None,
        instance: str | None,
        service: str,
        manual: bool,
        json: bool,
    ) -> None:
        settings = load_settings()
        self._source = settings.n8n_executions
        self._json, self._since = json, since
        self._console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
        self._pause: Callable[[float], None] = time.sleep
        self._api = N8NApi(url, key, rate=rate, pause=self._wait)
        self._name = instance or self._api.name
        first = datetime.now(UTC) - timedelta(days=_FIRST_DAYS)
        self._reading = Reading(
            instance=self._name,
            service=service,
            since=since or int(first.timestamp()) * 1_000_000_000,
            manual=manual,
            nodes=settings.n8n_nodes,
        )
        self._registry = N8NWorkflowRegistry(database_url)
        self._writer = PostgresWriter(database_url)
        self._state = SyncState(database_url, f"n8n:{self._name}")
        self._export = OtlpExport(otlp_endpoint) if otlp_endpoint and self._source == "api" else None

    def _wait(self, seconds: float) -> None:
        self._pause(seconds)

    def once(self) -> int:
        """Make one pass and say what it did."""
        with self._console.status(f"{self._name}: workflows") as status:
            workflows, projects = sync_workflows(self._api, self._registry, self._name, self._console.print)
            executions = self._executions(projects, status) if self._source == "api" else None
        self._say(workflows, executions)
        self._since = None
        return 1 if workflows.unregistered or (executions and executions.refused) else 0

    def for_good(self, every: float) -> int:
        """Make one pass after the other until SIGTERM or Ctrl-C; what is away is waited for."""
        ends = told_to_end()

        def pause(seconds: float) -> None:
            try:
                ends.get(timeout=seconds) if seconds > 0 else ends.get_nowait()
            except queue.Empty:
                return
            raise _EndedError

        self._pause = pause
        while True:
            try:
                self.once()
            except (N8NUnavailableError, StorageUnavailableError) as error:
                self._console.print(str(error))
            pause(every)

    def close(self) -> None:
        """Let go of all connections."""
        for held in (self._api, self._registry, self._writer, self._state, self._export):
            if held is not None:
                held.close()

    def _executions(self, projects: Mapping[str, str], status: Status) -> Executions:
        def advanced(result: Executions) -> None:
            status.update(f"{self._name}: {result.read:,} executions, {result.stored:,} rows stored")

        work = ExecutionSync(
            self._api,
            self._writer,
            self._state,
            Progress.read(self._state.load()),
            self._reading,
            projects=projects,
            complain=self._console.print,
            advanced=advanced,
            export=self._export,
        )
        return work.once(again=self._since is not None)

    def _say(self, workflows: Workflows, executions: Executions | None) -> None:
        at = datetime.now(UTC)
        if self._json:
            told = asdict(executions) if executions else {}
            told.pop("earliest", None)
            line = {"at": at, "instance": self._name, "workflows": asdict(workflows), "executions": told or None}
            typer.echo(as_json({**line, "spans_sent": self._export.sent if self._export else 0}))
        else:
            typer.echo(f"{at.astimezone():%Y-%m-%d %H:%M:%S}  {self._name}: {_workflow_words(workflows)}")
            typer.echo(_execution_words(executions) if executions else _not_read(self._source))
        sys.stdout.flush()


def _workflow_words(found: Workflows) -> str:
    total = found.registered + found.updated + found.unchanged
    return f"{total:,} workflows, {found.registered} new, {found.updated} changed, {found.deleted} gone"


def _execution_words(found: Executions) -> str:
    words = f"{found.read:,} executions: {found.stored:,} rows stored, {found.duplicate:,} already there"
    more = {"refused": found.refused, "still going on": found.waiting, "left out": found.left_out, "gone": found.gone}
    return words + "".join(f", {count:,} {word}" for word, count in more.items() if count)


def _not_read(source: str) -> str:
    return f"executions are not read: their source is {source} (ELF_N8N_EXECUTIONS); set it to api to poll them"


def _needed(value: str | None, where: str, what: str) -> str:
    if value and value.strip():
        return value.strip()
    raise ConfigurationError(f"n8n sync needs {what}: give {where}")


def _moment(since: str) -> int:
    """Return a time in ns since 1970 for a span back from now, or a date, which is UTC when it does not say."""
    back = _SINCE.fullmatch(since.strip())
    if back:
        at = datetime.now(UTC) - timedelta(**{_UNITS[back[2]]: int(back[1])})
        return int(at.timestamp()) * 1_000_000_000
    found = instant(since.strip())
    if found is None:
        raise ConfigurationError(
            f"--since {since!r} is no time: write 90m, 12h, 7d, 2026-11-01 or 2026-11-01T08:00:00Z"
        )
    return found
