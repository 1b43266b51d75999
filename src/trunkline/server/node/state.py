"""What a node is: its name and state, how many connections it takes, and whether it takes another one now."""

from __future__ import annotations

import os
import random
import secrets
import socket
import time

from trunkline.errors import Refused
from trunkline.logs.logger import get_logger
from trunkline.process.open_files import Shares
from trunkline.server.connections.arrivals import Arrivals
from trunkline.server.connections.registry import Registry
from trunkline.server.connections.runtime import Runtime
from trunkline.server.http.ports import Condition
from trunkline.server.node import capacity
from trunkline.server.node.resources import Resources
from trunkline.server.node.states import TRANSITIONS, Event, State
from trunkline.settings.sections import Settings

log = get_logger("trunkline.node")


class NodeState:
    """The state of one node; `state` is changed by `on` alone.

    `port` is the settings' until it listens; `loop_lag_s` is how late the event loop was at the last tick.
    """

    def __init__(
        self, settings: Settings, runtime: Runtime, registry: Registry, shares: Shares, rng: random.Random
    ) -> None:
        server = settings.server
        self.name = server.name or f"{socket.gethostname()}-{os.getpid()}"
        self.port = server.port
        self.started_at = time.time()
        self._made_at = time.monotonic()
        self.state = State.STARTING
        self.loop_lag_s = 0.0
        self.arrivals = Arrivals(secrets.token_hex(8))
        self.resources = Resources(memory_limit_override=server.memory_limit_bytes)
        self._shares = shares
        self._rng = rng
        self._runtime = runtime
        self._registry = registry
        self.reload(settings)

    def reload(self, settings: Settings) -> None:
        """Take as many connections, and as fast, as these settings have it."""
        server, limits, shares = settings.server, settings.limits, self._shares
        wanted = server.max_connections or capacity.max_connections(
            self.resources.memory_limit, server.memory_base_bytes, server.memory_per_connection_bytes
        )
        self.capacity = min(wanted, shares.connections)
        if self.capacity < wanted:
            log.warning("capacity_bounded_by_files", wanted=wanted, capacity=self.capacity, open_files=shares.files)
        self._shedder = capacity.Shedder(limits.accept_per_s, limits.loop_lag_shed_ms / 1000, self._rng)

    def on(self, event: Event) -> bool:
        """Something happened to the node; returns whether its state changed."""
        before, self.state = self.state, TRANSITIONS[self.state, event]
        return self.state is not before

    @property
    def condition(self) -> Condition:
        """The state as others see it; a node that stops is draining to them."""
        if self.state is State.STARTING:
            return "starting"
        return "up" if self.state is State.UP else "draining"

    @property
    def uptime_s(self) -> float:
        """Seconds since the node was made."""
        return time.monotonic() - self._made_at

    @property
    def accept_headroom(self) -> float:
        """Handshakes a second this node will take now."""
        return self._shedder.headroom(self.loop_lag_s)

    def shed(self) -> None:
        """Raise Refused while the node takes no more connections."""
        shed = self._shedder.decide(
            self._runtime.clock.now,
            connections=len(self._registry.connections),
            capacity=self.capacity,
            state=self.condition,
            loop_lag_s=self.loop_lag_s,
        )
        if shed is not None:
            self._runtime.meter.capacity_rejections.add(shed.reason)
            raise Refused(503, shed.text, retry_after_s=shed.retry_after_s, label=shed.reason)
