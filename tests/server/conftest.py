"""Nodes for tests: a real node in the test's own loop, on a free port, and clients of another implementation."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import uvloop
from websockets.asyncio.client import connect

from tests.support.patience import patient
from tests.support.server.live_node import OpenPeer, Peer, StartNode, settings_with
from trunkline import App
from trunkline.bus.base import Bus
from trunkline.server.app import stock
from trunkline.server.node.node import Node


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Nodes run on uvloop, in tests as in production."""
    return {"uvloop": uvloop.new_event_loop}


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
            await asyncio.wait_for(peer.socket.close(), patient(1.0))
