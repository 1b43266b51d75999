"""The address a request comes from: forwarding headers count only from proxies that the operator named. Pure."""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

FORWARDING_HEADERS = frozenset(
    {
        "x-forwarded-for", "forwarded", "x-real-ip", "via", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-port",
        "x-forwarded-server", "x-forwarded-by", "x-forwarded", "x-client-ip", "x-cluster-client-ip", "true-client-ip",
        "cf-connecting-ip", "fastly-client-ip", "fly-client-ip", "x-azure-clientip", "x-envoy-external-address",
        "x-original-forwarded-for", "cdn-loop", "x-trunkline-client",
    }
)  # fmt: skip
"""Any one of them says that a proxy carried the request; the client is read from the first three."""

UNKNOWN = "unknown"
"""The address of a client that a trusted proxy hides (RFC 7239 section 6.2); it lies in no network."""

BEHIND_PROXY = ("X-Trunkline-Client", UNKNOWN)
"""The header by which a balancer says that the last hop of X-Forwarded-For is a proxy that it does not trust."""

_PORT = re.compile(r"\[([^\[\]]+)\](?::\w{1,16})?|([^:\[\]]+):\w{1,16}")
_PAIR = re.compile(
    r"""[ \t]*(?:([!#$%&'*+.^_`|~0-9A-Za-z-]+)=("(?:[^"\\]|\\.)*"|[^",;\s]*)[ \t]*)?(?:([,;])|$)""", re.ASCII
)

_MOST_PAIRS = 100
"""Pairs of a Forwarded header that are read: it is read before any limit is asked."""


class Origin(NamedTuple):
    """Where a request comes from.

    Attributes:
        address: the client's address; while the client is not known that of the proxy, UNKNOWN behind a trusted one.
        secure: whether a trusted proxy reports that the client came over TLS.
        untrusted: a proxy forwarded the request, and the client is not known: the proxy is not trusted, or it says
            nothing that can be read.
        proxied: a trusted proxy forwarded the request.
    """

    address: str
    secure: bool = False
    untrusted: bool = False
    proxied: bool = False


def networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """Parse addresses and CIDR ranges; raises ValueError."""
    return tuple(ipaddress.ip_network(text, strict=False) for text in texts)


def within(address: str, ranges: Sequence[Network]) -> bool:
    """Whether `address` lies in one of `ranges`; text that is no address lies in none."""
    parsed = _parse(address) if ranges else None
    if parsed is not None:
        # Asked for each connection: a network holds no address of another version, which is not asked first.
        for network in ranges:
            if parsed in network:
                return True
    return False


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own loopback."""
    address = _parse(host)
    return host.lower() == "localhost" or (address is not None and address.is_loopback)


def is_address(text: str) -> bool:
    """Whether this is an IP address, without brackets."""
    return _parse(text) is not None


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
    `Forwarded` (RFC 7239) is read in the same way, and X-Real-IP where neither says anything. Where both chains stand
    and lead to two clients, one of them was made up by a client, and which one is not known.

    Args:
        peer: the other end of the TCP connection.
        headers: by name in lower case.
        trusted: the ranges of the operator's own proxies.
    """
    if FORWARDING_HEADERS.isdisjoint(headers):
        return Origin(peer)
    if not within(peer, trusted):
        return Origin(peer, untrusted=True)
    secure = headers.get("x-forwarded-proto", "").lower() in ("https", "wss")
    chains = [
        chain for chain in (_listed(headers.get("x-forwarded-for")), _forwarded(headers.get("forwarded"))) if chain
    ]
    clients = [_client(chain, trusted) for chain in chains or [_listed(headers.get("x-real-ip"))]]
    address = clients[0]
    if address is None or any(client is None or _parse(client) != _parse(address) for client in clients):
        return Origin(UNKNOWN, secure, untrusted=True, proxied=True)
    return Origin(address, secure, untrusted=BEHIND_PROXY[0].lower() in headers, proxied=True)


def unknown_client(peer: str, origin: Origin, setting: str) -> str:
    """What to add to a refusal by address if `peer` is a proxy whose client is not known; `setting` trusts proxies."""
    if not origin.untrusted:
        return ""
    if origin.address == UNKNOWN:
        what = "let it send X-Forwarded-For, and no Forwarded that differs"
        return f"; the proxy {peer} does not say who the client is: {what}"
    setting = "balancer.trusted_proxies" if origin.proxied else setting
    return f"; the proxy {origin.address} is not trusted: if it is yours, name it in {setting}"


def _client(chain: Sequence[str], trusted: Sequence[Network]) -> str | None:
    """The client at the end of a chain of hops, the nearest last; None when it cannot be read."""
    address = None
    for hop in reversed(chain):
        address = _address(hop)
        if address is None or not within(address, trusted):
            break
    return address


def _address(hop: str) -> str | None:
    """The address of a hop in any of its forms: bare, with a port, in brackets; None for what holds none."""
    found = _PORT.fullmatch(hop)
    # Which interface an address was seen on says nothing here.
    text = ((found[1] or found[2]) if found else hop).partition("%")[0]
    return text if _parse(text) is not None else None


def _listed(value: str | None) -> list[str]:
    # Empty members of a list are to be ignored (RFC 9110 section 5.6.1.2).
    return [hop for part in (value or "").split(",") if (hop := part.strip())]


def _forwarded(value: str | None) -> list[str]:
    """The `for` of each element of a Forwarded header; one UNKNOWN for what is too long or not of its grammar."""
    hops: list[str] = []
    hop: str | None = None
    begun = False
    at = 0
    if not value:
        return hops
    for _ in range(_MOST_PAIRS):
        pair = _PAIR.match(value, at)
        if pair is None:
            break
        name, text, separator = pair.groups()
        begun = begun or bool(name)
        if name and name.lower() == "for":
            if hop is not None:
                break
            hop = re.sub(r"\\(.)", r"\1", text[1:-1]) if text.startswith('"') else text
        if separator != ";":
            if begun:
                hops.append(hop or UNKNOWN)
            hop, begun = None, False
        if not separator:
            return hops
        at = pair.end()
    return [UNKNOWN]
