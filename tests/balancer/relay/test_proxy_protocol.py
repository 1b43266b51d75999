"""The PROXY protocol before HTTP and TLS, from load balancers that the operator named and from others."""

from __future__ import annotations

import asyncio
import resource
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.support.balancer.authority import Authority
from tests.support.balancer.relay_peers import FixedPlacer, Wire, echo, handshake
from tests.support.patience import patient
from trunkline.balancer.relay import arrivals

V1 = b"PROXY TCP4 203.0.113.9 192.0.2.1 56789 443\r\n"
V2 = b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xcb\x00\x71\x09\xc0\x00\x02\x01\xdd\xd5\x01\xbb"
LOCAL = b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"
HIDDEN = b"\r\n\r\n\x00\r\nQUIT\n\x21\x00\x00\x00"
FROM = ("127.0.0.0/8",)


async def behind(port: int, header: bytes, tls: ssl.SSLContext | None = None) -> Wire:
    """A connection that begins with `header`."""
    sock = socket.socket()
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, ("127.0.0.1", port))
    await loop.sock_sendall(sock, header)
    options: dict[str, Any] = {"ssl": tls, "server_hostname": "127.0.0.1"} if tls is not None else {}
    return Wire(*await asyncio.open_connection(sock=sock, limit=1 << 20, **options))


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize(("header", "client"), [(V1, b"203.0.113.9"), (V2, b"203.0.113.9"), (LOCAL, b"127.0.0.1")])
async def test_the_client_is_the_one_that_the_header_names(
    start_edge: Any, raw_backend: Any, tmp_path: Path, tls: bool, header: bytes, client: bytes
) -> None:
    """Backends learn the client's address, limits count it, and what follows the header is HTTP or TLS, whole."""
    options: dict[str, Any] = {}
    context = None
    if tls:
        authority = Authority(tmp_path)
        authority.sign(tmp_path / "edge.pem", "edge")
        options, context = {"tls_cert_file": tmp_path / "edge.pem"}, authority.client()
    backend = await raw_backend(echo)
    edge = await start_edge(
        FixedPlacer(backend.url), proxy_protocol=FROM, handshake_burst=1, handshake_per_s=0.001, **options
    )
    wire = await behind(edge.port, header, context)
    wire.send(handshake())
    assert (await wire.answer()).status == 101
    wire.send(b"hello")
    assert await wire.take(5) == b"hello"
    assert b"X-Forwarded-For: " + client + b"\r\n" in backend.heads[0]
    wire.close()
    again = await behind(edge.port, header, context)
    again.send(handshake())
    assert (await again.answer()).status == (429 if client != b"127.0.0.1" else 101)
    again.close()


async def test_a_load_balancer_that_hides_the_client(start_edge: Any, start_node: Any) -> None:
    """The client is not known, and gets nothing for the private address of the load balancer; its checks do."""
    node = await start_node(trusted_proxies=("127.0.0.1",))
    edge = await start_edge(FixedPlacer(f"http://127.0.0.1:{node.port}"), proxy_protocol=FROM)
    for header, status in ((b"PROXY UNKNOWN\r\n", 403), (HIDDEN, 403), (LOCAL, 200)):
        wire = await behind(edge.port, header)
        wire.send(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        answer = await wire.answer()
        assert answer.status == status
        assert status == 200 or b"does not say who the client is" in answer.body
        wire.close()


async def test_the_names_of_clients_behind_a_load_balancer(start_edge: Any, raw_backend: Any) -> None:
    """On loopback they may use any, for no page can send the header; the load balancer itself may not."""
    backend = await raw_backend(echo)
    edge = await start_edge(FixedPlacer(backend.url), proxy_protocol=FROM, hosts=())
    for header, status in ((V1, 101), (V2, 101), (LOCAL, 400)):
        wire = await behind(edge.port, header)
        wire.send(handshake())
        assert (await wire.answer()).status == status
        wire.close()


async def test_a_header_in_pieces_and_a_request_in_the_same_segment(start_edge: Any, raw_backend: Any) -> None:
    """It may come byte by byte, and the request right behind it."""
    backend = await raw_backend(echo)
    edge = await start_edge(FixedPlacer(backend.url), proxy_protocol=FROM)
    for header in (V1, V2):
        wire = await Wire.connect(edge.port)
        for byte in header[:-1]:
            wire.send(bytes((byte,)))
            await wire.writer.drain()
            await asyncio.sleep(0)
        wire.send(header[-1:] + handshake())
        assert (await wire.answer()).status == 101
        wire.close()


async def test_only_named_load_balancers_send_headers(start_edge: Any, raw_backend: Any) -> None:
    """From anybody else a header is no HTTP; a named one that sends none is cut off, and counted."""
    backend = await raw_backend(echo)
    edge = await start_edge(FixedPlacer(backend.url), proxy_protocol=("192.0.2.0/24",))
    wire = await Wire.connect(edge.port)
    wire.send(V1 + handshake())
    assert (await wire.answer()).status == 400
    plain = await Wire.upgraded(edge.port)
    plain.close()
    edge = await start_edge(FixedPlacer(backend.url), proxy_protocol=FROM)
    wire = await Wire.connect(edge.port)
    wire.send(handshake())
    assert await wire.ended() in (b"", b"(reset)")
    assert edge.meter.refusals.values == {("bad_proxy_header",): 1}


async def test_a_header_that_does_not_end(start_edge: Any, raw_backend: Any) -> None:
    """It has the time of a handshake; a connection that ends without a byte, as checks do, is no fault."""
    edge = await start_edge(FixedPlacer(), proxy_protocol=FROM, handshake_timeout_ms=300)
    check = await Wire.connect(edge.port)
    check.close()
    wire = await Wire.connect(edge.port)
    wire.send(V2[:20])
    assert await wire.ended(patient(5)) in (b"", b"(reset)")
    async with asyncio.timeout(patient(5)):
        while len(edge.pending):
            await asyncio.sleep(0.01)
    assert edge.meter.refusals.values == {}


async def test_a_lack_of_files_is_one_line(start_edge: Any, raw_backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients wait in the queue until files are free; the log says it once, however often accepting was tried."""
    monkeypatch.setattr(arrivals, "PAUSE_S", 0.005)
    backend = await raw_backend(echo)
    edge = await start_edge(FixedPlacer(backend.url), proxy_protocol=("192.0.2.0/24",))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as client, capture_logs() as lines:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
            client.connect(("127.0.0.1", edge.port))
            await asyncio.sleep(0.1)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(client, handshake())
        async with asyncio.timeout(patient(5)):
            assert (await loop.sock_recv(client, 12)) == b"HTTP/1.1 101"
    assert [line["event"] for line in lines] == ["accept_failed"]
