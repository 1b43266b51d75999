"""Nodes that share a NATS which really dies: nobody is disconnected, nothing is lost in silence."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.patience import patient
from tests.support.server.live_node import OpenPeer, Peer, StartNode
from tests.support.server.raw_peer import RawPeer, http
from trunkline.bus.base import Bus, Deliver, HistoryPage, OnState, Published, Retention, Subscription
from trunkline.bus.nats.bus import NatsBus
from trunkline.fleet.children.nats_server import NatsServer
from trunkline.server.node.node import Node
from trunkline.settings.sections import BusSettings

CHANNEL = "public.a"
PLACE = ("epoch", "offset")


class Nats:
    """A nats-server that tests stop, kill and bring back on the same port."""

    def __init__(self, server: NatsServer) -> None:
        self.server = server
        self.url = server.url
        self.prefix = f"t{secrets.token_hex(4)}"

    @property
    def shared(self) -> dict[str, Any]:
        """Settings of a node that uses it."""
        return {"bus__url": self.url, "bus__prefix": self.prefix, "limits__rate_per_s": 0}

    async def kill(self) -> None:
        """Kill it, as a power cut would."""
        os.kill(self.server.pid, signal.SIGKILL)
        await self.server.wait()
        await self.server.stop()

    async def back(self, *, wiped: bool = False) -> None:
        """Start it again on its port, with its store or with an empty one."""
        if wiped:
            shutil.rmtree(self.server.store_dir)
        self.server = await NatsServer.start(self.server.store_dir, port=self.server.port)


@pytest.fixture
async def nats(tmp_path: Path) -> AsyncIterator[Nats]:
    """A NATS of the test's own."""
    nats = Nats(await NatsServer.start(tmp_path / "nats"))
    yield nats
    await nats.server.stop()


class Counting:
    """A bus that counts the history reads that pass through it."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.name = bus.name
        self.reads: list[tuple[str, int, int]] = []

    @property
    def connected(self) -> bool:
        return self._bus.connected

    @property
    def problem(self) -> str:
        return self._bus.problem

    @property
    def warning(self) -> str:
        return self._bus.warning

    def now_ms(self) -> float:
        return self._bus.now_ms()

    async def start(self, on_state: OnState) -> None:
        await self._bus.start(on_state)

    async def close(self) -> None:
        await self._bus.close()

    async def publish(self, channel: str, data: bytes, *, origin: str | None = None) -> Published:
        return await self._bus.publish(channel, data, origin=origin)

    async def subscribe(self, channel: str, deliver: Deliver) -> Subscription:
        return await self._bus.subscribe(channel, deliver)

    async def history(self, channel: str, after: int, limit: int) -> HistoryPage:
        self.reads.append((channel, after, limit))
        return await self._bus.history(channel, after, limit)


async def until(condition: Callable[[], bool], timeout: float = 10.0) -> None:
    """Wait until something is true."""
    async with asyncio.timeout(patient(timeout)):
        while not condition():
            await asyncio.sleep(0.01)


async def publish(peer: Peer, *numbers: int) -> int:
    """Publish numbers one after the other; returns the last one's offset."""
    offset = 0
    for number in numbers:
        await peer.send({"type": "publish", "channel": CHANNEL, "data": number})
        offset = (await peer.skip_to("publish_ack", timeout=30))["offset"]
    return offset


async def subscribed(peer: Peer, recover: dict[str, Any] | None = None) -> dict[str, Any]:
    """Subscribe; returns the position of the ack."""
    message: dict[str, Any] = {"type": "subscribe", "channels": [CHANNEL]}
    if recover is not None:
        message["recover"] = {CHANNEL: recover}
    await peer.send(message)
    # Two hundred of them on a busy machine take their time.
    ack = await peer.expect("subscription_ack", timeout=30)
    place: dict[str, Any] = ack["positions"][CHANNEL]
    return place


