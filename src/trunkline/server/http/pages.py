"""Plain HTTP on the data port: the page, health, readiness, load report, stats and metrics.

Rules: everything answers GET and HEAD. `/healthz` says that the process is alive, `/ready` that it wants traffic,
`/health` how it is. `/metrics` is for allowed networks or the admin token; who asks is the original client, and a
request that an untrusted proxy forwarded is a stranger's.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from importlib import resources as package_files
from typing import TYPE_CHECKING, Final

from trunkline.http1.requests import Request, Response, json_response, text_response
from trunkline.metrics import exposition, text
from trunkline.net.addresses import networks, within
from trunkline.net.limits import AddressLimiter
from trunkline.protocol.control import Instance, Percentiles, Stats
from trunkline.server.http.admission import retry_after_header
from trunkline.server.node.health import assess
from trunkline.server.node.load import load_report
from trunkline.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trunkline.server.node.node import Node

Page = Callable[[Request], Response]

_FILES: Final = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/trunkline.js": ("trunkline.js", "text/javascript; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/favicon.svg": ("favicon.svg", "image/svg+xml"),
}

SCRAPED: Final = ("/metric", "/metrics")
"""What balancers and Prometheus ask for as often as they need: no rate limit within `server.metrics_networks`."""


class Pages:
    """The HTTP endpoints of a node.

    Args:
        node: the node they speak of.
        limiter: requests by address.
    """

    def __init__(self, node: Node, limiter: AddressLimiter) -> None:
        self._node = node
        self._limiter = limiter
        self._metrics_networks = networks(node.settings.server.metrics_networks)
        self._pages: dict[str, Page] = {
            "/health": self._health,
            "/api/health": self._health,
            "/healthz": self._alive,
            "/ready": self._ready,
            "/readyz": self._ready,
            "/api/instance": self._instance,
            "/api/stats": self._stats,
            "/metric": self._report,
        }
        for path, (name, content_type) in _FILES.items():
            file = package_files.files("trunkline") / "static" / name
            if file.is_file():
                body = file.read_bytes()
                self._pages[path] = _static(Response(200, body, content_type, [("Cache-Control", "no-cache")]))

    def answer(self, request: Request, stranger: bool) -> Response:
        """Answer one request.

        Args:
            request: the request, with the client's address.
            stranger: forwarding headers came from a proxy that is not trusted.
        """
        if request.method not in ("GET", "HEAD"):
            return text_response(405, "only GET and HEAD are served here", [("Allow", "GET, HEAD")])
        wait_s = 0.0
        if request.path not in SCRAPED or stranger or not within(request.address, self._metrics_networks):
            wait_s = self._limiter.take(request.address, self._node.runtime.clock.now)
        if wait_s:
            return text_response(429, "too many requests from this address", retry_after_header(wait_s))
        if request.path == "/metrics":
            return self._metrics(request, stranger)
        page = self._pages.get(request.path)
        if page is not None:
            return page(request)
        if self._node.admission.route(request.path) is not None:
            return text_response(
                426,
                "this endpoint speaks WebSocket; send an upgrade request",
                [("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")],
            )
        return text_response(404, f"nothing at {request.path[:200]}")

    # --- pages --------------------------------------------------------------------------------------------------------

    def _alive(self, request: Request) -> Response:
        return text_response(200, "alive")

    def _ready(self, request: Request) -> Response:
        state = self._node.condition
        return text_response(200 if state == "up" else 503, "ready" if state == "up" else state)

    def _health(self, request: Request) -> Response:
        node = self._node
        found = assess(
            # The memory check has that name already.
            bus_name="bus" if node.bus.name == "memory" else node.bus.name,
            bus_connected=node.bus.connected,
            connections=len(node.registry.connections),
            max_connections=node.max_connections,
            memory_bytes=node.resources.memory_bytes,
            memory_limit_bytes=node.resources.memory_limit,
            cpu_percent=node.resources.cpu_percent,
            slow_clients=len(node.registry.slow),
            draining=node.condition == "draining",
            uptime_s=node.uptime_s,
        )
        return json_response(found, 200 if found.healthy else 503)

    def _instance(self, request: Request) -> Response:
        node = self._node
        server = node.settings.server
        return json_response(
            Instance(
                name=node.name,
                colour=server.colour,
                version=__version__,
                pid=os.getpid(),
                started=node.started_at,
                state=node.condition,
                bus=node.bus.name,
                app=node.app.name,
                endpoints=[route.path for route in node.admission.routes],
            )
        )

    def _stats(self, request: Request) -> Response:
        registry = self._node.registry
        meter = self._node.runtime.meter
        duration = meter.connection_duration
        return json_response(
            Stats(
                active_connections=len(registry.connections),
                total_connections=meter.connections,
                messages_received=meter.messages_received,
                messages_sent=meter.messages_sent,
                connection_duration_seconds=Percentiles(
                    p50=duration.quantile(0.5), p95=duration.quantile(0.95), p99=duration.quantile(0.99)
                ),
                last_error=registry.last_error,
                last_error_time=registry.last_error_ms,
            )
        )

    def _report(self, request: Request) -> Response:
        query = request.query
        after = query.get("after")
        if after is None:
            return json_response(load_report(self._node))
        if not (after.isascii() and after.isdecimal() and len(after) <= 18):
            return text_response(400, "after must be a whole number: what `opened` was in the last report")
        keys = self._node.arrivals.behind(int(after), query.get("run"))
        return json_response(load_report(self._node, keys))

    # --- metrics ------------------------------------------------------------------------------------------------------

    def _metrics(self, request: Request, stranger: bool) -> Response:
        authorization = request.headers.get("authorization")
        allowed = not stranger and within(request.address, self._metrics_networks)
        if not allowed and not self._node.admin.allows(authorization):
            return text_response(403, "metrics are for allowed networks or the admin token")
        return Response(200, text.render(self._families()), text.CONTENT_TYPE, [("Cache-Control", "no-store")])

    def _families(self) -> Iterator[text.Family]:
        node = self._node
        registry = node.registry
        channels = node.hub.channels.values()
        gauges = exposition.Gauges(
            connections_active=len(registry.connections),
            connections_max=node.max_connections,
            memory_bytes=node.resources.memory_bytes,
            memory_limit_bytes=node.resources.memory_limit or 0,
            cpu_usage_percent=node.resources.cpu_percent,
            tasks_active=len(asyncio.all_tasks()),
            nats_connected=node.bus.connected,
            outbox_bytes=sum(connection.waiting_bytes for connection in registry.slow),
            slow_clients=len(registry.slow),
            event_loop_lag_seconds=node.loop_lag_s,
            draining=node.condition == "draining",
            channels_active=len(channels),
            subscriptions_active=sum(len(channel.subscribers) for channel in channels),
            build=(__version__, node.name, node.settings.server.colour),
            start_time_seconds=node.started_at,
        )
        return exposition.families(node.runtime.meter, gauges, node.settings.metrics.aliases)


def _static(response: Response) -> Page:
    def page(request: Request) -> Response:
        return response

    return page
