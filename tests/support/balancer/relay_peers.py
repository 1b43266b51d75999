"""What tests of the relay share: a placer with a fixed list, backends that behave as told, a client without manners."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from tests.support.patience import patient
from trunkline.balancer.relay.edge import Edge
from trunkline.balancer.relay.splice.relay import Relay
from trunkline.balancer.relay.splice.sockets import SocketRelay
from trunkline.balancer.relay.splice.transports import TransportRelay
from trunkline.placement.placing import Ask, Pick, Refusal
from trunkline.server.node.node import Node
from trunkline.settings.balancer import BalancerSettings
from trunkline.settings.sections import Settings

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
StartEdge = Callable[..., Awaitable[Edge]]
StartNode = Callable[..., Awaitable[Node]]


def accept_of(head: bytes) -> bytes:
    """The Sec-WebSocket-Accept that a handshake wants, reckoned apart from what is tested."""
    key = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key:"))
    return base64.b64encode(hashlib.sha1(key.partition(b":")[2].strip() + GUID).digest())


def answer_101(head: bytes, *more: bytes) -> bytes:
    """A backend's valid 101."""
    lines = [
        b"HTTP/1.1 101 Switching Protocols",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: " + accept_of(head),
        *more,
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n"


class FixedPlacer:
    """Gives out the first backend of its list that was not tried, and records what it hears."""

    def __init__(self, *urls: str, cookie: str | None = None, later: bool = False) -> None:
        self.urls = urls
        self.cookie = cookie
        self.later = later
        self.pause_s = 0.01
        self.refusal: Refusal | None = None
        self.asked: list[Ask] = []
        self.heard: list[tuple[str, ...]] = []
        self.changed = asyncio.Event()

    def place(self, ask: Ask) -> Pick | Refusal | Awaitable[Pick | Refusal]:
        """The next backend."""
        self.asked.append(ask)
        return self._later(ask) if self.later else self._place(ask)

    def _place(self, ask: Ask) -> Pick | Refusal:
        if self.refusal is not None:
            return self.refusal
        for number, url in enumerate(self.urls):
            if url not in ask.tried:
                return Pick(url, number + 1, "retry" if ask.tried else "least_connections", self.cookie)
        return Refusal(503, "all_tried", "no backend is left", 0.2)

    async def _later(self, ask: Ask) -> Pick | Refusal:
        await asyncio.sleep(self.pause_s)
        return self._place(ask)

    def _hear(self, *words: str) -> None:
        self.heard.append(words)
        self.changed.set()

    def opened(self, pick: Pick) -> None:
        """Recorded."""
        self._hear("opened", pick.url)

    def failed(self, pick: Pick, why: str) -> None:
        """Recorded."""
        self._hear("failed", pick.url, why)

    def dropped(self, pick: Pick) -> None:
        """Recorded."""
        self._hear("dropped", pick.url)

    def closed(self, pick: Pick) -> None:
        """Recorded."""
        self._hear("closed", pick.url)

    async def hears(self, *words: str, timeout: float = 5.0) -> None:
        """Wait until something was heard."""
        async with asyncio.timeout(patient(timeout)):
            while words not in self.heard:
                self.changed.clear()
                await self.changed.wait()


class Session(NamedTuple):
    """What a raw backend's behaviour is handed: streams and the head that came."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    head: bytes


Behaviour = Callable[[Session], Awaitable[None]]


class RawBackend:
    """A TCP server that reads one head a connection and then behaves as told."""

    def __init__(self, behave: Behaviour, ssl: Any = None) -> None:
        self._behave = behave
        self._ssl = ssl
        self.heads: list[bytes] = []
        self.connections = 0
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> RawBackend:
        """Listen on a free port."""
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 22, ssl=self._ssl)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    @property
    def url(self) -> str:
        """Its name for the placer."""
        return f"{'https' if self._ssl else 'http'}://127.0.0.1:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            await self._behave(Session(reader, writer, head))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    def cut(self) -> None:
        """Reset every connection, as a killed machine's kernel would."""
        for writer in self._writers:
            sock = writer.get_extra_info("socket")
            option = struct.pack("ii", 1, 0)
            with socket.fromfd(sock.fileno(), socket.AF_INET, socket.SOCK_STREAM) as own:
                own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
            writer.transport.abort()

    async def stop(self) -> None:
        """Close everything."""
        self.server.close()
        for writer in list(self._writers):
            writer.transport.abort()


async def echo(session: Session) -> None:
    """A WebSocket in name: returns every byte, until the client ends its direction."""
    session.writer.write(answer_101(session.head))
    while data := await session.reader.read(1 << 16):
        session.writer.write(data)
        await session.writer.drain()


def says(answer: bytes) -> Behaviour:
    """A backend that answers so and closes."""

    async def behave(session: Session) -> None:
        session.writer.write(answer)
        await session.writer.drain()

    return behave


async def hang(session: Session) -> None:
    """A backend that takes the handshake and says nothing."""
    await session.reader.read()


def handshake(path: str = "/ws", headers: Mapping[str, str] | None = None) -> bytes:
    """A handshake's request; `headers` come on top or replace what is there."""
    fields = {
        "Host": "play.example.org",
        "Upgrade": "websocket",
        "Connection": "keep-alive, Upgrade",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        "Sec-WebSocket-Version": "13",
        **(headers or {}),
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode()


class Answer(NamedTuple):
    """An HTTP answer; header names in lower case, in `lines` as they came."""

    status: int
    headers: dict[str, str]
    body: bytes
    lines: list[str]


class Wire:
    """A client's TCP connection, read and written by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int, ssl: Any = None, **options: Any) -> Wire:
        """Connect and say nothing."""
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 22, ssl=ssl, **options))

    @classmethod
    async def upgraded(cls, port: int, path: str = "/ws", **headers: str) -> Wire:
        """Connect and open a WebSocket."""
        wire = await cls.connect(port)
        wire.send(handshake(path, {name.replace("_", "-"): value for name, value in headers.items()}))
        answer = await wire.answer()
        assert answer.status == 101, answer
        return wire

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.writer.write(data)

    async def take(self, count: int, timeout: float = 10.0) -> bytes:
        """The next `count` bytes."""
        async with asyncio.timeout(patient(timeout)):
            return await self.reader.readexactly(count)

    async def answer(self, timeout: float = 10.0, *, head: bool = False) -> Answer:
        """The next HTTP answer; `head`: it answers HEAD and has no body."""
        async with asyncio.timeout(patient(timeout)):
            raw = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip("\r\n").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in raw[1:])}
            status = int(raw[0].split()[1])
            body = b""
            if head or status in (101, 100, 204, 304):
                pass
            elif headers.get("transfer-encoding") == "chunked":
                while size := int(await self.reader.readline(), 16):
                    body += await self.reader.readexactly(size)
                    assert await self.reader.readline() == b"\r\n"
                await self.reader.readline()
            elif "content-length" in headers:
                body = await self.reader.readexactly(int(headers["content-length"]))
            else:
                body = await self.reader.read()
        return Answer(status, headers, body, raw)

    async def ended(self, timeout: float = 10.0) -> bytes:
        """Read until the other side has ended; returns what came until then."""
        async with asyncio.timeout(patient(timeout)):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b"(reset)"

    def close(self) -> None:
        """Close."""
        self.writer.close()

    def reset(self) -> None:
        """Cut the connection off with a reset."""
        sock = self.writer.get_extra_info("socket")
        with socket.fromfd(sock.fileno(), socket.AF_INET, socket.SOCK_STREAM) as own:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


async def request(port: int, raw: bytes, *, head: bool = False) -> Answer:
    """One request on a connection of its own."""
    wire = await Wire.connect(port)
    try:
        wire.send(raw)
        return await wire.answer(head=head)
    finally:
        wire.close()


def descriptors(relay: Relay) -> tuple[int, int]:
    """Those of a relay's client and backend."""
    if isinstance(relay, SocketRelay):
        return relay.descriptors
    assert isinstance(relay, TransportRelay)
    ends = (relay.client, relay.client.peer)
    return ends[0].own.get_extra_info("socket").fileno(), ends[1].own.get_extra_info("socket").fileno()


def waiting(relay: Relay) -> int:
    """Bytes that a relay holds for both its sides."""
    if isinstance(relay, SocketRelay):
        return sum(relay.waiting)
    assert isinstance(relay, TransportRelay)
    return sum(end.own.get_write_buffer_size() for end in (relay.client, relay.client.peer))


def is_held(relay: Relay) -> bool:
    """Whether a relay does not read one side, because the other does not take what came."""
    if isinstance(relay, SocketRelay):
        return any(relay.waiting)
    assert isinstance(relay, TransportRelay)
    return relay.client.held or relay.client.peer.held


def edge_settings(**changes: Any) -> BalancerSettings:
    """Default settings on a free port, which is served under the name that requests have here."""
    return msgspec.structs.replace(BalancerSettings(), **{"port": 0, "hosts": ("play.example.org",), **changes})


def node_settings(**server: Any) -> Settings:
    """Settings of a node for tests, with changes to its section `server`."""
    settings = Settings()
    server = {"host": "127.0.0.1", "port": 0, "drain_ms": 0, "hosts": ("play.example.org",), **server}
    return msgspec.structs.replace(
        settings,
        server=msgspec.structs.replace(settings.server, **server),
        admin=msgspec.structs.replace(settings.admin, port=0),
        log=msgspec.structs.replace(settings.log, access=False),
        limits=msgspec.structs.replace(settings.limits, loop_lag_shed_ms=60_000),
    )
