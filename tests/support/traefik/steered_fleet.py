"""Small WebSocket backends, a placer that counts, and the real Traefik steered by them, all on free ports."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import msgspec
from aiohttp import web

from tests.support.free_ports import free_port
from tests.support.patience import patient
from tests.support.traefik.live_traefik import with_api
from trunkline.net.asked_sessions import AskedSessions
from trunkline.placement.backend import short_id
from trunkline.placement.placing import Ask, Pick, Refusal
from trunkline.settings.sections import Settings
from trunkline.traefik.process import TraefikProcess
from trunkline.traefik.render.static import static_text
from trunkline.traefik.steer.handlers import Steering
from trunkline.traefik.steer.published import Candidate

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Seen(NamedTuple):
    """A request as a backend got it; header names in lower case."""

    target: str
    headers: dict[str, str]


PROBES = ("/health", "/ready", "/metric")
"""Traefik's health check, and those of another test's balancer whose backend had the port before."""


class Backend:
    """Answers upgrades with 101 and holds them, and everything else with 200; its own id stands in `X-Backend`."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.open: dict[str, asyncio.StreamWriter] = {}
        self.host = "127.0.0.1"
        self.port = 0

    @classmethod
    async def start(cls, port: int = 0, host: str = "127.0.0.1") -> Backend:
        backend = cls()
        backend.host = host
        backend._server = await asyncio.start_server(backend._serve, host, port)
        backend.port = backend._server.sockets[0].getsockname()[1]
        return backend

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def handshakes(self) -> list[Seen]:
        """Every handshake so far."""
        return [seen for seen in self.seen if "upgrade" in seen.headers]

    @property
    def keys(self) -> list[str]:
        """Sec-WebSocket-Key of every handshake so far."""
        return [seen.headers["sec-websocket-key"] for seen in self.handshakes]

    def refuse_new(self) -> None:
        """Listen no more; what is open stays."""
        self._server.close()

    async def stop(self) -> None:
        self._server.close()
        for writer in list(self.open.values()):
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        key = ""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            request, *fields = head.split("\r\n")[:-2]
            headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
            if request.split(" ")[1] not in PROBES:
                self.seen.append(Seen(request.split(" ")[1], headers))
            mine = f"X-Backend: {self.port}\r\n"
            if "upgrade" not in headers:
                writer.write(f"HTTP/1.1 200 OK\r\n{mine}Content-Length: 0\r\nConnection: close\r\n\r\n".encode())
                return
            key = headers["sec-websocket-key"]
            accept = base64.b64encode(hashlib.sha1(key.encode() + _GUID).digest()).decode()
            self.open[key] = writer
            writer.write(
                f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{mine}"
                f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode()
            )
            while data := await reader.read(4096):
                writer.write(data)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open.pop(key, None)
            writer.close()


class CountingPlacer:
    """Fewest picks first; affinity and stickiness by table. It hears nothing of what becomes of a pick."""

    def __init__(self, backends: Sequence[Backend]) -> None:
        self.counts = {backend.url: 0 for backend in backends}
        self.asks: list[Ask] = []
        self.picks: dict[str, list[str]] = {}
        self.failures: list[tuple[str, str]] = []
        self.dropped_urls: list[str] = []
        self.matches: dict[str, str] = {}
        self.refusal: Refusal | None = None
        self.hangs = False
        self.breaks = False

    def place(self, ask: Ask) -> Pick | Refusal | Awaitable[Pick | Refusal]:
        self.asks.append(ask)
        if self.breaks:
            raise RuntimeError("a fault of the placer")
        if self.hangs:
            return asyncio.get_running_loop().create_future()
        if self.refusal is not None:
            return self.refusal
        left = [url for url in self.counts if url not in ask.tried]
        if not left:
            return Refusal(503, "all_tried", "every backend failed", 1.0)
        url = min(left, key=lambda url: self.counts[url])
        if ask.affinity is not None:
            url = self.matches.setdefault(ask.affinity, url)
        for known in left:
            if ask.sticky == short_id(known):
                url = known
        if ask.key:
            self.counts[url] += 1
            self.picks.setdefault(ask.key, []).append(url)
        return Pick(url, len(self.asks) if ask.key else 0, "least_connections")

    def opened(self, pick: Pick) -> None:
        pass

    def failed(self, pick: Pick, why: str) -> None:
        self.failures.append((pick.url, why))

    def dropped(self, pick: Pick) -> None:
        self.counts[pick.url] -= 1
        self.dropped_urls.append(pick.url)

    def closed(self, pick: Pick) -> None:
        pass


class Opened(NamedTuple):
    """An answered handshake."""

    status: int
    headers: dict[str, str]
    body: str
    key: str
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def backend(self) -> int:
        """Port of the backend that answered, 0 for none."""
        return int(self.headers.get("x-backend", 0))

    async def echoes(self) -> bool:
        """Whether bytes still go to the backend and back."""
        self.writer.write(b"still there")
        async with asyncio.timeout(patient(5)):
            return await self.reader.readexactly(11) == b"still there"


