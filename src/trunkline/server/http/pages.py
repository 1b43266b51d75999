"""Plain HTTP on the data port: the page, health, readiness, load report, stats and metrics.

Rules: everything answers GET and HEAD. `/healthz`: the process is alive; `/ready`: it takes connections; `/health`: a
verdict over its checks. `/metrics` is for allowed networks or the admin token; the address that counts is the original
client's, and a request that an untrusted proxy forwarded comes from no allowed network.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import resources as package_files
from typing import Final

from trunkline.http1.requests import NOTHING_LOADED, Request, Response, json_response, text_response
from trunkline.metrics import text
from trunkline.net.addresses import networks, within
from trunkline.net.admin.holders import Refusal
from trunkline.net.admin.routes import NODE_METRICS, Route
from trunkline.net.hosts import Hosts
from trunkline.net.limits import AddressLimiter
from trunkline.server.connections.clock import Clock
from trunkline.server.http.admission import Admission, retry_after_header, why_unknown
from trunkline.server.http.ports import Reports
from trunkline.settings.sections import Settings

Page = Callable[[Request], Response]

_REVALIDATED: Final = (("Cache-Control", "no-cache"),)
_FILES: Final = {
    "/trunkline.js": ("trunkline.js", "text/javascript; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/endpoints.js": ("endpoints.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/favicon.svg": ("favicon.svg", "image/svg+xml"),
}

_HTML: Final = "text/html; charset=utf-8"
_CSP_HOST: Final = re.compile(r"[A-Za-z0-9.-]+(?::[0-9]{1,5})?")
"""What a Content-Security-Policy can name; addresses of IPv6 are not among it."""

CHECKED: Final = ("/health", "/api/health", "/healthz", "/ready", "/readyz")
"""What load balancers ask for: no rate limit at all. They may share an address with clients or with each other, a 429
would take the node out, and the answer costs hardly more than a 429."""

SCRAPED: Final = ("/metric", "/metrics")
"""What balancers and Prometheus ask for as often as they need: no rate limit within `server.metrics_networks`."""


class Pages:
    """The HTTP endpoints of a node. `refusal`: why an Authorization header does not open an admin route."""

    def __init__(
        self,
        settings: Settings,
        reports: Reports,
        admission: Admission,
        refusal: Callable[[str | None, Route], Refusal | None],
        limiter: AddressLimiter,
        clock: Clock,
        hosts: Hosts,
        page: str,
    ) -> None:
        self._reports = reports
        self._admission = admission
        self._refusal = refusal
        self._limiter = limiter
        self._clock = clock
        self._hosts = hosts
        self.reload(settings)
        self._pages: dict[str, Page] = {
            "/health": self._health,
            "/api/health": self._health,
            "/healthz": lambda _: text_response(200, "alive"),
            "/ready": self._ready,
            "/readyz": self._ready,
            "/api/instance": lambda _: json_response(reports.instance()),
            "/api/stats": lambda _: json_response(reports.stats()),
            "/metric": self._load,
            "/metrics": self._metrics,
        }
        for path, (name, content_type) in _FILES.items():
            self._pages[path] = _static(Response(200, _read(name), content_type, _REVALIDATED))
        self._page = _read(page)
        self._pages["/"] = self._test_page

    def reload(self, settings: Settings) -> None:
        """Answer by these settings from now on."""
        limits = settings.limits
        self._limiter.change(limits.http_burst, limits.http_per_s, limits.exempt)
        self._metrics_networks = networks(settings.server.metrics_networks)

    def answer(self, request: Request) -> Response:
        """Answer one request."""
        if request.method not in ("GET", "HEAD"):
            return text_response(405, "only GET and HEAD are served here", [("Allow", "GET, HEAD")])
        wait_s = 0.0
        path = request.path
        if path not in CHECKED and (path not in SCRAPED or not self._from_metrics_networks(request)):
            wait_s = self._limiter.take(request.address, self._clock.now)
        if wait_s:
            what = f"too many requests from this address{why_unknown(request)}"
            return text_response(429, what, retry_after_header(wait_s))
        page = self._pages.get(request.path)
        if page is not None:
            return page(request)
        if self._admission.route(request.path) is not None:
            return text_response(
                426,
                "this endpoint speaks WebSocket; send an upgrade request",
                [("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")],
            )
        return text_response(404, f"nothing at {request.path[:200]}")

    def _test_page(self, request: Request) -> Response:
        return Response(200, self._page, _HTML, _REVALIDATED, _page_policy(request))

    def _ready(self, request: Request) -> Response:
        condition = self._reports.condition
        return text_response(200, "ready") if condition == "up" else text_response(503, condition)

    def _health(self, request: Request) -> Response:
        found = self._reports.health()
        return json_response(found, 200 if found.healthy else 503)

    def _load(self, request: Request) -> Response:
        query = request.query
        after = query.get("after")
        if after is None:
            return json_response(self._reports.load())
        if not (after.isascii() and after.isdecimal() and len(after) <= 18):
            return text_response(400, "after must be a whole number: what `opened` was in the last report")
        return json_response(self._reports.load_after(int(after), query.get("run")))

    def _from_metrics_networks(self, request: Request) -> bool:
        return not request.untrusted and within(request.address, self._metrics_networks)

    def _metrics(self, request: Request) -> Response:
        closed = self._hosts.network_refusal(request.headers.get("host"))
        if not self._from_metrics_networks(request):
            closed = f"metrics are for server.metrics_networks or the admin token{why_unknown(request)}"
        if closed:
            refused = self._refusal(request.headers.get("authorization"), NODE_METRICS)
            if refused is not None:
                return text_response(403, refused.problem.message if refused.status == 403 else closed)
        body = text.render(self._reports.families())
        return Response(200, body, text.CONTENT_TYPE, [("Cache-Control", "no-store")])


def _page_policy(request: Request) -> str:
    """Content-Security-Policy of the test page, which connects to the host that it came from and to no other.

    `'self'` covers WebSockets in newer browsers only. Behind a proxy that ends TLS the page's scheme is not known here,
    and its host may be what a trusted proxy says.
    """
    names = {request.headers.get("host", ""), request.headers.get("x-forwarded-host", "") if request.proxied else ""}
    connects = "".join(f" ws://{name} wss://{name}" for name in sorted(names) if _CSP_HOST.fullmatch(name))
    loads = "script-src 'self'; style-src 'self'; img-src 'self'"
    return f"{NOTHING_LOADED}; {loads}; connect-src 'self'{connects}"


def _read(name: str) -> bytes:
    return (package_files.files("trunkline") / "static" / name).read_bytes()


def _static(response: Response) -> Page:
    return lambda _: response
