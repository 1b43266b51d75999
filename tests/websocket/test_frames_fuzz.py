"""The frame layer against random streams: reads may be cut anywhere, and other implementations agree.

Where another implementation decides differently on purpose, `KNOWN` of that peer says so and why; a difference that is
not listed there fails the test.
"""

from __future__ import annotations

import random
import zlib
from typing import NamedTuple

from hypothesis import example, given
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Opcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol
from wsproto.connection import Connection as WsprotoConnection
from wsproto.connection import ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage
from wsproto.extensions import PerMessageDeflate as WsprotoDeflate

from trunkline.websocket.deflate import deflate
from trunkline.websocket.frames import BINARY, CLOSE, PING, PONG, TEXT, FrameReader

UNLIMITED = 1 << 60
EDGES = (0, 1, 125, 126, 127, 65535, 65536)


class Verdict(NamedTuple):
    """What a reader made of a stream: messages in order, and the close code of its violation."""

    messages: list[tuple[int, bytes]]
    violation: int | None


def masked(first: int, payload: bytes, mask: bytes) -> bytes:
    """A client's frame."""
    size = len(payload)
    if size < 126:
        head = bytes((first, 0x80 | size))
    elif size < 65536:
        head = bytes((first, 0xFE)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, 0xFF)) + size.to_bytes(8, "big")
    key = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
    return head + mask + (int.from_bytes(payload, "big") ^ key).to_bytes(size, "big")


# --- streams ----------------------------------------------------------------------------------------------------------

