"""What clients and operators see of a NATS that has no room, or takes only small messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.server.live_node import OpenPeer, StartNode
from trunkline.fleet.children.nats_server import NatsServer
from trunkline.server.node.node import Node


async def get(node: Node, path: str) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{node.port}{path}") as answer:
        return answer.status, await answer.json()


async def order(node: Node, body: dict[str, Any]) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {node.admin.token}"}
    url = f"http://127.0.0.1:{node.admin.port}/api/publish"
    async with aiohttp.ClientSession(headers=headers) as http, http.post(url, json=body) as answer:
        return answer.status, await answer.json()


async def test_without_room_everybody_is_told_the_cause(
    start_node: StartNode, open_peer: OpenPeer, tmp_path: Path, unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node is unhealthy from its start on and says why; a client is pointed there, an operator reads it at once."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    server = await NatsServer.start(tmp_path / "nats", max_store=8 << 20)
    try:
        node = await start_node(bus__url=server.url, admin__port=unused_tcp_port)
        status, health = await get(node, "/health")
        assert (status, health["checks"]["nats"]["status"]) == (503, "connected")
        assert "insufficient storage" in health["checks"]["nats"]["why"]
        assert "bus.max_bytes" in health["errors"][0]
        peer = await open_peer(node)
        error = await peer.ask({"type": "publish", "id": 1, "channel": "public.a", "data": 1}, "error")
        assert (error["code"], error["temporary"], error["id"]) == ("UNAVAILABLE", True, 1)
        assert error["message"] == "the bus does not store publications now; /health says why"
        status, problem = await order(node, {"channel": "public.a", "data": 1})
        assert status == 503
        assert "insufficient storage" in problem["message"]
    finally:
        await server.stop()


async def test_a_publication_above_the_limit_of_nats_is_refused_with_it(
    start_node: StartNode, open_peer: OpenPeer, tmp_path: Path, unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no internal fault: the error names size and limit, and the client goes on."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    server = await NatsServer.start(tmp_path / "nats", max_payload=4096)
    try:
        node = await start_node(bus__url=server.url, bus__max_bytes=16 << 20, admin__port=unused_tcp_port)
        peer = await open_peer(node)
        long = {"type": "publish", "id": 1, "channel": "public.a", "data": "x" * 5000}
        error = await peer.ask(long, "error")
        assert (error["code"], error["temporary"], error["id"]) == ("INVALID_MESSAGE", False, 1)
        assert error["message"] == "data: 5,002 bytes, as the bus sends it, are more than its limit of 4,096"
        await peer.ask({"type": "publish", "id": 2, "channel": "public.a", "data": 1}, "publish_ack")
        status, problem = await order(node, {"channel": "public.a", "data": "x" * 5000})
        assert (status, problem["error"]) == (413, "too_large")
        assert "4,096" in problem["message"]
    finally:
        await server.stop()
