"""What clients and operators see of a NATS that has no room, or takes only small messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from tests.support.server.live_node import OpenPeer, StartNode
from trunkline.bus.nats.wire import Wire
from trunkline.fleet.children.nats_server import NatsServer
from trunkline.nats.address import parse_address
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
        async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{node.port}/metrics") as answer:
            assert "ws_bus_not_storing 1.0" in (await answer.text()).splitlines()
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


async def test_a_publication_that_nobody_acknowledged_is_not_called_refused(
    start_node: StartNode, open_peer: OpenPeer, tmp_path: Path, unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NATS stored it and did not say so: sent again, as what is refused for a time is, it would be there twice."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    server = await NatsServer.start(tmp_path / "nats")
    try:
        node = await start_node(
            bus__url=server.url, bus__max_bytes=16 << 20, bus__publish_timeout_s=0.1, admin__port=unused_tcp_port
        )
        peer = await open_peer(node)
        publish = {"type": "publish", "channel": "public.a", "data": 1}
        await peer.ask(publish | {"id": 1}, "publish_ack")
        await acknowledge_nothing(server.url)
        for id in range(2, 5):
            error = await peer.ask(publish | {"id": id}, "error")
            assert (error["code"], error["temporary"], error["id"]) == ("TIMEOUT", True, id)
            assert "it may be stored all the same" in error["message"]
            assert "retry_after_ms" not in error
        assert "/health says why" in error["message"]
        status, problem = await order(node, {"channel": "public.a", "data": 1})
        assert status == 503
        assert "may be stored all the same" in problem["message"]
    finally:
        await server.stop()


async def acknowledge_nothing(url: str) -> None:
    """Let NATS store publications without an answer."""
    wire = await Wire.connect(parse_address(url), prefix="x", tls=None)
    names = msgspec.json.decode((await wire.request("$JS.API.STREAM.NAMES", b"", timeout_s=2)).data)["streams"]
    for name in names:
        info = msgspec.json.decode((await wire.request(f"$JS.API.STREAM.INFO.{name}", b"", timeout_s=2)).data)
        config = msgspec.json.encode(info["config"] | {"no_ack": True})
        await wire.request(f"$JS.API.STREAM.UPDATE.{name}", config, timeout_s=2)
    await wire.close("done")
