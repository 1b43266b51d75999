"""The balancer's admin port: is it alive, can it place, what does it see, who gets traffic. HTTP by aiohttp.

Rules: `/healthz` and `/ready` are for anybody who reaches the port; the page and the series are for allowed networks or
the bearer token, for they name backends; `/api/traffic` has rules of its own. A balancer that ends frees the port at
once, for the one that takes its place, and answers on a Unix socket of its user until it has ended.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

import structlog
from aiohttp import web

from trunkline.balancer.core import Balancer
from trunkline.balancer.hosts import hosts_of, names_of
from trunkline.balancer.http_port import HttpPort
from trunkline.balancer.overview import CONTENT_SECURITY
from trunkline.balancer.pages import BalancerPages
from trunkline.balancer.traffic.api import TrafficApi
from trunkline.errors import StartError
from trunkline.net.addresses import FORWARDING_HEADERS, networks, within
from trunkline.net.admin.holders import Holder, refusal
from trunkline.net.admin.routes import BALANCER_METRICS, PAGE, Route
from trunkline.net.admin.tokens import NOT_KEPT_HINT, AdminTokens, read_tokens
from trunkline.net.listening import listening_sockets
from trunkline.process import open_files
from trunkline.process.open_files import Shares
from trunkline.process.sockets.private import PrivateSocket, forget_dead
from trunkline.settings.admin import AdminSettings
from trunkline.settings.balancer import BalancerSettings

log = structlog.get_logger("trunkline.balancer")


class BalancerAdmin:
    """The admin server of a balancer."""

    def __init__(self, balancer: Balancer, pages: BalancerPages, settings: AdminSettings) -> None:
        self._balancer = balancer
        self._pages = pages
        self._settings = settings
        self._hosts = hosts_of(balancer.settings)
        self.reload(balancer.settings)
        most = Shares(open_files.limit()).admin
        self._http = HttpPort("admin", most, balancer.meter.pending_dropped, self._hosts)
        self._traffic = TrafficApi(balancer.traffic, balancer.traffic_state, self._holder, self._why_no_read)
        self._tokens: AdminTokens | None = None
        self._private: PrivateSocket | None = None
        self.sockets: list[socket.socket] = []
        self.port = 0

    def open(self, data_port: int, handed: Sequence[socket.socket] = ()) -> None:
        """Get the port, unless the settings switch it off; raises StartError.

        `handed` are sockets that may be those of the port already.
        """
        host, wanted = self._balancer.settings.admin_host, self._balancer.settings.admin_port
        if wanted == 0:
            return
        # Beside any free port the next one may be taken, so it is any free one too.
        beside = data_port + 1 if self._balancer.settings.port else 0
        port = wanted if wanted is not None else beside
        self.sockets = [sock for sock in handed if sock.getsockname()[1] == port]
        try:
            self.sockets = self.sockets or listening_sockets(host, port)
        except OSError as error:
            raise StartError(
                f"cannot listen on the balancer's admin port {host}:{port}: {error.strerror or error}",
                "Choose another with balancer.admin_port (TRUNKLINE_BALANCER_ADMIN_PORT), 0 to switch it off, or "
                "another address of this machine with balancer.admin_host.",
            ) from None
        self.port = self.sockets[0].getsockname()[1]
        self._tokens = AdminTokens(self.port, read_tokens(self._settings))

    async def start(self) -> None:
        """Serve the port."""
        if self.sockets:
            await self._http.start([*self.routes(), *self._traffic.routes()], self.sockets)

    def keep_token(self) -> None:
        """Put the token where the commands on this machine find it, once no other balancer has the port."""
        if self._tokens is None:
            return
        self._tokens.keep()
        if self._tokens.unkept:
            log.warning("admin_token_not_kept", why=self._tokens.unkept, next_step=NOT_KEPT_HINT)

    def forget_token(self) -> None:
        """Take it away from there."""
        if self._tokens is not None:
            self._tokens.forget()

    def reload(self, settings: BalancerSettings) -> None:
        """Be open to the networks of these settings, under their names, from now on."""
        self._networks = networks(settings.metrics_networks)
        self._hosts.rename(names_of(settings))

    def replace_tokens(self, tokens: Sequence[Holder]) -> None:
        """Take the tokens of new settings in the place of the old, from the next request on.

        Args:
            tokens: what `net.admin.tokens.read_tokens` has read of the new settings.
        """
        if self._tokens is not None:
            self._tokens.replace(tokens)

    def routes(self) -> list[web.RouteDef]:
        """What it answers of the balancer itself; the steering port answers the same."""
        return [
            web.get("/healthz", self._alive),
            web.get("/ready", self._ready),
            web.get("/metrics", self._metrics),
            web.get(self._balancer.settings.balancer_metric_path, self._overview),
        ]

    async def move(self) -> None:
        """The balancer ends: free the port at once for another one, and answer on a Unix socket of this user."""
        if self._tokens is None or self._private is not None:
            return
        self._tokens.forget()
        forget_dead("balancer-pid*.sock")
        try:
            self._private = PrivateSocket(f"balancer-pid{os.getpid()}.sock")
        except OSError as error:
            await self._http.stop()
            log.info("admin_port_closed", port=self.port, why=str(error))
            return
        await self._http.move(self._private.sock)
        log.info("admin_port_moved", port=self.port, socket=str(self._private.path))

    async def stop(self) -> None:
        """Close the port and forget the token that was made for it."""
        await self._http.stop()
        for sock in self.sockets:
            sock.close()
        if self._private is not None:
            self._private.close()
            self._private = None
        if self._tokens is not None:
            self._tokens.forget()
            self._tokens = None

    def _holder(self, request: web.BaseRequest) -> Holder | None:
        """Who sent a request, None for nobody known."""
        return None if self._tokens is None else self._tokens.of(request.headers.get("Authorization"))

    def _why_no_read(self, request: web.BaseRequest) -> str:
        """Why a request without the token may not read the traffic table."""
        if not self._hosts.loopback:
            return "the admin token is missing or wrong; on a port that is open beyond loopback each request needs it"
        return self._why_closed(request)

    def _why_closed(self, request: web.BaseRequest) -> str:
        if self._private is not None and request.transport is not None:
            sock = request.transport.get_extra_info("socket")
            if sock is not None and sock.family == socket.AF_UNIX:
                return ""
        if any(name.lower() in FORWARDING_HEADERS for name in request.headers):
            return "this page is not for requests that a proxy forwarded"
        if not within(request.remote or "", self._networks):
            return "this page is for allowed networks or the admin token"
        return self._hosts.network_refusal(request.host)

    async def _alive(self, request: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def _ready(self, request: web.Request) -> web.Response:
        if self._balancer.ready.is_set():
            return web.Response(text="ready\n")
        return web.Response(status=503, text="no backend can be used\n")

    async def _overview(self, request: web.Request) -> web.Response:
        return self._answer(request, PAGE, request.query_string)

    async def _metrics(self, request: web.Request) -> web.Response:
        return self._answer(request, BALANCER_METRICS, "format=prometheus")

    def _answer(self, request: web.Request, route: Route, query: str) -> web.Response:
        """The page, if the request comes from an allowed network or has a token that may read."""
        closed = self._why_closed(request)
        refused = refusal(self._holder(request), route) if closed else None
        if refused is not None:
            return web.Response(status=403, text=f"{refused.problem.message if refused.status == 403 else closed}\n")
        content_type, body = self._pages.render(query, request.headers.get("Accept", ""))
        return web.Response(
            body=body, headers={"Content-Type": content_type, "Content-Security-Policy": CONTENT_SECURITY}
        )
