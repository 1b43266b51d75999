"""The frame layer: what it accepts, what it refuses and with which close code, and what it builds."""

from __future__ import annotations

import random
import tracemalloc
import zlib

import pytest
from wsproto.connection import Connection as Peer
from wsproto.connection import ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

from trunkline.errors import ProtocolViolation
from trunkline.websocket import frames
from trunkline.websocket.deflate import deflate
from trunkline.websocket.frames import BINARY, CLOSE, PING, PONG, TEXT, FrameReader

LIMIT = 1000
MASK = b"\x37\xfa\x21\x3d"


def masked(first: int, payload: bytes = b"", *, mask: bytes = MASK, length: int | None = None) -> bytes:
    """A client's frame; `length` overrides the length that its header tells."""
    told = len(payload) if length is None else length
    if told < 126:
        head = bytes((first, 0x80 | told))
    elif told < 65536:
        head = bytes((first, 0x80 | 126)) + told.to_bytes(2, "big")
    else:
        head = bytes((first, 0x80 | 127)) + told.to_bytes(8, "big")
    return head + mask + bytes(byte ^ mask[at & 3] for at, byte in enumerate(payload))


def read(stream: bytes, *, deflated: bool = False, limit: int = LIMIT) -> tuple[list[frames.Message], int | None]:
    """What comes out of a whole stream: messages and the code of the violation."""
    reader = FrameReader(limit, deflated)
    messages = reader.feed(stream)
    return messages, reader.violation.code if reader.violation is not None else None


def test_rfc_examples() -> None:
    """The frames that RFC 6455 section 5.7 prints are read as it says."""
    assert read(bytes.fromhex("818537fa213d7f9f4d5158")) == ([(TEXT, b"Hello")], None)
    fragmented = masked(0x01, b"Hel") + masked(0x80, b"lo")
    assert read(fragmented) == ([(TEXT, b"Hello")], None)
    assert read(masked(0x89, b"Hello")) == ([(PING, b"Hello")], None)
    assert read(masked(0x82, b"\x00" * 256)) == ([(BINARY, b"\x00" * 256)], None)
    assert read(masked(0x82, b"\x01" * 65536), limit=65536) == ([(BINARY, b"\x01" * 65536)], None)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536])
@pytest.mark.parametrize("first", [0x81, 0x82])
def test_sizes_around_the_length_forms(first: int, size: int) -> None:
    """Payloads on both sides of each length form come out whole, with what follows them."""
    payload = bytes(97 + at % 26 for at in range(size))
    stream = masked(first, payload) + masked(0x81, b"next")
    assert read(stream, limit=65536) == ([(first & 15, payload), (TEXT, b"next")], None)


