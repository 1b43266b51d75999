"""One call of the reader takes a bounded part of what came; the rest follows in order, whatever it is."""

from __future__ import annotations

import random
import tracemalloc
import zlib

import pytest

from tests.support.server.raw_peer import BINARY, CLOSE, PING, TEXT, frame
from trunkline.websocket.frames import TURN_BYTES, TURN_FRAMES, FrameReader, Message


def packed(payload: bytes) -> bytes:
    """A compressed text frame."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return frame(TEXT, (packer.compress(payload) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4], rsv=0x40)


def turns(reader: FrameReader, data: bytes) -> list[list[Message]]:
    """What each turn brings until nothing is left."""
    found = [reader.feed(data)]
    while reader.left:
        found.append(reader.feed(b""))
    return found


def joined(turns: list[list[Message]]) -> list[Message]:
    """All that turns brought."""
    return [message for each in turns for message in each]


@pytest.mark.parametrize(
    ("flood", "count"),
    [
        pytest.param(frame(PING), 3000, id="pings"),
        pytest.param(frame(TEXT, b"{}"), 3000, id="small messages"),
        pytest.param(frame(TEXT), 3000, id="empty messages"),
        pytest.param(frame(TEXT, b"a") + frame(PING), 1500, id="messages and pings"),
        pytest.param(frame(TEXT, b"a", fin=False) + frame(0, b"b"), 1500, id="fragmented messages"),
    ],
)
def test_a_turn_has_a_bounded_number_of_frames(flood: bytes, count: int) -> None:
    """A call looks at `TURN_FRAMES` frames at most, whatever one read brings, and the next goes on where it ended."""
    reader = FrameReader(1000)
    found = turns(reader, flood * count)
    one = FrameReader(1000).feed(flood)
    assert max(map(len, found)) <= TURN_FRAMES
    assert len(found) >= len(flood * count) / len(flood) / TURN_FRAMES
    assert joined(found) == one * count
    assert not reader.unfinished


def test_empty_fragments_take_turns_too() -> None:
    """They bring no message, and count all the same."""
    reader = FrameReader(1000)
    assert reader.feed(frame(TEXT, b"a", fin=False) + frame(0, fin=False) * 1000 + frame(0, b"b")) == []
    assert reader.left
    assert reader.notable
    assert reader.idle_frames == TURN_FRAMES - 1
    count = 1
    while reader.left:
        last = reader.feed(b"")
        count += 1
    assert last == [(TEXT, b"ab")]
    assert count == 4
    assert reader.idle_frames == 1000


def test_a_turn_has_a_bounded_number_of_bytes() -> None:
    """A read of many megabytes is looked at in parts."""
    reader = FrameReader(1 << 20)
    message = frame(BINARY, bytes(40_000))
    found = turns(reader, message * 500)
    assert max(sum(len(payload) for _, payload in each) for each in found) <= 2 * TURN_BYTES
    assert sum(map(len, found)) == 500
    huge = turns(FrameReader(1 << 24), frame(BINARY, bytes(10_000_000)) + frame(PING, b"x"))
    assert len(huge) >= 10_000_000 // TURN_BYTES
    assert [(opcode, len(payload)) for opcode, payload in joined(huge)] == [(BINARY, 10_000_000), (PING, 1)]


def test_a_turn_has_a_bounded_number_of_inflated_bytes() -> None:
    """Half a megabyte of compressed messages is 350 MB: a turn inflates some of them, and so does memory."""
    bomb = packed(b"0" * 65_536)
    flood = bomb * (500_000 // len(bomb))
    reader = FrameReader(65_536, True)
    tracemalloc.start()
    messages = reader.feed(flood)
    count, most = 0, 0
    while messages:
        most = max(most, len(messages))
        assert all(len(payload) == 65_536 for _, payload in messages)
        count += len(messages)
        messages = reader.feed(b"") if reader.left else []
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == len(flood) // len(bomb)
    assert most == TURN_BYTES // 65_536
    assert peak < 2_000_000


def test_a_violation_comes_in_its_turn() -> None:
    """What broke the stream is reported behind all that came before it, and nothing is left then."""
    reader = FrameReader(1000)
    found = reader.feed(frame(PING) * 300 + frame(3) + frame(PING) * 300)
    assert reader.violation is None
    assert len(found) == TURN_FRAMES
    assert len(reader.feed(b"")) == 300 - TURN_FRAMES
    assert reader.violation is not None
    assert not reader.left
    assert reader.feed(frame(PING)) == []


def test_nothing_is_left_behind_a_close_frame() -> None:
    """A close frame ends the stream, whatever came with it."""
    reader = FrameReader(1000)
    found = turns(reader, frame(TEXT, b"a") * 300 + frame(CLOSE, b"\x03\xe8") + frame(PING) * 3000)
    assert len(found) == 2
    assert found[-1][-1] == (CLOSE, b"\x03\xe8")
    reader.put_off(frame(PING))
    assert not reader.left


def test_what_is_put_off_follows_what_is_left() -> None:
    """Reads that come although nothing more was asked for wait behind what they followed."""
    reader = FrameReader(1000)
    data = [frame(TEXT, b"%d" % number) for number in range(1000)]
    found = reader.feed(b"".join(data[:600]))
    reader.put_off(b"".join(data[600:700]))
    reader.put_off(b"")
    found += reader.feed(b"".join(data[700:]))
    while reader.left:
        found += reader.feed(b"")
    assert found == [(TEXT, b"%d" % number) for number in range(1000)]
    fresh = FrameReader(1000)
    fresh.put_off(data[0])
    assert fresh.left
    assert fresh.feed(b"") == [(TEXT, b"0")]
    assert not fresh.left


@pytest.mark.parametrize("seed", range(20))
def test_any_split_into_reads_gives_the_same_messages(seed: int) -> None:
    """Turns or not: the same stream is the same messages, however it is cut."""
    rng = random.Random(seed)
    pieces = []
    for number in range(1500):
        kind = rng.random()
        text = b"%d" % number * rng.randrange(4)
        if kind < 0.4:
            pieces.append(frame(TEXT, text))
        elif kind < 0.6:
            pieces.append(frame(PING, text[:100]))
        elif kind < 0.8:
            pieces.append(frame(TEXT, text, fin=False) + frame(PING) + frame(0, fin=False) + frame(0, text))
        else:
            pieces.append(packed(text * rng.choice([1, 1, 500])))
    stream = b"".join(pieces)
    whole = joined(turns(FrameReader(1 << 16, True), stream))
    reader, found, at = FrameReader(1 << 16, True), [], 0
    while at < len(stream) or reader.left:
        step = rng.choice([0, 1, 7, 300, 20_000])
        data, at = stream[at : at + step], at + step
        if reader.left and rng.random() < 0.5:
            reader.put_off(data)
        else:
            found += reader.feed(data)
    assert found == whole
    assert len(whole) > 1500
    assert reader.violation is None
