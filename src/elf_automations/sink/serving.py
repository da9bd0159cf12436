"""One process of a sink: listens, stores, and on SIGTERM finishes what it was given."""

from __future__ import annotations

import asyncio
import gc
import signal
import ssl
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import grpc
from grpc import aio

from elf_automations.errors import ConfigurationError
from elf_automations.sink.accounts import Accounts
from elf_automations.sink.bearer import Token
from elf_automations.sink.configuration import Address, SinkConfiguration, Tls
from elf_automations.sink.grpc_receiver import GrpcReceiver
from elf_automations.sink.http_receiver import HttpReceiver
from elf_automations.sink.http_server import HttpServer, bound, http_settings
from elf_automations.sink.intake import Intake
from elf_automations.storage.opening import open_writer

_BACKLOG: Final = 2048
_IDLE_SECONDS: Final = 75
# Twice the largest body may wait for the database: one being stored, one behind it.
_WAITING_BODIES: Final = 2
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

# Spans come and go by the thousand and hold no cycles: the collector finds nothing, and looks less often.
_COLLECT_AFTER: Final = (50_000, 20, 50)

Listening = Callable[[Address | None, Address | None], None]


def serve(configuration: SinkConfiguration, listening: Listening | None = None) -> bool:
    """Serve until SIGTERM or Ctrl-C, then finish what was taken; return whether that was in time.

    `listening` is told the addresses once both accept connections. Raises ConfigurationError for an address that cannot
    be had or TLS files that cannot be read.
    """
    return asyncio.run(_serve(configuration, listening))


async def _serve(configuration: SinkConfiguration, listening: Listening | None) -> bool:
    accounts, token = Accounts(), Token(configuration.token)
    intake = Intake(
        partial(open_writer, configuration.target),
        accounts,
        waiting_bytes=_WAITING_BODIES * configuration.max_bytes,
        threads=configuration.connections,
        n8n_nodes=configuration.n8n_nodes,
        n8n_exports=configuration.n8n_exports,
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, stop.set)
    http, http_at, grpc_server, grpc_at = None, None, None, None
    receiver = HttpReceiver(intake, accounts, token, max_bytes=configuration.max_bytes)
    try:
        if configuration.grpc:
            rpc = GrpcReceiver(intake, accounts, token)
            grpc_server, grpc_at = await _grpc(rpc, configuration.grpc, configuration)
        if configuration.http:
            http, http_at = await _http(receiver, configuration.http, configuration)
        gc.freeze()
        gc.set_threshold(*_COLLECT_AFTER)
        if listening:
            listening(http_at, grpc_at)
        intake.look()
        await stop.wait()
    finally:
        receiver.draining = True
        ends = time.monotonic() + configuration.drain_seconds
        if http:
            http.stop()
        if grpc_server:
            await grpc_server.stop(configuration.drain_seconds)
        if http:
            await http.ended
        receiver.close()
        in_time = await asyncio.to_thread(intake.close, max(1.0, ends - time.monotonic()))
    return in_time


async def _http(receiver: HttpReceiver, where: Address, configuration: SinkConfiguration) -> tuple[HttpServer, Address]:
    at = bound(where, shared=configuration.shared_ports)
    tls = configuration.tls
    options: dict[str, Any] = {}
    if tls:
        options = {"ssl_certfile": str(tls.certificate), "ssl_keyfile": str(tls.key)}
        if tls.client_authority:
            options |= {"ssl_ca_certs": str(tls.client_authority), "ssl_cert_reqs": ssl.CERT_REQUIRED}
    settings = http_settings(
        receiver.app,
        drain_seconds=max(1, round(configuration.drain_seconds)),
        backlog=_BACKLOG,
        timeout_keep_alive=_IDLE_SECONDS,
        **options,
    )
    try:
        settings.load()
    except (OSError, ssl.SSLError) as error:
        at.close()
        raise _bad_tls(error) from None
    server = HttpServer(settings)
    await server.start(at)
    return server, Address(where.host, at.getsockname()[1])


async def _grpc(receiver: GrpcReceiver, where: Address, configuration: SinkConfiguration) -> tuple[aio.Server, Address]:
    credentials = _credentials(configuration.tls) if configuration.tls else None
    # gRPC does not say why it cannot have an address: the system does.
    bound(where, shared=configuration.shared_ports).close()
    server = aio.server(
        options=(
            ("grpc.max_receive_message_length", configuration.max_bytes),
            ("grpc.so_reuseport", int(configuration.shared_ports)),
            ("grpc.max_connection_idle_ms", 1000 * 60 * 10),
            ("grpc.keepalive_time_ms", 1000 * 60),
        )
    )
    server.add_generic_rpc_handlers((receiver.handler(),))
    try:
        port = server.add_secure_port(str(where), credentials) if credentials else server.add_insecure_port(str(where))
    except RuntimeError as error:
        if credentials:
            raise ConfigurationError(
                "gRPC cannot use the TLS files: it takes an RSA key, or an EC key of P-256, P-384 or P-521"
            ) from None
        raise ConfigurationError(f"cannot listen on {where} for gRPC: {_line(error)}; choose another --grpc") from None
    await server.start()
    return server, Address(where.host, port)


def _credentials(tls: Tls) -> grpc.ServerCredentials:
    try:
        authority = tls.client_authority.read_bytes() if tls.client_authority else None
        pair = (tls.key.read_bytes(), tls.certificate.read_bytes())
    except OSError as error:
        raise _bad_tls(error) from None
    return grpc.ssl_server_credentials([pair], authority, require_client_auth=authority is not None)


def _bad_tls(error: Exception) -> ConfigurationError:
    return ConfigurationError(
        f"the TLS files cannot be used: {_line(error)}; they must be PEM, the key that of the certificate"
    )


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0]
