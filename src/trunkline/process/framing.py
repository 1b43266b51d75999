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

    Args:
        longest: bytes of a message; both ends are ours, so a longer one means that the stream is out of step.

    Attributes:
        too_long: length of a message that was announced and is longer; nothing after it can be read.
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
            if length > self._longest:
                self.too_long = length
                break
            end = start + _LENGTH.size + length
            if len(buffer) < end:
                break
            found.append(bytes(buffer[start + _LENGTH.size : end]))
            start = end
        del buffer[:start]
        return found
