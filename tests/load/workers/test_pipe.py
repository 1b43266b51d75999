"""Messages over a pair of sockets: whole, in order, bounded, and with an end."""

from __future__ import annotations

import asyncio
import socket

import msgspec
import pytest

from tests.support.patience import patient
from trunkline.load.model.messages import Begin, Failed, Offsets, Ready, Sent, Stop
from trunkline.load.model.tally import Tally
from trunkline.load.workers.pipe import FROM_WORKER, LONGEST, TO_WORKER, BadMessage, ChannelClosed, Pipe, pack


async def pair() -> tuple[Pipe, Pipe]:
    """The coordinator's end and the worker's."""
    ours, theirs = socket.socketpair()
    return await Pipe.open(ours, FROM_WORKER), await Pipe.open(theirs, TO_WORKER)


async def raw() -> tuple[Pipe, socket.socket]:
    """The coordinator's end and a bare socket."""
    ours, theirs = socket.socketpair()
    return await Pipe.open(ours, FROM_WORKER), theirs


async def test_messages_come_whole_and_in_order() -> None:
    """What one end sends the other receives, both ways, small and large."""
    ours, theirs = await pair()
    tally = Tally()
    tally.round_trip.record(0.25)
    tally.closes[1006] += 1
    said = [
        Ready(0, 9),
        tally.beat(0, 1, 0.5),
        Offsets(0, "c", "e", tuple(range(50_000)), last=True),
        Failed(0, "a", "b"),
    ]
    sending = asyncio.create_task(_send(theirs, said))
    assert [await ours.receive() for _ in said] == said
    await sending
    await ours.send(Begin(1.5))
    await ours.send(Stop())
    assert [await theirs.receive(), await theirs.receive()] == [Begin(1.5), Stop()]
    ours.close()
    theirs.close()


async def _send(pipe: Pipe, messages: list[msgspec.Struct]) -> None:
    for message in messages:
        await pipe.send(message)


async def test_end_is_none() -> None:
    """When the other end closes, `receive` says None, and sending says that nobody is there."""
    ours, theirs = await pair()
    theirs.close()
    assert await asyncio.wait_for(ours.receive(), patient(5)) is None
    with pytest.raises(ChannelClosed):
        await _send(ours, [Stop(), Stop(), Stop()])
    ours.close()


async def test_end_within_a_message_is_an_end() -> None:
    """A sender that was killed in the middle of a message has ended."""
    ours, theirs = await raw()
    theirs.sendall((100).to_bytes(4) + b"abc")
    theirs.close()
    assert await asyncio.wait_for(ours.receive(), patient(5)) is None
    ours.close()


async def test_too_long_is_not_sent() -> None:
    """A message over the limit is refused with its name, its size and the limit, and nothing of it is sent."""
    ours, theirs = await pair()
    with pytest.raises(BadMessage, match=rf"Failed has \d+ bytes, more than {LONGEST}"):
        await ours.send(Failed(0, "x" * LONGEST, ""))
    with pytest.raises(BadMessage, match="more than"):
        await ours.send_packed(bytes(LONGEST + 1))
    await ours.send(Stop())
    assert await theirs.receive() == Stop()
    ours.close()
    theirs.close()


async def test_too_long_is_not_read() -> None:
    """A length over the limit is refused before anything is kept."""
    ours, theirs = await raw()
    theirs.sendall((LONGEST + 1).to_bytes(4))
    with pytest.raises(BadMessage, match=f"{LONGEST + 1} bytes is coming"):
        await asyncio.wait_for(ours.receive(), patient(5))
    ours.close()
    theirs.close()


@pytest.mark.parametrize(
    "data", [b"", b"\xc1", b"not msgpack", msgspec.msgpack.encode({"type": "begin", "at": 1}), pack(Sent(0, {}))[:-3]]
)
async def test_what_is_no_message_is_an_error(data: bytes) -> None:
    """Bytes that are no message of a worker raise an error that says what is wrong."""
    ours, theirs = await raw()
    theirs.sendall(len(data).to_bytes(4) + data)
    with pytest.raises(BadMessage, match=f"a message of {len(data)} bytes cannot be read"):
        await asyncio.wait_for(ours.receive(), patient(5))
    ours.close()
    theirs.close()


async def test_slow_reader_holds_the_sender_up() -> None:
    """A reader that does not read makes the sender wait: nothing piles up in memory."""
    ours, theirs = await pair()
    message = Failed(0, "x" * 400_000, "")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(_send(theirs, [message] * 20), 0.2)
    assert await ours.receive() == message
    ours.close()
    theirs.close()


def test_text_that_cannot_be_sent_is_told() -> None:
    """Half of a surrogate pair, as a flow can make it of a server's JSON, is an error and no silence."""
    with pytest.raises(BadMessage, match="a message Failed cannot be written"):
        pack(Failed(0, "\ud800", ""))
