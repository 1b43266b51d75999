"""The PROXY protocol, versions 1 and 2: the header in which a TCP load balancer names the client it passes on. Pure.

The source is HAProxy's proxy-protocol.txt. A header may come in pieces, and what follows it belongs to somebody else,
so the reader says how many of the bytes at hand are the header's for sure.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from typing import Final, NamedTuple

from trunkline.net.addresses import UNKNOWN

LONGEST: Final = 4096
"""Bytes of a header at most; version 2 carries 52 for the addresses, and may carry extensions, which are skipped."""

_V1: Final = b"PROXY "
_V1_LONGEST: Final = 107
_V1_LINE: Final = re.compile(r"PROXY (?:UNKNOWN(?: .*)?|TCP([46]) ([^ %]+) ([^ %]+) (\d{1,5}) (\d{1,5}))\r\n")
_V2: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_V2_FIXED: Final = struct.Struct("!12sBBH")
_TCP4, _TCP6 = 0x11, 0x21
_LOCAL, _PROXIED = 0x20, 0x21


class BadProxyHeader(Exception):
    """What came is no header of this protocol; the text says why."""


class ProxyHeader(NamedTuple):
    """A whole header.

    Attributes:
        source: the client's address, UNKNOWN where that is not said, None where the load balancer speaks for itself.
    """

    source: str | None


def read_header(data: bytes) -> tuple[int, ProxyHeader | None]:
    """Read the header that `data` begins with.

    Returns how many bytes of `data` belong to it, and the header once it is whole. Raises BadProxyHeader.
    """
    if data.startswith(_V2):
        return _read_v2(data)
    if data.startswith(_V1):
        return _read_v1(data)
    if _V2.startswith(data) or _V1.startswith(data):
        return len(data), None
    raise BadProxyHeader("the connection begins with no PROXY protocol header")


def _read_v1(data: bytes) -> tuple[int, ProxyHeader | None]:
    end = data.find(b"\r\n", 0, _V1_LONGEST)
    if end < 0:
        if len(data) >= _V1_LONGEST:
            raise BadProxyHeader(f"the line is longer than {_V1_LONGEST} bytes")
        return len(data), None
    line = _V1_LINE.fullmatch(data[: end + 2].decode("latin-1"))
    if line is None:
        raise BadProxyHeader("the line is malformed")
    version, source, destination, *ports = line.groups()
    if version is None:
        return end + 2, ProxyHeader(UNKNOWN)
    kind = ipaddress.IPv4Address if version == "4" else ipaddress.IPv6Address
    try:
        address, _ = kind(source), kind(destination)
    except ValueError:
        raise BadProxyHeader(f"an address is none of TCP{version}") from None
    if any(int(port) > 65_535 for port in ports):
        raise BadProxyHeader("ports end at 65535")
    return end + 2, ProxyHeader(str(address))


def _read_v2(data: bytes) -> tuple[int, ProxyHeader | None]:
    if len(data) < _V2_FIXED.size:
        return len(data), None
    _, command, family, length = _V2_FIXED.unpack_from(data)
    end = _V2_FIXED.size + length
    if command not in (_LOCAL, _PROXIED):
        raise BadProxyHeader(f"command {command:#04x} is not known")
    if family >> 4 > 3 or family & 0xF > 2:
        raise BadProxyHeader(f"address family {family:#04x} is not known")
    if end > LONGEST:
        raise BadProxyHeader(f"it is longer than {LONGEST} bytes")
    wanted = {_TCP4: 12, _TCP6: 36}.get(family, 0)
    if command == _PROXIED and length < wanted:
        raise BadProxyHeader(f"{length} bytes hold no addresses of their family")
    if len(data) < end:
        return len(data), None
    if command == _LOCAL or not wanted:
        return end, ProxyHeader(None if command == _LOCAL else UNKNOWN)
    size = 4 if family == _TCP4 else 16
    return end, ProxyHeader(str(ipaddress.ip_address(data[_V2_FIXED.size : _V2_FIXED.size + size])))
