"""A node: one server process, put together and run.

Start order: bus, hub, app's start-up hooks, then the listeners, so that nobody is let in before what they need is
there. Stop order: not ready, drain, listeners, app, tasks under way (so that what was acknowledged is on the bus), bus.

States: starting -> up <-> draining -> stopped. `/ready` is 200 in `up` alone.
"""

from __future__ import annotations

import asyncio
import enum
import itertools
import os
import random
import secrets
import socket
import time
from typing import TYPE_CHECKING, Final, Literal

import structlog

from trunkline.bus import Bus, NatsSettings, open_bus
from trunkline.bus.base import FleetBus
from trunkline.errors import Refused, StartError
from trunkline.http1.requests import Request, Response
from trunkline.net.addresses import networks
from trunkline.net.limits import AddressLimiter
from trunkline.protocol import close_codes
from trunkline.server.app.app import App
from trunkline.server.app.route import Route, Services
from trunkline.server.channels.hub import Hub
from trunkline.server.channels.requests import Requests
from trunkline.server.channels.rules import RuleSet
from trunkline.server.connections.arrivals import Arrivals
from trunkline.server.connections.connection import Connection
from trunkline.server.connections.names import Names
from trunkline.server.connections.registry import Registry
from trunkline.server.connections.runtime import Bounds, Runtime
from trunkline.server.connections.states import OPEN
from trunkline.server.http.access import AccessLog
from trunkline.server.http.admin import Admin
from trunkline.server.http.admission import Admission
from trunkline.server.http.http_connection import HttpConnection
from trunkline.server.http.pages import Pages
from trunkline.server.node import capacity, drain
from trunkline.server.node.announce import Announcer
from trunkline.server.node.move import Mover
from trunkline.server.node.resources import Resources
from trunkline.settings.sections import AuthSettings, BusSettings, Settings

if TYPE_CHECKING:
    from trunkline.server.http.tokens import Verifier

log = structlog.get_logger("trunkline.node")

TICK_S: Final = 0.05
"""How often time is read, the wheel turned and loop lag measured."""

MAX_DOORS: Final = 2048
"""TCP connections that may be in their handshake, or speak plain HTTP, at the same time."""


class State(enum.Enum):
    """What a node is doing."""

    STARTING = "starting"
    UP = "up"
    DRAINING = "draining"
    STOPPED = "stopped"


