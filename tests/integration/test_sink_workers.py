"""The processes of one sink start together, and end with the one that watches over them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sink_process import sink
from spans import eventually


def _ended(*options: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("elf-telemetry")), "sink", "--workers", "2", *options]
    places = (
        "--database-url",
        "postgresql://nobody@127.0.0.1:1/none",
        "--http",
        "127.0.0.1:0",
        "--grpc",
        "127.0.0.1:0",
    )
    return subprocess.run([*command, *places], capture_output=True, text=True, check=False, timeout=60)


def _tls(folder: Path, certificate: bytes, key: bytes) -> Sequence[str]:
    for name, content in (("cert.pem", certificate), ("key.pem", key)):
        (folder / name).write_bytes(content)
    return ("--tls-cert", str(folder / "cert.pem"), "--tls-key", str(folder / "key.pem"))


def _certificate(curve: ec.EllipticCurve, encryption: serialization.KeySerializationEncryption) -> tuple[bytes, bytes]:
    key, name, now = ec.generate_private_key(curve), x509.Name([]), datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    pem, kind = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return builder.sign(key, hashes.SHA256()).public_bytes(pem), key.private_bytes(pem, kind, encryption)


def test_workers_end_when_the_process_that_watches_over_them_is_killed(database_url: str) -> None:
    """Otherwise they would go on with nobody to end or replace them, beside those of the next start."""
    with sink(database_url, "--grpc", "off", "--workers", "2") as running:
        found = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(running.process.pid)], capture_output=True, text=True, check=True
        )
        children = [Path(f"/proc/{line.strip()}") for line in found.stdout.splitlines()]
        assert httpx.get(f"{running.url}/healthz").status_code == 200
        running.process.kill()
        running.process.wait()
        eventually(lambda: not any(child.exists() for child in children), within=30)


@pytest.mark.parametrize("kind", ["no PEM", "the key of another", "an encrypted key"])
def test_a_wrong_option_is_one_clear_line(tmp_path: Path, kind: str) -> None:
    certificate, key = _certificate(ec.SECP256R1(), serialization.NoEncryption())
    if kind == "no PEM":
        certificate = b"no PEM"
    elif kind == "the key of another":
        key = _certificate(ec.SECP256R1(), serialization.NoEncryption())[1]
    else:
        certificate, key = _certificate(ec.SECP256R1(), serialization.BestAvailableEncryption(b"fake password"))
    done = _ended(*_tls(tmp_path, certificate, key))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: the TLS files cannot be used: ")
    assert done.stderr.count("\n") == 1


def test_what_only_a_worker_finds_wrong_ends_them_all(tmp_path: Path) -> None:
    """OpenSSL can use a key of this curve, gRPC cannot."""
    options = _tls(tmp_path, *_certificate(ec.SECP256K1(), serialization.NoEncryption()))
    done = _ended(*options)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith("error: gRPC cannot use the TLS files: ")
    assert "port" not in done.stderr.splitlines()[-1]
    assert done.stderr.count("error: ") == 1
    assert "OTLP/" not in done.stderr
    assert "Traceback" not in done.stderr
