"""How one sink is set up."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass, field
from pathlib import Path

from elf_automations.errors import ConfigurationError
from elf_automations.model.n8n_nodes import NodeScope
from elf_automations.storage.target import Target

_HIGHEST_PORT = 65_535


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port to listen on; port 0 is any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files: the server's certificate and key, and the authority whose clients alone may connect (mTLS)."""

    certificate: Path
    key: Path
    client_authority: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkConfiguration:
    """One sink: where rows go, where it listens (None: not at all), and its limits in bytes and seconds.

    `connections` is how many threads and database connections a process has; with `shared_ports` other processes
    may listen on the same ports. `n8n_nodes` says which steps of n8n are rows, `n8n_exports` whether its own
    export is.
    """

    target: Target
    http: Address | None
    grpc: Address | None
    token: str | None = field(default=None, repr=False)
    tls: Tls | None = None
    max_bytes: int = 64 * 1024 * 1024
    drain_seconds: float = 20.0
    connections: int = 2
    shared_ports: bool = False
    n8n_nodes: NodeScope = "external"
    n8n_exports: bool = True


def address(said: str, name: str) -> Address | None:
    """Return the address of `HOST:PORT` or `[IPV6]:PORT`, None for `off`; the ConfigurationError says `name`."""
    if said == "off":
        return None
    host, _, port = said.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if host and port.isdecimal() and int(port) <= _HIGHEST_PORT:
        return Address(host, int(port))
    raise ConfigurationError(f"{name} takes HOST:PORT such as 127.0.0.1:4318, or off; not {said!r}")


def tls(certificate: Path | None, key: Path | None, client_authority: Path | None) -> Tls | None:
    """Return the TLS files; None without any; raises ConfigurationError when they are missing or do not go together."""
    if certificate is None and key is None and client_authority is None:
        return None
    if certificate is None or key is None:
        raise ConfigurationError(
            "TLS needs both --tls-cert and --tls-key; --tls-client-ca asks clients for theirs as well"
        )
    for file in (certificate, key, client_authority):
        if file is not None and not file.is_file():
            raise ConfigurationError(f"there is no file {file}: TLS takes PEM files")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # With no password given OpenSSL would ask the terminal for that of an encrypted key.
        context.load_cert_chain(certificate, key, password="")
        if client_authority:
            context.load_verify_locations(client_authority)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"the TLS files cannot be used: {error}; they must be PEM, the key the certificate's and not encrypted"
        ) from None
    return Tls(certificate, key, client_authority)
