"""What a source knows of a backend, before any load report. Pure.

Rule: the URL is a backend's name everywhere: scheme, host and port, lower case, no path, the port always written.
"""

from __future__ import annotations

import hashlib
import re
from urllib.parse import urlsplit

import msgspec

DEFAULT_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[0-9a-z_.-]{1,253}|[0-9a-f:.]*:[0-9a-f:.]*")
_SCHEMES = {"http": "http", "ws": "http", "https": "https", "wss": "https"}


class BackendSpec(msgspec.Struct, frozen=True):
    """One backend as a source names it.

    Attributes:
        url: its name and place, as `canonical_url` spells it.
        weight: its share beside the others; 0 takes no new connections.
        group: canary group; empty: the colour that it reports.
        pool: which routes lead to it; empty is the pool of every route that names none.
        capacity: connections it takes as configured; None: as it reports.
        health_path: path of its health check, None for the setting.
        source: which kind of source named it: list, dns, file, docker, kubernetes, nats, swarm.
        server_name: name to request and to verify over TLS, when the URL has only an address; empty: the URL's host.
        tier: 0 before 1 before 2: it gets connections while no backend of a lower tier can take any.
        node_name: machine of a cluster that it runs on, empty when its source does not know.
        silent: its source has not heard from it for a while, although it never said goodbye.
    """

    url: str
    weight: float = 1.0
    group: str = ""
    pool: str = ""
    capacity: int | None = None
    health_path: str | None = None
    source: str = "list"
    name: str = ""
    draining: bool = False
    server_name: str = ""
    node_name: str = ""
    silent: bool = False
    tier: int = 0


class Place(msgspec.Struct, frozen=True):
    """Where a backend's URL leads; an address is without brackets."""

    host: str
    port: int
    tls: bool

    @property
    def authority(self) -> str:
        """`host:port` as a Host header spells it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def canonical_url(text: str) -> str:
    """`text` as the one name of a backend, http for ws, https for wss; raises ValueError that names what is wrong."""
    place = place_of(text)
    if not _HOST.fullmatch(place.host):
        # It comes from nodes and labels, and goes on to logs, pages and Traefik's configuration.
        raise ValueError(f"{text[:100]!r} has a host that is neither a name nor an address")
    return f"{'https' if place.tls else 'http'}://{place.authority}"


def place_of(url: str) -> Place:
    """Where `url` leads; raises ValueError."""
    parts = urlsplit(url.strip())
    scheme = _SCHEMES.get(parts.scheme.lower())
    if scheme is None or not parts.hostname:
        raise ValueError(f"{url!r} is no URL such as http://10.0.0.1:3001")
    if parts.path.strip("/") or parts.query or parts.fragment or parts.username is not None:
        raise ValueError(f"{url!r} has more than scheme, host and port")
    if parts.port == 0:
        raise ValueError(f"{url!r} has port 0, to which nothing can connect")
    return Place(parts.hostname.lower(), parts.port or DEFAULT_PORTS[scheme], scheme == "https")


def short_id(url: str) -> str:
    """A backend's id in a sticky cookie.

    It is the value that Traefik's own sticky cookie has for a server of this URL: the first 16 hex digits of the
    SHA-256 of the URL exactly as configured (seen with Traefik 3.7).
    """
    return hashlib.sha256(url.encode()).hexdigest()[:16]
