"""Every route that an admin token opens, with the scope that it needs: the one table of node and balancer. Pure.

Rule: who adds a route adds it here; a port does not start with a handler that has no scope.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from trunkline.settings.admin import Scope


class Route(NamedTuple):
    """A route of an admin port.

    Attributes:
        method: of HTTP; HEAD is GET.
        path: with `{id}` for what differs.
        scope: what a token needs to use it.
        does: for people.
    """

    method: str
    path: str
    scope: Scope
    does: str


NODE_METRICS: Final = Route(
    "GET", "/metrics", "read", "the series, on the data port, for networks that it is not open to"
)
NODE_ROUTES: Final = (
    Route("POST", "/api/publish", "publish", "publish to a channel"),
    Route("GET", "/api/channels", "read", "channels that have subscribers here"),
    Route("GET", "/api/connections", "read", "clients, what they follow, what waits for them"),
    Route("POST", "/api/connections/{id}/disconnect", "operate", "close one connection"),
    Route("GET", "/api/drain", "read", "whether it drains, and how many clients are left"),
    Route("POST", "/api/drain", "operate", "move all clients away, take no new ones"),
    Route("DELETE", "/api/drain", "operate", "take clients again"),
    Route("POST", "/api/move", "operate", "ask some clients to reconnect"),
    Route("GET", "/api/keys", "read", "clients by affinity key"),
    NODE_METRICS,
)
"""Of a node."""

TRAFFIC: Final = Route("GET", "/api/traffic", "read", "which colours get connections, beyond loopback")
SET_TRAFFIC: Final = Route("PUT", "/api/traffic", "operate", "change that")
PAGE: Final = Route("GET", "/balancer-metrics", "read", "the page and its JSON, for networks that it is not open to")
BALANCER_METRICS: Final = Route("GET", "/metrics", "read", "the series, for networks that they are not open to")
BALANCER_ROUTES: Final = (TRAFFIC, SET_TRAFFIC, PAGE, BALANCER_METRICS)
"""Of a balancer; `/balancer-metrics` stands for `balancer.balancer_metric_path`."""


def route(routes: tuple[Route, ...], method: str, path: str) -> Route:
    """The entry of a route; raises LookupError for one that the table lacks."""
    for found in routes:
        if (found.method, found.path) == (method, path):
            return found
    raise LookupError(f"{method} {path} has no scope; give it one in net/admin/routes.py")