VIOLATIONS = {
    "unmasked text": (b"\x81\x05Hello", 1002),
    "unmasked ping": (b"\x89\x00", 1002),
    "RSV1 without deflate": (masked(0xC1, b"x"), 1002),
    "RSV2": (masked(0xA1, b"x"), 1002),
    "RSV3": (masked(0x91, b"x"), 1002),
    "RSV2 of a ping": (masked(0xA9), 1002),
    **{f"opcode {opcode:#x}": (masked(0x80 | opcode), 1002) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "fragmented ping": (masked(0x09), 1002),
    "fragmented pong": (masked(0x0A), 1002),
    "fragmented close": (masked(0x08), 1002),
    "ping of 126 bytes": (masked(0x89, b"x" * 126), 1002),
    "close of 126 bytes": (masked(0x88, b"\x03\xe8" + b"x" * 124), 1002),
    "ping with the 8-byte length form": (masked(0x89, length=70000), 1002),
    "continuation of nothing": (masked(0x80, b"x"), 1002),
    "open continuation of nothing": (masked(0x00, b"x"), 1002),
    "continuation after the last fragment": (masked(0x01, b"a") + masked(0x80, b"b") + masked(0x80, b"c"), 1002),
    "text inside a fragmented message": (masked(0x01, b"a") + masked(0x81, b"b"), 1002),
    "binary inside a fragmented message": (masked(0x02, b"a") + masked(0x02, b"b"), 1002),
    "2-byte length of 125": (b"\x82\xfe\x00\x7d" + MASK + b"x" * 125, 1002),
    "8-byte length of 125": (b"\x82\xff" + (125).to_bytes(8, "big") + MASK + b"x" * 125, 1002),
    "8-byte length of 65535": (b"\x82\xff" + (65535).to_bytes(8, "big") + MASK, 1002),
    "8-byte length with its highest bit": (b"\x82\xff" + (1 << 63 | 70000).to_bytes(8, "big") + MASK, 1002),
    "text that is not UTF-8": (masked(0x81, b"a\xff"), 1007),
    "text with a surrogate": (masked(0x81, b"\xed\xa0\x80"), 1007),
    "text with an overlong form": (masked(0x81, b"\xc0\x80"), 1007),
    "text beyond U+10FFFF": (masked(0x81, b"\xf4\x90\x80\x80"), 1007),
    "text cut inside a character": (masked(0x81, "é".encode()[:1]), 1007),
    "fragments cut inside a character": (masked(0x01, b"a") + masked(0x80, "é".encode()[:1]), 1007),
    "message over the limit": (masked(0x82, b"x" * (LIMIT + 1)), 1009),
}


@pytest.mark.parametrize(("stream", "code"), VIOLATIONS.values(), ids=VIOLATIONS.keys())
def test_violations(stream: bytes, code: int) -> None:
    """Each breach of the protocol has its close code, whether it comes at once or byte by byte, after good messages."""
    good = masked(0x82, b"good")
    messages, found = read(good + stream + masked(0x81, b"never read"))
    assert (messages[0], found) == ((BINARY, b"good"), code)
    assert (TEXT, b"never read") not in messages
    reader = FrameReader(LIMIT)
    for byte in good + stream:
        reader.feed(bytes((byte,)))
    assert reader.violation is not None
    assert reader.violation.code == code


CLOSES = {
    "one byte": (b"\x03", 1002),
    "bad UTF-8 in the reason": (b"\x03\xe8\xff", 1007),
    "cut character in the reason": (b"\x03\xe8" + "é".encode()[:1], 1007),
    **{
        f"code {code}": (code.to_bytes(2, "big"), 1002)
        for code in (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
    },
}


@pytest.mark.parametrize(("payload", "code"), CLOSES.values(), ids=CLOSES.keys())
def test_bad_close_payloads(payload: bytes, code: int) -> None:
    """A close frame that RFC 6455 section 7.4 forbids is a violation and no message."""
    assert read(masked(0x88, payload)) == ([], code)


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 3999, 4000, 4999])
def test_good_close_codes(code: int) -> None:
    """Codes that a client may send are read with their reason."""
    messages, violation = read(masked(0x88, code.to_bytes(2, "big") + "tschüß".encode()))
    assert violation is None
    assert [opcode for opcode, _ in messages] == [CLOSE]
    assert frames.read_close(messages[0][1]) == (code, "tschüß")


def test_empty_close() -> None:
    """A close frame without a body means 1005."""
    assert read(masked(0x88)) == ([(CLOSE, b"")], None)
    assert frames.read_close(b"") == (1005, "")


def test_nothing_is_read_after_close() -> None:
    """What follows a close frame is dropped, in the same read and in the next."""
    reader = FrameReader(LIMIT)
    assert reader.feed(masked(0x88) + masked(0x81, b"a")) == [(CLOSE, b"")]
    assert reader.feed(masked(0x81, b"b") + b"\xff\xff") == []
    assert reader.violation is None


def test_nothing_is_read_after_a_violation() -> None:
    """A broken stream is reported once, and stays broken."""
    reader = FrameReader(LIMIT)
    reader.feed(b"\x83\x80")
    first = reader.violation
    assert isinstance(first, ProtocolViolation)
    assert reader.feed(masked(0x81, b"a")) == []
    assert reader.violation is first
    assert not reader.unfinished


@pytest.mark.parametrize("size", [LIMIT + 1, 70_000, 1 << 40])
def test_too_big_as_soon_as_the_header_tells(size: int) -> None:
    """A frame over the limit is refused before its mask or a byte of its payload has come."""
    header = masked(0x82, length=size)[:-4]
    reader = FrameReader(LIMIT)
    reader.feed(header[:-1])
    assert reader.violation is None
    reader.feed(header[-1:])
    assert reader.violation is not None
    assert reader.violation.code == 1009


def test_fragments_add_up_to_the_limit() -> None:
    """Fragments may add up to the limit exactly; one byte more is refused by the header that tells of it."""
    start = masked(0x02, b"x" * 600)
    assert read(start + masked(0x80, b"y" * 400)) == ([(BINARY, b"x" * 600 + b"y" * 400)], None)
    assert read(start + masked(0x80, length=401)[:4]) == ([], 1009)


