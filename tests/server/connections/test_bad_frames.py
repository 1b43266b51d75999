"""Peers that break the WebSocket protocol: each is closed with the code that fits, and nobody else notices."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import AsyncIterator

import pytest

from tests.support.patience import patient
from tests.support.server.live_node import OpenPeer, StartNode
from tests.support.server.raw_peer import BINARY, CLOSE, PING, PONG, TEXT, RawPeer, frame
from trunkline.server.node.node import Node


@pytest.fixture
async def node(start_node: StartNode, open_peer: OpenPeer) -> AsyncIterator[Node]:
    """A node that still serves a well-behaved client after whatever the test did to it."""
    node = await start_node(server__close_timeout_ms=100)
    yield node
    good = await open_peer(node)
    await good.ask({"type": "subscribe", "channels": ["public.after"]}, "subscription_ack")
    await good.send({"type": "publish", "channel": "public.after", "data": 1})
    assert (await good.skip_to("publication"))["data"] == 1


def close_frame(code: int, reason: bytes = b"") -> bytes:
    return frame(CLOSE, code.to_bytes(2, "big") + reason)


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        pytest.param(frame(TEXT, b'{"type":"\xff"}'), 1007, id="text that is no UTF-8"),
        pytest.param(frame(TEXT, b"\xed\xa0\x80"), 1007, id="surrogate in UTF-8"),
        pytest.param(
            frame(TEXT, b'"\xc3', fin=False) + frame(0, b'("'), 1007, id="broken character across two fragments"
        ),
        pytest.param(close_frame(1005), 1002, id="close code 1005"),
        pytest.param(close_frame(1006), 1002, id="close code 1006"),
        pytest.param(close_frame(999), 1002, id="close code 999"),
        pytest.param(close_frame(2000), 1002, id="close code 2000"),
        pytest.param(frame(CLOSE, b"\x03"), 1002, id="close frame of one byte"),
        pytest.param(close_frame(1000, b"\xff"), 1007, id="close reason that is no UTF-8"),
        pytest.param(frame(TEXT, b"x" * 65_537), 1009, id="message one byte too long"),
        pytest.param(b"\x81\xff" + (1 << 40).to_bytes(8, "big"), 1009, id="announced terabyte"),
        pytest.param(b"\x81\xff" + b"\xff" * 8, 1002, id="length with its highest bit"),
        pytest.param(frame(TEXT, b"x" * 40_000, fin=False) + frame(0, b"x" * 40_000), 1009, id="fragments that add up"),
        pytest.param(frame(TEXT, b"{}", rsv=0x40), 1002, id="RSV1 without compression"),
        pytest.param(frame(TEXT, b"{}", rsv=0x20), 1002, id="RSV2"),
        pytest.param(frame(TEXT, b"{}", rsv=0x10), 1002, id="RSV3"),
        pytest.param(frame(TEXT, b"{}", masked=False), 1002, id="unmasked frame"),
        pytest.param(frame(3, b""), 1002, id="reserved data opcode"),
        pytest.param(frame(11, b""), 1002, id="reserved control opcode"),
        pytest.param(frame(PING, b"", fin=False), 1002, id="fragmented ping"),
        pytest.param(frame(PING, b"x" * 126), 1002, id="ping too long"),
        pytest.param(frame(0, b"x"), 1002, id="continuation of nothing"),
        pytest.param(frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"), 1002, id="message inside a message"),
    ],
)
async def test_broken_frames_end_with_their_code(node: Node, sent: bytes, code: int) -> None:
    """A violation is answered by goodbye and a close frame with the same code, whose reason says what was wrong."""
    peer = await RawPeer.open(node.port)
    await peer.message()
    await peer.send(sent)
    given, reason, before = await peer.closed()
    assert given == code
    assert reason
    assert [(message["type"], message["code"], message["reconnect"]) for message in before] == [
        ("goodbye", code, False)
    ]
    # Nothing is read after the violation, and the TCP connection is cut when no close frame answers.
    await peer.send(frame(TEXT, b'{"type":"heartbeat"}'))
    assert await peer.ended() == b""


async def test_compressed_bomb_is_too_big(node: Node) -> None:
    """A message that inflates beyond the limit is closed with 1009, without the memory it announces."""
    peer = await RawPeer.open(node.port, headers={"Sec-WebSocket-Extensions": "permessage-deflate"})
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = await asyncio.to_thread(packer.compress, b"\x00" * (40 << 20)) + packer.flush(zlib.Z_SYNC_FLUSH)
    assert len(bomb) < 65_536
    await peer.send(frame(TEXT, bomb[:-4], rsv=0x40))
    assert (await peer.closed())[0] == 1009


async def test_messages_before_a_violation_are_still_served(node: Node) -> None:
    """What came whole before the broken frame, in the same read, is answered first."""
    peer = await RawPeer.open(node.port)
    await peer.message()
    await peer.send(frame(TEXT, b'{"type":"heartbeat","id":7}') + frame(TEXT, b"{}", rsv=0x20))
    code, _, before = await peer.closed()
    assert code == 1002
    assert [(message["type"], message.get("id")) for message in before] == [("pong", 7), ("goodbye", None)]


async def test_binary_is_refused_and_the_connection_stays(node: Node) -> None:
    """JSON endpoints take text only; a binary message is an error, not the end."""
    peer = await RawPeer.open(node.port)
    await peer.message()
    await peer.send(frame(BINARY, b'{"type":"heartbeat"}') + frame(TEXT, b'{"type":"heartbeat"}'))
    assert (await peer.message())["code"] == "INVALID_MESSAGE"
    assert (await peer.message())["type"] == "pong"


async def test_close_is_echoed_and_ends(node: Node) -> None:
    """A client's close is answered with its own code, and then the node ends the TCP connection."""
    peer = await RawPeer.open(node.port)
    await peer.message()
    await peer.send(close_frame(4321, b"done") + frame(TEXT, b'{"type":"heartbeat"}'))
    assert (await peer.closed())[:2] == (4321, "")
    assert await peer.ended() == b""


