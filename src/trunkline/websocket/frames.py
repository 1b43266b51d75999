"""The frame layer of RFC 6455: bytes in, messages out; payloads in, frames out. Pure.

Rules:

- It touches no socket and no clock. `server/connections/connection.py` feeds it what one read returned.
- The fast path takes whole, masked, unfragmented, uncompressed data frames, which is nearly all traffic: an index moves
  over the buffer and each payload is sliced once. Everything else, from a split header to a fragmented compressed text,
  goes to the slow path, which streams. Whatever way a stream is split into reads, both give the same messages.
- A broken stream is reported once, in `violation`, after the messages that came before it. Nothing is read after it.
- One call takes at most a turn's work: `TURN_FRAMES` frames, `TURN_BYTES` of what came, about as much inflated. The
  rest waits in `left` for the next call, so that no client has the node to itself, however it fills its reads.
- Nothing else is kept between calls but an unfinished frame or message.
"""

from __future__ import annotations

import codecs
from typing import Final

from trunkline.errors import ProtocolViolation
from trunkline.protocol import close_codes
from trunkline.websocket.deflate import deflate_overhead, inflate

try:
    from websockets.speedups import apply_mask
except ImportError:  # a platform for which that package ships no compiled wheel
    from websockets.utils import apply_mask

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

TURN_FRAMES: Final = 256
"""Most frames of one turn: some milliseconds of a node's time, whatever they hold."""

TURN_BYTES: Final = 1 << 18
"""Most bytes of one turn as they came, and the inflated bytes after which it ends; a read of an event loop is less."""

Message = tuple[int, bytes]
"""Opcode and payload: a whole text or binary message (text is valid UTF-8), or a control frame."""

_FIN = 0x80
_RSV1 = 0x40
_RSV23 = 0x30
_MASKED = 0x80
_TURN: Final = range(TURN_FRAMES)
_utf8_decoder = codecs.getincrementaldecoder("utf-8")


class _Frame:
    """A frame whose header was read and whose payload was not yet, or not wholly."""

    __slots__ = ("fin", "left", "mask", "opcode", "payload")

    def __init__(self, opcode: int, fin: bool, left: int, mask: bytes) -> None:
        self.opcode = opcode
        self.fin = fin
        self.left = left
        self.mask = mask
        self.payload = bytearray()  # of control frames; data goes straight to the message


class _Assembly:
    """A data message whose last fragment was not yet read."""

    __slots__ = ("compressed", "decoder", "opcode", "payload")

    def __init__(self, opcode: int, compressed: bool) -> None:
        self.opcode = opcode
        self.compressed = compressed
        self.payload = bytearray()
        # Compressed text can only be checked once it is inflated.
        self.decoder = _utf8_decoder() if opcode == TEXT and not compressed else None


