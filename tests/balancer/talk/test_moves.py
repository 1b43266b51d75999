"""Nodes move clients when a balancer asks them to."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.balancer.talking import PATIENCE_S, Caller, Scene, until
from tests.support.patience import patient
from trunkline.errors import BusError, BusUnavailable
from trunkline.protocol.control import Moved, MoveOrder
from trunkline.server.node.node import Node


async def _speak(caller: Caller, node: Node) -> None:
    """Have the node hear a client in a tick of its own."""
    before = node.runtime.clock.now
    await until(lambda: node.runtime.clock.now > before)
    await caller.socket.send('{"type":"heartbeat"}')
    while '"pong"' not in await asyncio.wait_for(caller.socket.recv(), PATIENCE_S):
        pass


async def test_idle_ones_first(scene: Scene) -> None:
    """Those not heard for longest are told goodbye 1012, each with its own hint; the others stay."""
    ear = await scene.ear()
    node = await scene.node("n.1~x")
    callers = [await scene.call(node) for _ in range(6)]
    for caller in callers[:3]:
        await _speak(caller, node)
    assert await ear.talk.move(node.name, MoveOrder(3, over_ms=50)) == Moved(3)
    for caller in callers[3:]:
        goodbye = await caller.goodbye()
        assert (goodbye["code"], goodbye["reconnect"]) == (1012, True)
        assert 0 <= goodbye["reconnect_after_ms"] <= 300
        assert caller.socket.close_code == 1012
    assert all(caller.open for caller in callers[:3])
    assert len(node.registry.connections) == 3


async def test_nobody_is_asked_twice(scene: Scene) -> None:
    """Orders that overlap choose different clients, and more than there are cannot be moved."""
    ear = await scene.ear()
    node = await scene.node("n1")
    callers = [await scene.call(node) for _ in range(10)]
    slow = await ear.talk.move(node.name, MoveOrder(6, over_ms=1500))
    others = await asyncio.gather(*(ear.talk.move(node.name, MoveOrder(6, over_ms=0)) for _ in range(3)))
    assert slow.moving == 6
    assert sum(moved.moving for moved in others) == 4
    goodbyes = await asyncio.gather(*(caller.goodbye() for caller in callers))
    assert [goodbye["code"] for goodbye in goodbyes] == [1012] * 10


async def test_who_connected_lately_is_left_alone(scene: Scene) -> None:
    """Only those move that were there before; of whole values all do."""
    ear = await scene.ear()
    node = await scene.node("n1")
    early = await scene.call(node, "/api/game?matchId=m")
    until_s = asyncio.get_running_loop().time() + 1.6
    await until(lambda: asyncio.get_running_loop().time() > until_s)
    late = [await scene.call(node) for _ in range(3)]
    assert (await ear.talk.move(node.name, MoveOrder(4, over_ms=0, rested_ms=1500))).moving == 1
    assert await early.goodbye()
    assert all(caller.open for caller in late)
    match = await scene.call(node, "/api/game?matchId=m")
    order = MoveOrder(0, over_ms=0, affinity="query:matchId", values=("m",), rested_ms=60_000)
    assert (await ear.talk.move(node.name, order)).moving == 1
    assert await match.goodbye()


async def test_whole_keys(scene: Scene) -> None:
    """All clients of the values asked for move, whatever the count says; or all but those that have a value."""
    ear = await scene.ear()
    node = await scene.node("n1")
    ids = ("a", "a", "b", "c", "a%7Eb")
    matches = [await scene.call(node, f"/api/game?x=1&matchId={value}") for value in ids]
    free = [await scene.call(node) for _ in range(2)]
    counted = await ear.talk.keys(node.name, "query:matchId")
    assert counted.counts == {"a": 2, "b": 1, "c": 1, "a~b": 1}
    assert (await ear.talk.keys(node.name, "path:2")).counts == {"game": 5}
    assert (await ear.talk.keys(node.name, "cookie:room")).counts == {}
    order = MoveOrder(0, over_ms=10, affinity="query:matchId", values=("a", "a~b", "nobody"))
    assert (await ear.talk.move(node.name, order)).moving == 3
    assert [bool(await caller.goodbye()) for caller in (matches[0], matches[1], matches[4])] == [True] * 3
    assert all(caller.open for caller in (*matches[2:4], *free))
    assert (await ear.talk.move(node.name, MoveOrder(9, over_ms=10, affinity="query:matchId"))).moving == 2
    assert [bool(await caller.goodbye()) for caller in free] == [True] * 2
    assert all(caller.open for caller in matches[2:4])
    assert (await ear.talk.move(node.name, MoveOrder(9, affinity="header:x", values=("a",)))).moving == 0


async def test_a_draining_node_moves_nobody(scene: Scene) -> None:
    """A node that drains moves everybody anyway."""
    ear = await scene.ear()
    node = await scene.node("n1")
    await scene.call(node)
    node.draining.begin(60_000)
    assert (await ear.talk.move(node.name, MoveOrder(1))).moving == 0


async def test_orders_that_cannot_be(scene: Scene) -> None:
    """An order that makes no sense, or is for nobody, fails with a reason."""
    ear = await scene.ear()
    node = await scene.node("n1")
    with pytest.raises(BusError, match="no affinity"):
        await ear.talk.move(node.name, MoveOrder(1, affinity="colour:red"))
    with pytest.raises(BusError, match="no affinity"):
        await ear.talk.keys(node.name, "path:0")
    with pytest.raises(BusUnavailable, match="nobody listens"):
        await ear.talk.move("n2", MoveOrder(1))
    await scene.kill_nats()
    await until(lambda: not ear.talk.connected)
    with pytest.raises(BusUnavailable, match="not connected"):
        await ear.talk.move(node.name, MoveOrder(1))


async def test_a_stop_ends_a_move(scene: Scene) -> None:
    """A node that is stopped does not wait for the slots of an order."""
    ear = await scene.ear()
    node = await scene.node("n1")
    caller = await scene.call(node)
    await ear.talk.move(node.name, MoveOrder(1, over_ms=600_000))
    async with asyncio.timeout(patient(5)):
        await scene.stop(node)
    assert (await caller.goodbye())["code"] == 1001
