"""TLS on both sides, with an authority made for the test."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs
from websockets.asyncio.client import connect

from tests.support.balancer.authority import Authority
from tests.support.balancer.relay_peers import (
    FixedPlacer,
    Session,
    Wire,
    answer_101,
    echo,
    edge_settings,
    handshake,
    is_held,
)
from tests.support.patience import patient
from trunkline.balancer.health.requests import open_session
from trunkline.balancer.relay.edge import Edge
from trunkline.balancer.tls import backend_context
from trunkline.errors import SettingsError


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def shown_name(port: int, authority: Authority) -> str:
    """Common name of the certificate that a new handshake is shown."""
    wire = await Wire.connect(port, ssl=authority.client())
    subject = wire.writer.get_extra_info("peercert")["subject"]
    wire.close()
    return next(value for part in subject for name, value in part if name == "commonName")


async def test_tls_on_both_sides(start_edge: Any, raw_backend: Any, authority: Authority, tmp_path: Path) -> None:
    """Wss in front and https behind: bytes pass, the backend is verified, and it learns that the client came by TLS."""
    authority.sign(tmp_path / "edge.pem", "edge")
    authority.sign(tmp_path / "backend.pem", "backend")
    backend = await raw_backend(echo, authority.server(tmp_path / "backend.pem"))
    placer = FixedPlacer(backend.url)
    edge = await start_edge(placer, tls_cert_file=tmp_path / "edge.pem", tls_ca_file=authority.file)
    wire = await Wire.connect(edge.port, ssl=authority.client())
    assert wire.writer.get_extra_info("ssl_object").version() in ("TLSv1.2", "TLSv1.3")
    wire.send(handshake())
    assert (await wire.answer()).status == 101
    assert b"X-Forwarded-Proto: https\r\n" in backend.heads[0]
    wire.send(b"z" * 3_000_000)
    assert await wire.take(3_000_000) == b"z" * 3_000_000
    wire.close()
    await placer.hears("closed", backend.url)


async def test_plain_http_over_tls(start_edge: Any, raw_backend: Any, authority: Authority, tmp_path: Path) -> None:
    """Plain requests are verified the same way, and the listener agrees on HTTP/1.1."""

    async def hello(session: Session) -> None:
        session.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

    authority.sign(tmp_path / "edge.pem", "edge")
    authority.sign(tmp_path / "backend.pem", "backend")
    backend = await raw_backend(hello, authority.server(tmp_path / "backend.pem"))
    edge = await start_edge(FixedPlacer(backend.url), tls_cert_file=tmp_path / "edge.pem", tls_ca_file=authority.file)
    context = authority.client()
    context.set_alpn_protocols(["h2", "http/1.1"])
    wire = await Wire.connect(edge.port, ssl=context)
    assert wire.writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
    wire.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await wire.answer()).body == b"hello"
    wire.close()


async def test_wss_from_an_independent_client(
    start_edge: Any, start_node: Any, authority: Authority, tmp_path: Path
) -> None:
    """A client library opens wss to a real plain node behind, and closes cleanly."""
    authority.sign(tmp_path / "edge.pem", "edge")
    node = await start_node()
    edge = await start_edge(FixedPlacer(f"http://127.0.0.1:{node.port}"), tls_cert_file=tmp_path / "edge.pem")
    async with connect(f"wss://127.0.0.1:{edge.port}/ws/echo", ssl=authority.client(), proxy=None) as ws:
        for message in ("hello", b"\1" * 500_000):
            await ws.send(message)
            assert await ws.recv() == message
        await ws.close(1000, "done")
        assert ws.close_code == 1000


@pytest.mark.parametrize("verify", [True, False])
async def test_backends_are_verified(
    start_edge: Any, raw_backend: Any, authority: Authority, tmp_path: Path, verify: bool
) -> None:
    """A certificate of an unknown authority is a TLS failure, unless the operator switched that off; then it warns."""
    authority.sign(tmp_path / "backend.pem", "backend")
    backend = await raw_backend(echo, authority.server(tmp_path / "backend.pem"))
    placer = FixedPlacer(backend.url)
    with capture_logs() as logs:
        edge = await start_edge(placer, tls_verify=verify)
    assert any(line["event"] == "backend_certificates_not_verified" for line in logs) is not verify
    wire = await Wire.connect(edge.port)
    wire.send(handshake())
    assert (await wire.answer()).status == (502 if verify else 101)
    assert placer.heard[0] == (("failed", backend.url, "tls") if verify else ("opened", backend.url))
    wire.close()


async def test_half_closed_plain_client_of_a_tls_backend(
    start_edge: Any, raw_backend: Any, authority: Authority, tmp_path: Path
) -> None:
    """TLS cannot end one direction: when the plain side does, the TLS side is closed after its last bytes."""
    got: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def listen(session: Session) -> None:
        session.writer.write(answer_101(session.head))
        got.set_result(await session.reader.read())

    authority.sign(tmp_path / "backend.pem", "backend")
    backend = await raw_backend(listen, authority.server(tmp_path / "backend.pem"))
    placer = FixedPlacer(backend.url)
    edge = await start_edge(placer, tls_ca_file=authority.file)
    wire = await Wire.upgraded(edge.port)
    wire.send(b"q" * 1_000_000)
    wire.writer.write_eof()
    assert len(await asyncio.wait_for(got, patient(5))) == 1_000_000
    assert await wire.ended() == b""
    await placer.hears("closed", backend.url)


async def test_backpressure_over_tls(start_edge: Any, raw_backend: Any, authority: Authority, tmp_path: Path) -> None:
    """A TLS client that does not read stops its TLS backend, and gets everything once it reads."""
    size = 30_000_000

    async def pour(session: Session) -> None:
        session.writer.write(answer_101(session.head))
        for _ in range(size // 100_000):
            session.writer.write(b"p" * 100_000)
            await session.writer.drain()
        await session.reader.read()

    for name in ("edge", "backend"):
        authority.sign(tmp_path / f"{name}.pem", name)
    backend = await raw_backend(pour, authority.server(tmp_path / "backend.pem"))
    edge = await start_edge(FixedPlacer(backend.url), tls_cert_file=tmp_path / "edge.pem", tls_ca_file=authority.file)
    wire = await Wire.connect(edge.port, ssl=authority.client())
    wire.send(handshake())
    assert (await wire.answer()).status == 101
    wire.reader._transport.pause_reading()  # type: ignore[attr-defined]
    relay = next(iter(edge.relays))
    async with asyncio.timeout(patient(10)):
        while not is_held(relay):
            await asyncio.sleep(0.02)
    await asyncio.sleep(0.2)
    assert relay.client.own.get_write_buffer_size() < 2_000_000
    wire.reader._transport.resume_reading()  # type: ignore[attr-defined]
    assert (await wire.take(size, 30)).count(b"p") == size
    wire.close()


async def test_a_new_certificate_is_taken(start_edge: Any, authority: Authority, tmp_path: Path) -> None:
    """New handshakes see a new certificate; a broken one is logged, and the old one stays."""
    file = tmp_path / "edge.pem"
    authority.sign(file, "first")
    edge = await start_edge(FixedPlacer(), tls_cert_file=file)
    assert await shown_name(edge.port, authority) == "first"
    authority.sign(file, "second")
    async with asyncio.timeout(patient(10)):
        while await shown_name(edge.port, authority) != "second":
            await asyncio.sleep(0.1)
    with capture_logs() as logs:
        file.write_text("-----BEGIN CERTIFICATE-----\nnonsense\n")
        async with asyncio.timeout(patient(10)):
            while not any(line["event"] == "tls_certificate_kept" for line in logs):
                await asyncio.sleep(0.1)
        assert await shown_name(edge.port, authority) == "second"
    authority.sign(file, "third")
    async with asyncio.timeout(patient(10)):
        while await shown_name(edge.port, authority) != "third":
            await asyncio.sleep(0.1)


async def test_a_bad_certificate_stops_the_start(authority: Authority, tmp_path: Path) -> None:
    """A certificate without its key, or a missing file, is told as a setting that cannot be used."""
    cert, _ = authority.sign(tmp_path / "edge.pem", "edge")
    (tmp_path / "half.pem").write_bytes(cert)
    for name in ("half.pem", "missing.pem"):
        with pytest.raises(SettingsError, match="tls_cert_file"):
            Edge(edge_settings(tls_cert_file=tmp_path / name), FixedPlacer())
        with pytest.raises(SettingsError, match="tls_client_cert_file"):
            Edge(edge_settings(tls_client_cert_file=tmp_path / name), FixedPlacer())
    with pytest.raises(SettingsError, match="tls_ca_file"):
        Edge(edge_settings(tls_ca_file=tmp_path / "missing.pem"), FixedPlacer())


async def test_plain_talk_to_a_tls_listener(start_edge: Any, authority: Authority, tmp_path: Path) -> None:
    """A client without TLS is cut off; the edge goes on."""
    authority.sign(tmp_path / "edge.pem", "edge")
    edge = await start_edge(FixedPlacer(), tls_cert_file=tmp_path / "edge.pem")
    wire = await Wire.connect(edge.port)
    wire.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert b"HTTP/1.1" not in await wire.ended()
    assert await shown_name(edge.port, authority) == "edge"


async def test_a_backend_that_asks_for_a_certificate(
    start_edge: Any, raw_backend: Any, authority: Authority, tmp_path: Path
) -> None:
    """It is shown the one of the settings, the newest one; without one it fails."""
    names: list[str] = []

    async def look(session: Session) -> None:
        subject = session.writer.get_extra_info("peercert")["subject"]
        names.append(next(value for part in subject for name, value in part if name == "commonName"))
        if session.head.startswith(b"GET /plain"):
            session.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        else:
            await echo(session)

    authority.sign(tmp_path / "backend.pem", "backend")
    authority.sign(tmp_path / "edge.pem", "first")
    backend = await raw_backend(look, authority.server(tmp_path / "backend.pem", asks=True))
    placer = FixedPlacer(backend.url)
    edge = await start_edge(placer, tls_ca_file=authority.file, tls_client_cert_file=tmp_path / "edge.pem")
    wire = await Wire.upgraded(edge.port)
    wire.close()
    authority.sign(tmp_path / "edge.pem", "second")
    wire = await Wire.upgraded(edge.port)
    wire.close()
    (tmp_path / "edge.pem").write_text("broken")
    wire = await Wire.connect(edge.port)
    wire.send(b"GET /plain HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await wire.answer()).status == 200
    wire.close()
    assert names == ["first", "second", "second"]
    bare = FixedPlacer(backend.url)
    edge = await start_edge(bare, tls_ca_file=authority.file)
    wire = await Wire.connect(edge.port)
    wire.send(handshake())
    assert (await wire.answer()).status == 502
    # Since TLS 1.3 a server refuses a client after the handshake.
    assert bare.heard[0] in [("failed", backend.url, why) for why in ("tls", "closed")]
    wire.close()


async def test_checks_and_reports_show_the_certificate(authority: Authority, tmp_path: Path) -> None:
    """What the balancer asks on its own goes the same way."""

    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"agentsConnections": 5})

    authority.sign(tmp_path / "backend.pem", "backend")
    authority.sign(tmp_path / "edge.pem", "edge")
    app = web.Application()
    app.router.add_get("/metric", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=authority.server(tmp_path / "backend.pem", asks=True)).start()
    url = f"https://127.0.0.1:{runner.addresses[0][1]}/metric"
    settings = edge_settings(tls_ca_file=authority.file, tls_client_cert_file=tmp_path / "edge.pem")
    async with (
        open_session(backend_context(settings), timeout_s=patient(5), keep_alive=False) as session,
        session.get(url) as found,
    ):
        assert found.status == 200
    await runner.cleanup()
