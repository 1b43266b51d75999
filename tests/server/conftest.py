"""Nodes for tests: a real node in the test's own loop, on a free port, and clients of another implementation."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import msgspec
import pytest
import uvloop
from websockets.asyncio.client import ClientConnection, connect

from trunkline import App
from trunkline.bus import Bus
from trunkline.config import Settings
from trunkline.server import stock
from trunkline.server.node import Node


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Nodes run on uvloop, in tests as in production."""
    return {"uvloop": uvloop.new_event_loop}


def settings_with(**changes: Any) -> Settings:
    """Default settings for a test's node; `server__port=0` changes `port` of section `server`."""
    given = {
        "server__host": "127.0.0.1",
        "server__port": 0,
        "admin__port": 0,
        "server__drain_ms": 0,
        "log__access": False,
    }
    settings = Settings()
    for key, value in {**given, **changes}.items():
        section, _, name = key.partition("__")
        changed = msgspec.structs.replace(getattr(settings, section), **{name: value})
        settings = msgspec.structs.replace(settings, **{section: changed})
    return settings


class Peer:
    """A client that speaks the protocol's JSON through another implementation of WebSockets."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.seen: list[dict[str, Any]] = []

    async def send(self, message: Any) -> None:
        """Send one message; text and bytes go out as they are."""
        await self.socket.send(message if isinstance(message, (str, bytes)) else json.dumps(message))

    async def next(self, timeout: float = 5.0) -> dict[str, Any]:
        """The next message."""
        message: dict[str, Any] = json.loads(await asyncio.wait_for(self.socket.recv(), timeout))
        self.seen.append(message)
        return message

    async def expect(self, kind: str, timeout: float = 5.0) -> dict[str, Any]:
        """The next message of a type; heartbeats are passed over, anything else fails the test."""
        while True:
            message = await self.next(timeout)
            if message["type"] == kind:
                return message
            assert message["type"] == "heartbeat", f"wanted {kind}, got {message}"

    async def skip_to(self, kind: str, timeout: float = 5.0) -> dict[str, Any]:
        """The next message of a type, whatever comes before it."""
        while True:
            message = await self.next(timeout)
            if message["type"] == kind:
                return message

    async def ask(self, message: dict[str, Any], kind: str) -> dict[str, Any]:
        """Send a message and wait for its answer."""
        await self.send(message)
        return await self.expect(kind)

    async def closed(self, timeout: float = 5.0) -> tuple[int, str]:
        """Wait for the end; returns the close code and reason."""
        with contextlib.suppress(Exception):
            async with asyncio.timeout(timeout):
                while True:
                    message = await self.socket.recv()
                    if isinstance(message, str):
                        self.seen.append(json.loads(message))
        assert self.socket.close_code is not None, "the connection did not end in time"
        return self.socket.close_code, self.socket.close_reason or ""


StartNode = Callable[..., Coroutine[Any, Any, Node]]
OpenPeer = Callable[..., Coroutine[Any, Any, Peer]]


@pytest.fixture
async def start_node() -> AsyncIterator[StartNode]:
    """Start nodes; `await start_node(app=…, bus=…, server__max_connections=5)`. They are stopped after the test."""
    nodes: list[Node] = []

    async def start(app: App | None = None, bus: Bus | None = None, **changes: Any) -> Node:
        if app is None:
            app = stock.create()
        node = Node(settings_with(**changes), app, bus=bus)
        await node.start()
        nodes.append(node)
        return node

    yield start
    for node in nodes:
        await node.stop(drain_ms=0, deadline_ms=300)


@pytest.fixture
async def open_peer() -> AsyncIterator[OpenPeer]:
    """Connect clients; `await open_peer(node, "/ws")`. Greeting included unless `greet=False`."""
    peers: list[Peer] = []

    async def open(node: Node, path: str = "/ws", *, greet: bool = True, **options: Any) -> Peer:
        options.setdefault("compression", None)
        options.setdefault("max_size", 1 << 26)
        socket = await connect(f"ws://127.0.0.1:{node.port}{path}", proxy=None, **options)
        peer = Peer(socket)
        peers.append(peer)
        if greet:
            await peer.expect("connection_established")
        return peer

    yield open
    for peer in peers:
        with contextlib.suppress(Exception):
            await asyncio.wait_for(peer.socket.close(), 1.0)
