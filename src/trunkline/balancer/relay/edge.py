"""The edge: listens, and composes what its connections need.

Rules:

- Every connection is bounded by something: pending ones by number and time, relayed ones by number, those that only
  wait to end by a deadline. One coarse sweep serves all of them; no connection has a timer of its own.
- Keep-alive is set on the listening socket, from which accepted ones take it over.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
from collections.abc import Callable, Sequence
from typing import Final

import aiohttp
import structlog

from trunkline.balancer.hosts import hosts_of, names_of
from trunkline.balancer.listening import client_sockets
from trunkline.balancer.relay.arrivals import ArrivalListener
from trunkline.balancer.relay.client import ClientConnection
from trunkline.balancer.relay.context import Pages, RelayContext
from trunkline.balancer.relay.dial import DialBounds, Dialer
from trunkline.balancer.relay.forwarding import Forwarding
from trunkline.balancer.relay.meter import EdgeMeter, OnEvent
from trunkline.balancer.relay.pending import PendingConnections
from trunkline.balancer.relay.relays import Relays
from trunkline.balancer.relay.splice.relay import keep_alive
from trunkline.balancer.routes import Routes
from trunkline.balancer.tls import ListenerTls, backend_context
from trunkline.net import poller
from trunkline.net.addresses import networks
from trunkline.net.asked_sessions import AskedSessions
from trunkline.net.limits import AddressLimiter
from trunkline.net.listening import BACKLOG
from trunkline.net.poller import Poller
from trunkline.placement.placing import Placer
from trunkline.process import open_files
from trunkline.process.open_files import Shares
from trunkline.settings.balancer import BalancerSettings

log = structlog.get_logger("trunkline.balancer")

TICK_S: Final = 0.25
"""How often deadlines are looked at."""

TLS_LOOK_TICKS: Final = 4
"""After how many ticks the certificate's files are looked at."""