def test_limit_is_forgotten_between_messages() -> None:
    """The limit counts one message, not the connection."""
    stream = (masked(0x02, b"x" * 600) + masked(0x80, b"y" * 400)) * 3
    assert [len(payload) for _, payload in read(stream)[0]] == [1000, 1000, 1000]


def test_bad_text_fails_fast() -> None:
    """Text that can no longer become UTF-8 is refused while its message is still being sent."""
    reader = FrameReader(LIMIT)
    assert reader.feed(masked(0x01, "κόσμε".encode() + b"\xf4")) == []
    assert reader.violation is None
    frame = masked(0x00, b"\x90" + b"x" * 100)
    assert reader.feed(frame[:7]) == []
    assert reader.violation is not None
    assert reader.violation.code == 1007


def test_characters_may_be_cut_by_fragments() -> None:
    """A character spread over fragments, one of them empty, and over reads, is whole in the message."""
    whole = "a€𐍈".encode()
    stream = masked(0x01, whole[:2]) + masked(0x00) + masked(0x00, whole[2:6]) + masked(0x80, whole[6:])
    assert read(stream) == ([(TEXT, whole)], None)


def test_control_frames_inside_a_message() -> None:
    """Pings and pongs inside a fragmented message come out before it, in order."""
    stream = (
        masked(0x01, b"a")
        + masked(0x89, b"1")
        + masked(0x00, b"b")
        + masked(0x8A, b"2")
        + masked(0x89)
        + masked(0x80, b"c")
    )
    assert read(stream) == ([(PING, b"1"), (PONG, b"2"), (PING, b""), (TEXT, b"abc")], None)


def test_close_inside_a_message() -> None:
    """A client may close in the middle of a fragmented message."""
    assert read(masked(0x01, b"a") + masked(0x88, b"\x03\xe8")) == ([(CLOSE, b"\x03\xe8")], None)


def test_mask_turns_with_the_payload() -> None:
    """A frame that arrives in uneven pieces is unmasked as one, whatever its mask."""
    payload = bytes(range(256)) * 3
    stream = masked(0x82, payload, mask=b"\x01\x02\x03\x04")
    for step in (1, 2, 3, 5, 7, 11):
        reader = FrameReader(LIMIT)
        out = [message for at in range(0, len(stream), step) for message in reader.feed(stream[at : at + step])]
        assert out == [(BINARY, payload)]


def test_unfinished() -> None:
    """`unfinished` is true from the first byte of a frame to the last fragment of its message."""
    reader = FrameReader(LIMIT)
    assert not reader.unfinished
    for byte in masked(0x01, b"a") + masked(0x80, b"")[:-1]:
        reader.feed(bytes((byte,)))
        assert reader.unfinished
    assert reader.feed(MASK[-1:]) == [(TEXT, b"a")]
    assert not reader.unfinished


# --- permessage-deflate -----------------------------------------------------------------------------------------------


def test_compressed_messages() -> None:
    """RSV1 marks a compressed message; each is inflated alone; plain ones may stand between them."""
    rfc = bytes.fromhex("f248cdc9c90700")
    stream = masked(0xC1, rfc) + masked(0x81, b"plain") + masked(0xC2, deflate(b"\x00" * 900)) + masked(0xC1, rfc)
    expected = [(TEXT, b"Hello"), (TEXT, b"plain"), (BINARY, b"\x00" * 900), (TEXT, b"Hello")]
    assert read(stream, deflated=True) == (expected, None)


def test_compressed_fragments_with_a_ping_between() -> None:
    """Only the first fragment carries RSV1, and a ping between fragments leaves the message alone."""
    packed = deflate("kosmisch κόσμε".encode() * 20)
    stream = masked(0x41, packed[:3]) + masked(0x89, b"p") + masked(0x00, packed[3:9]) + masked(0x80, packed[9:])
    assert read(stream, deflated=True) == ([(PING, b"p"), (TEXT, "kosmisch κόσμε".encode() * 20)], None)


