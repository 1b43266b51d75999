"""What all connections of a node share: time, counts, the wheel of time-outs and the bounds of a connection."""

from __future__ import annotations

from typing import NamedTuple

from trunkline.metrics.exposition import Meter
from trunkline.server.connections.clock import Clock
from trunkline.server.connections.wheel import Timed, Wheel

_WHEEL_SLOTS = 600


class Bounds(NamedTuple):
    """Seconds that hold for every connection of a node.

    Attributes:
        heartbeat_s: between heartbeats to a client.
        connection_timeout_s: of silence after which a client is closed.
        close_timeout_s: that a client has to answer our close frame.
        outbox_grace_s: that a client may stay over its outbox.
    """

    heartbeat_s: float
    connection_timeout_s: float
    close_timeout_s: float
    outbox_grace_s: float


class Runtime:
    """The shared state of a node's connections; `tick_s` is the grain of time-outs in seconds."""

    __slots__ = ("bounds", "clock", "meter", "wheel")

    def __init__(self, bounds: Bounds, tick_s: float) -> None:
        self.bounds = bounds
        self.clock = Clock()
        self.meter = Meter()
        self.wheel: Wheel[Timed] = Wheel(tick_s, _WHEEL_SLOTS, self.clock.now)