class FrameReader:
    """Reads the frames of one client.

    Args:
        max_message: the largest message in bytes, fragments added up and inflated. A compressed one may take a little
            more on the wire, since what cannot be compressed grows.
        deflate: whether permessage-deflate was negotiated, so that RSV1 has a meaning.

    Attributes:
        violation: what broke the stream, None while it is whole.
        left: what waits for the next turn is the end of it; empty when nothing does.
        idle_frames: frames so far that brought no data: control frames, and empty fragments that end no message.
        notable: `violation`, `left` or `idle_frames` are worth a look; whoever has looked sets it back.
    """

    __slots__ = (
        "_assembly", "_at", "_busy", "_deflate", "_ended", "_frame", "_tail", "idle_frames", "left",
        "max_message", "notable", "violation",
    )  # fmt: skip

    def __init__(self, max_message: int, deflate: bool = False) -> None:
        self.max_message = max_message
        self.violation: ProtocolViolation | None = None
        self.left = b""
        self.idle_frames = 0
        self.notable = False
        self._at = 0
        self._deflate = deflate
        self._ended = False
        # Whether anything is unfinished or over: one test on the fast path instead of four.
        self._busy = False
        self._tail = b""
        self._frame: _Frame | None = None
        self._assembly: _Assembly | None = None

    @property
    def unfinished(self) -> bool:
        """Whether a frame or a message has begun and not ended."""
        return bool(self._tail) or self._frame is not None or self._assembly is not None

    def feed(self, data: bytes) -> list[Message]:
        """Take what one read returned, and return the messages and control frames that are complete now, in order.

        What is more than a turn's work stays in `left`; an empty read goes on with it. Look at `notable` afterwards.
        """
        messages: list[Message] = []
        at = 0
        if self._busy:
            if self.left:
                data, at = (self.left[self._at :] + data, 0) if data else (self.left, self._at)
                self.left = b""
            if self._ended or self.unfinished:
                self._slowly(data, at, messages)
                return messages
            self._busy = False
        end = size = len(data)
        if size > TURN_BYTES:
            end = min(size, at + TURN_BYTES)
        for _ in _TURN:
            if end - at < 6:
                break
            first = data[at]
            second = data[at + 1]
            if first != 0x81 and first != 0x82:
                break
            if 0x80 <= second < 0xFE:
                start = at + 6
                after = start + second - 0x80
            elif second == 0xFE and end - at >= 8:
                start = at + 8
                length = data[at + 2] << 8 | data[at + 3]
                if length < 126:
                    break
                after = start + length
            else:
                break
            if after > end or after - start > self.max_message:
                break
            payload = apply_mask(data[start:after], data[start - 4 : start])
            if first == 0x82:
                messages.append((BINARY, payload))
            elif payload.isascii() or _is_utf8(payload):
                messages.append((TEXT, payload))
            else:
                self._break(close_codes.INVALID_TEXT.code, "text is not valid UTF-8")
                return messages
            at = after
        if at < size:
            self._slowly(data, at, messages)
        return messages

    def put_off(self, data: bytes) -> None:
        """Take what one read returned without looking at it: it waits in `left` for the next turn."""
        if not self._ended and data:
            self.left, self._at = self.left[self._at :] + data, 0
            self._busy = self.notable = True

    def _break(self, code: int, reason: str) -> None:
        self.violation = ProtocolViolation(code, reason)
        self.notable = True
        self._end()

    def _end(self) -> None:
        self._ended = True
        self._busy = True
        self._tail = self.left = b""
        self._frame = None
        self._assembly = None

    def _slowly(self, data: bytes, at: int, messages: list[Message]) -> None:
        if not self._ended:
            try:
                self._stream(data, at, messages)
            except ProtocolViolation as violation:
                self._break(violation.code, violation.reason)
        self._busy = self._ended or bool(self.left) or self.unfinished

    def _stream(self, data: bytes, at: int, messages: list[Message]) -> None:
        if self._tail:
            data, at = self._tail + data[at:], 0
            self._tail = b""
        size = len(data)
        end = min(size, at + TURN_BYTES)
        frames = TURN_FRAMES - len(messages)
        inflated = 0
        while frames and inflated < TURN_BYTES:
            frame = self._frame
            if frame is None:
                header = self._header(data, at, size)
                if header == 0:
                    self._tail = data[at:]
                    return
                at += header
                frame = self._frame
                assert frame is not None  # noqa: S101 - _header has just made it
            if frame.left:
                take = min(frame.left, end - at)
                if take > 0:
                    self._take(frame, data[at : at + take])
                    at += take
                if frame.left:
                    break
            self._frame = None
            frames -= 1
            inflated += self._finish(frame, messages)
            if frame.opcode == CLOSE:
                # Bytes after a close frame mean nothing (RFC 6455 section 5.5.1), in this read and in later ones.
                self._end()
                return
        if at < size:
            self.left, self._at = data, at
            self.notable = True

    def _header(self, data: bytes, at: int, end: int) -> int:
        """Read one frame header; returns its size, or 0 when more bytes are needed to read or to judge it."""
        if end - at < 2:
            if end - at == 1:
                self._check_first(data[at])
            return 0
        first, second = data[at], data[at + 1]
        self._check_first(first)
        if not second & _MASKED:
            raise ProtocolViolation(close_codes.PROTOCOL_ERROR.code, "frame is not masked")
        opcode = first & 0x0F
        length = second & 0x7F
        if opcode >= CLOSE and length > 125:
            raise ProtocolViolation(close_codes.PROTOCOL_ERROR.code, "control frame is longer than 125 bytes")
        size = 2
        if length >= 126:
            width = 2 if length == 126 else 8
            if end - at < 2 + width:
                return 0
            length = int.from_bytes(data[at + 2 : at + 2 + width], "big")
            size += width
            if length < 126 or (width == 8 and length < 65536):
                raise ProtocolViolation(close_codes.PROTOCOL_ERROR.code, "frame length is not in its shortest form")
            if length >> 63:
                raise ProtocolViolation(close_codes.PROTOCOL_ERROR.code, "frame length has its highest bit set")
        if opcode < CLOSE:
            assembly = self._assembly
            held = len(assembly.payload) if assembly is not None else 0
            most = self.max_message
            if first & _RSV1 or (assembly is not None and assembly.compressed):
                most += deflate_overhead(most)
            if held + length > most:
                raise ProtocolViolation(
                    close_codes.TOO_BIG.code, f"message is larger than the limit of {self.max_message} bytes"
                )
        if end - at < size + 4:
            return 0
        if opcode >= CLOSE or not (length or first & _FIN):
            self.idle_frames += 1
            self.notable = True
        mask = data[at + size : at + size + 4]
        if opcode in (TEXT, BINARY):
            self._assembly = _Assembly(opcode, bool(first & _RSV1))
        self._frame = _Frame(opcode, bool(first & _FIN), length, mask)
        return size + 4

    def _check_first(self, first: int) -> None:
        opcode = first & 0x0F
        if first & _RSV23 or (first & _RSV1 and not (self._deflate and opcode in (TEXT, BINARY))):
            raise ProtocolViolation(close_codes.PROTOCOL_ERROR.code, "reserved bit is set")
        if opcode in (TEXT, BINARY):
            if self._assembly is not None:
                raise ProtocolViolation(close_codes.PROTOCOL_ERROR.code, "new message inside a fragmented one")
        elif opcode == CONTINUATION:
            if self._assembly is None:
                raise ProtocolViolation(close_codes.PROTOCOL_ERROR.code, "continuation of no message")
        elif opcode in (CLOSE, PING, PONG):
            if not first & _FIN:
                raise ProtocolViolation(close_codes.PROTOCOL_ERROR.code, "control frame is fragmented")
        else:
            raise ProtocolViolation(close_codes.PROTOCOL_ERROR.code, f"opcode {opcode:#x} is reserved")

    def _take(self, frame: _Frame, masked: bytes) -> None:
        chunk = apply_mask(masked, frame.mask)
        turn = len(chunk) & 3
        if turn:
            frame.mask = frame.mask[turn:] + frame.mask[:turn]
        frame.left -= len(chunk)
        if frame.opcode >= CLOSE:
            frame.payload += chunk
            return
        assembly = self._assembly
        assert assembly is not None  # noqa: S101 - _check_first refuses data frames without one
        assembly.payload += chunk
        if assembly.decoder is not None:
            try:
                assembly.decoder.decode(chunk)
            except UnicodeDecodeError:
                raise ProtocolViolation(close_codes.INVALID_TEXT.code, "text is not valid UTF-8") from None

    def _finish(self, frame: _Frame, messages: list[Message]) -> int:
        """A frame is complete; returns how many bytes were inflated for it."""
        if frame.opcode >= CLOSE:
            payload = bytes(frame.payload)
            if frame.opcode == CLOSE:
                check_close_payload(payload)
            messages.append((frame.opcode, payload))
            return 0
        assembly = self._assembly
        if not frame.fin or assembly is None:
            return 0
        self._assembly = None
        payload = bytes(assembly.payload)
        if assembly.compressed:
            payload = inflate(payload, self.max_message)
        if assembly.opcode == TEXT:
            try:
                if assembly.decoder is not None:
                    assembly.decoder.decode(b"", final=True)
                else:
                    payload.decode()
            except UnicodeDecodeError:
                raise ProtocolViolation(close_codes.INVALID_TEXT.code, "text is not valid UTF-8") from None
        messages.append((assembly.opcode, payload))
        return len(payload) if assembly.compressed else 0


