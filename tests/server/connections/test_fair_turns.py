"""A client that floods takes turns with all others: nothing is lost, nothing changes its order, an end stays an end.

No transport takes part: connections are handed what a read returned, and say when they want to be read no more.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from functools import partial

import pytest

from tests.support.server.open_hub import OpenHub, StalledTransport, frames_in
from tests.support.server.raw_peer import CLOSE, PING, PONG, TEXT, frame
from trunkline.bus.base import Retention
from trunkline.bus.memory import MemoryBus
from trunkline.server.connections.connection import Connection
from trunkline.server.connections.identity import ClientIdentity
from trunkline.server.connections.runtime import Bounds
from trunkline.server.connections.states import CLOSED, CLOSING, OPEN
from trunkline.server.connections.turns import Turns
from trunkline.websocket.frames import TURN_FRAMES, FrameReader

FLOOD = 20_000


class Noting:
    """A handler that keeps what it gets, and answers each with `answer`."""

    def __init__(self, connection: Connection, answer: bytes = b"") -> None:
        self.connection = connection
        self.got: list[bytes] = []
        self.is_over = False
        self.held_back = False
        self.hold_at = -1
        self._answer = answer

    def begin(self) -> None: ...

    def receive(self, opcode: int, payload: bytes) -> None:
        self.got.append(payload)
        if self._answer:
            self.connection.send_bytes(self._answer)
        if len(self.got) == self.hold_at:
            self.held_back = True
            self.connection.pause_reading()

    def let_go(self) -> None:
        self.held_back = False
        self.connection.resume_reading()

    def beat(self) -> None: ...

    def farewell(self, code: int, reason: str, reconnect_after_ms: int | None) -> bytes:
        return b""

    def ended(self) -> None:
        self.is_over = True


class Client:
    """A connection, its transport and its handler."""

    def __init__(self, hub: OpenHub, answer: bytes = b"") -> None:
        self.transport = StalledTransport()
        self.handlers: list[Noting] = []
        self.connection = Connection(
            hub.runtime,
            hub.registry,
            self.transport,  # type: ignore[arg-type]
            FrameReader(1 << 20),
            identity=ClientIdentity("c", "s", False, "/", {}, {}, ""),
            serve=partial(self._serve, answer),
            deflate_bits=0,
            outbox_bytes=1 << 30,
        )
        self.transport.protocol = self.connection
        self.handler = self.handlers[0]

    def _serve(self, answer: bytes, connection: Connection) -> Noting:
        self.handlers.append(Noting(connection, answer))
        return self.handlers[-1]

    @property
    def frames(self) -> list[tuple[int, bytes]]:
        return frames_in(bytes(self.transport.taken))

    async def served(self) -> int:
        """Let the loop turn until it reads on or is over; returns how often it turned."""
        rounds = 0
        while not (self.transport.reading or self.handler.is_over or self.connection.state == CLOSED):
            rounds += 1
            await asyncio.sleep(0)
        return rounds


def bounds(control_per_s: float) -> Bounds:
    return Bounds(1000, 1000, close_timeout_s=5, outbox_grace_s=1000, control_burst=500, control_per_s=control_per_s)


@pytest.fixture
async def hub() -> AsyncIterator[OpenHub]:
    hub = OpenHub(MemoryBus(lambda channel: Retention(0, 0.0)), lambda channel: Retention(0, 0.0))
    hub.runtime.bounds = bounds(0)
    yield hub
    await hub.close()


def numbered(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


async def test_a_flood_is_handled_in_turns_and_in_order(hub: OpenHub) -> None:
    """One read of 20,000 pings is some hundred to a turn; nothing is read meanwhile; all are answered in order."""
    flooder, other = Client(hub), Client(hub, answer=frame(TEXT, b"!", masked=False))
    flooder.connection.data_received(b"".join(frame(PING, each) for each in numbered(FLOOD)))
    assert len(flooder.frames) <= TURN_FRAMES
    assert not flooder.transport.reading
    asked = 0
    while not flooder.transport.reading:
        before = len(flooder.frames)
        other.connection.data_received(frame(TEXT, b"?"))
        asked += 1
        assert len(other.frames) == asked
        await asyncio.sleep(0)
        # What one slice of the loop takes, which is bounded in time and not in frames: but far from all of it.
        assert len(flooder.frames) - before < FLOOD / 2
    assert flooder.frames == [(PONG, each) for each in numbered(FLOOD)]
    assert asked > 2


async def test_many_that_flood_share_one_slice_of_time(hub: OpenHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many flood, the loop gets back between any two turns once the slice is over, and all get on alike."""
    times = iter(range(1_000_000))
    monkeypatch.setattr("trunkline.server.connections.turns.perf_counter", lambda: next(times))
    clients = [Client(hub) for _ in range(10)]
    for each in clients:
        each.connection.data_received(frame(PING) * 1000)
    handled = [len(each.frames) for each in clients]
    assert handled == [TURN_FRAMES] * 10
    while not all(each.transport.reading for each in clients):
        await asyncio.sleep(0)
        now = [len(each.frames) for each in clients]
        assert sum(now) - sum(handled) <= TURN_FRAMES
        assert max(now) - min(now) <= TURN_FRAMES
        handled = now
    assert handled == [1000] * 10


