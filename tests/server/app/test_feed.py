"""Channels through real sockets: subscribe, publish, replay and recover, as a client sees them."""

from __future__ import annotations

import asyncio

from tests.support.patience import patient
from tests.support.server.live_node import OpenPeer, StartNode


async def test_publication_reaches_every_subscriber(start_node: StartNode, open_peer: OpenPeer) -> None:
    """Two subscribers get a publication with its position; the publisher gets an ack with the same."""
    node = await start_node()
    one, two = await open_peer(node), await open_peer(node)
    ack = await one.ask({"type": "subscribe", "id": 1, "channels": ["public.a"]}, "subscription_ack")
    assert (ack["id"], ack["subscribed"], ack["count"]) == (1, ["public.a"], 1)
    start = ack["positions"]["public.a"]
    assert start["offset"] == 0
    assert start["recovered"] is False
    await two.ask({"type": "subscribe", "channels": ["public.a"]}, "subscription_ack")
    await one.send({"type": "publish", "id": "x", "channel": "public.a", "data": {"n": [1, 2.5, None]}})
    got = {(await one.next())["type"]: one.seen[-1] for _ in range(2)}
    publication = await two.expect("publication")
    assert publication["data"] == {"n": [1, 2.5, None]}
    assert got["publication"] == publication
    assert (publication["prev"], publication["epoch"]) == (0, start["epoch"])
    assert (got["publish_ack"]["id"], got["publish_ack"]["offset"]) == ("x", publication["offset"])


async def test_recover_brings_what_was_missed_before_anything_live(start_node: StartNode, open_peer: OpenPeer) -> None:
    """A client that comes back with its position gets exactly the missed publications, in order, then the live ones."""
    node = await start_node()
    publisher, reader = await open_peer(node), await open_peer(node)
    ack = await reader.ask({"type": "subscribe", "channels": ["public.a"]}, "subscription_ack")
    epoch = ack["positions"]["public.a"]["epoch"]
    for number in range(3):
        await publisher.ask({"type": "publish", "channel": "public.a", "data": number}, "publish_ack")
    seen = [await reader.expect("publication") for _ in range(3)]
    await reader.socket.close()
    for number in range(3, 8):
        await publisher.ask({"type": "publish", "channel": "public.a", "data": number}, "publish_ack")
    again = await open_peer(node)
    position = {"epoch": epoch, "offset": seen[-1]["offset"]}
    ack = await again.ask(
        {"type": "subscribe", "channels": ["public.a"], "recover": {"public.a": position}}, "subscription_ack"
    )
    assert ack["positions"]["public.a"]["recovered"] is True
    assert ack["positions"]["public.a"]["replayed"] == 5
    await publisher.ask({"type": "publish", "channel": "public.a", "data": 8}, "publish_ack")
    missed = [await again.expect("publication") for _ in range(6)]
    assert [message["data"] for message in missed] == [3, 4, 5, 6, 7, 8]
    assert [message["prev"] for message in missed] == [position["offset"], *[m["offset"] for m in missed[:-1]]]


async def test_echo_returns_messages_unchanged(start_node: StartNode, open_peer: OpenPeer) -> None:
    """Text and binary come back as they went, with no envelope."""
    node = await start_node()
    peer = await open_peer(node, "/ws/echo", greet=False)
    for message in ["hello", "ünï", b"\x00\xff", "", "x" * 70_000]:
        await peer.send(message)
        assert await asyncio.wait_for(peer.socket.recv(), patient(5)) == message


async def test_replay_from_the_very_beginning_is_complete(start_node: StartNode, open_peer: OpenPeer) -> None:
    """Offsets begin at 1: asking from 0 misses nothing."""
    node = await start_node()
    peer = await open_peer(node)
    await peer.ask({"type": "subscribe", "channels": ["public.a"]}, "subscription_ack")
    await peer.send({"type": "publish", "channel": "public.a", "data": 1})
    await peer.skip_to("publish_ack")
    await peer.send({"type": "replay", "id": 7, "channel": "public.a", "from": 0, "to": 9})
    answer = await peer.skip_to("replay_complete")
    assert (answer["id"], answer["from"], answer["to"], answer["sent"]) == (7, 0, 1, 1)
