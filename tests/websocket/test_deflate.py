"""permessage-deflate: which offers are taken, and that other implementations read what is compressed here."""

from __future__ import annotations

import random
import zlib

import pytest
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from wsproto.connection import Connection as Peer
from wsproto.connection import ConnectionType
from wsproto.extensions import PerMessageDeflate as WsprotoDeflate

from trunkline.errors import ProtocolViolation
from trunkline.websocket import frames
from trunkline.websocket.deflate import Negotiated, deflate, deflate_overhead, inflate, negotiate

BASE = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
PLAIN = Negotiated(BASE, 15)


def windowed(bits: int) -> Negotiated:
    """The answer to an offer that limits our window."""
    return Negotiated(f"{BASE}; server_max_window_bits={bits}", bits)


@pytest.mark.parametrize(
    ("offers", "answer"),
    [
        # RFC 7692 section 7.1.3 and 7.1
        ("permessage-deflate", PLAIN),
        ("permessage-deflate; client_max_window_bits; server_max_window_bits=10", windowed(10)),
        ("permessage-deflate; client_max_window_bits; server_max_window_bits=10, "
         "permessage-deflate; client_max_window_bits",
         windowed(10)),
        ("permessage-deflate; server_max_window_bits=8, permessage-deflate", PLAIN),
        # what browsers send
        ("permessage-deflate; client_max_window_bits", PLAIN),
        ("permessage-deflate; server_no_context_takeover; client_no_context_takeover", PLAIN),
        # the client's window is its own affair
        *((f"permessage-deflate; client_max_window_bits={bits}", PLAIN) for bits in range(8, 16)),
        *((f"permessage-deflate; server_max_window_bits={bits}", windowed(bits)) for bits in range(9, 16)),
        # white space and quotes
        (" permessage-deflate ;\tserver_max_window_bits = 12 ", windowed(12)),
        ('permessage-deflate; server_max_window_bits="12"', windowed(12)),
        ('permessage-deflate; client_max_window_bits="15"', PLAIN),
        # other extensions beside it, and the first acceptable offer counts
        ("x-webkit-deflate-frame, permessage-deflate", PLAIN),
        ("permessage-bzip2; x=1, permessage-deflate; unknown, "
         "permessage-deflate; server_max_window_bits=11, permessage-deflate",
         windowed(11)),
    ],
)  # fmt: skip
def test_offers_taken(offers: str, answer: Negotiated) -> None:
    """An offer that asks for what we do is answered; both sides always work without context takeover."""
    assert negotiate(offers) == answer


@pytest.mark.parametrize(
    "offers",
    [
        None,
        "",
        "x-webkit-deflate-frame",
        "permessage-deflatex",
        "xpermessage-deflate",
        "permessage-deflate; unknown",
        "permessage-deflate; unknown=1",
        "permessage-deflate;",
        "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
        "permessage-deflate; client_max_window_bits; client_max_window_bits=10",
        "permessage-deflate; server_max_window_bits=10; server_max_window_bits=10",
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; client_no_context_takeover=",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; server_max_window_bits=",
        "permessage-deflate; client_max_window_bits=",
        *(
            f"permessage-deflate; {side}_max_window_bits={bits}"
            for side in ("server", "client")
            for bits in ("7", "16", "010", "-9", "+9", "1e1", "9.0", "x", '""', '"10', '10"', "1²", "1" * 5000)
        ),
        "permessage-deflate; server_max_window_bits=8",
    ],
)
def test_offers_passed_over(offers: str | None) -> None:
    """An offer with a parameter that is unknown, doubled or malformed is passed over, and none left means none."""
    assert negotiate(offers) is None


def payloads() -> list[bytes]:
    """Messages of many sizes and kinds."""
    rng = random.Random(1)
    sizes = [0, 1, 2, 125, 126, 127, 1000, 65535, 65536, 200_000]
    return [b"x" * size for size in sizes] + [rng.randbytes(size) for size in sizes] + [b'{"a":1},' * 3000]


@pytest.mark.parametrize("bits", [9, 10, 12, 15])
def test_round_trip(bits: int) -> None:
    """What is deflated with any window is inflated to the same bytes, and never ends in the sync tail."""
    for payload in payloads():
        packed = deflate(payload, bits)
        assert not packed.endswith(b"\x00\x00\xff\xff")
        assert inflate(packed, len(payload)) == payload
        assert len(packed) <= len(payload) + deflate_overhead(len(payload))


@pytest.mark.parametrize("payload", payloads(), ids=lambda payload: str(len(payload)))
def test_others_read_what_we_compress(payload: bytes) -> None:
    """Clients with wsproto and with websockets read our compressed frames, one after the other."""
    frame = frames.build(0xC2, deflate(payload))
    extension = WsprotoDeflate(client_no_context_takeover=True, server_no_context_takeover=True)
    extension._enabled = True
    peer = Peer(ConnectionType.CLIENT, [extension])
    peer.receive_data(frame + frame)
    got = [bytes(event.data) for event in peer.events()]  # type: ignore[attr-defined]
    assert b"".join(got) == payload + payload
    theirs = PerMessageDeflate(True, True, 15, 15)
    for _ in range(2):
        decoded = theirs.decode(Frame(Opcode.BINARY, deflate(payload), True, True))
        assert bytes(decoded.data) == payload


@pytest.mark.parametrize("bits", range(9, 16))
def test_we_read_what_others_compress(bits: int) -> None:
    """Messages compressed by websockets with any window are inflated here."""
    theirs = PerMessageDeflate(True, True, bits, bits)
    for payload in payloads():
        encoded = theirs.encode(Frame(Opcode.BINARY, payload))
        assert inflate(bytes(encoded.data), len(payload)) == payload


@pytest.mark.parametrize(
    "packed",
    [
        "f248cdc9c90700",  # one block
        "f24805000000ffffcac9c90700",  # two blocks
        "000500faff48656c6c6f00",  # a stored block
        "f348cdc9c9070000",  # a final block and padding
        "f348cdc9c90700",  # a final block
    ],
)
def test_rfc_examples(packed: str) -> None:
    """The forms of "Hello" that RFC 7692 section 7.2.3 prints are read."""
    assert inflate(bytes.fromhex(packed), 5) == b"Hello"


def test_empty_messages() -> None:
    """An empty message is one zero byte; one without any byte is understood too."""
    assert deflate(b"") == b"\x00"
    assert inflate(b"\x00", 0) == b""
    assert inflate(b"", 0) == b""


def test_limit_is_exact() -> None:
    """The limit itself passes, one byte more is 1009."""
    packed = deflate(b"x" * 5000)
    assert inflate(packed, 5000) == b"x" * 5000
    with pytest.raises(ProtocolViolation) as caught:
        inflate(packed, 4999)
    assert caught.value.code == 1009


def test_every_cut_is_noticed() -> None:
    """A compressed message that lost its end anywhere is refused rather than delivered in part."""
    packed = deflate(bytes(random.Random(3).choices(b"abcdef", k=300)))
    for end in range(1, len(packed) - 1):
        with pytest.raises(ProtocolViolation):
            inflate(packed[:end], 1000)


def test_data_behind_a_final_block_is_refused() -> None:
    """What follows a final block is not silently left out."""
    final = zlib.compressobj(6, zlib.DEFLATED, -15)
    first = final.compress(b"first") + final.flush(zlib.Z_FINISH)
    with pytest.raises(ProtocolViolation) as caught:
        inflate(first + deflate(b"second"), 1000)
    assert caught.value.code == 1002