async def numbers_of(peer: Peer, count: int, after: int) -> list[int]:
    """The next publications; each must follow the one before it, beginning behind offset `after`."""
    got = []
    for _ in range(count):
        message = await peer.expect("publication", timeout=30)
        assert message["prev"] == after, message
        after = message["offset"]
        got.append(message["data"])
    return got


async def up(*nodes: Node) -> None:
    await until(lambda: all(node.bus.connected for node in nodes))


async def test_publications_cross_nodes_in_one_order(start_node: StartNode, open_peer: OpenPeer, nats: Nats) -> None:
    """What is published on either node reaches the subscribers of both, in the same order."""
    east, west = await start_node(**nats.shared), await start_node(**nats.shared)
    readers = [await open_peer(node) for node in (east, west)]
    places = [await subscribed(reader) for reader in readers]
    assert places[0]["epoch"] == places[1]["epoch"]
    a, b = await open_peer(east), await open_peer(west)
    await asyncio.gather(publish(a, *range(50)), publish(b, *range(100, 150)))
    orders = [await numbers_of(reader, 100, place["offset"]) for reader, place in zip(readers, places, strict=True)]
    assert orders[0] == orders[1]
    assert [number for number in orders[0] if number < 100] == list(range(50))


async def test_an_outage_is_told_and_survived(start_node: StartNode, open_peer: OpenPeer, nats: Nats) -> None:
    """While NATS is dead: unhealthy, publish says UNAVAILABLE, nobody is disconnected; then it goes on."""
    node = await start_node(**nats.shared, bus__publish_timeout_s=0.3)
    reader, writer = await open_peer(node), await open_peer(node)
    place = await subscribed(reader)
    await publish(writer, 1)
    await nats.kill()
    await until(lambda: not node.bus.connected)
    health = await http(node.port, "/health")
    assert health.status == 503
    assert health.json()["checks"]["nats"] == {"status": "disconnected", "healthy": False}
    assert health.json()["status"] == "unhealthy"
    assert "ws_nats_connected 0.0" in (await http(node.port, "/metrics")).body.decode()
    assert (await http(node.port, "/healthz")).status == 200
    error = await writer.ask({"type": "publish", "id": 9, "channel": CHANNEL, "data": 2}, "error")
    assert (error["code"], error["temporary"], error["id"]) == ("UNAVAILABLE", True, 9)
    assert error["retry_after_ms"] > 0
    error = await writer.ask({"type": "subscribe", "channels": ["public.new"]}, "error")
    assert (error["code"], error["temporary"]) == ("UNAVAILABLE", True)
    await reader.ask({"type": "heartbeat"}, "publication")
    await reader.expect("pong")
    late = await open_peer(node)
    await nats.back()
    await up(node)
    await subscribed(late)
    await publish(writer, 3)
    assert (await late.expect("publication"))["data"] == 3
    following = await reader.expect("publication")
    assert (following["data"], following["epoch"]) == (3, place["epoch"])
    assert following["prev"] == place["offset"] + 1
    assert (await http(node.port, "/health")).json()["checks"]["nats"]["healthy"] is True
    assert len(node.registry.connections) == 3


async def test_what_was_published_while_a_node_was_cut_off_still_arrives(
    start_node: StartNode, open_peer: OpenPeer, nats: Nats
) -> None:
    """A node whose link alone broke gets from history what others published meanwhile, in order, before live ones."""
    proxy = await Proxy.start(nats.server.port)
    east = await start_node(**{**nats.shared, "bus__url": f"nats://127.0.0.1:{proxy.port}"})
    west = await start_node(**nats.shared)
    reader, writer = await open_peer(east), await open_peer(west)
    place = await subscribed(reader)
    await publish(writer, 1, 2)
    await numbers_of(reader, 2, place["offset"])
    proxy.cut()
    await until(lambda: not east.bus.connected)
    await publish(writer, *range(3, 40))
    proxy.mend()
    await up(east)
    await publish(writer, *range(40, 45))
    assert await numbers_of(reader, 42, place["offset"] + 2) == list(range(3, 45))
    await proxy.stop()