async def test_large_reads_take_turns(hub: OpenHub) -> None:
    """An event loop goes on reading a socket that fills its buffer: after a large read it is held up for one turn."""
    client = Client(hub)
    client.connection.data_received(frame(2, bytes(70_000)))
    assert len(client.handler.got) == 1
    assert not client.transport.reading
    await client.served()
    assert client.transport.reading
    client.connection.data_received(frame(2, bytes(7_000)))
    assert client.transport.reading


async def test_reads_that_come_all_the_same_wait(hub: OpenHub) -> None:
    """A transport may hand over more after it was asked to pause: it is put behind what is left."""
    client = Client(hub)
    data = [frame(TEXT, each) for each in numbered(1000)]
    client.connection.data_received(b"".join(data[:600]))
    for each in data[600:]:
        client.connection.data_received(each)
    assert len(client.handler.got) == TURN_FRAMES
    await client.served()
    assert client.handler.got == numbered(1000)


async def test_held_back_clients_go_on_where_they_were(hub: OpenHub) -> None:
    """A handler that has enough stops the turns too; when it takes more, what was left comes first."""
    client = Client(hub)
    client.handler.hold_at = TURN_FRAMES + 10
    client.connection.data_received(b"".join(frame(TEXT, each) for each in numbered(1000)))
    for _ in range(10):
        await asyncio.sleep(0)
    # The turn that it was held back in is served to its end, for its messages are read already.
    assert len(client.handler.got) == 2 * TURN_FRAMES
    assert not client.transport.reading
    client.handler.let_go()
    client.connection.pause_reading()
    client.handler.let_go()
    await client.served()
    assert client.handler.got == numbered(1000)
    assert client.transport.reading


async def test_a_close_frame_behind_a_flood_is_answered(hub: OpenHub) -> None:
    """It comes in its turn, behind all messages, and ends the connection as ever."""
    client = Client(hub)
    client.connection.data_received(frame(TEXT, b"x") * 1000 + frame(CLOSE, b"\x0f\xa0bye"))
    assert client.connection.state == OPEN
    await client.served()
    assert len(client.handler.got) == 1000
    assert (client.connection.close_code, client.connection.close_reason) == (4000, "bye")
    assert client.frames == [(CLOSE, b"\x0f\xa0")]
    assert client.transport.closed


async def test_what_came_before_the_end_is_handled_before_it(hub: OpenHub) -> None:
    """A TLS transport may end while a turn is awaited: messages and close frame still count, then it is over."""
    client = Client(hub, answer=frame(TEXT, b"!", masked=False))
    client.connection.data_received(frame(TEXT, b"x") * 1000 + frame(CLOSE, b"\x0f\xa0bye"))
    answered = len(client.frames)
    assert client.connection.eof_received() is False
    client.transport.closed = True
    client.connection.connection_lost(None)
    assert not client.handler.is_over
    assert client.connection.state == OPEN
    await client.served()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert client.handler.is_over
    assert len(client.handler.got) == 1000
    assert (client.connection.close_code, client.connection.close_reason) == (4000, "bye")
    assert len(client.frames) == answered