class Edge:
    """The clients' entrance; raises SettingsError for a certificate or a header that cannot be used.

    Args:
        asked: sessions that nodes asked to move; None: nobody tells.
        pages: tried first for every plain GET and HEAD; None leaves the request to a backend.

    Attributes:
        poller: watches relays on bare sockets, once started; None where there are none.
    """

    pending: PendingConnections
    relays: Relays
    _context: RelayContext

    def __init__(
        self,
        settings: BalancerSettings,
        placer: Placer,
        *,
        asked: AskedSessions | None = None,
        pages: Pages | None = None,
        on_event: OnEvent | None = None,
    ) -> None:
        self.settings = settings
        self.meter = EdgeMeter()
        self.port = settings.port
        self.poller: Poller | None = None
        self._placer = placer
        self._asked = AskedSessions() if asked is None else asked
        self._pages = pages
        self._on_event = on_event
        self._forwarding = Forwarding(settings)
        self._hosts = hosts_of(settings)
        self._backend_tls = backend_context(settings)
        self._tls = ListenerTls(settings.tls_cert_file, settings.tls_key_file) if settings.tls_cert_file else None
        self._limiter = AddressLimiter(settings.handshake_burst, settings.handshake_per_s, settings.exempt)
        self._handshake_timeout_s = settings.handshake_timeout_ms / 1000
        self._changed = asyncio.Event()
        self._session: aiohttp.ClientSession | None = None
        self._servers: list[asyncio.Server | ArrivalListener] = []
        self._ticker: asyncio.TimerHandle | None = None
        self._ticks = 0

    @property
    def connections(self) -> int:
        """Relayed connections now."""
        return len(self.relays) if self._session is not None else 0

    async def start(self, sockets: Sequence[socket.socket] = ()) -> None:
        """Listen on `sockets`, else on the settings' host and port; raises StartError when the port is taken."""
        loop = asyncio.get_running_loop()
        settings = self.settings
        sockets = sockets or client_sockets(settings)
        if not settings.tls_verify:
            log.warning("backend_certificates_not_verified", setting="balancer.tls_verify")
        self._session = self._open_session()
        if poller.AVAILABLE:
            self.poller = Poller(loop)
        self._context = self._compose(loop, self._session)
        proxies = networks(settings.proxy_protocol)
        self._hosts.listens_on(sock.getsockname()[0] for sock in sockets)
        for sock in sockets:
            keep_alive(sock)
            self._servers.append(
                ArrivalListener(
                    loop,
                    self.pending,
                    sock,
                    lambda arrival: ClientConnection(self._context, arrival),
                    self._tls.context if self._tls is not None else None,
                    proxies,
                    self._handshake_timeout_s,
                )
                if self._tls is not None or proxies
                else await loop.create_server(lambda: ClientConnection(self._context), sock=sock, backlog=BACKLOG)
            )
        self.port = self._forwarding.port = sockets[0].getsockname()[1]
        self._ticker = loop.call_later(TICK_S, self._tick, loop)

    def _compose(self, loop: asyncio.AbstractEventLoop, session: aiohttp.ClientSession) -> RelayContext:
        settings, meter = self.settings, self.meter
        # Each relayed connection needs two.
        shares = Shares(open_files.limit(), 2)
        limit = _limit(settings, shares)
        self.relays = Relays(loop, settings, limit, self._placer, meter, self._on_event, self._changed)
        self.pending = PendingConnections(
            loop,
            lambda: shares.pending(len(self.relays) + self.relays.handshaking),
            self._handshake_timeout_s,
            meter,
            self._changed,
        )
        bounds = DialBounds(settings.dial_timeout_ms / 1000, self._handshake_timeout_s, settings.header_bytes)
        return RelayContext(
            loop=loop,
            settings=settings,
            placer=self._placer,
            routes=Routes(settings),
            forwarding=self._forwarding,
            trusted_proxies=networks(settings.trusted_proxies),
            hosts=self._hosts,
            asked=self._asked,
            limiter=self._limiter,
            meter=meter,
            on_event=self._on_event,
            pages=self._pages,
            pending=self.pending,
            relays=self.relays,
            dialer=Dialer(loop, self.poller, bounds, self._backend_tls),
            session=session,
            handshake_timeout_s=self._handshake_timeout_s,
        )

    def prepare(self, settings: BalancerSettings) -> Callable[[], None]:
        """Make ready what reloaded settings need, and return what takes them over, for clients that come from then on.

        Raises SettingsError for a certificate or a header that cannot be used; nothing has changed then.
        """
        forwarding = Forwarding(settings)
        forwarding.port = self.port
        backend_tls = backend_context(settings)
        take_over_tls = None
        if self._tls is not None and settings.tls_cert_file is not None:
            take_over_tls = self._tls.prepare(settings.tls_cert_file, settings.tls_key_file)

        def take_over() -> None:
            self.settings = settings
            self._forwarding = forwarding
            self._backend_tls.successor = backend_tls
            if take_over_tls is not None:
                take_over_tls()
            self._hosts.rename(names_of(settings))
            self._limiter.change(settings.handshake_burst, settings.handshake_per_s, settings.exempt)
            self.relays.reload(settings, _limit(settings, Shares(open_files.limit(), 2)))
            self._context = dataclasses.replace(
                self._context,
                settings=settings,
                forwarding=forwarding,
                trusted_proxies=networks(settings.trusted_proxies),
            )

        return take_over

    def _open_session(self) -> aiohttp.ClientSession:
        settings = self.settings
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self._backend_tls),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=settings.dial_timeout_ms / 1000),
            max_line_size=settings.header_bytes,
            max_field_size=settings.header_bytes,
        )

    async def stop(self, drain_s: float) -> None:
        """Accept no more, wait `drain_s` seconds for connections to end by themselves, then cut them off.

        Whoever was accepted before still gets its first request served, a handshake too: another process may have the
        port already, so nobody would be refused by a restart.
        """
        if self._session is None:
            return
        for server in self._servers:
            server.close()
        self.pending.stop()
        await self._wait_while(lambda: len(self.relays) > 0 or self.pending.busy or self.pending.fresh, drain_s)
        self.relays.abort()
        self.pending.abort()
        await self._wait_while(lambda: len(self.relays) > 0 or self.pending.busy or len(self.pending) > 0, 2.0)
        if self._ticker is not None:
            self._ticker.cancel()
        await self._close()

    async def _wait_while(self, lasts: Callable[[], bool], longest_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(longest_s):
                while lasts():
                    self._changed.clear()
                    await self._changed.wait()

    async def _close(self) -> None:
        if self._session is not None:
            await self._session.close()
        if self.poller is not None:
            self.poller.close()

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._ticker = loop.call_later(TICK_S, self._tick, loop)
        now = loop.time()
        self._ticks += 1
        self.pending.sweep(now)
        self.relays.sweep(now)
        if self._tls is not None and self._ticks % TLS_LOOK_TICKS == 0:
            self._tls.look()


def _limit(settings: BalancerSettings, shares: Shares) -> int:
    """Connections at most: what the settings want, as open files allow."""
    wanted = settings.max_connections or shares.connections
    limit = min(wanted, shares.connections)
    if limit < wanted:
        log.warning("max_connections_bounded_by_files", wanted=wanted, limit=limit, open_files=shares.files)
    return limit
