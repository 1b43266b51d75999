"""A hub with real connections and clients over transports that the test stalls and drains, and what each client saw."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import msgspec

from trunkline.bus.base import Bus, RetentionOf
from trunkline.server.app import stock
from trunkline.server.app.refreshing import Refreshing
from trunkline.server.app.route import Route, Services
from trunkline.server.app.serving import serve
from trunkline.server.channels.hub import Hub
from trunkline.server.channels.requests import Requests
from trunkline.server.channels.rules import RuleSet
from trunkline.server.connections.connection import Connection
from trunkline.server.connections.identity import ClientIdentity
from trunkline.server.connections.registry import Registry
from trunkline.server.connections.runtime import Bounds, Runtime
from trunkline.settings.sections import Settings
from trunkline.websocket.frames import FrameReader


class StalledTransport:
    """Takes everything at once, or nothing while it is stalled; no descriptor, so every byte comes by here."""

    def __init__(self) -> None:
        self.protocol: Connection | None = None
        self.taken = bytearray()
        self.waiting = bytearray()
        self.stalled = False
        self.reading = True
        self.closed = False

    def get_extra_info(self, name: str) -> Any:
        return self if name in ("socket", "ssl_object") else None

    def fileno(self) -> int:
        return -1

    def get_write_buffer_size(self) -> int:
        return len(self.waiting)

    def write(self, data: bytes) -> None:
        if self.closed:
            return
        if not self.stalled:
            self.taken += data
            return
        was = len(self.waiting)
        self.waiting += data
        if not was and self.protocol is not None:
            self.protocol.pause_writing()

    def drain(self) -> None:
        """The client takes what waits here, once; what is written from now on waits if it is still stalled."""
        if self.waiting and self.protocol is not None and not self.closed:
            self.taken += self.waiting
            self.waiting.clear()
            self.protocol.resume_writing()

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def abort(self) -> None:
        self.closed = True

    def close(self) -> None:
        self.closed = True


def frames_in(data: bytes) -> list[tuple[int, bytes]]:
    """Opcode and payload of a server's frames."""
    out = []
    at = 0
    while at < len(data):
        opcode, length = data[at] & 15, data[at + 1]
        at += 2
        if length >= 126:
            size = 2 if length == 126 else 8
            length = int.from_bytes(data[at : at + size], "big")
            at += size
        out.append((opcode, bytes(data[at : at + length])))
        at += length
    return out


class Peer:
    """A client of the hub: what it asked for and what it was told."""

    def __init__(self, hub: OpenHub) -> None:
        self.hub = hub
        self.transport = StalledTransport()
        self.connection = Connection(
            hub.runtime,
            hub.registry,
            self.transport,  # type: ignore[arg-type]
            FrameReader(1 << 20),
            identity=ClientIdentity("c", "s", False, "/ws", {}, {}, ""),
            serve=partial(serve, hub.route),
            deflate_bits=0,
            outbox_bytes=hub.outbox_bytes,
        )
        self.transport.protocol = self.connection
        hub.registry.connections.add(self.connection)
        self.gone = False

    def say(self, message: dict[str, Any]) -> None:
        """The client sends a message."""
        if self.gone:
            return
        payload = json.dumps(message).encode()
        length = len(payload)
        head = bytes([0x81, 0x80 | length]) if length < 126 else b"\x81\xfe" + length.to_bytes(2, "big")
        self.connection.data_received(head + bytes(4) + payload)

    def leave(self) -> None:
        """The TCP connection ends."""
        if not self.gone:
            self.gone = True
            self.transport.closed = True
            self.connection.connection_lost(None)

    @property
    def seen(self) -> list[dict[str, Any]]:
        """All messages that reached it."""
        return [json.loads(payload) for opcode, payload in frames_in(bytes(self.transport.taken)) if opcode == 1]

    def of(self, *kinds: str) -> list[dict[str, Any]]:
        """Its messages of some types."""
        return [message for message in self.seen if message["type"] in kinds]


class OpenHub:
    """A hub and what its connections share, without a node and its sockets."""

    def __init__(self, bus: Bus, retention: RetentionOf, outbox_bytes: int = 1 << 20) -> None:
        settings = Settings()
        settings = msgspec.structs.replace(settings, limits=msgspec.structs.replace(settings.limits, rate_per_s=0))
        self.outbox_bytes = outbox_bytes
        self.runtime = Runtime(Bounds(1000, 1000, close_timeout_s=5, outbox_grace_s=1000), 0.05)
        self.hub = Hub(bus, retention, self.runtime.meter, self.runtime.clock, 1024)
        self.registry = Registry(self.runtime, self.hub.drop, lambda connection: None)
        requests = Requests(self.hub, RuleSet.of(settings), self.runtime, self.registry.room, max_channels=100)
        refreshing = Refreshing(None, requests, self.runtime)
        services = Services("n", self.runtime, self.registry, self.hub, requests, refreshing)
        (declaration,) = (each for each in stock.create().declarations if each.path == "/ws")
        self.route = Route(declaration, settings, services)

    def peer(self) -> Peer:
        """A new client."""
        return Peer(self)

    async def close(self) -> None:
        """End everything."""
        for connection in list(self.registry.connections):
            connection.state = 2
        for task in list(self.registry.tasks):
            task.cancel()
        await self.hub.close()
