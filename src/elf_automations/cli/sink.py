"""`elf-telemetry sink`: an OTLP receiver whose spans become rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from elf_automations.cli.target import DatabaseUrl, storage_target
from elf_automations.errors import ConfigurationError
from elf_automations.settings import load_settings

if TYPE_CHECKING:
    from elf_automations.sink import Address

_WORKERS = 64


def sink(
    http: Annotated[str, typer.Option("--http", help="HOST:PORT of OTLP/HTTP, health and metrics; off: none.")] = (
        "127.0.0.1:4318"
    ),
    grpc: Annotated[str, typer.Option("--grpc", help="HOST:PORT of OTLP/gRPC; off: none.")] = "127.0.0.1:4317",
    database_url: DatabaseUrl = None,
    workers: Annotated[int, typer.Option("--workers", min=1, max=_WORKERS, help="Processes on the same ports.")] = 1,
    tls_cert: Annotated[
        Path | None, typer.Option("--tls-cert", help="The certificate (PEM) to serve TLS with.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", help="Its key (PEM).")] = None,
    tls_client_ca: Annotated[
        Path | None, typer.Option("--tls-client-ca", help="Only clients with a certificate of this authority (mTLS).")
    ] = None,
    drain: Annotated[float, typer.Option("--drain", min=0, help="Seconds to finish what was taken on SIGTERM.")] = 20,
) -> int:
    """Receive OTLP from any SDK, Collector or gateway; answer 200 when the rows are committed.

    ELF_SINK_TOKEN asks every client for `Authorization: Bearer …`; ELF_SINK_MAX_BYTES (64 MiB) bounds a request.
    """
    try:
        from elf_automations import sink as sinks  # noqa: PLC0415 - the extra may not be installed
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"the sink needs {error.name}, which is not installed: pip install 'elf-automations[sink]'"
        ) from None
    settings = load_settings()
    configuration = sinks.SinkConfiguration(
        target=storage_target(database_url),
        http=sinks.address(http, "--http"),
        grpc=sinks.address(grpc, "--grpc"),
        token=settings.sink_token,
        tls=sinks.tls(tls_cert, tls_key, tls_client_ca),
        max_bytes=settings.sink_max_bytes,
        drain_seconds=drain,
        n8n_nodes=settings.n8n_nodes,
        n8n_exports=settings.n8n_exports,
    )
    if configuration.http is None and configuration.grpc is None:
        raise ConfigurationError("the sink has nothing to listen on: give --http or --grpc")
    secure = configuration.tls is not None
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    if settings.sink_token is None and (tls_client_ca is None):
        for at in (configuration.http, configuration.grpc):
            if at and not at.is_loopback:
                console.print(f"warning: anybody who reaches {at} may write; set ELF_SINK_TOKEN or --tls-client-ca")

    def listening(http_at: Address | None, grpc_at: Address | None) -> None:
        if http_at:
            console.print(f"OTLP/HTTP on http{'s' if secure else ''}://{http_at}/v1/traces")
        if grpc_at:
            console.print(f"OTLP/gRPC on {grpc_at}")

    in_time = sinks.serve_with(workers, configuration, listening)
    return 0 if in_time else 1
