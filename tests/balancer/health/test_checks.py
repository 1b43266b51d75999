"""Active checks against real servers: well, ill, hanging, lying, gone and back again."""

from __future__ import annotations

import asyncio
import base64
import gc
import hashlib
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import structlog
from aiohttp import web

from tests.support.balancer.backend_server import RawBackend, WebBackend, hang, text
from tests.support.free_ports import free_port
from tests.support.patience import patient, patient_ms
from tests.support.unanswered import unanswered
from trunkline import App
from trunkline.balancer.health.checks import HealthChecks, only_loaded
from trunkline.errors import SettingsError
from trunkline.placement.backend import BackendSpec
from trunkline.server.app import stock
from trunkline.server.node.health import assess
from trunkline.server.node.node import Node
from trunkline.settings.balancer import BalancerSettings
from trunkline.settings.sections import Settings

pytestmark = [
    pytest.mark.filterwarnings("error::ResourceWarning"),
    pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning"),
]

WAIT_S = patient(10.0)


class Result(NamedTuple):
    url: str
    ok: bool
    why: str


class Watch:
    """Checks of the given backends, and their results as they come."""

    def __init__(self, *specs: BackendSpec | str, **changes: Any) -> None:
        given: dict[str, Any] = {"health_interval_ms": 30, "health_timeout_ms": patient_ms(400), **changes}
        self.results: asyncio.Queue[Result] = asyncio.Queue()
        self.checks = HealthChecks(
            msgspec.structs.replace(BalancerSettings(), **given),
            lambda url, ok, why: self.results.put_nowait(Result(url, ok, why)),
        )
        self.set(*specs)

    def set(self, *specs: BackendSpec | str) -> None:
        self.checks.set_backends([BackendSpec(spec) if isinstance(spec, str) else spec for spec in specs])

    async def __aenter__(self) -> Watch:
        await self.checks.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.checks.close()

    async def next(self) -> Result:
        return await asyncio.wait_for(self.results.get(), WAIT_S)

    async def until(self, ok: bool) -> Result:
        while (result := await self.next()).ok is not ok:
            pass
        return result


@pytest.fixture(autouse=True)
async def nothing_left_open() -> AsyncIterator[None]:
    """A session or a connection that nobody closed fails the test, by the marks above."""
    yield
    gc.collect()


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    """A real node with the stock application."""
    started = await start_node(stock.create())
    yield started
    await started.stop(drain_ms=0, deadline_ms=300)


async def start_node(app: App) -> Node:
    settings = Settings()
    settings = msgspec.structs.replace(
        settings,
        server=msgspec.structs.replace(settings.server, host="127.0.0.1", port=0, drain_ms=0),
        admin=msgspec.structs.replace(settings.admin, port=0),
        limits=msgspec.structs.replace(settings.limits, loop_lag_shed_ms=60_000),
    )
    node = Node(settings, app)
    await node.start()
    return node


async def first(spec: BackendSpec | str, **changes: Any) -> Result:
    """The first result for one backend; the interval is too long for a second one."""
    async with Watch(spec, **{"health_interval_ms": 600_000, **changes}) as watch:
        return await watch.next()


# --- by request -------------------------------------------------------------------------------------------------------


async def test_a_node_of_ours_is_well(node: Node) -> None:
    """A real node passes both kinds of check, the second with a real connection to an endpoint."""
    url = f"http://127.0.0.1:{node.port}"
    assert await first(url) == (url, True, "")
    assert await first(url, health="websocket", health_path="/ws") == (url, True, "")


@pytest.mark.parametrize("status", [200, 204, 299])
async def test_any_2xx_is_well(status: int) -> None:
    """2xx is good on a path that the operator named."""
    async with WebBackend(text("", status)) as backend:
        assert (await first(backend.url, health_path="/up")).ok
        assert backend.requests[0].path == "/up"


@pytest.mark.parametrize("status", [404, 405, 426])
async def test_a_backend_without_our_page_is_well(status: int) -> None:
    """4xx on the default path counts as an answer, and the log says so once."""
    async with WebBackend(text("no", status)) as backend:
        with structlog.testing.capture_logs() as logs:
            async with Watch(backend.url) as watch:
                assert [(await watch.next()).ok for _ in range(3)] == [True] * 3
        assert [line["event"] for line in logs] == ["health_page_missing"]
        assert not (await first(backend.url, health_path="/up")).ok
        result = await first(BackendSpec(backend.url, health_path="/health"))
        assert result == (backend.url, False, f"status {status}")


async def test_the_backends_own_path_wins() -> None:
    """A backend's own path is asked instead of the setting's."""
    async with WebBackend(text("{}")) as backend:
        assert (await first(BackendSpec(backend.url, health_path="/mine"), health_path="/all")).ok
        assert [request.path for request in backend.requests] == ["/mine"]


