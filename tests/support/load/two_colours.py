"""Two real nodes on one real NATS, an old one and a new one."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.support.server.live_node import settings_with
from trunkline import App
from trunkline.fleet.children.nats_server import NatsServer
from trunkline.load.deploys.smoke import SmokeTarget
from trunkline.server.app import stock
from trunkline.server.node.node import Node


@asynccontextmanager
async def two_colours(folder: Path, *, new: App | None = None, **settings: Any) -> AsyncIterator[tuple[Node, Node]]:
    """The node blue-1, with the stock app, and the node green-1; `settings` are of both."""
    nats = await NatsServer.start(folder / "nats")
    shared = {"bus__url": nats.url, "bus__prefix": f"t{secrets.token_hex(4)}", **settings}
    nodes = [
        Node(settings_with(server__name=f"{colour}-1", server__colour=colour, **shared), app or stock.create())
        for colour, app in (("blue", None), ("green", new))
    ]
    started: list[Node] = []
    try:
        for node in nodes:
            await node.start()
            started.append(node)
        yield nodes[0], nodes[1]
    finally:
        for node in started:
            await node.stop(drain_ms=0, deadline_ms=300)
        await nats.stop()


def target_of(node: Node, path: str = "/ws") -> SmokeTarget:
    """The node, to smoke it."""
    return SmokeTarget(node.settings.server.name, f"ws://127.0.0.1:{node.port}{path}")