async def test_the_end_waits_for_no_handler_that_has_enough(hub: OpenHub) -> None:
    """When the transport has ended, what is left goes to the handler even if it asks for a pause."""
    client = Client(hub)
    client.handler.hold_at = 300
    client.connection.data_received(frame(TEXT, b"x") * 1000)
    client.connection.connection_lost(None)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(client.handler.got) == 1000
    assert client.handler.is_over


@pytest.mark.parametrize("how", ["cut off", "aborted"])
async def test_what_is_left_of_a_client_that_was_cut_off_is_dropped(hub: OpenHub, how: str) -> None:
    """A reset drops what the kernel holds, and what we hold."""
    client = Client(hub)
    client.connection.data_received(frame(TEXT, b"x") * 1000)
    if how == "aborted":
        client.connection.abort()
    client.connection.connection_lost(ConnectionResetError() if how == "cut off" else None)
    assert client.handler.is_over
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(client.handler.got) == TURN_FRAMES


@pytest.mark.parametrize(
    "flood",
    [
        pytest.param(frame(PING) * FLOOD, id="pings"),
        pytest.param(frame(PONG) * FLOOD, id="pongs"),
        pytest.param(frame(TEXT, fin=False) + frame(0, fin=False) * FLOOD, id="empty fragments"),
    ],
)
async def test_control_frames_and_empty_fragments_have_a_rate(hub: OpenHub, flood: bytes) -> None:
    """Above it the client is closed with 1008, and what it still sends is read for its close frame alone."""
    hub.runtime.bounds = bounds(100)
    client = Client(hub)
    client.connection.data_received(flood)
    while client.connection.state == OPEN:
        await asyncio.sleep(0)
    opcode, payload = client.frames[-1]
    assert (opcode, payload[:2]) == (CLOSE, b"\x03\xf0")
    assert b"500 control frames and empty fragments at once and 100 a second" in payload
    assert len(client.frames) <= 500 + TURN_FRAMES + 1
    assert client.connection.state == CLOSING
    await client.served()
    assert client.transport.reading
    client.connection.data_received(frame(CLOSE, b"\x03\xf0"))
    assert client.transport.closed


async def test_honest_clients_do_not_reach_that_rate(hub: OpenHub) -> None:
    """Pings and fragments at the rate go on for ever; messages do not count, nor do fragments that bring something."""
    hub.runtime.bounds = bounds(100)
    client = Client(hub)
    for second in range(30):
        hub.runtime.clock.now += 1.0
        client.connection.data_received(frame(PING) * 90 + frame(TEXT, b"a", fin=False) * 1 + frame(0, b"b"))
        client.connection.data_received(frame(TEXT, b"a") * 2000)
        client.connection.data_received((frame(TEXT, b"a", fin=False) + frame(0)) * 2000)
        await client.served()
        assert client.connection.state == OPEN, second
    assert len(client.handler.got) == 30 * 4001


async def test_a_turn_that_fails_ends_that_client_alone(hub: OpenHub) -> None:
    """A fault in a turn cuts its connection, as one in a read does; the others go on."""
    broken, other = Client(hub), Client(hub)

    def fail(opcode: int, payload: bytes) -> Awaitable[None]:
        raise RuntimeError

    for each in (broken, other):
        each.connection.data_received(frame(TEXT, b"x") * 1000)
    broken.handler.receive = fail  # type: ignore[assignment, method-assign]
    await other.served()
    assert broken.transport.closed
    assert len(other.handler.got) == 1000


async def test_a_turn_that_raises_a_cancellation_takes_no_turn_from_others() -> None:
    """An application may raise what it awaited elsewhere; the queue goes on behind it."""
    done = asyncio.Event()

    class Cancelled:
        aborted = False

        def turn(self) -> None:
            raise asyncio.CancelledError

        def abort(self) -> None:
            self.aborted = True

    class Last:
        def turn(self) -> None:
            done.set()

        def abort(self) -> None: ...

    first = Cancelled()
    turns = Turns()
    turns.add(first)
    turns.add(Last())
    async with asyncio.timeout(5):
        await done.wait()
    assert first.aborted