@pytest.mark.parametrize("status", [500, 503])
async def test_5xx_is_ill(status: int) -> None:
    """5xx is bad even on the default path."""
    async with WebBackend(text("{}", status)) as backend:
        assert await first(backend.url) == (backend.url, False, f"status {status}")


async def test_redirects_are_not_followed() -> None:
    """A redirect to a healthy page says nothing of the backend, for both kinds of check."""

    async def elsewhere(request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound("/well") if request.path != "/well" else web.HTTPOk()

    async with WebBackend(elsewhere) as backend:
        assert await first(backend.url) == (backend.url, False, "status 302")
        result = await first(backend.url, health="websocket", health_path="/ws")
        assert result == (backend.url, False, "status 302, a redirect")
        assert all(request.path != "/well" for request in backend.requests)


async def test_a_full_node_is_not_ill() -> None:
    """503 of a node that is only nearly full, or only busy, is good; with another fault beside it is bad."""

    def health(connections: int, connected: bool = True, cpu_percent: float = 1.0) -> bytes:
        return msgspec.json.encode(
            assess(
                bus_name="nats",
                bus_connected=connected,
                connections=connections,
                max_connections=100,
                memory_bytes=1,
                memory_limit_bytes=None,
                cpu_percent=cpu_percent,
                slow_clients=0,
                draining=False,
                uptime_s=1.0,
            )
        )

    async with WebBackend(text(health(99).decode(), 503)) as backend:
        assert (await first(backend.url)).ok
        backend.answer = text(health(99, connected=False).decode(), 503)
        assert not (await first(backend.url)).ok
    assert only_loaded(health(99))
    assert only_loaded(health(1, cpu_percent=99.0))
    assert not only_loaded(health(1, connected=False))
    assert not any(only_loaded(body) for body in (b"", b"{", b"[]", b'{"status":"unhealthy"}', b"[" * 60_000))


async def test_a_backend_that_is_gone_is_ill() -> None:
    """Nothing listens: bad, with a reason."""
    result = await first(f"http://127.0.0.1:{free_port()}")
    assert not result.ok
    assert result.why.startswith("cannot connect")


async def test_a_name_that_does_not_resolve_is_ill() -> None:
    """A name that no DNS knows is bad, with a reason, and ends nothing."""
    result = await first("http://nowhere.invalid:80", health_timeout_ms=8000)
    assert not result.ok
    assert result.why in ("its name does not resolve", "no answer within 8000 ms")


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_a_backend_that_hangs_is_ill(kind: str) -> None:
    """No answer within the time-out is bad."""
    async with RawBackend(hang) as backend:
        result = await first(backend.url, health=kind, health_timeout_ms=100)
        assert result == (backend.url, False, "no answer within 100 ms")


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"])
@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_broken_answers_are_ill(kind: str, answer: bytes) -> None:
    """An end without an answer, another protocol, and a body that breaks off are bad."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)

    async with RawBackend(serve) as backend:
        result = await first(backend.url, health=kind)
        assert not result.ok
        assert 0 < len(result.why) < 120


async def test_an_endless_body_is_cut() -> None:
    """Of a body without end only a little is read; the status counts."""
    written = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65_536)
            written += 65_536
            await writer.drain()

    async with RawBackend(serve) as backend:
        assert (await first(backend.url)).ok
        assert written < 50_000_000


async def test_it_notices_death_and_return() -> None:
    """A backend that is stopped and started again turns bad and good, by new connections."""
    async with WebBackend(text("{}")) as backend, Watch(backend.url) as watch:
        await watch.until(ok=True)
        await backend.stop()
        await watch.until(ok=False)
        await backend.start()
        await watch.until(ok=True)


async def test_each_check_makes_a_new_connection() -> None:
    """No connection is kept: that a new one can be made is what a check proves."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with RawBackend(serve) as backend, Watch(backend.url) as watch:
        for _ in range(4):
            assert (await watch.next()).ok
        assert backend.connections >= 4


# --- by handshake -----------------------------------------------------------------------------------------------------


def handshake(accept: str | None = None) -> Any:
    """A server that answers a handshake by hand and then waits; `accept` replaces the right value."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        key = next(
            line.split(":", 1)[1].strip() for line in head.splitlines() if line.lower().startswith("sec-websocket-key")
        )
        digest = hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
        right = base64.b64encode(digest).decode()
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            + f"Sec-WebSocket-Accept: {accept or right}\r\n\r\n".encode()
        )
        await hang(reader, writer)

    return serve


async def test_a_false_accept_is_ill() -> None:
    """101 with a false Sec-WebSocket-Accept is bad."""
    async with RawBackend(handshake("AAAAAAAAAAAAAAAAAAAAAAAAAAA=")) as backend:
        result = await first(backend.url, health="websocket", health_path="/ws")
        assert not result.ok
        assert result.why.startswith("handshake answered with status 101: ")


async def test_a_missing_goodbye_is_not_held_against_it() -> None:
    """The handshake is what is checked: a backend that never answers the close frame is well."""
    async with RawBackend(handshake()) as backend:
        assert (await first(backend.url, health="websocket", health_path="/ws", health_timeout_ms=200)).ok


@pytest.mark.parametrize("status", [200, 404, 500])
async def test_no_101_is_ill(status: int) -> None:
    """Any other answer to the handshake is bad, and on the default path the reason says what to set."""
    async with WebBackend(text("hello", status)) as backend:
        result = await first(backend.url, health="websocket", health_path="/ws")
        assert result == (backend.url, False, f"handshake answered with status {status}")
        assert "balancer.health_path" in (await first(backend.url, health="websocket")).why


async def test_the_handshake_is_closed_with_1000() -> None:
    """The backend sees a normal end, not a lost client."""
    codes: asyncio.Queue[int | None] = asyncio.Queue()

    async def answer(request: web.Request) -> web.StreamResponse:
        peer = web.WebSocketResponse()
        await peer.prepare(request)
        await peer.send_str("a greeting")
        async for _ in peer:
            pass
        codes.put_nowait(peer.close_code)
        return peer

    async with WebBackend(answer) as backend:
        assert (await first(backend.url, health="websocket", health_path="/ws")).ok
        assert await asyncio.wait_for(codes.get(), WAIT_S) == 1000


# --- turns ------------------------------------------------------------------------------------------------------------


async def test_changing_the_list() -> None:
    """A backend that joins is checked at once, one that left is not checked any more."""
    async with WebBackend(text("{}")) as old, WebBackend(text("{}")) as new:
        async with Watch(old.url, health_interval_ms=600_000) as watch:
            assert (await watch.next()).url == old.url
            watch.set(new.url)
            assert (await watch.next()).url == new.url
        async with Watch(old.url) as watch:
            assert (await watch.next()).url == old.url
            watch.set(new.url)
            while not watch.results.empty():
                watch.results.get_nowait()
            assert {(await watch.next()).url for _ in range(5)} == {new.url}


async def test_off_asks_nobody() -> None:
    """With checks off nothing is asked and nothing is told."""
    async with WebBackend(text("{}")) as backend:
        async with Watch(backend.url, health="off") as watch:
            await asyncio.sleep(0)
            assert watch.results.empty()
        assert backend.requests == []


async def test_close_ends_the_checks() -> None:
    """After `close` nothing is asked and nothing told."""
    async with WebBackend(text("{}")) as backend:
        watch = Watch(backend.url)
        await watch.checks.start()
        await watch.next()
        await watch.checks.close()
        asked = len(backend.requests)
        while not watch.results.empty():
            watch.results.get_nowait()
        await asyncio.sleep(0.1)
        assert len(backend.requests) == asked
        assert watch.results.empty()


# --- TLS --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A self-signed certificate of 127.0.0.1."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test"
        f" -addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {cert}"
    )
    try:
        subprocess.run(command.split(), check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    return cert, key


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_tls_is_verified(certificate: tuple[Path, Path], kind: str) -> None:
    """A certificate of an unknown authority is bad, unless the authority is given or verifying is off."""
    cert, key = certificate
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)

    async def answer(request: web.Request) -> web.StreamResponse:
        if kind == "http":
            return web.Response()
        peer = web.WebSocketResponse()
        await peer.prepare(request)
        async for _ in peer:
            pass
        return peer

    runner = web.AppRunner(app := web.Application())
    app.router.add_get("/up", answer)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    url = f"https://127.0.0.1:{runner.addresses[0][1]}"
    try:
        given = {"health": kind, "health_path": "/up", "health_timeout_ms": 3000}
        result = await first(url, **given)
        assert not result.ok
        assert "certificate" in result.why
        assert (await first(url, tls_ca_file=cert, **given)).ok
        assert (await first(url, tls_verify=False, **given)).ok
    finally:
        await runner.cleanup()


async def test_an_unusable_authority_is_named(tmp_path: Path) -> None:
    """A CA file that is missing or holds no certificate stops the start with its name."""
    empty = tmp_path / "empty.pem"
    empty.write_text("no certificate")
    for path in (tmp_path / "missing.pem", empty):
        with pytest.raises(SettingsError, match=path.name):
            Watch(tls_ca_file=path)


@pytest.mark.skipif(sys.platform != "linux", reason="all of 127.0.0.0/8 is loopback on Linux alone")
async def test_the_second_address_of_a_name_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one never answers; checks and reports share the client that tries the next meanwhile."""
    ask = socket.getaddrinfo

    def two(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        if host != "two.test":
            return ask(host, port, *rest, **more)
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, int(port))) for address in ("127.0.0.2", "127.0.0.1")
        ]

    monkeypatch.setattr(socket, "getaddrinfo", two)
    async with WebBackend(text("{}")) as backend:
        url = f"http://two.test:{backend.port}"
        with unanswered("127.0.0.2", backend.port):
            async with Watch(url, health_timeout_ms=patient_ms(2000)) as watch:
                assert (await watch.next()).ok
