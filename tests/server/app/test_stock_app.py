"""The stock app: chat rooms, and matches whose players sit on two nodes over a real NATS."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.support.patience import patient
from tests.support.server.live_node import OpenPeer, Peer, StartNode
from tests.support.server.raw_peer import RawPeer, upgrade
from trunkline.bus.base import Deliver, Retention, Subscription
from trunkline.bus.memory import MemoryBus
from trunkline.errors import BusUnavailable
from trunkline.fleet.children.nats_server import NatsServer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nats_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NatsServer]:
    """A NATS for all tests of this file; each uses a prefix of its own."""
    server = await NatsServer.start(tmp_path_factory.mktemp("nats"))
    yield server
    await server.stop()


async def two(peer: Peer) -> dict[str, dict[str, Any]]:
    """The next two messages by their type."""
    return {message["type"]: message for message in [await peer.next(), await peer.next()]}


async def test_chat_reaches_the_room_and_no_other(start_node: StartNode, open_peer: OpenPeer) -> None:
    """A line is answered with its id and count, everyone in the room gets it, another room does not."""
    node = await start_node()
    ann, bob = await open_peer(node, "/ws/chat/ann"), await open_peer(node, "/ws/chat/bob?room=lobby")
    eve = await open_peer(node, "/ws/chat/eve?room=other")
    for peer, room in ((ann, "lobby"), (bob, "lobby"), (eve, "other")):
        assert (await peer.expect("subscription_ack"))["subscribed"] == [f"chat.{room}"]
    for number in (1, 2):
        await ann.send({"type": "message", "id": f"m{number}", "text": f"line {number}"})
        got = await two(ann)
        answer = got["message_response"]
        assert (answer["id"], answer["count"], answer["room"]) == (f"m{number}", number, "lobby")
        assert got["publication"]["data"] == {"from": "ann", "text": f"line {number}"}
        heard = await bob.expect("publication")
        assert (heard["channel"], heard["data"]) == ("chat.lobby", {"from": "ann", "text": f"line {number}"})
    await eve.ask({"type": "heartbeat"}, "pong")
    error = await eve.ask({"type": "message", "text": "x" * 32_769}, "error")
    assert (error["code"], "text" in error["message"]) == ("INVALID_MESSAGE", True)


async def test_chat_recovers_by_query(start_node: StartNode, open_peer: OpenPeer) -> None:
    """A client that comes back with its position gets what was said meanwhile, then what is said after."""
    node = await start_node()
    ann = await open_peer(node, "/ws/chat/ann?room=r")
    await ann.expect("subscription_ack")
    bob = await open_peer(node, "/ws/chat/bob?room=r")
    ack = await bob.expect("subscription_ack")
    place = ack["positions"]["chat.r"]
    await bob.socket.close()
    for text in ("one", "two"):
        await ann.send({"type": "message", "text": text})
        await two(ann)
    again = await open_peer(node, f"/ws/chat/bob?room=r&epoch={place['epoch']}&offset={place['offset']}")
    ack = await again.expect("subscription_ack")
    assert ack["positions"]["chat.r"]["recovered"] is True
    assert ack["positions"]["chat.r"]["replayed"] == 2
    await ann.send({"type": "message", "text": "three"})
    texts = [(await again.expect("publication"))["data"]["text"] for _ in range(3)]
    assert texts == ["one", "two", "three"]
    lost = await open_peer(node, "/ws/chat/bob?room=r&epoch=another&offset=1")
    assert (await lost.expect("subscription_ack"))["positions"]["chat.r"]["reason"] == "epoch_changed"
    for query in ("epoch=x&offset=-1", "epoch=x&offset=", "offset=5", "epoch=x&offset=" + "9" * 30):
        fresh = await open_peer(node, f"/ws/chat/bob?room=r&{query}")
        assert "reason" not in (await fresh.expect("subscription_ack"))["positions"]["chat.r"]


@pytest.mark.parametrize(
    "path",
    ["/ws/chat/a?room=", "/ws/chat/a?room=a.b", "/ws/chat/a?room=*", "/api/game", "/api/game?matchId=a%20b",
     f"/api/game?matchId={'x' * 65}", "/api/game?matchId=m&player=a.b"],
)  # fmt: skip
async def test_names_that_make_no_channel_are_400(start_node: StartNode, path: str) -> None:
    """Rooms, matches and players become parts of channel names, so a handshake with others is malformed."""
    node = await start_node()
    peer = await RawPeer.connect(node.port)
    await peer.send(upgrade(path))
    assert (await peer.answer()).status == 400
    peer.close()


async def test_a_move_reaches_the_others_and_the_sender_gets_its_ack(
    start_node: StartNode, open_peer: OpenPeer
) -> None:
    """The sender gets `publish_ack` with `prev` in the publication's place, so both have one chain without holes."""
    node = await start_node()
    a = await open_peer(node, "/api/game?matchId=m1&player=a")
    ack = await a.expect("subscription_ack")
    assert (await a.expect("player_joined"))["players"] == ["a"]
    b = await open_peer(node, "/api/game?matchId=m1&player=b")
    await b.expect("subscription_ack")
    for peer in (a, b):
        joined = await peer.expect("player_joined")
        assert (joined["match"], joined["player"], joined["players"]) == ("m1", "b", ["a", "b"])
    # Several at once, so that they share a tick of the loop.
    for number in range(3):
        await a.send({"move": number, "id": number})
        await b.send({"move": 10 + number, "id": f"b{number}"})
    chains = {}
    for name, peer in (("a", a), ("b", b)):
        at = ack["positions"]["match.m1"]["offset"]
        chain = []
        for _ in range(6):
            message = await peer.next()
            assert message["type"] in ("publication", "publish_ack")
            assert message["prev"] == at
            at = message["offset"]
            chain.append((message["offset"], message["type"], message.get("id", message.get("data"))))
        chains[name] = chain
    assert [offset for offset, _, _ in chains["a"]] == [offset for offset, _, _ in chains["b"]]
    assert [id for _, kind, id in chains["a"] if kind == "publish_ack"] == [0, 1, 2]
    assert [id for _, kind, id in chains["b"] if kind == "publish_ack"] == ["b0", "b1", "b2"]
    assert [data for _, kind, data in chains["b"] if kind == "publication"] == [
        {"player": "a", "data": {"move": number, "id": number}} for number in range(3)
    ]
    await b.socket.close()
    left = await a.expect("player_left")
    assert (left["player"], left["players"]) == ("b", ["a"])


