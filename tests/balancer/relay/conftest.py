"""Edges, nodes and raw backends for tests, all in the test's own loop, all ended after it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvloop

from tests.support.balancer.relay_peers import (
    Behaviour,
    FixedPlacer,
    RawBackend,
    StartEdge,
    StartNode,
    edge_settings,
    node_settings,
)
from trunkline.balancer.relay.edge import Edge
from trunkline.net import poller
from trunkline.server.app import stock
from trunkline.server.node.node import Node


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The relay runs on uvloop, in tests as in production."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(
    params=[
        pytest.param("sockets", marks=pytest.mark.skipif(not poller.AVAILABLE, reason="no epoll here")),
        "transports",
    ]
)
def relay_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test over each kind of relay."""
    kind: str = request.param
    monkeypatch.setattr(poller, "AVAILABLE", kind == "sockets")
    return kind


@pytest.fixture
async def start_edge() -> AsyncIterator[StartEdge]:
    """Start edges: `await start_edge(placer, pages=…, on_event=…, retries=1)`."""
    edges: list[Edge] = []

    async def start(placer: FixedPlacer, *, pages: Any = None, on_event: Any = None, **changes: Any) -> Edge:
        edge = Edge(edge_settings(**changes), placer, pages=pages, on_event=on_event)
        await edge.start()
        edges.append(edge)
        return edge

    yield start
    for edge in edges:
        await edge.stop(0.0)
        assert edge.connections == 0
        assert edge.relays.handshaking == 0


@pytest.fixture
async def raw_backend() -> AsyncIterator[Callable[..., Awaitable[RawBackend]]]:
    """Start raw backends: `await raw_backend(echo)`."""
    started: list[RawBackend] = []

    async def start(behave: Behaviour, ssl: Any = None) -> RawBackend:
        backend = await RawBackend(behave, ssl).start()
        started.append(backend)
        return backend

    yield start
    for backend in started:
        await backend.stop()


@pytest.fixture
async def start_node() -> AsyncIterator[StartNode]:
    """Start real nodes with the stock app."""
    nodes: list[Node] = []

    async def start(**server: Any) -> Node:
        node = Node(node_settings(**server), stock.create())
        await node.start()
        nodes.append(node)
        return node

    yield start
    for node in nodes:
        await node.stop(drain_ms=0, deadline_ms=300)
