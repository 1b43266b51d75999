"""Publications as they go out: encoded once a node, shared by every subscriber. Pure.

The frame of a publication is spliced, not encoded: its `data` is JSON text that travels the bus untouched, so only the
few fields around it are written here. It was checked when a node published it, and is once more here, for over NATS
others may publish too.
"""

from __future__ import annotations

from typing import Final

import msgspec

from trunkline.bus.base import Publication
from trunkline.websocket import frames
from trunkline.websocket.deflate import deflate

PIECE_BYTES: Final = 1 << 17
"""What is replayed is written in pieces of about this size, so that it cannot fill the outbox."""

_encode = msgspec.json.encode
_raw = msgspec.json.Decoder(msgspec.Raw)


class Outgoing:
    """One publication, ready to be written; subscribers of this node saw offset `prev` before it."""

    __slots__ = ("_deflated", "frame", "prev", "publication")

    def __init__(self, publication: Publication, prev: int | None) -> None:
        self.publication = publication
        self.prev = prev
        self.frame = frames.text(payload(publication, prev))
        self._deflated: bytes | None = None

    def deflated(self, min_bytes: int) -> bytes:
        """The frame for subscribers with permessage-deflate; the plain one when it is shorter than `min_bytes`."""
        if len(self.frame) < min_bytes:
            return self.frame
        if self._deflated is None:
            self._deflated = frames.build(0xC1, deflate(payload(self.publication, self.prev)))
        return self._deflated


def payload(publication: Publication, prev: int | None) -> bytes:
    """The `publication` message as JSON text."""
    offset = publication.offset
    if offset is None:
        place = b'"epoch":null,"offset":null,"prev":null'
    else:
        place = b'"epoch":%b,"offset":%d,"prev":%d' % (_encode(publication.epoch), offset, prev or 0)
    channel = _encode(publication.channel)
    return b'{"type":"publication","channel":%b,%b,"data":%b,"ts":%d}' % (
        channel,
        place,
        json_of(publication.data),
        publication.ts,
    )


def json_of(data: bytes) -> bytes:
    """A publication's data as it came, or `null` where that is no JSON.

    Nodes publish JSON alone; other programs may publish on the subjects where nodes listen.
    """
    try:
        if not data.isascii():
            data.decode()
        _raw.decode(data)
    except (ValueError, RecursionError):  # msgspec's errors are ValueErrors too
        return b"null"
    return data


def first_piece(items: list[Outgoing]) -> list[Outgoing]:
    """As many of `items` from the first on as make one piece, at least one when there are any."""
    size = 0
    for index, item in enumerate(items):
        size += len(item.frame)
        if size > PIECE_BYTES and index:
            return items[:index]
    return items


def joined(items: list[Outgoing], after: int | None = None) -> bytes:
    """The frames of `items`, at least one; for a client that stands at offset `after`, the first `prev` is that."""
    written = [item.frame for item in items]
    if after is not None and items[0].prev != after:
        written[0] = Outgoing(items[0].publication, after).frame
    return b"".join(written)