def _is_utf8(payload: bytes) -> bool:
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True


def check_close_payload(payload: bytes) -> None:
    """Check the body of a close frame; raises ProtocolViolation (RFC 6455 sections 5.5.1 and 7.4)."""
    if not payload:
        return
    if len(payload) == 1:
        raise ProtocolViolation(close_codes.PROTOCOL_ERROR.code, "close frame of one byte")
    code = int.from_bytes(payload[:2], "big")
    if not close_codes.is_valid_on_wire(code):
        raise ProtocolViolation(close_codes.PROTOCOL_ERROR.code, f"close code {code} is not allowed on the wire")
    if not _is_utf8(payload[2:]):
        raise ProtocolViolation(close_codes.INVALID_TEXT.code, "close reason is not valid UTF-8")


def read_close(payload: bytes) -> tuple[int, str]:
    """Code and reason of a checked close frame; 1005 when it holds no code."""
    if len(payload) < 2:
        return close_codes.NO_STATUS, ""
    return int.from_bytes(payload[:2], "big"), payload[2:].decode()


SHORT_HEADS: Final = {first: [bytes((first, length)) for length in range(126)] for first in range(0x80, 0x100)}
"""The heads of short frames by first byte and length."""


def build(first: int, payload: bytes) -> bytes:
    """One unmasked, unfragmented frame, of at most 125 bytes if it is a control frame.

    `first` is its first byte: 0x80 + opcode, + 0x40 when the payload is deflated.
    """
    length = len(payload)
    if length < 126:
        return SHORT_HEADS[first][length] + payload
    if length < 65536:
        return bytes((first, 126, length >> 8, length & 255)) + payload
    return bytes((first, 127)) + length.to_bytes(8, "big") + payload


def text(payload: bytes) -> bytes:
    """A text frame; `payload` is UTF-8."""
    return build(0x81, payload)


def binary(payload: bytes) -> bytes:
    """A binary frame."""
    return build(0x82, payload)


def ping(payload: bytes = b"") -> bytes:
    """A ping frame."""
    return build(0x89, payload)


def pong(payload: bytes) -> bytes:
    """A pong frame with the payload of the ping it answers."""
    return build(0x8A, payload)


def close(code: int, reason: str = "") -> bytes:
    """A close frame; the reason is cut to the 123 bytes that fit, at a character's edge. 1005 gives an empty one."""
    if code == close_codes.NO_STATUS:
        return build(0x88, b"")
    body = reason.encode()[:123].decode(errors="ignore").encode()
    return build(0x88, code.to_bytes(2, "big") + body)