class SteeredFleet:
    """Backends behind the real Traefik, and a balancer that can be taken away and brought back."""

    def __init__(self, backends: list[Backend], settings: Settings) -> None:
        self.backends = backends
        self.settings = settings
        self.placer = CountingPlacer(backends)
        self.candidates = [Candidate(backend.url) for backend in backends]
        self.asked = AskedSessions()
        self.steering = Steering(settings, self.placer, lambda: self.candidates, asked=self.asked)
        self.log: list[str] = []
        self._api_port = free_port()
        self._runner: web.AppRunner | None = None
        self._opened: list[Opened] = []
        self._traefik: TraefikProcess | None = None
        self._http: aiohttp.ClientSession | None = None
        self._directory = Path()

    @classmethod
    async def start(
        cls,
        directory: Path,
        count: int = 3,
        balancer: Mapping[str, Any] | None = None,
        traefik: Mapping[str, Any] | None = None,
    ) -> SteeredFleet:
        backends = [await Backend.start() for _ in range(count)]
        balancer_port = free_port()
        defaults = Settings()
        fleet = cls(
            backends,
            msgspec.structs.replace(
                defaults,
                balancer=msgspec.structs.replace(defaults.balancer, **(balancer or {})),
                traefik=msgspec.structs.replace(
                    defaults.traefik,
                    http_port=free_port(),
                    balancer_url=f"http://127.0.0.1:{balancer_port}",
                    fail_open_port=free_port(),
                    ping_port=free_port(),
                    poll_interval_ms=50,
                    health_interval_ms=200,
                    grace_timeout_ms=0,
                    **(traefik or {}),
                ),
            ),
        )
        fleet._directory = directory
        fleet._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=patient(2)))
        await fleet.balancer_back()
        await fleet.start_traefik()
        return fleet

    async def start_traefik(self) -> None:
        """Start a Traefik that knows nothing, in the place of the one before."""
        if self._traefik is not None:
            await self._traefik.stop()
        traefik = self.settings.traefik
        self._traefik = await TraefikProcess.start(
            with_api(static_text(self.settings, self._directory / "dynamic.yml"), self._api_port),
            self._directory / "traefik",
            ping_port=traefik.ping_port,
            ports=[("", traefik.http_port), ("127.0.0.1", traefik.fail_open_port), ("127.0.0.1", traefik.ping_port)],
            grace_s=0,
            on_line=self.log.append,
        )
        await self.loaded()

    async def stop(self) -> None:
        for opened in self._opened:
            opened.writer.close()
        if self._traefik is not None:
            await self._traefik.stop()
        await self.balancer_gone()
        for backend in self.backends:
            await backend.stop()
        if self._http is not None:
            await self._http.close()

    async def balancer_gone(self) -> None:
        """Close its port and every connection to it."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    async def balancer_back(self, fetched: bool = True) -> None:
        """A new balancer that knows nothing of the one before; not `fetched`: Traefik cannot fetch from it."""
        self.steering = Steering(self.settings, self.placer, lambda: self.candidates, asked=self.asked)
        app = web.Application()
        app.router.add_routes(
            route for route in self.steering.routes() if fetched or route.path in ("/place", "/expected")
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        port = int(self.settings.traefik.balancer_url.rpartition(":")[2])
        await web.TCPSite(self._runner, "127.0.0.1", port).start()

    async def loaded(self) -> None:
        """Wait until Traefik has loaded exactly the pickable servers of now, and found them up."""
        wanted = {f"trunkline-at-{short_id(candidate.url)}@http" for candidate in self.candidates}

        async def done() -> bool:
            names = {name for name in await self.services() if name.startswith("trunkline-at-")}
            return names == wanted

        await self.until(done, "Traefik to load the servers")

    async def services(self) -> set[str]:
        """Names of the services that Traefik has loaded."""
        assert self._http is not None
        async with self._http.get(f"http://127.0.0.1:{self._api_port}/api/http/services?per_page=1000") as answer:
            return {service["name"] for service in await answer.json()}

    async def open_servers(self) -> set[str]:
        """URLs between which Traefik balances by itself, as it has loaded them."""
        assert self._http is not None
        async with self._http.get(
            f"http://127.0.0.1:{self._api_port}/api/http/services/trunkline-nodes@http"
        ) as answer:
            return {server["url"] for server in (await answer.json())["loadBalancer"]["servers"]}

    async def until(self, done: Callable[[], Awaitable[bool]], what: str) -> None:
        try:
            async with asyncio.timeout(patient(10)):
                while True:
                    try:
                        if await done():
                            return
                    except (OSError, aiohttp.ClientError):
                        pass
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"waited in vain for {what}; Traefik says:\n" + "\n".join(self.log)) from None

    async def connect(
        self,
        path: str = "/ws",
        headers: Mapping[str, str] | None = None,
        *,
        key: str | None = None,
        ws: bool = True,
        tls: bool = False,
    ) -> Opened:
        """Ask Traefik for an upgrade (or, not `ws`, send a plain GET) and read the answer."""
        traefik, trusting = self.settings.traefik, None
        if tls:  # Traefik makes a certificate for itself
            trusting = ssl.create_default_context()
            trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        port = traefik.https_port if tls else traefik.http_port
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting)
        key = key or base64.b64encode(os.urandom(16)).decode()
        fields = {"Host": "localhost", **(headers or {})}
        if ws:
            fields |= {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
            fields["Sec-WebSocket-Key"] = key
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        writer.write(f"GET {path} HTTP/1.1\r\n{head}\r\n".encode())
        async with asyncio.timeout(patient(15)):
            first, *rest = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
            answer = {name.lower(): value for name, _, value in (line.partition(": ") for line in rest)}
            body = (await reader.readexactly(int(answer.get("content-length", 0)))).decode()
        opened = Opened(int(first.split(" ")[1]), answer, body, key, reader, writer)
        self._opened.append(opened)
        return opened

    def backend(self, port: int) -> Backend:
        """The backend of a port."""
        return next(backend for backend in self.backends if backend.port == port)
