"""permessage-deflate (RFC 7692), pure: negotiation, and one-shot deflate and inflate.

Rules:

- Never with context takeover, in either direction: each message is compressed alone, so one compressed frame serves
  every subscriber, and no window stays in memory between messages.
- Inflation stops at the message limit: a bomb costs the limit, not its size.
- An offer that asks for what we do not do is passed over for the client's next one; none left means no compression.
"""

from __future__ import annotations

import zlib
from typing import Final, NamedTuple

from trunkline import codes
from trunkline.errors import ProtocolViolation

SHARED_WINDOW_BITS: Final = 15
"""The window that shared frames are compressed with; a client that demands a smaller one gets them uncompressed."""

_TAIL = b"\x00\x00\xff\xff"


class Negotiated(NamedTuple):
    """What both sides agreed on.

    Attributes:
        response: the value of our Sec-WebSocket-Extensions header.
        server_bits: the largest window we may compress with for this client.
    """

    response: str
    server_bits: int


def negotiate(offers: str | None) -> Negotiated | None:
    """Choose the first acceptable offer of a Sec-WebSocket-Extensions request header; None for none."""
    if not offers or "permessage-deflate" not in offers:
        return None
    for offer in offers.split(","):
        name, *params = (part.strip() for part in offer.split(";"))
        if name == "permessage-deflate":
            accepted = _accept(params)
            if accepted is not None:
                return accepted
    return None


def _accept(params: list[str]) -> Negotiated | None:
    response = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
    bits = SHARED_WINDOW_BITS
    seen: set[str] = set()
    for param in params:
        name, _, value = (part.strip() for part in param.partition("="))
        value = value.strip('"')
        if name in seen:
            return None
        seen.add(name)
        if name in ("server_no_context_takeover", "client_no_context_takeover"):
            if value:
                return None
        elif name == "client_max_window_bits":
            if value and not _window_bits(value, lowest=8):
                return None
        elif name == "server_max_window_bits":
            # zlib cannot make raw deflate with a window of 8 bits, so such an offer is passed over.
            if not _window_bits(value, lowest=9):
                return None
            bits = int(value)
            response += f"; server_max_window_bits={bits}"
        else:
            return None
    return Negotiated(response, bits)


def _window_bits(value: str, lowest: int) -> bool:
    return value.isascii() and value.isdigit() and not value.startswith("0") and lowest <= int(value) <= 15


def deflate(payload: bytes, bits: int = SHARED_WINDOW_BITS, level: int = 6) -> bytes:
    """Compress one message alone (RFC 7692 section 7.2.1).

    Args:
        payload: the message.
        bits: log2 of the window, 9 to 15.
        level: zlib's effort, 1 to 9.
    """
    compressor = zlib.compressobj(level, zlib.DEFLATED, -bits)
    out = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return out[:-4] if out.endswith(_TAIL) else out


def inflate(payload: bytes, limit: int) -> bytes:
    """Decompress one message (RFC 7692 section 7.2.2).

    Args:
        payload: the compressed message without the sync tail.
        limit: the largest result in bytes.

    Raises:
        ProtocolViolation: 1009 when the result would exceed `limit`, 1002 when the data is not deflate.
    """
    decompressor = zlib.decompressobj(-15)
    try:
        out = decompressor.decompress(payload + _TAIL, limit + 1)
    except zlib.error:
        raise ProtocolViolation(codes.PROTOCOL_ERROR.code, "compressed message cannot be inflated") from None
    if len(out) > limit:
        raise ProtocolViolation(codes.TOO_BIG.code, f"message inflates beyond the limit of {limit} bytes")
    return out
