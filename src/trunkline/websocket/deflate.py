"""permessage-deflate (RFC 7692): negotiation, and one-shot deflate and inflate. Pure.

Rules:

- Never with context takeover, in either direction: each message is compressed alone, so one compressed frame serves
  every subscriber, and no window stays in memory between messages.
- Inflation stops at the message limit: a bomb costs the limit, not its size.
- A message whose deflate data is cut short, or goes on behind its final block, is refused, never delivered in part.
- An offer of parameters that are not supported is passed over for the client's next one; none left: no compression.
"""

from __future__ import annotations

import zlib
from typing import Final, NamedTuple

from trunkline.errors import ProtocolViolation
from trunkline.protocol import close_codes

LEVEL: Final = 3
"""zlib's effort: most of what higher levels save, at a third of their time."""

SHARED_WINDOW_BITS: Final = 15
"""The window that shared frames are compressed with; a client that demands a smaller one gets them uncompressed."""

_TAIL = b"\x00\x00\xff\xff"
_END = b"\x03\x00"
"""A final empty block: the decompressor reaches its end exactly when the message before it was whole."""


class Negotiated(NamedTuple):
    """Our Sec-WebSocket-Extensions header, and the largest window that we may compress with for this client."""

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
        name, equals, value = (part.strip() for part in param.partition("="))
        if len(value) > 1 and value[0] == value[-1] == '"':
            value = value[1:-1]
        if name in seen:
            return None
        seen.add(name)
        if name in ("server_no_context_takeover", "client_no_context_takeover"):
            if equals:
                return None
        elif name == "client_max_window_bits":
            if equals and not _window_bits(value, lowest=8):
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
    # At most two digits, because int() refuses thousands of them with another exception.
    return len(value) <= 2 and value.isascii() and value.isdigit() and value[0] != "0" and lowest <= int(value) <= 15


def deflate(payload: bytes, bits: int = SHARED_WINDOW_BITS, level: int = LEVEL) -> bytes:
    """Compress one message alone (RFC 7692 section 7.2.1); `bits` is log2 of the window, 9 to 15."""
    compressor = zlib.compressobj(level, zlib.DEFLATED, -bits)
    out = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return out[:-4] if out.endswith(_TAIL) else out


def deflate_overhead(size: int) -> int:
    """How many bytes more than `size` a compressor may need for data that does not compress.

    Stored blocks cost 5 bytes each; zlib's smallest memory level makes one of every 128 bytes or so.
    """
    return (size >> 4) + 64


def inflate(payload: bytes, limit: int) -> bytes:
    """Decompress one message, without its sync tail (RFC 7692 section 7.2.2).

    Raises:
        ProtocolViolation: 1009 when the result would exceed `limit`, 1002 when the data is not deflate, is cut short,
            or goes on behind a final block.
    """
    if not payload:
        # Section 7.2.3.6 wants one zero byte for an empty message; senders that leave it out are understood.
        return b""
    decompressor = zlib.decompressobj(-15)
    try:
        out = decompressor.decompress(payload + _TAIL + _END, limit + 1)
    except zlib.error:
        raise ProtocolViolation(close_codes.PROTOCOL_ERROR.code, "compressed message cannot be inflated") from None
    if len(out) > limit:
        raise ProtocolViolation(close_codes.TOO_BIG.code, f"message inflates beyond the limit of {limit} bytes")
    # After a message that sets the final bit itself (section 7.2.3.4) our tail is left over, with or without padding.
    if not decompressor.eof or decompressor.unused_data not in (b"", _TAIL + _END, b"\x00" + _TAIL + _END):
        raise ProtocolViolation(close_codes.PROTOCOL_ERROR.code, "compressed message is not whole")
    return out
