"""A node: one server process, put together and run.

Start order: bus, hub, app's start-up hooks, then the listeners, so that no client comes in before what it needs is
there. Stop order: not ready, drain, listeners, app, tasks under way (so that what was acknowledged is on the bus), bus.
Each part ends within a bound, so that a node always does.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from trunkline.bus.base import Bus, FleetBus
from trunkline.bus.open import open_bus
from trunkline.errors import StartError
from trunkline.logs.logger import get_logger
from trunkline.net.addresses import is_address
from trunkline.net.admin.tokens import read_tokens
from trunkline.net.hosts import Hosts
from trunkline.net.limits import AddressLimiter
from trunkline.process import open_files
from trunkline.process.bounds import end_part
from trunkline.process.open_files import Shares
from trunkline.protocol import close_codes
from trunkline.protocol.goodbyes import MoveCounts
from trunkline.server.app.app import App
from trunkline.server.app.refreshing import Refreshing
from trunkline.server.app.route import Route, Services
from trunkline.server.channels.hub import Hub
from trunkline.server.channels.requests import Requests
from trunkline.server.channels.rules import RuleSet
from trunkline.server.connections.connection import Connection
from trunkline.server.connections.registry import Registry
from trunkline.server.connections.runtime import Bounds, Runtime
from trunkline.server.http.access import AccessLog
from trunkline.server.http.admin import Admin
from trunkline.server.http.admission import Admission
from trunkline.server.http.http_connection import HttpConnection
from trunkline.server.http.pages import Pages
from trunkline.server.http.ports import Condition
from trunkline.server.http.upgrade import DataPort
from trunkline.server.node.announce import Announcer
from trunkline.server.node.moving.counts import move_counts
from trunkline.server.node.moving.draining import Draining
from trunkline.server.node.moving.farewells import Farewells
from trunkline.server.node.moving.goodbyes import SessionNews
from trunkline.server.node.moving.move import Mover
from trunkline.server.node.moving.orders import FleetOrders
from trunkline.server.node.moving.pacing import FleetPace
from trunkline.server.node.reports import NodeReports
from trunkline.server.node.state import NodeState
from trunkline.server.node.states import Event
from trunkline.settings.reloaded import ReloadRecord
from trunkline.settings.sections import AuthSettings, ServerSettings, Settings

if TYPE_CHECKING:
    from trunkline.server.http.tokens import Verifier

log = get_logger("trunkline.node")

TICK_S: Final = 0.05
"""How often time is read, the wheel turned and loop lag measured."""

TICKS_A_SAMPLE: Final = 20

TASKS_S: Final = 2.0
"""How long a stop waits for tasks under way."""

PART_S: Final = 10.0
"""Time that each part has to end at a stop, the application's shutdown hooks among them."""


