"""The address a request comes from: forwarding headers count only from proxies that the operator named. Pure."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Mapping, Sequence
from typing import NamedTuple

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

FORWARDING_HEADERS = frozenset({"x-forwarded-for", "x-real-ip", "forwarded", "x-forwarded-host", "x-forwarded-proto"})


class Origin(NamedTuple):
    """Where a request comes from.

    Attributes:
        address: the client's address as far as it can be trusted.
        secure: whether a trusted proxy reports that the client came over TLS.
        untrusted: forwarding headers came from a proxy that is not trusted, so the real client is unknown.
    """

    address: str
    secure: bool
    untrusted: bool


def networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """Parse addresses and CIDR ranges; raises ValueError."""
    return tuple(ipaddress.ip_network(text, strict=False) for text in texts)


def within(address: str, ranges: Sequence[Network]) -> bool:
    """Whether `address` lies in one of `ranges`; text that is no address lies in none."""
    parsed = _parse(address) if ranges else None
    return parsed is not None and any(parsed in network for network in ranges if network.version == parsed.version)


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own loopback."""
    address = _parse(host)
    return host.lower() == "localhost" or (address is not None and address.is_loopback)


# At an edge the same few peers come with every request.
@functools.lru_cache(maxsize=4096)
def _parse(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped
    return parsed


def origin_of(peer: str, headers: Mapping[str, str], trusted: Sequence[Network]) -> Origin:
    """Find the client behind `peer`.

    X-Forwarded-For is read from the right: each trusted proxy appended the address that it saw, so the first one from
    the right that is not itself a trusted proxy is the client; what stands left of it the client may have made up.

    Args:
        peer: the other end of the TCP connection.
        headers: by name in lower case.
        trusted: the ranges of the operator's own proxies.
    """
    if FORWARDING_HEADERS.isdisjoint(headers):
        return Origin(peer, False, False)
    if not within(peer, trusted):
        return Origin(peer, False, True)
    address = peer
    for hop in reversed(headers.get("x-forwarded-for", "").split(",")):
        hop = hop.strip().strip("[]")
        try:
            ipaddress.ip_address(hop)
        except ValueError:
            break
        address = hop
        if not within(hop, trusted):
            break
    return Origin(address, headers.get("x-forwarded-proto", "").lower() in ("https", "wss"), False)
