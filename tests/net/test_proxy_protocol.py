from __future__ import annotations

import contextlib
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.net.addresses import UNKNOWN
from trunkline.net.proxy_protocol import LONGEST, BadProxyHeader, ProxyHeader, read_header

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


def v2(command: int, family: int, payload: bytes) -> bytes:
    """A header of version 2, put together by hand."""
    return SIGNATURE + bytes((0x20 | command, family)) + len(payload).to_bytes(2, "big") + payload


def packed(*addresses: str) -> bytes:
    return b"".join(ipaddress.ip_address(address).packed for address in addresses) + b"\xdd\xd5\x01\xbb"


GOOD = {
    "v1 TCP4": (b"PROXY TCP4 203.0.113.9 192.0.2.1 56789 443\r\n", "203.0.113.9"),
    "v1 TCP6": (b"PROXY TCP6 2001:db8::9 2001:db8::1 56789 443\r\n", "2001:db8::9"),
    "v1 UNKNOWN": (b"PROXY UNKNOWN\r\n", UNKNOWN),
    "v1 UNKNOWN with more": (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", UNKNOWN),
    "v2 TCP4": (v2(1, 0x11, packed("203.0.113.9", "192.0.2.1")), "203.0.113.9"),
    "v2 TCP6": (v2(1, 0x21, packed("2001:db8::9", "2001:db8::1")), "2001:db8::9"),
    "v2 with extensions": (v2(1, 0x11, packed("203.0.113.9", "192.0.2.1") + b"\x04\x00\x03abc"), "203.0.113.9"),
    "v2 LOCAL": (v2(0, 0x00, b""), None),
    "v2 LOCAL with addresses": (v2(0, 0x11, packed("203.0.113.9", "192.0.2.1")), None),
    "v2 of a Unix socket": (v2(1, 0x31, b"/a".ljust(108, b"\0") * 2), UNKNOWN),
    "v2 of UDP": (v2(1, 0x12, packed("203.0.113.9", "192.0.2.1")), UNKNOWN),
    "v2 unspecified": (v2(1, 0x00, b""), UNKNOWN),
}
BAD = {
    "HTTP": b"GET / HTTP/1.1\r\n",
    "TLS": b"\x16\x03\x01\x02\x00",
    "bare LF": b"PROXY TCP4 203.0.113.9 192.0.2.1 1 2\n" + b"x" * 100,
    "no end": b"PROXY TCP4 " + b"1" * 100,
    "wrong family": b"PROXY TCP6 203.0.113.9 192.0.2.1 1 2\r\n",
    "no address": b"PROXY TCP4 999.0.0.1 192.0.2.1 1 2\r\n",
    "port": b"PROXY TCP4 203.0.113.9 192.0.2.1 65536 2\r\n",
    "scope": b"PROXY TCP6 fe80::1%a,8.8.8.8 2001:db8::1 1 2\r\n",
    "missing port": b"PROXY TCP4 203.0.113.9 192.0.2.1 1\r\n",
    "protocol": b"PROXY UDP4 203.0.113.9 192.0.2.1 1 2\r\n",
    "version 3": SIGNATURE + b"\x31\x11\x00\x0c" + b"\0" * 12,
    "command": v2(2, 0x11, packed("203.0.113.9", "192.0.2.1")),
    "family of none": v2(1, 0x41, b"\0" * 36),
    "too short": v2(1, 0x21, packed("203.0.113.9", "192.0.2.1")),
    "too long": SIGNATURE + b"\x21\x11\xff\xff",
}


@pytest.mark.parametrize(("header", "source"), GOOD.values(), ids=list(GOOD))
def test_headers_in_pieces(header: bytes, source: str | None) -> None:
    """Whole, cut anywhere, or with more behind it: the header ends where it ends, and names the client."""
    assert read_header(header) == read_header(header + b"\x16\x03\x01") == (len(header), ProxyHeader(source))
    for cut in range(1, len(header)):
        assert read_header(header[:cut]) == (cut, None)


@pytest.mark.parametrize("data", BAD.values(), ids=list(BAD))
def test_what_is_no_header(data: bytes) -> None:
    """Everything else is refused as soon as it shows."""
    with pytest.raises(BadProxyHeader):
        read_header(data)


@given(st.sampled_from([b"", b"PROXY ", SIGNATURE, SIGNATURE + b"\x21\x11"]), st.binary(min_size=1, max_size=300))
def test_no_bytes_break_the_reader(start: bytes, data: bytes) -> None:
    """Any bytes are read or refused with BadProxyHeader; never more is claimed than there is."""
    with contextlib.suppress(BadProxyHeader):
        length, _ = read_header(start + data)
        assert 0 < length <= min(len(start + data), LONGEST)