async def test_a_match_takes_any_json_but_json_only(start_node: StartNode, open_peer: OpenPeer) -> None:
    """A move may be any JSON value with any `type` that is not the protocol's own."""
    node = await start_node()
    a = await open_peer(node, "/api/game?matchId=m&player=a")
    await a.skip_to("player_joined")
    b = await open_peer(node, "/api/game?matchId=m&player=b")
    await b.skip_to("player_joined")
    await a.skip_to("player_joined")
    for data in [1, "x", None, [1, [2]], {"type": "jump"}, {"type": 7}]:
        import json

        await a.send(json.dumps(data))
        await a.expect("publish_ack")
        assert (await b.expect("publication"))["data"] == {"player": "a", "data": data}
    assert (await a.ask({"type": "heartbeat"}, "pong"))["type"] == "pong"
    await a.send("{")
    assert (await a.expect("error"))["code"] == "INVALID_JSON"
    await a.send({"type": "subscribe"})
    assert (await a.expect("error"))["code"] == "INVALID_MESSAGE"


async def test_names_in_a_match_are_made_unique_and_seats_are_limited(
    start_node: StartNode, open_peer: OpenPeer
) -> None:
    """The second player of a name gets a tag; a full match answers 503; a seat that is left is free."""
    node = await start_node(server__match_players=2)
    a = await open_peer(node, "/api/game?matchId=m&player=x")
    await a.skip_to("player_joined")
    b = await open_peer(node, "/api/game?matchId=m&player=x")
    players = (await b.skip_to("player_joined"))["players"]
    assert players[0] == "x"
    assert players[1].startswith("x-")
    peer = await RawPeer.connect(node.port)
    await peer.send(upgrade("/api/game?matchId=m&player=c"))
    answer = await peer.answer()
    assert (answer.status, answer.headers["retry-after"]) == (503, "5")
    peer.close()
    assert node.runtime.meter.connections_failed.values == {("match_full",): 1}
    await b.socket.close()
    await a.skip_to("player_left")
    c = await open_peer(node, "/api/game?matchId=m&player=c")
    assert (await c.skip_to("player_joined"))["players"] == ["x", "c"]