class Node:
    """One node.

    Args:
        settings: everything an operator may say.
        app: the endpoints it serves.
        bus: a bus to use instead of the one that the settings name; it is started and closed with the node.
        rng: source of jitter.
    """

    def __init__(
        self, settings: Settings, app: App, *, bus: Bus | None = None, rng: random.Random | None = None
    ) -> None:
        server = settings.server
        self.settings = settings
        self.app = app
        self.name = server.name or f"{socket.gethostname()}-{os.getpid()}"
        self.state = State.STARTING
        self.started_at = time.time()
        self.port = server.port
        self.loop_lag_s = 0.0
        self.trusted_proxies = networks(server.trusted_proxies)
        self.handshake_timeout_s = server.handshake_timeout_ms / 1000
        self.rng = rng or random.Random()  # noqa: S311 - jitter, not secrets
        self.resources = Resources(memory_limit_override=server.memory_limit_bytes)
        self.max_connections = server.max_connections or capacity.max_connections(
            self.resources.memory_limit, server.memory_base_bytes, server.memory_per_connection_bytes
        )
        self.names = Names()
        self.runtime = Runtime(
            Bounds(
                heartbeat_s=server.heartbeat_interval_ms / 1000,
                connection_timeout_s=server.connection_timeout_ms / 1000,
                close_timeout_s=server.close_timeout_ms / 1000,
                outbox_grace_s=settings.limits.outbox_grace_ms / 1000,
            ),
            TICK_S,
        )
        self.rules = RuleSet.of(settings, app.rules)
        self.bus: Bus = bus or open_bus(settings.bus.url, self.rules.retention, _nats_settings(settings.bus))
        self.hub = Hub(self.bus, self.rules.retention, self.runtime.meter, self.runtime.clock, server.deflate_min_bytes)
        self.registry = Registry(self.runtime, self.hub.drop, self._on_closed)
        requests = Requests(self.hub, self.rules, self.runtime, self.registry.room, settings.limits.channels_per_client)
        services = Services(self.name, self.runtime, self.registry, self.hub, requests)
        routes = [
            Route(declaration, settings, services)
            for declaration in app.declarations
            if declaration.setting is None or getattr(server, declaration.setting)
        ]
        limits = settings.limits
        self.verifier = _verifier(settings.auth)
        self.admission = Admission(
            settings,
            routes,
            self.verifier,
            AddressLimiter(limits.handshake_burst, limits.handshake_per_s, limits.exempt),
            self._shed,
            self.runtime.meter,
            lambda: self.runtime.clock.now,
        )
        self._shedder = capacity.Shedder(limits.accept_per_s, limits.loop_lag_shed_ms / 1000, self.rng)
        self.pages = Pages(self, AddressLimiter(limits.http_burst, limits.http_per_s, limits.exempt))
        self.admin = Admin(self)
        self.arrivals = Arrivals(secrets.token_hex(8))
        self.mover = Mover(self)
        self._announcer = Announcer(self, self.bus.fleet_link) if isinstance(self.bus, FleetBus) else None
        self._access = AccessLog() if settings.log.access else None
        # All wait equally long, so a dict in order of arrival is their queue, and the wheel is spared.
        self._doors: dict[HttpConnection, float] = {}
        self._server: asyncio.Server | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._ticks = 0
        self._expected = 0.0
        self._drain: asyncio.Task[None] | None = None
        self._gone = asyncio.Event()

    # --- start and stop -----------------------------------------------------------------------------------------------

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
                lambda: HttpConnection(self), server.host, server.port, backlog=4096, reuse_address=True
            )
        except OSError as error:
            await self._close_all()
            raise StartError(
                f"cannot listen on {server.host}:{server.port}: {error.strerror or error}",
                "Stop what uses the port, or choose another with --port or PORT.",
            ) from None
        self.port = self._server.sockets[0].getsockname()[1]
        try:
            await self.admin.start()
        except StartError:
            await self._close_all()
            raise
        self.state = State.UP
        if isinstance(self.bus, FleetBus) and self._announcer is not None:
            await self.mover.listen(self.bus.fleet_link)
            await self._announcer.start()
        log.info(
            "node_up",
            admin_port=self.admin.port,
            node=self.name,
            port=self.port,
            bus=self.bus.name,
            capacity=self.max_connections,
        )

    async def stop(self, *, drain_ms: int | None = None, deadline_ms: int | None = None) -> None:
        """Drain, then stop. Cancel it to end the drain at once and stop all the same.

        Args:
            drain_ms: time to spread the goodbyes over; None: the setting.
            deadline_ms: when to cut off who is still here; None: the setting.
        """
        server = self.settings.server
        over_ms = server.drain_ms if drain_ms is None else drain_ms
        deadline_s = (server.shutdown_deadline_ms if deadline_ms is None else deadline_ms) / 1000
        try:
            await asyncio.wait_for(self._drain_all(over_ms, close_codes.GOING_AWAY), deadline_s)
        except TimeoutError:
            log.warning("shutdown_deadline", node=self.name, connections=len(self.registry.connections))
        finally:
            await asyncio.shield(self._close_all())

    async def _drain_all(self, over_ms: int, close: close_codes.Close) -> None:
        self.begin_drain(over_ms, close)
        if self._drain is not None:
            await self._drain
        while self.registry.connections:
            # Woken by each connection that ends; the wheel ends those that do not answer.
            self._gone.clear()
            await self._gone.wait()

    async def _close_all(self) -> None:
        self.state = State.STOPPED
        if self._drain is not None:
            self._drain.cancel()
        await self.mover.stop()
        if self._announcer is not None:
            await self._announcer.leave()
        if self._server is not None:
            self._server.close()
        for connection in list(self.registry.connections):
            connection.abort()
        for door in list(self._doors):
            door.abort()
        await self.admin.stop()
        await self.app.stop()
        tasks = list(self.registry.tasks)
        if tasks:
            # Publishes under way get their acknowledgement; what waits for a client is ended.
            _, pending = await asyncio.wait(tasks, timeout=2.0)
            for task in pending:
                task.cancel()
        await self.hub.close()
        await self.bus.close()
        if self.verifier is not None:
            await self.verifier.close()
        if self._ticker is not None:
            self._ticker.cancel()
        if self._access is not None:
            self._access.flush()
        log.info("node_stopped", node=self.name)

    # --- draining -----------------------------------------------------------------------------------------------------

    def begin_drain(self, over_ms: int, close: close_codes.Close = close_codes.DRAINING) -> int:
        """Take no new connections and ask every client to move, each in a slot of its own.

        Returns:
            How many clients will be asked.
        """
        self.state = State.DRAINING
        self._tell_state()
        if self._drain is not None:
            self._drain.cancel()
        connections = [connection for connection in self.registry.connections if connection.state == OPEN]
        slots = drain.plan(len(connections), over_ms / 1000, self.rng)
        log.info("draining", node=self.name, connections=len(connections), over_ms=over_ms)
        self._drain = asyncio.get_running_loop().create_task(self._tell(connections, slots, close))
        return len(connections)

    async def _tell(self, connections: list[Connection], slots: list[drain.Slot], close: close_codes.Close) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        told = 0
        while told < len(slots):
            for slot in drain.due(slots, told, loop.time() - began):
                connections[slot.client].end(close.code, close.reason, slot.reconnect_after_ms)
                told += 1
            if told < len(slots):
                await asyncio.sleep(max(slots[told].at_s - (loop.time() - began), 0.005))

    def end_drain(self) -> None:
        """Take connections again; clients that were already asked to move stay asked."""
        if self._drain is not None:
            self._drain.cancel()
            self._drain = None
        if self.state is State.DRAINING:
            self.state = State.UP
            self._tell_state()
            log.info("drain_ended", node=self.name)

    def _tell_state(self) -> None:
        if self._announcer is not None:
            self._announcer.state_changed()

    # --- what connections ask of their node ---------------------------------------------------------------------------

    def open_door(self, door: HttpConnection) -> bool:
        """A TCP connection has come; False when too many are undecided already."""
        if len(self._doors) >= MAX_DOORS or self.state is State.STOPPED:
            return False
        self.keep_door(door)
        return True

    def keep_door(self, door: HttpConnection) -> None:
        """Its time-out begins anew, for it has done something."""
        self._doors.pop(door, None)
        self._doors[door] = self.runtime.clock.now + self.handshake_timeout_s

    def close_door(self, door: HttpConnection) -> None:
        """It was upgraded, or ended."""
        self._doors.pop(door, None)

    def answer(self, request: Request, stranger: bool) -> Response:
        """Answer plain HTTP."""
        return self.pages.answer(request, stranger)

    def on_opened(self, connection: Connection) -> None:
        """A WebSocket is open."""
        if self._announcer is not None:
            self._announcer.connections_changed()
        if self.state is State.DRAINING:
            # It was let in before the drain began and decided after.
            asyncio.get_running_loop().call_soon(
                connection.end, close_codes.DRAINING.code, close_codes.DRAINING.reason, int(self.rng.random() * 1000)
            )

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
        self._gone.set()

    def monotonic(self, expires_at: float | None) -> float | None:
        """A token's expiry (seconds since 1970) on the node's clock."""
        return None if expires_at is None else self.runtime.clock.now + (expires_at - time.time())

    def _shed(self) -> None:
        """Raise Refused while the node takes no more connections."""
        shed = self._shedder.decide(
            self.runtime.clock.now,
            connections=len(self.registry.connections),
            capacity=self.max_connections,
            state=self.condition,
            loop_lag_s=self.loop_lag_s,
        )
        if shed is not None:
            self.runtime.meter.capacity_rejections.add(shed.reason)
            raise Refused(503, shed.text, retry_after_s=shed.retry_after_s, label=shed.reason)

    # --- time ---------------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        self.loop_lag_s = max(now - self._expected, 0.0)
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
        for door, _ in list(itertools.takewhile(lambda item: item[1] <= now, self._doors.items())):
            del self._doors[door]
            door.on_time_out()
        for connection in list(self.registry.slow):
            connection.check_slow(now)
        if self._access is not None:
            self._access.flush()
        self._ticks += 1
        if self._ticks % 20 == 0:
            self.hub.tick(now)
            self.resources.sample()

    def _on_bus_state(self, connected: bool) -> None:
        if connected:
            log.info("bus_connected", bus=self.bus.name)
        else:
            log.warning("bus_disconnected", bus=self.bus.name)
        self.registry.spawn(self.hub.bus_state(connected))
        if self._announcer is not None:
            self._announcer.bus_state(connected)

    @property
    def condition(self) -> Literal["starting", "up", "draining"]:
        """The state as others are told it; a node on its way out is draining to them."""
        if self.state is State.STARTING:
            return "starting"
        return "up" if self.state is State.UP else "draining"

    @property
    def uptime_s(self) -> float:
        """Seconds since the node was made."""
        return time.time() - self.started_at

    @property
    def accept_headroom(self) -> float:
        """Handshakes a second this node will take now."""
        return self._shedder.headroom(self.loop_lag_s)


def _verifier(auth: AuthSettings) -> Verifier | None:
    if not auth.algorithms:
        return None
    from trunkline.server.http.tokens import Verifier

    return Verifier(auth)


def _nats_settings(bus: BusSettings) -> NatsSettings:
    return NatsSettings(
        prefix=bus.prefix,
        replicas=bus.replicas,
        keep_s=bus.keep_s,
        max_bytes=bus.max_bytes,
        publish_timeout_s=bus.publish_timeout_s,
        tls_ca_file=str(bus.tls_ca_file) if bus.tls_ca_file is not None else None,
    )
