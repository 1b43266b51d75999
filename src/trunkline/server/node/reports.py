"""What a node reports of itself: load, health, statistics, series. The same whether it is asked or announces it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence

import msgspec

from trunkline.bus.base import Bus
from trunkline.metrics import exposition
from trunkline.metrics.text import Family
from trunkline.protocol.control import Health, Instance, LoadReport, Percentiles, Stats
from trunkline.server.channels.hub import Hub
from trunkline.server.connections.registry import Registry
from trunkline.server.connections.runtime import Runtime
from trunkline.server.http.ports import Condition
from trunkline.server.node.health import assess
from trunkline.server.node.state import NodeState
from trunkline.settings.reloaded import ReloadRecord
from trunkline.settings.sections import Settings
from trunkline.version import __version__


class NodeReports:
    """The reports of one node."""

    def __init__(
        self,
        settings: Settings,
        state: NodeState,
        runtime: Runtime,
        registry: Registry,
        hub: Hub,
        bus: Bus,
        app: str,
        endpoints: Sequence[str],
        reloads: ReloadRecord,
    ) -> None:
        self._reloads = reloads
        self._server = settings.server
        self._aliases = settings.metrics.aliases
        self._state = state
        self._meter = runtime.meter
        self._registry = registry
        self._hub = hub
        self._bus = bus
        self._app = app
        self._endpoints = list(endpoints)

    def reload(self, settings: Settings) -> None:
        """Report by these settings from now on."""
        self._server = settings.server
        self._aliases = settings.metrics.aliases

    @property
    def condition(self) -> Condition:
        """The state of the node as others see it."""
        return self._state.condition

    def load(self, keys: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET) -> LoadReport:
        """How full the node is; `keys` are Sec-WebSocket-Key of newly opened connections, where they are asked for."""
        server, state = self._server, self._state
        return LoadReport(
            agentsConnections=len(self._registry.connections),
            podName=server.pod_name,
            podIP=server.pod_ip,
            nodeName=server.node_name,
            state="up" if state.condition == "up" else "draining",
            colour=server.colour,
            capacity=state.capacity,
            accept_per_s=state.accept_headroom,
            loop_lag_ms=round(state.loop_lag_s * 1000, 3),
            run=state.arrivals.run,
            opened=state.arrivals.opened,
            keys=keys,
            version=server.version or None,
        )

    def load_after(self, after: int, run: str | None = None) -> LoadReport:
        """The same, with the keys of connections opened behind the first `after` of a run."""
        return self.load(self._state.arrivals.behind(after, run))

    def health(self) -> Health:
        """How the node is."""
        state, bus = self._state, self._bus
        return assess(
            # The memory check has that name already.
            bus_name="bus" if bus.name == "memory" else bus.name,
            bus_connected=bus.connected,
            bus_problem=bus.problem,
            bus_warning=bus.warning,
            connections=len(self._registry.connections),
            max_connections=state.capacity,
            memory_bytes=state.resources.memory_bytes,
            memory_limit_bytes=state.resources.memory_limit,
            cpu_percent=state.resources.cpu_percent,
            slow_clients=len(self._registry.slow),
            draining=state.condition == "draining",
            uptime_s=state.uptime_s,
        )

    def instance(self) -> Instance:
        """Which process this is."""
        state = self._state
        return Instance(
            name=state.name,
            colour=self._server.colour,
            version=__version__,
            pid=os.getpid(),
            started=state.started_at,
            state=state.condition,
            bus=self._bus.name,
            app=self._app,
            endpoints=self._endpoints,
            server_version=self._server.version,
        )

    def stats(self) -> Stats:
        """Counts since the start."""
        meter, registry = self._meter, self._registry
        duration = meter.connection_duration
        return Stats(
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

    def families(self) -> Iterator[Family]:
        """All series."""
        state, registry = self._state, self._registry
        channels = self._hub.channels.values()
        gauges = exposition.Gauges(
            connections_active=len(registry.connections),
            connections_max=state.capacity,
            memory_bytes=state.resources.memory_bytes,
            memory_limit_bytes=state.resources.memory_limit or 0,
            cpu_usage_percent=state.resources.cpu_percent,
            tasks_active=len(asyncio.all_tasks()),
            nats_connected=self._bus.connected,
            bus_not_storing=bool(self._bus.problem),
            outbox_bytes=sum(connection.waiting_bytes for connection in registry.slow),
            slow_clients=len(registry.slow),
            event_loop_lag_seconds=state.loop_lag_s,
            draining=state.condition == "draining",
            channels_active=len(channels),
            subscriptions_active=sum(len(channel.subscribers) for channel in channels),
            build=(__version__, state.name, self._server.colour),
            start_time_seconds=state.started_at,
            reload_successful=self._reloads.succeeded,
            reload_success_time_seconds=self._reloads.succeeded_at,
        )
        return exposition.families(self._meter, gauges, self._aliases)