async def test_a_match_over_two_nodes(start_node: StartNode, open_peer: OpenPeer, nats_server: NatsServer) -> None:
    """Players on two nodes see each other come and go, and each other's moves once."""
    shared = {"bus__url": nats_server.url, "bus__prefix": f"t{secrets.token_hex(4)}"}
    east, west = await start_node(**shared), await start_node(**shared)
    a = await open_peer(east, "/api/game?matchId=m&player=a")
    await a.skip_to("player_joined")
    b = await open_peer(west, "/api/game?matchId=m&player=b")
    while (await b.skip_to("player_joined"))["players"] != ["b", "a"]:
        pass
    joined = await a.skip_to("player_joined")
    assert (joined["player"], joined["players"]) == ("b", ["a", "b"])
    c = await open_peer(west, "/api/game?matchId=m&player=c")
    await c.skip_to("player_joined")
    assert (await a.skip_to("player_joined"))["player"] == "c"
    assert (await b.skip_to("player_joined"))["player"] == "c"
    await a.send({"n": 1, "id": "i"})
    ack = await a.skip_to("publish_ack")
    assert ack["id"] == "i"
    for peer in (b, c):
        moved = await peer.skip_to("publication")
        assert (moved["offset"], moved["data"]) == (ack["offset"], {"player": "a", "data": {"n": 1, "id": "i"}})
    await b.socket.close()
    left = await a.skip_to("player_left")
    assert (left["player"], sorted(left["players"])) == ("b", ["a", "c"])
    await c.skip_to("player_left")
    await a.socket.close()
    left = await c.skip_to("player_left")
    assert (left["player"], left["players"]) == ("a", ["c"])


async def test_players_of_many_hands_are_told_apart(start_node: StartNode, open_peer: OpenPeer) -> None:
    """Ten players that join one match at once all end up with the same roster, each with a name of its own."""
    node = await start_node(limits__rate_per_s=0)
    peers = await asyncio.gather(*(open_peer(node, "/api/game?matchId=crowd&player=p") for _ in range(10)))
    rosters = []
    for peer in peers:
        while True:
            message = await peer.next()
            if message["type"] == "player_joined" and len(message["players"]) == 10:
                rosters.append(message["players"])
                break
    assert all(roster == rosters[0] for roster in rosters)
    assert len(set(rosters[0])) == 10


class DeafAtFirst(MemoryBus):
    """A bus that cannot bring presence channels while `deaf`."""

    deaf = True

    async def subscribe(self, channel: str, deliver: Deliver) -> Subscription:
        if self.deaf and channel.startswith("presence."):
            raise BusUnavailable("not now")
        return await super().subscribe(channel, deliver)


async def test_a_match_that_could_not_begin_begins_later(start_node: StartNode, open_peer: OpenPeer) -> None:
    """A player who came while the bus failed is sent away with 1013; the next find a match that hears other nodes."""
    bus = DeafAtFirst(lambda name: Retention(0 if name.startswith("presence.") else 100, 60.0))
    node = await start_node(bus=bus)
    early = await open_peer(node, "/api/game?matchId=m&player=a")
    code, _ = await early.closed()
    assert code == 1013
    assert early.seen[-1]["type"] == "goodbye"
    bus.deaf = False
    late = await open_peer(node, "/api/game?matchId=m&player=a")
    await late.skip_to("player_joined")
    await bus.publish("presence.match.m", b'{"node":"elsewhere","players":["z"]}')
    assert (await late.skip_to("player_joined"))["players"] == ["a", "z"]


async def test_the_last_seat_is_given_once(start_node: StartNode, open_peer: OpenPeer) -> None:
    """Of players that ask at the same moment only as many stay as there are seats; the others may come back."""
    node = await start_node(server__match_players=2)
    asked = await asyncio.gather(
        *(open_peer(node, f"/api/game?matchId=m&player=p{number}", greet=False) for number in range(6)),
        return_exceptions=True,
    )
    # Some were refused at the door already; who came through it together is counted at the table.
    seated = [peer for peer in asked if not isinstance(peer, BaseException)]
    ends = [asyncio.create_task(peer.socket.wait_closed()) for peer in seated]
    while sum(end.done() for end in ends) < len(seated) - 2:
        done, _ = await asyncio.wait(
            [end for end in ends if not end.done()], timeout=patient(5), return_when=asyncio.FIRST_COMPLETED
        )
        assert done
    codes = [peer.socket.close_code for peer in seated]
    assert codes.count(None) == 2
    assert set(codes) <= {None, 1013}
    for end in ends:
        end.cancel()
