"""Nodes name the sessions that they ask to move, let them in past the limits of their address, and count returns."""

from __future__ import annotations

import asyncio
import json

import msgspec
import pytest
from websockets.exceptions import InvalidStatus

from tests.support.balancer.talking import PATIENCE_S, Caller, Scene, until
from tests.support.server.raw_peer import RawPeer
from trunkline.protocol.control import MoveOrder
from trunkline.protocol.goodbyes import Goodbyes
from trunkline.server.node.node import Node

ONE_A_MINUTE = {"exempt": (), "handshake_burst": 1.0, "handshake_per_s": 1 / 60}


async def _session(caller: Caller) -> str:
    greeting = json.loads(await asyncio.wait_for(caller.socket.recv(), PATIENCE_S))
    return str(greeting["session"])


async def _refused(scene: Scene, node: Node, path: str) -> bool:
    try:
        await scene.call(node, path)
    except InvalidStatus as error:
        return error.response.status_code == 429
    return False


async def test_told_clients_come_back_past_the_limit_of_their_address(scene: Scene) -> None:
    """All of one address that were asked to move get in, once each; who was not asked, or says so, does not."""
    blue = await scene.node("blue-1", colour="blue")
    green = await scene.node("green-1", colour="green", limits=ONE_A_MINUTE)
    assert not await _refused(scene, green, "/ws")  # the one of this minute
    callers = [await scene.call(blue) for _ in range(20)]
    sessions = [await _session(caller) for caller in callers]
    assert await _refused(scene, green, f"/ws?session={sessions[0]}")
    blue.draining.begin(200)
    for caller in callers:
        assert (await caller.goodbye())["code"] == 1012
    assert await _refused(scene, green, "/ws")
    assert await _refused(scene, green, f"/ws?session={'x' * 20}")
    back = [await scene.call(green, f"/ws?session={session}") for session in sessions]
    assert [await _session(caller) for caller in back] == sessions
    assert await _refused(scene, green, f"/ws?session={sessions[0]}")
    counts = green.counts()
    assert (counts.resumed, counts.returned["+Inf"], counts.refused) == ({"blue": 20}, 20, {"address_rate": 4})
    assert (blue.counts().asked, blue.counts().nameless) == (20, 0)


async def test_a_refused_try_is_not_the_last(scene: Scene) -> None:
    """What is refused for another reason may be tried again, a few times."""
    blue = await scene.node("blue-1")
    green = await scene.node("green-1", limits=ONE_A_MINUTE, origins=("https://good.example",))
    caller = await scene.call(blue)
    session = await _session(caller)
    await scene.call(green)
    blue.draining.begin(0)
    assert await caller.goodbye()
    for _ in range(2):
        with pytest.raises(InvalidStatus) as refused:
            await scene.call(green, f"/ws?session={session}", origin="https://bad.example")
        assert refused.value.response.status_code == 403
    await scene.call(green, f"/ws?session={session}")


@pytest.mark.parametrize("how", ["drain", "move", "stop"])
async def test_announced_before_the_goodbye(scene: Scene, how: str) -> None:
    """Whoever listens knows a session before its client gets the goodbye; one that its client does not know is none."""
    heard = await scene.overhear("goodbyes")
    node = await scene.node("n1", colour="blue", echo=True)
    caller = await scene.call(node)
    session = await _session(caller)
    nameless = await scene.call(node, "/ws/echo")
    brought = await scene.call(node, f"/ws/echo?session={'e' * 20}")
    stopping = None
    if how == "drain":
        node.draining.begin(0)
    elif how == "move":
        await node.mover.move(MoveOrder(3, over_ms=0))
    else:
        stopping = asyncio.create_task(scene.stop(node))
    assert (await caller.goodbye())["code"] == (1001 if how == "stop" else 1012)
    said = [msgspec.json.decode(message, type=Goodbyes) for message in heard]
    assert {each for message in said for each in message.asked} == {session, "e" * 20}
    assert {(message.node, message.colour, message.in_ms) for message in said} == {("n1", "blue", 100)}
    for each in (nameless, brought):
        await asyncio.wait_for(each.socket.wait_closed(), PATIENCE_S)
    if stopping is not None:
        await stopping
    counts = node.counts()
    assert (counts.asked, counts.nameless, counts.cut) == (3, 1, 0)


async def test_who_is_asked_while_the_bus_is_away_may_be_back_unseen(scene: Scene) -> None:
    """No other node could be told, so none will say that the client came back."""
    node = await scene.node("n1")
    callers = [await scene.call(node) for _ in range(2)]
    await scene.kill_nats()
    await until(lambda: not node.bus.connected, "the end of the connection")
    node.draining.begin(0)
    for caller in callers:
        assert await caller.goodbye()
    assert (node.counts().asked, node.counts().nameless) == (2, 2)


async def test_who_is_cut_is_counted(scene: Scene) -> None:
    """At the deadline of a stop those that did not answer are cut, and counted."""
    node = await scene.node("n1")
    peer = await RawPeer.open(node.port)
    await scene.stop(node)
    assert node.counts().cut == 1
    peer.close()


async def test_goodbyes_go_on_without_nats(scene: Scene) -> None:
    """The clients move all the same, and the node knows those that come back to it."""
    node = await scene.node("n1", limits=ONE_A_MINUTE)
    caller = await scene.call(node)
    session = await _session(caller)
    await scene.kill_nats()
    await until(lambda: not node.bus.connected)
    await node.mover.move(MoveOrder(1, over_ms=0))
    assert (await caller.goodbye())["code"] == 1012
    await scene.call(node, f"/ws?session={session}")
    assert node.counts().resumed == {"blue": 1}
    assert await _refused(scene, node, f"/ws?session={session}")


@pytest.mark.parametrize(
    "broken",
    [b"", b"[]", b'{"node":"n","colour":"b","asked":["short"]}', b'{"node":"n","colour":"b","asked":[1]}',
     b'{"node":"n","colour":"' + b"c" * 65 + b'"}', b'{"node":"n","colour":"b","in_ms":60000}'],
    ids=["empty", "list", "short", "number", "colour", "later"],
)  # fmt: skip
async def test_what_is_no_announcement_is_ignored(scene: Scene, broken: bytes) -> None:
    """The next one is heard."""
    node = await scene.node("n1", limits=ONE_A_MINUTE)
    await scene.call(node)
    await scene.publish("goodbyes", broken)
    await scene.publish("goodbyes", msgspec.json.encode(Goodbyes("n2", "red", ("s" * 20,))))
    await until(lambda: len(node._news.asked) == 1)
    await scene.call(node, f"/ws?session={'s' * 20}")
    assert node.counts().resumed == {"red": 1}
