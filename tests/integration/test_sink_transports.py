"""Both transports alike: encrypted, in several processes, and asked to end."""

from __future__ import annotations

import ssl
import threading
from pathlib import Path

import grpc
import httpx
import pytest
import trustme
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub

from asking import span_ids
from otlp import request_of
from sink_process import sink
from spans import tool_call

_PROTOBUF = {"content-type": "application/x-protobuf"}
_SENDERS = 4


@pytest.mark.parametrize("workers", ["1", "3"])
def test_what_was_answered_over_grpc_is_stored_when_the_sink_is_asked_to_end(database_url: str, workers: str) -> None:
    """Senders keep sending while SIGTERM arrives: every span that got its answer is in the table, and no other."""
    answered: set[str] = set()
    refused: list[grpc.StatusCode] = []
    sent = threading.Event()
    with sink(database_url, "--http", "off", "--workers", workers) as running:

        def send(first: int) -> None:
            # A connection of its own, so that the kernel can give it to another process.
            own = [("grpc.use_local_subchannel_pool", 1)]
            with grpc.insecure_channel(running.grpc, own) as channel:
                traces = TraceServiceStub(channel)
                for number in range(first, first + 100_000):
                    try:
                        traces.Export(request_of([tool_call(number)]), timeout=20)
                    except grpc.RpcError as error:
                        refused.append(error.code())
                        return
                    answered.add(f"{number + 1:016x}")
                    if len(answered) > 40:
                        sent.set()

        senders = [threading.Thread(target=send, args=(100_000 * at,)) for at in range(1, _SENDERS + 1)]
        for sender in senders:
            sender.start()
        assert sent.wait(60)
        assert running.stop() == 0
        for sender in senders:
            sender.join()
    # Worth another try, each of them.
    assert set(refused) <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    stored = span_ids(database_url)
    assert answered <= stored
    assert len(stored - answered) <= len(senders)


@pytest.mark.parametrize("mutual", [False, True], ids=["tls", "mtls"])
def test_http_is_encrypted_and_asks_for_client_certificates(
    module_database_url: str, tmp_path: Path, *, mutual: bool
) -> None:
    authority, other = trustme.CA(), trustme.CA()
    files = {name: tmp_path / f"{name}.pem" for name in ("ca", "cert", "key", "client", "stranger")}
    authority.cert_pem.write_to_path(files["ca"])
    server = authority.issue_cert("localhost")
    server.cert_chain_pems[0].write_to_path(files["cert"])
    server.private_key_pem.write_to_path(files["key"])
    authority.issue_cert("agent@example.com").private_key_and_cert_chain_pem.write_to_path(files["client"])
    other.issue_cert("agent@example.com").private_key_and_cert_chain_pem.write_to_path(files["stranger"])
    options = ["--tls-cert", str(files["cert"]), "--tls-key", str(files["key"])]
    if mutual:
        options += ["--tls-client-ca", str(files["ca"])]
    before = span_ids(module_database_url)
    with sink(module_database_url, "--grpc", "off", "--http", "localhost:0", *options) as running:
        assert running.url.startswith("https://localhost:")

        def taken(number: int, client: str | None) -> bool:
            context = ssl.create_default_context(cafile=str(files["ca"]))
            if client:
                context.load_cert_chain(files[client])
            body = request_of([tool_call(number)]).SerializeToString()
            with httpx.Client(verify=context) as connected:
                try:
                    return connected.post(running.traces, content=body, headers=_PROTOBUF).status_code == 200
                except httpx.TransportError:
                    return False

        first = 10 if mutual else 0
        found = [taken(first, "client"), taken(first + 1, None), taken(first + 2, "stranger")]
        assert found == [True, not mutual, not mutual]
        with pytest.raises(httpx.TransportError):
            httpx.get(running.url.replace("https", "http") + "/healthz")
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{running.url}/healthz", verify=ssl.create_default_context())
        assert running.stop() == 0
    assert len(span_ids(module_database_url) - before) == (1 if mutual else 3)