@pytest.mark.parametrize(
    "stream",
    [
        masked(0xC9, b"x"),
        masked(0xC8),
        masked(0x41, b"\xf2") + masked(0xC0, b"\x48"),
        masked(0x01, b"a") + masked(0xC0, b"b"),
    ],
    ids=["ping", "close", "continuation", "continuation of a plain message"],
)
def test_rsv1_out_of_place(stream: bytes) -> None:
    """RSV1 belongs to the first frame of a data message and to nothing else."""
    assert read(stream, deflated=True)[1] == 1002


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"\xff\xff\xff", 1002),
        (deflate(b"cut short" * 50)[:-4], 1002),
        (deflate(b"\xff\xfe"), 1007),
    ],
    ids=["not deflate", "cut short", "not UTF-8"],
)
def test_bad_compressed_text(payload: bytes, code: int) -> None:
    """Compressed text that cannot be inflated whole, or is not UTF-8 then, is refused."""
    assert read(masked(0xC1, payload), deflated=True) == ([], code)


def test_limit_counts_inflated_bytes() -> None:
    """A compressed message may inflate to the limit exactly and not further."""
    assert read(masked(0xC2, deflate(b"x" * LIMIT)), deflated=True) == ([(BINARY, b"x" * LIMIT)], None)
    assert read(masked(0xC2, deflate(b"x" * (LIMIT + 1))), deflated=True) == ([], 1009)


@pytest.mark.parametrize("level", [0, 1, 9])
def test_what_does_not_compress_may_use_the_whole_limit(level: int) -> None:
    """Random bytes grow when deflated; a message at the limit is taken all the same."""
    payload = random.Random(7).randbytes(65536)
    compressor = zlib.compressobj(level, zlib.DEFLATED, -15, memLevel=1)
    packed = (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
    assert len(packed) > len(payload)
    assert read(masked(0xC2, packed), deflated=True, limit=65536) == ([(BINARY, payload)], None)


def test_compressed_frames_are_bounded_on_the_wire() -> None:
    """That allowance is small: a compressed frame far over the limit is refused by its header."""
    assert read(masked(0xC2, length=2 * LIMIT)[:4], deflated=True) == ([], 1009)


def test_inflation_bomb_is_bounded() -> None:
    """A bomb of 64 MiB costs about the message limit of memory, not its size."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"".join(compressor.compress(bytes(1 << 20)) for _ in range(64)) + compressor.flush(zlib.Z_SYNC_FLUSH)
    stream = masked(0xC2, bomb[:-4])
    reader = FrameReader(1 << 20, True)
    tracemalloc.start()
    try:
        assert reader.feed(stream) == []
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert reader.violation is not None
    assert reader.violation.code == 1009
    assert peak < 6 << 20


# --- what we send -----------------------------------------------------------------------------------------------------


def client_reads(data: bytes) -> list[object]:
    """What a client of another make understands, big messages put together."""
    peer = Peer(ConnectionType.CLIENT)
    peer.receive_data(data)
    return list(peer.events())


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536])
def test_another_client_reads_our_data_frames(size: int) -> None:
    """Text and binary frames of every length form are read by wsproto as they were meant."""
    text = "é" * (size // 2) + "a" * (size % 2)
    events = client_reads(frames.text(text.encode()) + frames.binary(bytes(size)))
    assert [type(event) for event in events] == [TextMessage, BytesMessage]
    assert events[0].data == text  # type: ignore[attr-defined]
    assert bytes(events[1].data) == bytes(size)  # type: ignore[attr-defined]


def test_another_client_reads_our_control_frames() -> None:
    """Ping, pong and close are read by wsproto as they were meant."""
    events = client_reads(frames.ping(b"1") + frames.ping() + frames.pong(b"x" * 125) + frames.close(4001, "nö"))
    assert [type(event) for event in events] == [Ping, Ping, Pong, CloseConnection]
    assert [bytes(event.payload) for event in events[:3]] == [b"1", b"", b"x" * 125]  # type: ignore[attr-defined]
    assert (events[3].code, events[3].reason) == (4001, "nö")  # type: ignore[attr-defined]


def test_close_without_status_is_empty() -> None:
    """1005 never stands on the wire."""
    assert frames.close(1005) == b"\x88\x00"


@pytest.mark.parametrize("reason", ["x" * 200, "é" * 100, "a" + "é" * 100, "€" * 60, "𐍈" * 40, "ab" + "𐍈" * 40])
def test_close_reason_is_cut_at_a_character(reason: str) -> None:
    """A reason that does not fit is cut to at most 123 bytes, between two characters."""
    frame = frames.close(1008, reason)
    assert frame[1] == len(frame) - 2 <= 125
    kept = frame[4:].decode()
    assert reason.startswith(kept)
    assert len(reason[: len(kept) + 1].encode()) > 123