async def test_flood_of_pings_is_answered_in_order(start_node: StartNode, open_peer: OpenPeer) -> None:
    """A hundred thousand pings are all answered in order, while another client gets its answers in time."""
    node = await start_node(limits__control_per_s=0)
    flooder = await RawPeer.open(node.port)
    await flooder.message()
    other = await open_peer(node)
    count = 100_000
    flood = b"".join(frame(PING, number.to_bytes(4, "big")) for number in range(count))

    expected = b"".join(bytes((0x80 | PONG, 4)) + number.to_bytes(4, "big") for number in range(count))
    reading = asyncio.create_task(flooder.take(len(expected), 30))
    sending = asyncio.create_task(flooder.send(flood))
    loop = asyncio.get_running_loop()
    slowest = 0.0
    asked = 0
    while not sending.done() and asked < 50:
        began = loop.time()
        await other.ask({"type": "heartbeat"}, "pong")
        slowest = max(slowest, loop.time() - began)
        asked += 1
    await sending
    assert await reading == expected
    assert asked
    # Far less on a machine of its own; this loop is the flooder's too.
    assert slowest < patient(3.0)


async def test_flood_of_pings_ends_by_policy(node: Node, open_peer: OpenPeer) -> None:
    """Nobody needs so many: above the rate of control frames the client is closed with 1008, which says it."""
    other = await open_peer(node)
    peer = await RawPeer.open(node.port)
    await peer.message()
    await peer.send(frame(PING) * 3000)
    while (answer := await peer.frame())[0] == PONG:
        pass
    assert json.loads(answer[1])["type"] == "goodbye"
    code, reason, _ = await peer.closed()
    assert code == 1008
    assert reason == "over the limit of 1000 control frames and empty fragments at once and 100 a second"
    await other.ask({"type": "heartbeat"}, "pong")


async def test_flood_of_pings_by_a_client_that_does_not_read_is_bounded(start_node: StartNode) -> None:
    """Such a client is no longer read from, so neither its pings nor its pongs pile up; in the end it is too slow."""
    node = await start_node(
        limits__control_per_s=0,
        limits__outbox_bytes=65_536,
        limits__outbox_grace_ms=300,
        server__close_timeout_ms=200,
    )
    peer = await RawPeer.open(node.port, receive_buffer=4096)
    flood = frame(PING, b"x" * 100) * 1000
    highest = 0

    async def push() -> None:
        while True:
            await peer.send(flood)

    sending = asyncio.create_task(push())
    while node.registry.connections:
        highest = max(highest, *(connection.waiting_bytes for connection in node.registry.connections))
        await asyncio.sleep(0.005)
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    peer.close()
    assert node.runtime.meter.slow_clients_disconnected == 1
    assert highest < 1 << 20
