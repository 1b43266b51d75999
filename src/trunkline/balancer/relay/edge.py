"""The edge: listens, lets clients in within bounds, and looks after everything that is relayed.

Rules:

- Every connection is bounded by something: undecided ones by number and time, relayed ones by number, those that only
  wait to end by a deadline. One coarse sweep serves all of them; no connection has a timer of its own.
- When all doors are taken the one that has waited longest for its request goes, so that slow clients cannot lock
  others out.
- Keep-alive is set on the listening socket, from which accepted ones take it over.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import random
import resource
import socket
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

import aiohttp
import structlog

from trunkline.balancer.relay.edge_connection import Door
from trunkline.balancer.relay.edge_meter import EdgeEvent, EdgeMeter, EventName
from trunkline.balancer.relay.forwarding import Forwarding
from trunkline.balancer.relay.relayed import Relay, keep_alive, options_of
from trunkline.balancer.relay.routes import Routes
from trunkline.balancer.relay.tls import ListenerTls, backend_context
from trunkline.errors import StartError
from trunkline.http1.heads import Page, PageRequest
from trunkline.net import poller
from trunkline.net.addresses import networks, within
from trunkline.net.limits import AddressLimiter, address_key
from trunkline.net.poller import Poller
from trunkline.placement.placing import Ask, Pick, Placer, Refusal
from trunkline.settings.balancer import BalancerSettings

__all__ = ["Edge", "EdgeEvent", "EdgeMeter", "Page", "PageRequest"]

log = structlog.get_logger("trunkline.balancer")

TICK_S: Final = 0.25
"""How often deadlines are looked at."""

TLS_LOOK_TICKS: Final = 4
"""After how many ticks the certificate's files are looked at."""

MAX_DOORS: Final = 2048
"""TCP connections that may be undecided, or speak plain HTTP, at the same time."""

OTHER_FILES: Final = 500
"""Open files that are left for everything but relayed connections, which need two each."""

Pages = Callable[[PageRequest], Page | Awaitable[Page | None] | None]


