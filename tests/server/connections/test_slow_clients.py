"""Clients that read slowly, never, or say nothing: bounded, told of their gap, ended in time; nobody waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tests.support.patience import patient
from tests.support.server.live_node import OpenPeer, Peer, StartNode
from tests.support.server.raw_peer import CLOSE, PING, TEXT, RawPeer, frame, upgrade
from trunkline.server.connections.states import OPEN
from trunkline.server.node.node import Node
from trunkline.websocket import frames

CHANNEL = "public.busy"


async def until(condition: Callable[[], bool], timeout: float = 5.0) -> None:
    """Wait until something is true."""
    async with asyncio.timeout(patient(timeout)):
        while not condition():
            await asyncio.sleep(0.005)


async def slow_reader(node: Node) -> tuple[RawPeer, int]:
    """A client that has subscribed and stopped reading; returns its position too."""
    peer = await RawPeer.open(node.port, receive_buffer=4096)
    await peer.skip_to("connection_established")
    await peer.say({"type": "subscribe", "channels": [CHANNEL]})
    ack = await peer.skip_to("subscription_ack")
    return peer, ack["positions"][CHANNEL]["offset"]


async def fill(node: Node, publisher: Peer, size: int = 40_000) -> int:
    """Publish until publications are dropped for a slow client; returns how many were published."""
    count = 0
    while not node.runtime.meter.publications_dropped.values.get(("slow_client",)):
        await publisher.ask({"type": "publish", "channel": CHANNEL, "data": [count, "x" * size]}, "publish_ack")
        count += 1
        assert count < 1000
    return count


async def test_a_client_that_never_reads_is_closed_and_delays_nobody(
    start_node: StartNode, open_peer: OpenPeer
) -> None:
    """Over its bound publications are dropped for it alone; after the grace it is closed with 1008, then cut off."""
    node = await start_node(
        limits__outbox_bytes=100_000, limits__outbox_grace_ms=400, limits__rate_per_s=0, server__close_timeout_ms=200
    )
    slow, _ = await slow_reader(node)
    publisher, reader = await open_peer(node), await open_peer(node)
    await reader.ask({"type": "subscribe", "channels": [CHANNEL]}, "subscription_ack")
    count = await fill(node, publisher)
    got = [(await reader.expect("publication", timeout=2))["data"][0] for _ in range(count)]
    assert got == list(range(count))
    assert max(connection.waiting_bytes for connection in node.registry.connections) < 400_000
    # It does not read: the close frame cannot reach it, and the node cuts the connection.
    await until(lambda: len(node.registry.connections) == 2, timeout=3)
    assert node.runtime.meter.slow_clients_disconnected == 1
    assert node.runtime.meter.disconnects.values == {("too_slow", "server"): 1}
    slow.close()


async def test_a_client_that_is_closed_as_too_slow_can_still_read_why(
    start_node: StartNode, open_peer: OpenPeer
) -> None:
    """When it reads at last it gets whole frames, then goodbye and close 1008 "client too slow"."""
    node = await start_node(
        limits__outbox_bytes=100_000, limits__outbox_grace_ms=200, limits__rate_per_s=0, server__close_timeout_ms=5000
    )
    slow, _ = await slow_reader(node)
    await fill(node, await open_peer(node))
    await until(lambda: node.runtime.meter.slow_clients_disconnected == 1)
    code, reason, before = await slow.closed()
    assert (code, reason) == (1008, "client too slow")
    assert (before[-1]["type"], before[-1]["reconnect"]) == ("goodbye", True)
    assert [message["data"][0] for message in before if message["type"] == "publication"] == list(
        range(len(before) - 1)
    )
    slow.close()


async def test_a_slow_client_that_reads_again_gets_a_gap_and_goes_on(
    start_node: StartNode, open_peer: OpenPeer
) -> None:
    """Within the grace: what was queued, one gap with exact ends, control messages, then live ones in order."""
    node = await start_node(limits__outbox_bytes=100_000, limits__outbox_grace_ms=20_000, limits__rate_per_s=0)
    slow, start = await slow_reader(node)
    publisher = await open_peer(node)
    published = await fill(node, publisher)
    for number in range(3):
        await publisher.ask({"type": "publish", "channel": CHANNEL, "data": [published + number, "y"]}, "publish_ack")
    dropped = node.runtime.meter.publications_dropped.values["slow_client",]
    # The ends of the gap, as the publisher's acks know them.
    offsets = [message["offset"] for message in publisher.seen if message["type"] == "publish_ack"]
    # It asks while it does not read; the answer may not be dropped.
    await slow.say({"type": "heartbeat", "id": "still here"})
    received = []
    while not received or received[-1]["type"] != "gap":
        received.append(await slow.message())
    gap = received.pop()
    publications = [message for message in received if message["type"] == "publication"]
    assert [message["offset"] for message in publications] == offsets[:-dropped]
    assert [message["prev"] for message in publications] == [start, *offsets[: -dropped - 1]]
    assert (gap["channel"], gap["reason"]) == (CHANNEL, "slow_client")
    assert gap["epoch"] == publications[0]["epoch"]
    assert (gap["after"], gap["before"]) == (offsets[-dropped - 1], offsets[-1] + 1)
    assert dropped >= 4
    for number in range(5):
        await publisher.ask({"type": "publish", "channel": CHANNEL, "data": ["live", number]}, "publish_ack")
    after = []
    while not after or after[-1].get("data") != ["live", 4]:
        after.append(await slow.message())
    live = [message for message in after if message["type"] == "publication"]
    pong = [message["id"] for message in [*received, *after] if message["type"] == "pong"]
    assert pong == ["still here"]
    assert [message["data"] for message in live] == [["live", number] for number in range(5)]
    assert live[0]["prev"] == offsets[-1]
    # What the gap named can be fetched.
    await slow.say({"type": "replay", "channel": CHANNEL, "from": gap["after"] + 1, "to": gap["before"] - 1})
    missed = [await slow.message() for _ in range(dropped)]
    assert [message["offset"] for message in missed] == offsets[-dropped:]
    slow.close()


async def test_a_client_that_leaves_the_channel_hears_of_no_gap(start_node: StartNode, open_peer: OpenPeer) -> None:
    """A gap that is still to be told is forgotten when the client unsubscribes."""
    node = await start_node(limits__outbox_bytes=100_000, limits__outbox_grace_ms=20_000, limits__rate_per_s=0)
    slow, _ = await slow_reader(node)
    await fill(node, await open_peer(node))
    (connection,) = node.registry.slow
    node.hub.remove(node.hub.channels[CHANNEL], connection)
    connection.send_bytes(frames.text(b'{"type":"marker"}'))
    while (message := await slow.message())["type"] != "marker":
        assert message["type"] == "publication"
    slow.close()


async def test_publications_after_a_goodbye_count_as_dropped_for_nobody(
    start_node: StartNode, open_peer: OpenPeer
) -> None:
    """A client that was told to go and has not gone yet is no slow client."""
    node = await start_node(server__close_timeout_ms=5000)
    leaving, _ = await slow_reader(node)
    publisher = await open_peer(node)
    (connection,) = (each for each in node.registry.connections if each.channels)
    connection.end(1012, "draining", 5)
    await publisher.ask({"type": "publish", "channel": CHANNEL, "data": 1}, "publish_ack")
    assert (await leaving.closed())[0] == 1012
    assert node.runtime.meter.publications_dropped.values == {}
    leaving.close()


async def test_a_client_that_asks_and_never_reads_is_not_read_from(start_node: StartNode) -> None:
    """Answers are never dropped, so a client that does not take them is not asked for more; then it is too slow."""
    node = await start_node(
        limits__outbox_bytes=65_536, limits__outbox_grace_ms=300, limits__rate_per_s=0, server__close_timeout_ms=200
    )
    slow, _ = await slow_reader(node)
    question = frame(TEXT, b'{"type":"heartbeat"}') * 2000

    async def ask() -> None:
        while True:
            await slow.send(question)

    asking = asyncio.create_task(ask())
    highest = 0
    while node.registry.connections:
        highest = max(highest, *(connection.waiting_bytes for connection in node.registry.connections))
        await asyncio.sleep(0.005)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    slow.close()
    assert highest < 2 << 20


async def test_a_client_that_closes_without_reading_is_let_go(start_node: StartNode) -> None:
    """A close frame behind unread answers ends the connection within the close time-out."""
    node = await start_node(limits__outbox_bytes=1 << 20, server__close_timeout_ms=200)
    peer = await RawPeer.open(node.port, "/ws/echo", receive_buffer=4096)
    await peer.send(frame(TEXT, b"x" * 8_000_000))
    await until(lambda: node.runtime.meter.messages_received == 1)
    await peer.send(frame(CLOSE, b"\x03\xe8"))
    await until(lambda: not node.registry.connections, timeout=3)
    peer.close()


async def test_a_long_recovery_and_a_long_replay_wait_for_the_client(
    start_node: StartNode, open_peer: OpenPeer
) -> None:
    """Many megabytes go out piece by piece as the client takes them, in order, without ever filling its outbox."""
    node = await start_node(limits__outbox_bytes=300_000, limits__outbox_grace_ms=200, limits__rate_per_s=0)
    publisher = await open_peer(node)
    place = (await publisher.ask({"type": "subscribe", "channels": [CHANNEL]}, "subscription_ack"))["positions"][
        CHANNEL
    ]
    await publisher.ask({"type": "unsubscribe", "channels": [CHANNEL]}, "unsubscription_ack")
    for number in range(300):
        await publisher.ask({"type": "publish", "channel": CHANNEL, "data": [number, "x" * 40_000]}, "publish_ack")
    slow = await RawPeer.open(node.port, receive_buffer=4096)
    await slow.skip_to("connection_established")
    recover = {CHANNEL: {"epoch": place["epoch"], "offset": place["offset"]}}
    await slow.say({"type": "subscribe", "channels": [CHANNEL], "recover": recover})
    ack = await slow.skip_to("subscription_ack")
    assert (ack["positions"][CHANNEL]["recovered"], ack["positions"][CHANNEL]["replayed"]) == (True, 300)
    # It takes nothing for longer than the grace time; what was published meanwhile follows in its place.
    await asyncio.sleep(0.4)
    assert max(connection.waiting_bytes for connection in node.registry.connections) < 300_000
    for number in range(300, 303):
        await publisher.ask({"type": "publish", "channel": CHANNEL, "data": [number, ""]}, "publish_ack")
    got = [await slow.message() for _ in range(303)]
    assert [message["data"][0] for message in got] == list(range(303))
    assert [message["prev"] for message in got] == [place["offset"], *[message["offset"] for message in got[:-1]]]
    await slow.say({"type": "replay", "id": 1, "channel": CHANNEL, "since": place["offset"]})
    await asyncio.sleep(0.4)
    again = [await slow.message() for _ in range(303)]
    assert [message["offset"] for message in again] == [message["offset"] for message in got]
    assert (await slow.message())["type"] == "replay_complete"
    assert node.runtime.meter.slow_clients_disconnected == 0
    slow.close()


async def test_a_silent_client_is_closed_as_idle(start_node: StartNode) -> None:
    """A client that sends nothing, not even pongs, gets heartbeats and pings, then goodbye and close 4008."""
    node = await start_node(
        server__connection_timeout_ms=500, server__heartbeat_interval_ms=150, server__close_timeout_ms=150
    )
    peer = await RawPeer.open(node.port)
    opcodes = []
    while True:
        opcode, payload = await peer.frame()
        opcodes.append(opcode)
        if opcode == CLOSE:
            assert int.from_bytes(payload[:2], "big") == 4008
            break
    # The greeting, heartbeats with their pings, the goodbye.
    assert opcodes.count(PING) >= 2
    assert opcodes.count(TEXT) == opcodes.count(PING) + 2
    assert await peer.ended() == b""
    assert not node.registry.connections


async def test_pongs_alone_keep_a_client(start_node: StartNode, open_peer: OpenPeer) -> None:
    """The library answers pings by itself; that is enough to stay, far beyond the idle time."""
    node = await start_node(server__connection_timeout_ms=300, server__heartbeat_interval_ms=60)
    peer = await open_peer(node)
    for _ in range(15):
        assert (await peer.next())["type"] == "heartbeat"
    await peer.ask({"type": "heartbeat"}, "pong")


async def test_a_connection_that_says_nothing_is_closed(start_node: StartNode) -> None:
    """TCP without a request ends after the handshake time-out, without an answer to nothing."""
    node = await start_node(server__handshake_timeout_ms=200)
    peer = await RawPeer.connect(node.port)
    assert await peer.ended(timeout=2) == b""


async def test_a_trickled_handshake_ends_with_408(start_node: StartNode) -> None:
    """Sending a byte now and then does not extend the time a handshake has."""
    node = await start_node(server__handshake_timeout_ms=300)
    peer = await RawPeer.connect(node.port)
    request = upgrade()[:-2]
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def trickle() -> None:
        for byte in request:
            await peer.send(bytes([byte]))
            await asyncio.sleep(0.02)

    trickling = asyncio.create_task(trickle())
    answer = await peer.answer()
    assert answer.status == 408
    assert loop.time() - began < patient(1.5)
    trickling.cancel()
    await asyncio.gather(trickling, return_exceptions=True)
    assert node.runtime.meter.connections_failed.values == {("handshake_timeout",): 1}


async def test_a_keep_alive_connection_ends_when_it_is_quiet(start_node: StartNode) -> None:
    """After an answer a client has the same time for its next request."""
    node = await start_node(server__handshake_timeout_ms=200)
    peer = await RawPeer.connect(node.port)
    await peer.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await peer.answer()).status == 200
    assert await peer.ended(timeout=2) == b""


async def test_a_client_of_pages_that_never_reads_is_cut(start_node: StartNode) -> None:
    """Requests are not read while answers wait, and the connection ends though its answers were never taken."""
    node = await start_node(server__handshake_timeout_ms=300, server__close_timeout_ms=200)
    peer = await RawPeer.connect(node.port, receive_buffer=4096)
    await until(lambda: bool(node.data_port.pending._deadlines))
    (door,) = node.data_port.pending._deadlines
    highest = 0
    for _ in range(4):
        await peer.send(b"GET /trunkline.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 60)
        await asyncio.sleep(0.02)
        highest = max(highest, door.transport.get_write_buffer_size())
    assert 0 < highest < 4 << 20
    await until(lambda: not node.data_port.pending._deadlines, timeout=3)
    peer.close()


async def test_a_heartbeat_too_much_leaves_the_close_timeout(start_node: StartNode) -> None:
    """A client that is ended by what its time-out sends waits for its close frame no longer than any other."""
    node = await start_node(limits__outbox_bytes=16_384, server__close_timeout_ms=1_000)
    peer, _ = await slow_reader(node)
    connection = next(iter(node.registry.connections))
    while connection.waiting_bytes < 16_384:
        connection.send_bytes(frames.text(b"x" * 8000))
    now = connection.last_seen = connection.beat_at
    while connection.state == OPEN:
        connection.beat_at = now
        due = connection.on_time(now)
    assert due == now + 1.0
    peer.close()