masks = st.binary(min_size=4, max_size=4)
small_text = st.text(max_size=40).map(str.encode)
edge_text = st.sampled_from(EDGES).map(lambda size: b"a" * (size % 3) + "€".encode() * (size // 3))
edge_bytes = st.builds(
    lambda size, seed: random.Random(seed).randbytes(size), st.sampled_from(EDGES), st.integers(0, 9)
)
text_payloads = st.one_of(small_text, small_text, small_text, edge_text)
binary_payloads = st.one_of(st.binary(max_size=60), st.binary(max_size=60), st.binary(max_size=60), edge_bytes)


class Piece(NamedTuple):
    """Some frames, and the messages that they make."""

    frames: bytes
    messages: list[tuple[int, bytes]]


@st.composite
def controls(draw: st.DrawFn) -> Piece:
    """A ping or a pong."""
    opcode = draw(st.sampled_from((PING, PONG)))
    payload = draw(st.binary(max_size=20) | st.just(b"x" * 125))
    return Piece(masked(0x80 | opcode, payload, draw(masks)), [(opcode, payload)])


@st.composite
def data_messages(draw: st.DrawFn, deflated: bool, interleaved: bool = True) -> Piece:
    """A text or binary message, perhaps compressed, perhaps in fragments with control frames between them."""
    opcode = draw(st.sampled_from((TEXT, BINARY)))
    payload = draw(text_payloads if opcode == TEXT else binary_payloads)
    compressed = deflated and draw(st.booleans())
    wire = deflate(payload, draw(st.integers(9, 15))) if compressed else payload
    cuts = sorted(draw(st.lists(st.integers(0, len(wire)), max_size=3)))
    parts = [wire[start:end] for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
    out = b""
    messages = []
    for at, part in enumerate(parts):
        first = opcode | (0x40 if compressed else 0) if at == 0 else 0
        if at == len(parts) - 1:
            first |= 0x80
        out += masked(first, part, draw(masks))
        if at < len(parts) - 1 and interleaved and draw(st.booleans()):
            control = draw(controls())
            out += control.frames
            messages += control.messages
    return Piece(out, [*messages, (opcode, payload)])


@st.composite
def closes(draw: st.DrawFn) -> Piece:
    """A close frame."""
    code = draw(st.sampled_from((None, 1000, 1001, 1011, 3000, 4999)))
    payload = b"" if code is None else code.to_bytes(2, "big") + draw(st.text(max_size=20)).encode()
    return Piece(masked(0x88, payload, draw(masks)), [(CLOSE, payload)])


@st.composite
def valid_streams(draw: st.DrawFn, deflated: bool, interleaved: bool = True) -> Piece:
    """Messages and control frames, perhaps closed at the end."""
    pieces = draw(st.lists(controls() | data_messages(deflated, interleaved), max_size=5))
    if draw(st.booleans()):
        pieces.append(draw(closes()))
    return Piece(
        b"".join(piece.frames for piece in pieces), [message for piece in pieces for message in piece.messages]
    )


@st.composite
def broken_streams(draw: st.DrawFn, deflated: bool, interleaved: bool = True) -> bytes:
    """A stream with some bytes changed, taken out or put in: mostly in headers, where it hurts most."""
    stream = bytearray(draw(valid_streams(deflated, interleaved)).frames)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, min(len(stream), 80)))
        change = draw(st.sampled_from(("set", "flip", "insert", "delete")))
        if change == "insert" or at >= len(stream):
            stream[at:at] = draw(st.binary(min_size=1, max_size=3))
        elif change == "delete":
            del stream[at]
        elif change == "flip":
            stream[at] ^= 1 << draw(st.integers(0, 7))
        else:
            stream[at] = draw(st.integers(0, 255))
    return bytes(stream)


@st.composite
def header_soups(draw: st.DrawFn) -> bytes:
    """Frames whose first bytes and lengths are anything, so that every rule of the header is met."""
    out = b""
    firsts = st.sampled_from((0x00, 0x01, 0x02, 0x80, 0x81, 0x82, 0x88, 0x89, 0x8A, 0xC1, 0x41, 0xC0)) | st.integers(
        0, 255
    )
    for _ in range(draw(st.integers(1, 5))):
        payload = draw(st.binary(max_size=8) | small_text)
        frame = bytearray(masked(draw(firsts), payload, draw(masks)))
        odd = draw(st.sampled_from(("", "", "", "", "unmasked", "long2", "long8", "high")))
        if odd == "unmasked":
            frame[1] &= 0x7F
        elif odd:
            width = 2 if odd == "long2" else 8
            length = len(payload) | (1 << 63 if odd == "high" else 0)
            frame[1:2] = bytes((0xFE if width == 2 else 0xFF,)) + length.to_bytes(width, "big")
        out += frame
    return out


def any_streams(deflated: bool, interleaved: bool = True) -> st.SearchStrategy[bytes]:
    """Good streams and bad ones."""
    return (
        valid_streams(deflated, interleaved).map(lambda piece: piece.frames)
        | broken_streams(deflated, interleaved)
        | header_soups()
    )


# --- readers ----------------------------------------------------------------------------------------------------------


def ours(reads: list[bytes], *, deflated: bool, limit: int = UNLIMITED) -> Verdict:
    """What FrameReader makes of a stream in these reads."""
    reader = FrameReader(limit, deflated)
    messages = [message for data in reads for message in reader.feed(data)]
    return Verdict(messages, reader.violation.code if reader.violation is not None else None)


def wsproto_reads(stream: bytes, *, deflated: bool) -> Verdict:
    """What a wsproto server makes of it."""
    extensions = []
    if deflated:
        extension = WsprotoDeflate(client_no_context_takeover=True, server_no_context_takeover=True)
        extension._enabled = True
        extensions.append(extension)
    peer = WsprotoConnection(ConnectionType.SERVER, extensions)
    peer.receive_data(stream)
    messages: list[tuple[int, bytes]] = []
    parts: list[bytes] = []
    for event in peer.events():
        if isinstance(event, TextMessage | BytesMessage):
            data = event.data.encode() if isinstance(event, TextMessage) else bytes(event.data)
            parts.append(data)
            if event.message_finished:
                messages.append((TEXT if isinstance(event, TextMessage) else BINARY, b"".join(parts)))
                parts = []
        elif isinstance(event, Ping | Pong):
            messages.append((PING if isinstance(event, Ping) else PONG, bytes(event.payload)))
        elif isinstance(event, CloseConnection):
            if peer.state is not ConnectionState.REMOTE_CLOSING:
                return Verdict(messages, int(event.code))
            code = b"" if event.code == 1005 else int(event.code).to_bytes(2, "big")
            messages.append((CLOSE, code + (event.reason or "").encode()))
    return Verdict(messages, None)


def websockets_reads(stream: bytes, *, deflated: bool) -> Verdict:
    """What the protocol object of websockets makes of it, its fragments put together and its text checked."""
    peer = ServerProtocol(state=OPEN, max_size=None)
    if deflated:
        peer.extensions = [PerMessageDeflate(True, True, 15, 15)]
    peer.receive_data(stream)
    messages: list[tuple[int, bytes]] = []
    opcode, parts = BINARY, b""
    for frame in peer.events_received():
        data = bytes(frame.data)  # type: ignore[union-attr]
        kind = Opcode(frame.opcode)  # type: ignore[union-attr]
        if kind >= Opcode.CLOSE:
            messages.append((int(kind), data))
            continue
        if kind is not Opcode.CONT:
            opcode, parts = int(kind), b""
        parts += data
        if frame.fin:  # type: ignore[union-attr]
            if opcode == TEXT and not is_text(parts):
                return Verdict(messages, 1007)
            messages.append((opcode, parts))
    failed = peer.close_sent.code if peer.parser_exc is not None and peer.close_sent is not None else None
    return Verdict(messages, failed)


def is_text(data: bytes) -> bool:
    """Whether this is UTF-8."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


# --- cut anywhere -----------------------------------------------------------------------------------------------------


@st.composite
def split(draw: st.DrawFn, streams: st.SearchStrategy[bytes]) -> tuple[bytes, list[bytes]]:
    """A stream, and the same in random reads."""
    stream = draw(streams)
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)) | st.integers(0, min(len(stream), 40)), max_size=8)))
    return stream, [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


def one_by_one(stream: bytes) -> list[bytes]:
    """A stream byte by byte."""
    return [stream[at : at + 1] for at in range(len(stream))]


@given(valid_streams(False), st.data())
def test_valid_streams_are_read(piece: Piece, data: st.DataObject) -> None:
    """A valid stream gives exactly its messages, in one read and in any reads."""
    assert ours([piece.frames], deflated=False) == Verdict(piece.messages, None)
    _, reads = data.draw(split(st.just(piece.frames)))
    assert ours(reads, deflated=False) == Verdict(piece.messages, None)


@given(valid_streams(True), st.data())
def test_valid_compressed_streams_are_read(piece: Piece, data: st.DataObject) -> None:
    """The same with compressed messages among them."""
    assert ours([piece.frames], deflated=True) == Verdict(piece.messages, None)
    _, reads = data.draw(split(st.just(piece.frames)))
    assert ours(reads, deflated=True) == Verdict(piece.messages, None)


@given(
    st.booleans().flatmap(lambda deflated: st.tuples(st.just(deflated), split(any_streams(deflated)))),
    st.sampled_from((5, 125, 126, 300, 65536)),
)
def test_reads_may_be_cut_anywhere(drawn: tuple[bool, tuple[bytes, list[bytes]]], limit: int) -> None:
    """Good and broken streams give the same messages and the same violation however the reads fall."""
    deflated, (stream, reads) = drawn
    whole = ours([stream], deflated=deflated, limit=limit)
    assert ours(reads, deflated=deflated, limit=limit) == whole
    if len(stream) < 5000:
        assert ours(one_by_one(stream), deflated=deflated, limit=limit) == whole


@given(split(any_streams(False)))
def test_what_came_before_a_violation_stays(drawn: tuple[bytes, list[bytes]]) -> None:
    """The messages of a prefix begin those of the whole stream."""
    stream, reads = drawn
    prefix = ours(reads[:-1], deflated=False)
    whole = ours([stream], deflated=False)
    assert whole.messages[: len(prefix.messages)] == prefix.messages
    if prefix.violation is not None:
        assert whole == prefix


# --- others agree -----------------------------------------------------------------------------------------------------

TAIL = masked(0x89, b"", b"\0\0\0\0") + masked(0x82, b"\0" * 64, b"\0\0\0\0")
"""Put behind every stream: completes a header that was cut short, so that peers which wait for all of it decide too."""

KNOWN_WSPROTO = {
    "close code 1014": "the IANA registry has it since RFC 6455; wsproto does not know it",
    "broken deflate": "wsproto says 1007, we say 1002: what cannot be inflated is no text yet",
    "deflate not whole": "wsproto delivers the part that can be inflated",
    "inflates early": "wsproto inflates each fragment as it comes and may find a broken one sooner",
    "control in a compressed message": "wsproto forgets to inflate what follows such a control frame",
}
KNOWN_WEBSOCKETS = {
    "long length": "websockets takes lengths that are not in their shortest form, and the highest bit",
    "close in a message": "websockets refuses it there; RFC 6455 section 5.5 allows control frames between fragments",
    "deflate not whole": "websockets delivers the part that can be inflated",
    "late text": "websockets checks text when its message is complete, so it may find another fault first, or wait",
    "waits": "websockets checks the rules of a frame once its payload is there",
    "inflates early": "websockets inflates each fragment as it comes and may find a broken one sooner",
}


def agree_or(known: dict[str, str], mine: Verdict, theirs: Verdict, reason: str | None) -> None:
    """Both verdicts are the same, or the difference is a listed one."""
    if mine == theirs:
        return
    assert reason is not None, f"ours {mine}, theirs {theirs}"
    assert reason in known


def reason_of(stream: bytes, *, deflated: bool) -> str:
    """What our reader says about its violation, or that it waits for the rest of a message."""
    reader = FrameReader(UNLIMITED, deflated)
    reader.feed(stream)
    if reader.violation is not None:
        return reader.violation.reason
    return "waits" if reader.unfinished else ""


def control_in_compressed(stream: bytes) -> bool:
    """Whether a control frame stands between the fragments of a compressed message."""
    at, inside = 0, False
    while at + 2 <= len(stream):
        first, size = stream[at], stream[at + 1] & 0x7F
        width = {126: 2, 127: 8}.get(size, 0)
        size = int.from_bytes(stream[at + 2 : at + 2 + width], "big") if width else size
        if first & 0x0F >= CLOSE:
            if inside:
                return True
        elif first & 0x0F or first & 0x80:
            inside = bool(first & 0x40) and not first & 0x80
        at += 6 + width + size
    return False


def explain_wsproto(mine: Verdict, theirs: Verdict, said: str, stream: bytes, deflated: bool) -> str | None:
    """Which listed difference this is, if any."""
    if deflated and control_in_compressed(stream):
        return "control in a compressed message"
    early = theirs.messages == mine.messages[: len(theirs.messages)] and said != ""
    if deflated and theirs.violation == 1007 and early:
        return "inflates early"
    if mine.violation is None:
        odd = next((payload for opcode, payload in mine.messages if opcode == CLOSE), b"")[:2]
        return "close code 1014" if odd == (1014).to_bytes(2, "big") and theirs.violation == 1002 else None
    if mine.messages != theirs.messages[: len(mine.messages)]:
        return None
    if said.startswith("compressed message"):
        return "broken deflate" if theirs.violation == 1007 else "deflate not whole"
    return None


def explain_websockets(mine: Verdict, theirs: Verdict, said: str, deflated: bool) -> str | None:
    """Which listed difference this is, if any."""
    if mine.violation is None:
        closed = bool(mine.messages) and mine.messages[-1][0] == CLOSE
        return "close in a message" if closed and theirs == Verdict(mine.messages[:-1], 1002) else None
    if (
        deflated
        and theirs.violation == 1002
        and theirs.messages == mine.messages[: len(theirs.messages)]
        and said != ""
    ):
        return "inflates early"
    if mine.messages != theirs.messages[: len(mine.messages)]:
        return None
    # A control frame with a long length form is too long to us before the length is read.
    if "frame length" in said or said == "control frame is longer than 125 bytes":
        return "long length"
    if said.startswith("compressed message"):
        return "deflate not whole"
    if mine.violation == 1007 and all(opcode >= CLOSE for opcode, _ in theirs.messages[len(mine.messages) :]):
        return "late text"
    if theirs.violation is None and theirs.messages == mine.messages:
        return "waits"
    if theirs.messages == mine.messages and {mine.violation, theirs.violation} == {1002, 1007}:
        return "late text"
    return None


@given(any_streams(False))
@example(masked(0x88, (1014).to_bytes(2, "big"), b"abcd"))
def test_wsproto_agrees(stream: bytes) -> None:
    """A wsproto server accepts and refuses the same streams, with the same messages and close codes."""
    stream += TAIL
    mine = ours([stream], deflated=False)
    theirs = wsproto_reads(stream, deflated=False)
    agree_or(
        KNOWN_WSPROTO, mine, theirs, explain_wsproto(mine, theirs, reason_of(stream, deflated=False), stream, False)
    )


@given(any_streams(True, interleaved=False))
@example(masked(0xC2, b"\xff\xff", b"abcd"))
@example(masked(0xC2, deflate(b"cut short" * 9)[:-3], b"abcd"))
def test_wsproto_agrees_on_compressed_streams(stream: bytes) -> None:
    """The same with permessage-deflate; control frames inside compressed messages are compared with websockets."""
    stream += TAIL
    mine = ours([stream], deflated=True)
    theirs = wsproto_reads(stream, deflated=True)
    agree_or(KNOWN_WSPROTO, mine, theirs, explain_wsproto(mine, theirs, reason_of(stream, deflated=True), stream, True))


@given(st.booleans().flatmap(lambda deflated: st.tuples(st.just(deflated), any_streams(deflated))))
@example((False, masked(0x01, b"a", b"abcd") + masked(0x88, b"", b"abcd")))
def test_websockets_agrees(drawn: tuple[bool, bytes]) -> None:
    """The protocol object of websockets takes and refuses the same streams, with the same messages and close codes."""
    deflated, stream = drawn
    stream += TAIL
    mine = ours([stream], deflated=deflated)
    theirs = websockets_reads(stream, deflated=deflated)
    agree_or(
        KNOWN_WEBSOCKETS, mine, theirs, explain_websockets(mine, theirs, reason_of(stream, deflated=deflated), deflated)
    )


@given(binary_payloads, st.integers(1, 9))
def test_any_deflate_level_is_read(payload: bytes, level: int) -> None:
    """Messages compressed with any effort, and with blocks flushed in between, are inflated whole."""
    compressor = zlib.compressobj(level, zlib.DEFLATED, -15)
    half = len(payload) // 2
    packed = compressor.compress(payload[:half]) + compressor.flush(zlib.Z_FULL_FLUSH)
    packed += compressor.compress(payload[half:]) + compressor.flush(zlib.Z_SYNC_FLUSH)
    stream = masked(0xC2, packed.removesuffix(b"\x00\x00\xff\xff"), b"mask")
    assert ours([stream], deflated=True) == Verdict([(BINARY, payload)], None)