async def test_what_expired_while_a_node_was_cut_off_is_a_gap(
    start_node: StartNode, open_peer: OpenPeer, nats: Nats
) -> None:
    """When history no longer holds all of it, one `gap` names exactly what will not come, and the rest follows."""
    proxy = await Proxy.start(nats.server.port)
    few = {**nats.shared, "channels__history": 5}
    east = await start_node(**{**few, "bus__url": f"nats://127.0.0.1:{proxy.port}"})
    west = await start_node(**few)
    reader, writer = await open_peer(east), await open_peer(west)
    place = await subscribed(reader)
    at = await publish(writer, 0)
    await numbers_of(reader, 1, place["offset"])
    proxy.cut()
    await until(lambda: not east.bus.connected)
    last = await publish(writer, *range(1, 21))
    proxy.mend()
    await up(east)
    gap = await reader.expect("gap", timeout=10)
    assert (gap["channel"], gap["epoch"], gap["reason"]) == (CHANNEL, place["epoch"], "expired")
    assert (gap["after"], gap["before"]) == (at, last - 4)
    got = [await reader.expect("publication") for _ in range(5)]
    assert [message["data"] for message in got] == list(range(16, 21))
    await publish(writer, 21)
    assert await numbers_of(reader, 1, last) == [21]
    await proxy.stop()


async def test_recover_on_another_node(start_node: StartNode, open_peer: OpenPeer, nats: Nats) -> None:
    """A client whose node went away finds what it missed on another that never had this channel."""
    east = await start_node(**nats.shared)
    writer_node = await start_node(**nats.shared)
    reader, writer = await open_peer(east), await open_peer(writer_node)
    place = await subscribed(reader)
    await publish(writer, 1, 2, 3)
    seen = [await reader.expect("publication") for _ in range(3)]
    await east.stop(drain_ms=0, deadline_ms=500)
    await publish(writer, 4, 5, 6)
    fresh = await start_node(**nats.shared)
    again = await open_peer(fresh)
    found = await subscribed(again, {"epoch": place["epoch"], "offset": seen[0]["offset"]})
    assert (found["recovered"], found["replayed"], found["offset"]) == (True, 5, seen[0]["offset"])
    await publish(writer, 7)
    assert await numbers_of(again, 6, seen[0]["offset"]) == [2, 3, 4, 5, 6, 7]


async def test_a_wiped_store_is_a_new_epoch(start_node: StartNode, open_peer: OpenPeer, nats: Nats) -> None:
    """Live clients get a gap that says so; who recovers is told `epoch_changed` and gets nothing old."""
    node = await start_node(**nats.shared)
    reader, writer = await open_peer(node), await open_peer(node)
    place = await subscribed(reader)
    last = await publish(writer, 1, 2)
    await numbers_of(reader, 2, place["offset"])
    await nats.kill()
    await nats.back(wiped=True)
    gap = await reader.expect("gap", timeout=10)
    assert (gap["reason"], gap["after"]) == ("epoch_changed", None)
    assert gap["epoch"] != place["epoch"]
    await up(node)
    await publish(writer, 3)
    got = await reader.expect("publication")
    assert (got["data"], got["epoch"]) == (3, gap["epoch"])
    assert gap["before"] is None or gap["before"] <= got["offset"]
    again = await open_peer(node)
    found = await subscribed(again, {"epoch": place["epoch"], "offset": last})
    assert (found["recovered"], found["reason"], found["epoch"]) == (False, "epoch_changed", gap["epoch"])
    await publish(writer, 4)
    assert (await again.expect("publication"))["data"] == 4


