"""A GET over a connection of its own, for processes that are clients of HTTP in passing and load no library for it.

Rules: plain HTTP, no proxies of the environment, no redirects; what is read of an answer is bounded.
"""

from __future__ import annotations

import asyncio
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from trunkline.http1.bodies import BodyReader
from trunkline.http1.heads import UNTIL_CLOSE, AnswerHead, BadHead, find_end, read_answer

MAX_HEAD: Final = 16_384
_CHUNK: Final = 65_536


class Answer(NamedTuple):
    """Status and body of an answer."""

    status: int
    body: bytes


async def get(url: str, limit: int) -> Answer:
    """Fetch a page over plain HTTP, with at most `limit` bytes of body; the caller limits the time.

    Raises OSError when the connection fails, BadHead when the answer is malformed or too long.
    """
    place = urlsplit(url)
    target = (place.path or "/") + (f"?{place.query}" if place.query else "")
    reader, writer = await asyncio.open_connection(place.hostname, place.port or 80)
    try:
        writer.write(f"GET {target} HTTP/1.1\r\nHost: {place.netloc}\r\nConnection: close\r\n\r\n".encode())
        head, data = await _read_head(reader)
        body = BodyReader(head.length, limit)
        content, _ = body.feed(data)
        pieces = [content]
        while not body.done:
            data = await reader.read(_CHUNK)
            if not data and head.length == UNTIL_CLOSE:
                break
            content, _ = body.feed(data or _ended())
            pieces.append(content)
        return Answer(head.status, b"".join(pieces))
    finally:
        writer.close()


async def _read_head(reader: asyncio.StreamReader) -> tuple[AnswerHead, bytes]:
    """The head of the final answer, and what came with it of the body."""
    data = b""
    while True:
        end = find_end(data, MAX_HEAD)
        if end >= 0:
            head, data = read_answer(data[:end]), data[end:]
            if head.status >= 200:
                return head, data
            if head.status == 101:
                raise BadHead(400, "the answer leaves HTTP")
            continue
        data += await reader.read(_CHUNK) or _ended()


def _ended() -> bytes:
    raise ConnectionResetError("the connection ended within the answer")
