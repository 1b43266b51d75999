"""What tests of nodes and balancers that talk share: a NATS, real nodes, a balancer's ear, and clients."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Origin

from tests.support.patience import patient
from trunkline.balancer.talk import FleetTalk
from trunkline.bus.base import FleetBus
from trunkline.fleet.children.nats_server import NatsServer
from trunkline.protocol.control import NodeReport, PickNotices
from trunkline.server.app import stock
from trunkline.server.node.node import Node
from trunkline.settings.sections import BusSettings, Settings

PATIENCE_S = patient(10.0)


async def until(condition: Callable[[], object], what: str = "it") -> None:
    """Wait until something holds that nobody announces."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"waited {PATIENCE_S:g} s in vain for {what}") from None


class Ear:
    """A balancer that only listens; keeps what it hears."""

    def __init__(self, bus: BusSettings, name: str = "ear") -> None:
        self.reports: list[NodeReport] = []
        self.notices: list[tuple[str, PickNotices]] = []
        self.states: list[bool] = []
        self.talk = FleetTalk(
            bus,
            name,
            self.reports.append,
            lambda balancer, notices: self.notices.append((balancer, notices)),
            self.states.append,
        )

    async def start(self) -> None:
        """Connect and wait for it."""
        await self.talk.start()
        await until(lambda: self.talk.connected, "NATS")

    def of(self, node: Node) -> list[NodeReport]:
        """What one node has said."""
        return [said for said in self.reports if said.node == node.name]

    async def hears(self, node: Node, what: Callable[[NodeReport], bool]) -> NodeReport:
        """Wait for a report of `node` that fits."""
        await until(lambda: any(what(said) for said in self.of(node)), f"a report of {node.name}")
        return next(said for said in self.of(node) if what(said))


class Caller:
    """A client of another implementation of WebSockets."""

    def __init__(self, socket: ClientConnection, key: str) -> None:
        self.socket = socket
        self.key = key

    @property
    def open(self) -> bool:
        """Whether it was not closed."""
        return self.socket.close_code is None

    async def goodbye(self) -> dict[str, Any]:
        """Read up to the goodbye, and on to the close."""
        found: dict[str, Any] = {}
        with contextlib.suppress(Exception):
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    message = json.loads(await self.socket.recv())
                    if message["type"] == "goodbye":
                        found = message
        return found


class Scene:
    """A NATS of the test's own and what uses it."""

    def __init__(self, server: NatsServer) -> None:
        self.server = server
        self.bus = BusSettings(url=server.url, prefix=f"t{secrets.token_hex(4)}", max_bytes=16 << 20)
        self._nodes: list[Node] = []
        self._ears: list[Ear] = []
        self._callers: list[Caller] = []
        self._clients: list[Client] = []

    def bus_of(self, part: str) -> BusSettings:
        """The bus as a balancer or a deploy reaches it: here as all do."""
        return self.bus

    async def ear(self, name: str = "ear") -> Ear:
        """A listening balancer."""
        ear = Ear(self.bus, name)
        self._ears.append(ear)
        await ear.start()
        return ear

    async def node(self, name: str, *, limits: dict[str, Any] | None = None, **server: Any) -> Node:
        """A node that has this NATS for its bus."""
        given = {"host": "127.0.0.1", "port": 0, "drain_ms": 0, **server}
        settings = Settings(bus=self.bus)
        settings = msgspec.structs.replace(
            settings,
            server=msgspec.structs.replace(settings.server, name=name, **given),
            admin=msgspec.structs.replace(settings.admin, port=0),
            limits=msgspec.structs.replace(settings.limits, **{"loop_lag_shed_ms": 60_000, **(limits or {})}),
            log=msgspec.structs.replace(settings.log, access=False),
        )
        node = Node(settings, stock.create())
        await node.start()
        self._nodes.append(node)
        if isinstance(node.bus, FleetBus) and node.bus.connected:
            # What it listens to is known to the server only then; an order may come over another connection.
            await node.bus.fleet_link.flush(5.0)
        return node

    async def call(self, node: Node, path: str = "/ws", origin: str | None = None) -> Caller:
        """Connect a client."""
        url = f"ws://127.0.0.1:{node.port}{path}"
        socket = await connect(url, proxy=None, compression=None, origin=Origin(origin) if origin else None)
        caller = Caller(socket, socket.request.headers["Sec-WebSocket-Key"])
        self._callers.append(caller)
        return caller

    async def stop(self, node: Node, *, drain_ms: int = 0, deadline_ms: int = 300) -> None:
        """Stop one node."""
        self._nodes.remove(node)
        await node.stop(drain_ms=drain_ms, deadline_ms=deadline_ms)

    async def publish(self, subject: str, data: bytes) -> None:
        """Say something as a stranger."""
        client = await nats.connect(self.bus.url)
        await client.publish(f"{self.bus.prefix}.fleet.{subject}", data)
        await client.flush()
        await client.close()

    async def overhear(self, subject: str) -> list[bytes]:
        """What is said on a subject of the fleet from now on."""
        heard: list[bytes] = []
        client = await nats.connect(self.bus.url)
        self._clients.append(client)

        async def on_message(msg: Msg) -> None:
            heard.append(msg.data)

        await client.subscribe(f"{self.bus.prefix}.fleet.{subject}", cb=on_message)
        await client.flush()
        return heard

    async def kill_nats(self) -> None:
        """Kill it, as a power cut would."""
        os.kill(self.server.pid, signal.SIGKILL)
        await self.server.wait()
        await self.server.stop()

    async def bring_nats_back(self) -> None:
        """Start it again on its port, with its store."""
        self.server = await NatsServer.start(self.server.store_dir, port=self.server.port)

    async def close(self) -> None:
        """End everything."""
        for caller in self._callers:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(caller.socket.close(), patient(1.0))
        for ear in self._ears:
            await ear.talk.close()
        for client in self._clients:
            await client.close()
        for node in list(self._nodes):
            await self.stop(node)
        await self.server.stop()


async def open_scene(directory: Path) -> Scene:
    """A scene with a NATS in `directory`."""
    return Scene(await NatsServer.start(directory / "nats"))