class Edge:
    """Clients' way in.

    Args:
        settings: of the balancer.
        placer: chooses backends and hears what became of them.
        pages: asked first at every plain GET and HEAD; None leaves the request to a backend.
        meter: counts.
        on_event: told of every event of a connection; None when nobody listens.
        rng: source of jitter.

    Attributes:
        port: the port it listens on, once started.
        poller: watches relays on bare sockets; None where there are none.

    Raises:
        SettingsError: a certificate or a header of the settings cannot be used.
    """

    def __init__(
        self,
        settings: BalancerSettings,
        placer: Placer,
        *,
        pages: Pages | None = None,
        meter: EdgeMeter | None = None,
        on_event: Callable[[EdgeEvent], None] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.settings = settings
        self.placer = placer
        self.pages = pages
        self.meter = meter or EdgeMeter()
        self.on_event = on_event
        self.port = settings.port
        self.poller: Poller | None = None
        self.stopping = False
        self.handshaking = 0
        self.routes = Routes(settings)
        self.forwarding = Forwarding(settings)
        self.trusted_proxies = networks(settings.trusted_proxies)
        self.limiter = AddressLimiter(settings.handshake_burst, settings.handshake_per_s, settings.exempt)
        self.dial_timeout_s = settings.dial_timeout_ms / 1000
        self.handshake_timeout_s = settings.handshake_timeout_ms / 1000
        self.max_connections = settings.max_connections or _room_for_connections()
        self.backend_tls = backend_context(settings)
        self.jitter = (rng or random.Random()).random  # noqa: S311 - jitter, no secrets
        self._tls = ListenerTls(settings.tls_cert_file, settings.tls_key_file) if settings.tls_cert_file else None
        self.listens_tls = self._tls is not None
        self._exempt = networks(settings.exempt)
        self._per_address: dict[str, int] = {}
        self._waiting: dict[Door, None] = {}
        self._working: dict[Door, bool] = {}
        self._relays: set[Relay] = set()
        self._ending: dict[Relay, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._coming: set[asyncio.Future[Pick | Refusal]] = set()
        self._server: asyncio.Server | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._ticks = 0
        self._idle_looked_at = 0.0
        self._less = asyncio.Event()

    @property
    def connections(self) -> int:
        """Relayed connections now."""
        return len(self._relays)

    # --- start and stop -----------------------------------------------------------------------------------------------

    async def start(self, sock: socket.socket | None = None) -> None:
        """Listen.

        Args:
            sock: a bound socket to listen on; None binds the settings' host and port.

        Raises:
            StartError: the port is taken.
        """
        self.loop = loop = asyncio.get_running_loop()
        settings = self.settings
        if not settings.tls_verify:
            log.warning("backend_certificates_not_verified", setting="balancer.tls_verify")
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self.backend_tls),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self.dial_timeout_s),
            max_line_size=settings.header_bytes,
            max_field_size=settings.header_bytes,
        )
        tls: dict[str, Any] = {}
        if self._tls is not None:
            tls = {
                "ssl": self._tls.context,
                "ssl_handshake_timeout": self.handshake_timeout_s,
                "ssl_shutdown_timeout": 2.0,
            }
        try:
            if sock is None:
                self._server = await loop.create_server(
                    lambda: Door(self), settings.host, settings.port, backlog=4096, reuse_address=True, **tls
                )
            else:
                self._server = await loop.create_server(lambda: Door(self), sock=sock, backlog=4096, **tls)
        except OSError as error:
            await self.session.close()
            raise StartError(
                f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}",
                "Stop what uses the port, or choose another with --listen or balancer.port.",
            ) from None
        for listening in self._server.sockets:
            with options_of(listening.fileno()) as options:
                keep_alive(options)
        if poller.AVAILABLE:
            self.poller = Poller(loop)
        self.port = self.forwarding.port = self._server.sockets[0].getsockname()[1]
        self._idle_looked_at = loop.time()
        self._ticker = loop.call_later(TICK_S, self._tick)

    async def stop(self, drain_s: float) -> None:
        """Take no more, wait for relayed connections to end by themselves, then cut them off.

        Args:
            drain_s: how long to wait. A relay forges no close frame: clients are told to move by their nodes.
        """
        self.stopping = True
        if self._server is not None:
            self._server.close()
        for door in list(self._waiting):
            door.close_if_idle()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain_s):
                while self._relays or self._tasks:
                    self._less.clear()
                    await self._less.wait()
        for relay in list(self._relays):
            relay.abort()
        for door in [*self._waiting, *self._working]:
            door.abort()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2.0):
                while self._relays or self._tasks or self._waiting or self._working:
                    self._less.clear()
                    await self._less.wait()
        if self._ticker is not None:
            self._ticker.cancel()
            await self.session.close()
        if self.poller is not None:
            self.poller.close()

    # --- doors --------------------------------------------------------------------------------------------------------

    def open_door(self, door: Door) -> bool:
        """A client has connected; False when there is no room for it."""
        if self.stopping:
            return False
        if len(self._waiting) + len(self._working) >= MAX_DOORS:
            oldest = next(iter(self._waiting), None)
            self.meter.refusals.add("doors_full")
            if oldest is None:
                return False
            oldest.abort()
            del self._waiting[oldest]
        self.wait(door)
        return True

    def wait(self, door: Door, in_s: float | None = None) -> None:
        """A door waits for its client, for the time of a handshake or for `in_s` seconds."""
        self._working.pop(door, None)
        self._waiting.pop(door, None)
        door.deadline = self.loop.time() + (self.handshake_timeout_s if in_s is None else in_s)
        self._waiting[door] = None

    def busy(self, door: Door) -> None:
        """A door's request is being passed on; whoever does that has time-outs of its own."""
        self._waiting.pop(door, None)
        self._working[door] = False

    def upgrading(self, door: Door) -> None:
        """A door's client wants a WebSocket."""
        self._waiting.pop(door, None)
        self._working[door] = True

    def is_upgrading(self, door: Door) -> bool:
        """Whether it is on the way to a WebSocket."""
        return self._working.get(door, False)

    def is_door(self, door: Door) -> bool:
        """Whether it is still one of ours."""
        return door in self._working or door in self._waiting

    def close_door(self, door: Door) -> None:
        """It was relayed, or ended."""
        self._working.pop(door, None)
        self._waiting.pop(door, None)
        self._less.set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` on a request."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._less.set()

    # --- admission ----------------------------------------------------------------------------------------------------

    def enter_address(self, address: str) -> bool | None:
        """Count one more connection of `address`; False when it has too many, None when it is not counted."""
        most = self.settings.connections_per_address
        if not most or within(address, self._exempt):
            return None
        key = address_key(address)
        count = self._per_address.get(key, 0)
        if count >= most:
            return False
        self._per_address[key] = count + 1
        return True

    def leave_address(self, address: str) -> None:
        """A counted connection of `address` has ended."""
        key = address_key(address)
        count = self._per_address.get(key, 0) - 1
        if count > 0:
            self._per_address[key] = count
        else:
            self._per_address.pop(key, None)

    async def place(self, ask: Ask) -> Pick | Refusal:
        """Ask the placer, which may have to ask another process."""
        answer = self.placer.place(ask)
        if inspect.isawaitable(answer):
            coming = asyncio.ensure_future(answer)
            try:
                async with asyncio.timeout(self.handshake_timeout_s):
                    answer = await asyncio.shield(coming)
            except asyncio.CancelledError:
                self._let_go(coming)
                raise
            except TimeoutError:
                self._let_go(coming)
                answer = Refusal(503, "place_timeout", "no backend could be chosen in time", 1.0 + 2.0 * self.jitter())
        return answer

    def _let_go(self, coming: asyncio.Future[Pick | Refusal]) -> None:
        """Nobody waits for this pick any more: it is dropped when it comes."""

        def drop(done: asyncio.Future[Pick | Refusal]) -> None:
            self._coming.discard(done)
            if not done.cancelled() and done.exception() is None and isinstance(picked := done.result(), Pick):
                self.placer.dropped(picked)

        self._coming.add(coming)
        coming.add_done_callback(drop)

    # --- relays -------------------------------------------------------------------------------------------------------

    def add_relay(self, relay: Relay) -> None:
        """A connection is relayed from now on."""
        self._relays.add(relay)
        self.meter.opened += 1

    def end_by(self, relay: Relay, in_s: float) -> None:
        """Abort `relay` when it is still there in so many seconds; the earliest such deadline holds."""
        due = self.loop.time() + in_s
        if due < self._ending.get(relay, due + 1.0):
            self._ending[relay] = due

    def relay_closed(self, relay: Relay) -> None:
        """Both ends of a relay are gone."""
        self._relays.discard(relay)
        self._ending.pop(relay, None)
        if relay.limited:
            self.leave_address(relay.address)
        duration_s = self.loop.time() - relay.opened_at
        self.meter.duration_seconds.observe(duration_s)
        self.placer.closed(relay.pick)
        if self.on_event is not None:
            self.on_event(
                EdgeEvent("closed", relay.pick.url, relay.pick.reason, relay.address, relay.path, duration_s, 101)
            )
        self._less.set()

    # --- events -------------------------------------------------------------------------------------------------------

    def tell(
        self, event: EventName, backend: str, reason: str, address: str, path: str, since: float, status: int
    ) -> None:
        """Tell whoever listens of an event; `since` is the loop time at which the handshake began."""
        if self.on_event is not None:
            self.on_event(EdgeEvent(event, backend, reason, address, path, self.loop.time() - since, status))

    def tell_refused(self, status: int, reason: str, address: str) -> None:
        """Tell of a request that could not even be read."""
        if self.on_event is not None:
            self.on_event(EdgeEvent("refused", "", reason, address, "", 0.0, status))

    # --- time ---------------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        self._ticker = self.loop.call_later(TICK_S, self._tick)
        now = self.loop.time()
        self._ticks += 1
        for door in [door for door in self._waiting if door.deadline <= now]:
            # Whatever it does takes a moment; it is looked at again should that not end it.
            del self._waiting[door]
            self._waiting[door] = None
            door.on_time_out()
        if self._ending:
            for relay in [relay for relay, due in self._ending.items() if due <= now]:
                del self._ending[relay]
                relay.abort()
        idle_s = self.settings.idle_timeout_ms / 1000
        if idle_s and now - self._idle_looked_at >= min(idle_s / 4, 15.0):
            self._idle_looked_at = now
            self._end_idle(now, idle_s)
        if self._tls is not None and self._ticks % TLS_LOOK_TICKS == 0:
            self._tls.look()

    def _end_idle(self, now: float, idle_s: float) -> None:
        for relay in list(self._relays):
            if relay.spoke():
                relay.quiet_since = now
            elif now - relay.quiet_since >= idle_s:
                relay.quiet_since = now
                relay.close()


def _room_for_connections() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 1_000_000
    return max((soft - OTHER_FILES) // 2, 1)