class Node:
    """One node. A `bus` that is given stands in for that of the settings; it is started and closed with the node."""

    def __init__(
        self, settings: Settings, app: App, *, bus: Bus | None = None, rng: random.Random | None = None
    ) -> None:
        server, limits = settings.server, settings.limits
        rng = rng or random.Random()  # noqa: S311 - jitter, not secrets
        self.settings = settings
        self.app = app
        self.runtime = Runtime(Bounds.of(settings), TICK_S)
        rules = RuleSet.of(settings, app.rules)
        self.bus: Bus = bus or open_bus(settings.bus, rules.retention, rules.retentions)
        self.hub = Hub(self.bus, rules.retention, self.runtime.meter, self.runtime.clock, server.deflate_min_bytes)
        self.registry = Registry(self.runtime, self.hub.drop, self._on_closed)
        shares = Shares(open_files.limit())
        self.state = NodeState(settings, self.runtime, self.registry, shares, rng)
        self.reloads = ReloadRecord(self.state.started_at)
        self._requests = Requests(self.hub, rules, self.runtime, self.registry.room, limits.channels_per_client)
        self.verifier = _verifier(settings.auth)
        self._refreshing = Refreshing(self.verifier, self._requests, self.runtime)
        self._services = Services(self.name, self.runtime, self.registry, self.hub, self._requests, self._refreshing)
        routes = self._routes(settings)
        paths = [route.path for route in routes]
        self._reports = NodeReports(
            settings,
            self.state,
            self.runtime,
            self.registry,
            self.hub,
            self.bus,
            app.name,
            paths,
            self.reloads,
        )
        link = self.bus.fleet_link if isinstance(self.bus, FleetBus) else None
        self._announcer = Announcer(server, self.state, self._reports, link) if link else None
        on_change = self._announcer.state_changed if self._announcer is not None else lambda: None
        self._news = SessionNews(self.name, server.colour, self.registry, self.runtime.meter, link)
        farewells = Farewells(self.name, self.runtime.meter, self._news)
        pace = FleetPace(
            self.name, self.state.arrivals.run, server.version, lambda: len(self.registry.connections), link
        )
        self.draining = Draining(self.state, self.registry, rng, farewells, pace, on_change)
        self.mover = Mover(self.state, self.registry, rng, farewells)
        self._orders = (
            FleetOrders(self.name, lambda: self.settings.server.drain_ms, self.draining, self.mover, self.counts, link)
            if link
            else None
        )
        self._admission = Admission(
            settings,
            routes,
            self.verifier,
            AddressLimiter(limits.handshake_burst, limits.handshake_per_s, limits.exempt),
            self._news.asked,
            self.state.shed,
            self.runtime.meter,
            self.runtime.clock,
            most_turned_away=lambda: max(self.state.capacity // 16, 1),
        )
        self._hosts, self._admin_hosts = _hosts(server), _hosts(server)
        dropped = self.runtime.meter.pending_dropped
        self.admin = Admin(
            settings,
            self.runtime.clock,
            self.hub,
            rules,
            self.registry,
            self.draining,
            self.mover,
            self._admin_hosts,
            shares,
            lambda: dropped.add("admin"),
        )
        self._pages = Pages(
            settings,
            self._reports,
            self._admission,
            self.admin.refusal,
            AddressLimiter(limits.http_burst, limits.http_per_s, limits.exempt),
            self.runtime.clock,
            self._hosts,
            app.page,
        )
        self.data_port = DataPort(
            server,
            self.runtime,
            self.registry,
            self.state.arrivals,
            self._admission,
            self._pages,
            self._on_opened,
            self._hosts,
            shares,
        )
        self._access = AccessLog() if settings.log.access else None
        self._server: asyncio.Server | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._ticks = 0
        self._expected = 0.0

    @property
    def name(self) -> str:
        """Its name."""
        return self.state.name

    @property
    def port(self) -> int:
        """Its data port."""
        return self.state.port

    @property
    def condition(self) -> Condition:
        """Its state as others see it."""
        return self.state.condition

    def counts(self) -> MoveCounts:
        """What became of moved clients here, since the start."""
        return move_counts(self.name, self._reports.load(), self.runtime.meter)

    async def start(self) -> None:
        """Connect the bus, run the app's start-up hooks and listen; raises StartError when the port is taken."""
        loop = asyncio.get_running_loop()
        self._expected = loop.time() + TICK_S
        self._ticker = loop.call_at(self._expected, self._tick)
        if self.verifier is not None:
            await self.verifier.start()
        await self.bus.start(self._on_bus_state)
        await self.app.start(self.hub, self.settings)
        server = self.settings.server
        try:
            self._server = await loop.create_server(
                lambda: HttpConnection(self.data_port), server.host, server.port, backlog=4096, reuse_address=True
            )
        except OSError as error:
            await self._close_all()
            raise StartError(
                f"cannot listen on {server.host}:{server.port}: {error.strerror or error}",
                "Stop what uses the port, or choose another with --port or PORT.",
            ) from None
        self._hosts.listens_on(sock.getsockname()[0] for sock in self._server.sockets)
        self.state.port = self._server.sockets[0].getsockname()[1]
        try:
            await self.admin.start(self.port)
        except StartError:
            await self._close_all()
            raise
        self.state.on(Event.LISTENING)
        if self._orders is not None and self._announcer is not None:
            await self._news.start()
            await self._orders.start()
            await self._announcer.start()
        log.info(
            "node_up",
            admin_port=self.admin.port,
            node=self.name,
            port=self.port,
            bus=self.bus.name,
            capacity=self.state.capacity,
        )

    async def prepare(self, settings: Settings) -> Callable[[], None]:
        """Make ready what reloaded settings need, and return what takes them over; connections stay.

        Raises SettingsError for keys or rules that cannot be used, StartError for admin tokens; nothing has changed
        then.
        """
        rules = RuleSet.of(settings, self.app.rules)
        verifier = _verifier(settings.auth, self.verifier)
        if verifier is not None:
            await verifier.renew()
        tokens = read_tokens(settings.admin)

        def take_over() -> None:
            self.settings = settings
            self.verifier = verifier
            self.runtime.bounds = Bounds.of(settings)
            self.state.reload(settings)
            self._requests.reload(rules, settings.limits.channels_per_client)
            self._refreshing.reload(verifier)
            self._reports.reload(settings)
            self._admission.reload(settings, self._routes(settings), verifier)
            self._pages.reload(settings)
            self.data_port.reload(settings.server)
            for hosts in (self._hosts, self._admin_hosts):
                hosts.rename(_names(settings.server))
            self.admin.reload(settings, rules)
            self.admin.replace_tokens(tokens)

        return take_over

    async def stop(self, *, drain_ms: int | None = None, deadline_ms: int | None = None) -> None:
        """Drain, then stop. Cancel it to end the drain at once and stop all the same.

        Goodbyes are spread over `drain_ms`; at `deadline_ms` what is left is cut off. None takes the setting.
        """
        server = self.settings.server
        over_ms = server.drain_ms if drain_ms is None else drain_ms
        deadline_s = (server.shutdown_deadline_ms if deadline_ms is None else deadline_ms) / 1000
        try:
            await asyncio.wait_for(self.draining.empty(over_ms, close_codes.GOING_AWAY, deadline_s), deadline_s)
        except TimeoutError:
            log.warning("shutdown_deadline", node=self.name, connections=len(self.registry.connections))
        finally:
            await asyncio.shield(self._close_all())

    async def _close_all(self) -> None:
        self.state.on(Event.STOP)
        self.draining.stop()
        if self._orders is not None:
            await end_part("orders", self._orders.stop(), within_s=PART_S)
        await end_part("mover", self.mover.stop(), within_s=PART_S)
        await end_part("goodbyes", self._news.stop(), within_s=PART_S)
        if self._announcer is not None:
            await end_part("announcer", self._announcer.leave(), within_s=PART_S)
        if self._server is not None:
            self._server.close()
        self.runtime.meter.cut += len(self.registry.connections)
        for connection in list(self.registry.connections):
            connection.abort()
        self.data_port.pending.close()
        await end_part("admin port", self.admin.stop(), within_s=PART_S)
        await end_part("application", self.app.stop(), within_s=PART_S)
        tasks = list(self.registry.tasks)
        if tasks:
            # Publishes under way get their acknowledgement; what waits for a client is ended.
            _, pending = await asyncio.wait(tasks, timeout=TASKS_S)
            for task in pending:
                task.cancel()
        await end_part("channels", self.hub.close(), within_s=PART_S)
        await end_part("bus", self.bus.close(), within_s=PART_S)
        if self.verifier is not None:
            await end_part("token keys", self.verifier.close(), within_s=PART_S)
        if self._ticker is not None:
            self._ticker.cancel()
        if self._access is not None:
            self._access.flush()
        log.info("node_stopped", node=self.name)

    def _routes(self, settings: Settings) -> list[Route]:
        return [
            Route(declaration, settings, self._services)
            for declaration in self.app.declarations
            if declaration.setting is None or getattr(settings.server, declaration.setting)
        ]

    def _on_opened(self, connection: Connection) -> None:
        if self._announcer is not None:
            self._announcer.connections_changed()
        if connection.identity.resumed:
            self._news.opened(connection.identity.session)
        self.draining.opened(connection)

    def _on_closed(self, connection: Connection) -> None:
        runtime = self.runtime
        duration = runtime.clock.now - connection.opened_at
        runtime.meter.connection_duration.observe(max(duration, 0.0))
        runtime.meter.disconnects.add(
            close_codes.label(connection.close_code, connection.close_reason),
            "server" if connection.ended_by_us else "client",
        )
        if self._access is not None:
            self._access.add(connection, duration, runtime.clock.wall_ms)
        if self._announcer is not None:
            self._announcer.connections_changed()
        self.draining.closed()

    def _on_bus_state(self, connected: bool) -> None:
        if connected:
            log.info("bus_connected", bus=self.bus.name)
        else:
            log.warning("bus_disconnected", bus=self.bus.name)
        self.registry.spawn(self.hub.bus_state(connected))
        if self._announcer is not None:
            self._announcer.bus_state(connected)

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        self.state.loop_lag_s = max(now - self._expected, 0.0)
        self._expected = now + TICK_S
        self._ticker = loop.call_at(self._expected, self._tick)
        runtime = self.runtime
        runtime.clock.tick()
        now = runtime.clock.now
        for entry in runtime.wheel.advance(now):
            try:
                due = entry.on_time(now)
            except Exception:
                # The others that are due now must not lose their turn.
                log.exception("timer_failed", node=self.name)
                continue
            if due is not None:
                runtime.wheel.schedule(entry, due)
        self.data_port.pending.expire(now)
        self.admin.pending.expire(now)
        for connection in list(self.registry.slow):
            connection.check_slow(now)
        if self._access is not None:
            self._access.flush()
        self._ticks += 1
        if self._ticks % TICKS_A_SAMPLE == 0:
            self.hub.tick(now)
            self.state.resources.sample()


def _hosts(server: ServerSettings) -> Hosts:
    """The names of a port of this node: those that the operator gave in any setting, and the machine's."""
    return Hosts("server.hosts", "server.trusted_proxies", _names(server), socket.gethostname())


def _names(server: ServerSettings) -> tuple[str, ...]:
    advertised = urlsplit(server.advertise or "").hostname or ""
    listening = "" if is_address(server.host) else server.host
    return (*server.hosts, listening, advertised)


def _verifier(auth: AuthSettings, before: Verifier | None = None) -> Verifier | None:
    if not auth.algorithms:
        return None
    from trunkline.server.http.tokens import Verifier

    return Verifier(auth, before=before)
