"""Bodies of requests and answers: where one ends, read as strictly as the heads are. Pure.

A chunked body is decoded here and encoded again by whatever sends it on, so that no other reader's idea of chunk
extensions, trailers or line ends matters.
"""

from __future__ import annotations

import re
from typing import Final

from trunkline.http1.heads import CHUNKED, UNTIL_CLOSE, BadHead

MAX_LINE: Final = 1024
MAX_TRAILERS: Final = 8192

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t\x20-\x7e\x80-\xff]*)?")
_TRAILER = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*")

_DATA, _SIZE_LINE, _DATA_END, _TRAILERS, _END = range(5)


class BodyReader:
    """Reads one body of `length` bytes (or CHUNKED, UNTIL_CLOSE), at most `limit` of content; `total` came so far."""

    __slots__ = ("_chunked", "_left", "_limit", "_line", "_state", "_trailers", "total")

    def __init__(self, length: int, limit: int) -> None:
        if length > limit:
            raise BadHead(413, f"the body is longer than {limit} bytes")
        self._chunked = length == CHUNKED
        self._limit = limit
        self._left = 1 << 62 if length == UNTIL_CLOSE else max(length, 0)
        self._line = b""
        self._trailers = 0
        self.total = 0
        if self._chunked:
            self._state = _SIZE_LINE
        else:
            self._state = _DATA if self._left else _END

    @property
    def done(self) -> bool:
        """Whether its end has been read."""
        return self._state == _END

    def feed(self, data: bytes, most_lines: int = 1 << 62) -> tuple[bytes, bytes]:
        """Take the next bytes; returns the content among them, and what follows the body's end.

        After `most_lines` lines of chunks it stops: then what is returned second is to be fed again.

        Raises BadHead: 400 for malformed chunks, 413 for more content than the limit.
        """
        pieces: list[bytes] = []
        at = 0
        while at < len(data) and self._state != _END and most_lines:
            if self._state == _DATA:
                piece = data[at : at + self._left]
                self.total += len(piece)
                if self.total > self._limit:
                    raise BadHead(413, f"the body is longer than {self._limit} bytes")
                pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._state = _DATA_END if self._chunked else _END
                continue
            end = data.find(b"\n", at, at + MAX_LINE + 2)
            if end < 0:
                self._line += data[at:]
                at = len(data)
                if len(self._line) > MAX_LINE:
                    raise BadHead(400, "a chunk's line is too long")
                break
            most_lines -= 1
            line, self._line = self._line + data[at:end], b""
            at = end + 1
            if not line.endswith(b"\r") or len(line) > MAX_LINE + 1:
                raise BadHead(400, "malformed chunk")
            self._on_line(line[:-1])
        return b"".join(pieces), data[at:]

    def _on_line(self, line: bytes) -> None:
        if self._state == _SIZE_LINE:
            found = _SIZE.fullmatch(line)
            if found is None:
                raise BadHead(400, "malformed chunk size")
            self._left = int(found[1], 16)
            if self.total + self._left > self._limit:
                raise BadHead(413, f"the body is longer than {self._limit} bytes")
            self._state = _DATA if self._left else _TRAILERS
        elif self._state == _DATA_END:
            if line:
                raise BadHead(400, "malformed chunk")
            self._state = _SIZE_LINE
        elif not line:
            self._state = _END
        else:
            self._trailers += len(line)
            if self._trailers > MAX_TRAILERS or not _TRAILER.fullmatch(line):
                raise BadHead(400, "malformed trailer")
