"""Routes: which pool a request belongs to, what its path is at the backend, and what keeps it with others. Pure.

Rules: the first route that matches counts, the operator's before the built-in ones. Paths are compared and rewritten as
they were sent, so that no percent-encoding is ever changed; a path that climbs (`/..`) does not come this far.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import unquote, unquote_plus

from trunkline.http1.heads import host_name
from trunkline.settings.balancer import DEFAULT_ROUTES, BalancerSettings, Policy, RouteEntry

LOOKED_AT: Final = 100
"""Query parameters that are looked at, as on a node."""

MAX_VALUE: Final = 256
"""Longest affinity value that counts, in characters; a longer one counts as none."""


class Route:
    """One route, made ready.

    Args:
        policy: the policy where it names none.
        affinity: the affinity key where it names none.
    """

    __slots__ = ("_host", "_kind", "_name", "_prefix", "_rewrite", "policy", "pool")

    def __init__(self, entry: RouteEntry, policy: Policy, affinity: str) -> None:
        self.pool = entry.pool
        self.policy: Policy = entry.policy or policy
        self._host = entry.host.lower()
        self._prefix = entry.path.rstrip("/")
        self._rewrite = None if entry.rewrite is None else entry.rewrite.rstrip("/")
        self._kind, _, self._name = (entry.affinity or affinity).partition(":")
        if self._kind == "header":
            self._name = self._name.lower()

    def matches(self, host: str, path: str) -> bool:
        """Whether a request belongs here: its host in lower case without port, its path as sent without the query."""
        if self._host:
            if self._host.startswith("*."):
                if not host.endswith(self._host[1:]) or len(host) == len(self._host) - 1:
                    return False
            elif host != self._host:
                return False
        prefix = self._prefix
        return path.startswith(prefix) and (len(path) == len(prefix) or path[len(prefix)] == "/")

    def rewritten(self, target: str) -> str:
        """The target at the backend: the prefix replaced, everything else as it was sent."""
        if self._rewrite is None:
            return target
        target = self._rewrite + target[len(self._prefix) :]
        return target if target.startswith("/") else "/" + target

    def affinity(self, target: str, headers: Mapping[str, str]) -> str | None:
        """The value that this route keeps together, None when the request has none."""
        if self.policy != "affinity":
            return None
        value: str | None
        if self._kind == "query":
            value = query_value(target.partition("?")[2], self._name)
        elif self._kind == "path":
            parts = target.partition("?")[0].split("/")
            number = int(self._name)
            value = unquote(parts[number]) if 1 <= number < len(parts) else None
        elif self._kind == "cookie":
            value = cookie_value(headers.get("cookie", ""), self._name)
        else:
            value = headers.get(self._name)
        return value if value and len(value) <= MAX_VALUE else None


class Routes:
    """All routes of a balancer."""

    __slots__ = ("_routes",)

    def __init__(self, settings: BalancerSettings) -> None:
        entries: Sequence[RouteEntry] = (*settings.routes, *DEFAULT_ROUTES)
        self._routes = tuple(Route(entry, settings.policy, settings.affinity) for entry in entries)

    def find(self, host: str, path: str) -> Route:
        """The route of a request with this Host header; the last built-in one takes whatever is left.

        That may be no path at all: an edge hands on what a client sent, such as `*`.
        """
        name = host_name(host)
        for route in self._routes:
            if route.matches(name, path):
                return route
        return self._routes[-1]


def query_value(query: str, name: str) -> str | None:
    """The value of parameter `name`, decoded; None without. Of several the last, which is the one that a node sees."""
    found = None
    for part in query.split("&", LOOKED_AT)[:LOOKED_AT]:
        key, _, value = part.partition("=")
        if key == name or (("%" in key or "+" in key) and unquote_plus(key) == name):
            found = value
    return None if found is None else unquote_plus(found)


def cookie_value(header: str, name: str) -> str | None:
    """The first value of cookie `name` in a Cookie header (RFC 6265 section 4.2), None without."""
    if name not in header:
        return None
    for part in header.split(";"):
        key, _, value = part.partition("=")
        if key.strip() == name:
            return value.strip().strip('"')
    return None
