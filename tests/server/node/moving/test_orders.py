"""A deploy drains a node over NATS and asks it what became of its clients."""

from __future__ import annotations

import json

import msgspec
import pytest

from tests.support.balancer.talking import PATIENCE_S, Scene, until
from trunkline.bus.base import FleetBus, FleetLink
from trunkline.errors import BusUnavailable
from trunkline.protocol.control import DrainOrder, DrainState, MoveOrder, Problem
from trunkline.protocol.goodbyes import CountsAsked, MoveCounts
from trunkline.protocol.subjects import counts_subject, drain_subject, move_subject
from trunkline.server.node.node import Node


def _link(node: Node) -> FleetLink:
    assert isinstance(node.bus, FleetBus)
    return node.bus.fleet_link


async def _counts(asker: FleetLink, node: str) -> MoveCounts:
    answer = await asker.ask(counts_subject(asker.prefix, node), msgspec.json.encode(CountsAsked()), PATIENCE_S)
    return msgspec.json.decode(answer, type=MoveCounts)


async def test_a_drain_over_nats(scene: Scene) -> None:
    """The node drains as by its admin port, and answers with its state; a broken order names what is wrong."""
    asker = _link(await scene.node("asker"))
    node = await scene.node("n1")
    caller = await scene.call(node)
    subject = drain_subject(asker.prefix, "n1")
    refused = await asker.ask(subject, b'{"over":1}', PATIENCE_S)
    assert msgspec.json.decode(refused, type=Problem).error == "bad_request"
    assert node.condition == "up"
    answer = await asker.ask(subject, msgspec.json.encode(DrainOrder(0)), PATIENCE_S)
    assert msgspec.json.decode(answer, type=DrainState) == DrainState("n1", "draining", 1, 0)
    assert (await caller.goodbye())["code"] == 1012
    with pytest.raises(BusUnavailable, match="nobody listens"):
        await asker.ask(drain_subject(asker.prefix, "n2"), b"{}", PATIENCE_S)


async def test_counts_of_a_node(scene: Scene) -> None:
    """Opened, closed and asked clients, refusals, recoveries granted and refused, under the node's run and colour."""
    asker = _link(await scene.node("asker"))
    node = await scene.node("n1", colour="green")
    before = await _counts(asker, "n1")
    assert (before.node, before.colour, before.run) == ("n1", "green", node.state.arrivals.run)
    assert (before.connections, before.opened, before.asked, before.refused) == (0, 0, 0, {})
    reader = await scene.call(node)
    moved = await scene.call(node)
    await reader.socket.send(json.dumps({"type": "publish", "channel": "public.a", "data": 1}))
    ack = json.loads(await reader.socket.recv())
    while ack["type"] != "publish_ack":
        ack = json.loads(await reader.socket.recv())
    seen = {"epoch": ack["epoch"], "offset": ack["offset"]}
    for position in (seen, {"epoch": "another", "offset": 1}):
        await reader.socket.send(
            json.dumps({"type": "subscribe", "channels": ["public.a"], "recover": {"public.a": position}})
        )
        while json.loads(await reader.socket.recv())["type"] != "subscription_ack":
            pass
    before_tick = node.runtime.clock.now
    await until(lambda: node.runtime.clock.now > before_tick)
    await reader.socket.send('{"type":"heartbeat"}')
    while json.loads(await reader.socket.recv())["type"] != "pong":
        pass
    await asker.ask(
        move_subject(asker.prefix, "n1"),
        msgspec.json.encode(MoveOrder(1, 0, reason="deploy blue to green")),
        PATIENCE_S,
    )
    goodbye = await moved.goodbye()
    assert goodbye["reason"] == "deploy blue to green"
    await until(lambda: len(node.registry.connections) == 1)
    after = await _counts(asker, "n1")
    assert (after.connections, after.opened, after.closed, after.asked, after.cut) == (1, 2, 1, 1, 0)
    assert (after.recovered, after.not_recovered, after.gaps, after.failed) == (1, 1, 0, 0)
