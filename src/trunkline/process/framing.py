"""Messages in a stream between two processes of ours: four bytes of length, then the message. Pure."""

from __future__ import annotations

import struct
from typing import Final

_LENGTH: Final = struct.Struct("!I")


def head(length: int) -> bytes:
    """What is written before a message of that many bytes."""
    return _LENGTH.pack(length)


class Framing:
    """Whole messages out of the pieces that a stream comes in.

    Both ends are ours, so a message longer than `longest` bytes means that the stream is out of step: its length stands
    in `too_long`, and nothing after it can be read.
    """

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._buffer = bytearray()
        self.too_long: int | None = None

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that are whole now, in order."""
        buffer = self._buffer
        buffer += data
        found: list[bytes] = []
        start = 0
        while self.too_long is None and len(buffer) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer, start)
            body = start + _LENGTH.size
            if length > self._longest:
                self.too_long = length
            elif len(buffer) < body + length:
                break
            else:
                found.append(bytes(buffer[body : body + length]))
                start = body + length
        del buffer[:start]
        return found