async def test_a_storm_of_recoveries_reads_history_once(start_node: StartNode, open_peer: OpenPeer, nats: Nats) -> None:
    """Two hundred clients recover at once while publishing goes on: each complete, in order, from one read."""
    settings = BusSettings(url=nats.url, prefix=nats.prefix)
    bus = Counting(NatsBus(settings, lambda _: Retention(1000, 300.0)))
    source = await start_node(**nats.shared)
    writer = await open_peer(source)
    first = await open_peer(source)
    place = await subscribed(first)
    last = await publish(writer, *range(100))
    # The stream holds this channel alone, so its offsets are dense.
    assert last == place["offset"] + 100
    target = await start_node(bus=bus, limits__rate_per_s=0)
    peers = await asyncio.gather(*(open_peer(target) for _ in range(200)))
    bus.reads.clear()

    async def recover(peer: Peer, missed: int) -> None:
        at = last - missed
        found = await subscribed(peer, {"epoch": place["epoch"], "offset": at})
        assert found["recovered"] is True
        got = await numbers_of(peer, missed + 50, at)
        assert got == list(range(100 - missed, 150))

    storm = asyncio.gather(*(recover(peer, 1 + number % 100) for number, peer in enumerate(peers)))
    await asyncio.gather(storm, publish(writer, *range(100, 150)))
    # One to learn where the channel stands, one for the window; the race with live ones may cost a few more.
    assert {channel for channel, _, _ in bus.reads} == {CHANNEL}
    assert 1 <= len(bus.reads) <= 6, bus.reads
    assert target.runtime.meter.replay_requests.values == {("recovered",): 200}


async def test_a_store_that_is_wiped_during_a_long_recovery_is_told(
    start_node: StartNode, open_peer: OpenPeer, nats: Nats
) -> None:
    """A client that is still being brought up when the epoch changes gets a gap too, not silence."""
    node = await start_node(**nats.shared, limits__outbox_grace_ms=60_000)
    witness, writer = await open_peer(node), await open_peer(node)
    place = await subscribed(witness)
    for number in range(400):
        await writer.send({"type": "publish", "channel": CHANNEL, "data": [number, "x" * 30_000]})
        await writer.expect("publish_ack")
        await witness.expect("publication")
    slow = await RawPeer.open(node.port, receive_buffer=4096)
    await slow.say({"type": "subscribe", "channels": [CHANNEL], "recover": {CHANNEL: {k: place[k] for k in PLACE}}})
    await slow.skip_to("subscription_ack")
    await nats.kill()
    await nats.back(wiped=True)
    new = (await witness.expect("gap", timeout=10))["epoch"]
    await up(node)
    for number in range(3):
        await publish(writer, number)
    after = place["offset"]
    while (message := await slow.message())["type"] == "publication":
        assert (message["epoch"], message["prev"]) == (place["epoch"], after)
        after = message["offset"]
    assert after < 400
    assert (message["type"], message["reason"], message["epoch"]) == ("gap", "epoch_changed", new)
    await publish(writer, 3)
    got = [await slow.message()]
    while got[-1]["data"] != 3:
        got.append(await slow.message())
    assert {message["epoch"] for message in got} == {new}
    slow.close()


class Proxy:
    """A TCP proxy before NATS whose connections can be cut."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._writers: set[asyncio.StreamWriter] = set()
        self._mended = True
        self.port = 0

    @classmethod
    async def start(cls, target: int) -> Proxy:
        proxy = cls(target)
        proxy._server = await asyncio.start_server(proxy._serve, "127.0.0.1", 0)
        proxy.port = proxy._server.sockets[0].getsockname()[1]
        return proxy

    _server: asyncio.Server

    def cut(self) -> None:
        """Cut all connections and refuse new ones."""
        self._mended = False
        for writer in self._writers:
            writer.transport.abort()

    def mend(self) -> None:
        """Let connections through again."""
        self._mended = True

    async def stop(self) -> None:
        """Close the port."""
        self._server.close()
        self.cut()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._mended:
            writer.transport.abort()
            return
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers |= {writer, there_writer}
        await asyncio.gather(self._copy(reader, there_writer), self._copy(there_reader, writer))
        self._writers -= {writer, there_writer}

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()
