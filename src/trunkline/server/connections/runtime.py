"""What all connections of a node share: time, counts, time-outs, turns, and the bounds of a connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from trunkline.metrics.exposition import Meter
from trunkline.server.connections.clock import Clock
from trunkline.server.connections.turns import Turns
from trunkline.server.connections.wheel import Timed, Wheel

if TYPE_CHECKING:
    from trunkline.settings.sections import Settings

_WHEEL_SLOTS = 600


class Bounds(NamedTuple):
    """What holds for every connection of a node.

    Attributes:
        heartbeat_s: seconds between heartbeats to a client.
        connection_timeout_s: seconds of silence after which a client is closed.
        close_timeout_s: seconds that a client has to answer our close frame.
        outbox_grace_s: seconds that a client may stay over its outbox.
        work_grace_s: seconds that work for a client may go on after it has gone.
        control_burst: control frames and empty fragments that a client may send at once.
        control_per_s: how many it may go on with; 0: no limit.
    """

    heartbeat_s: float
    connection_timeout_s: float
    close_timeout_s: float
    outbox_grace_s: float
    work_grace_s: float = 60.0
    control_burst: float = 1000.0
    control_per_s: float = 100.0

    @classmethod
    def of(cls, settings: Settings) -> Bounds:
        """Those of the settings."""
        server, limits = settings.server, settings.limits
        return cls(
            heartbeat_s=server.heartbeat_interval_ms / 1000,
            connection_timeout_s=server.connection_timeout_ms / 1000,
            close_timeout_s=server.close_timeout_ms / 1000,
            outbox_grace_s=limits.outbox_grace_ms / 1000,
            work_grace_s=server.work_grace_ms / 1000,
            control_burst=limits.control_burst,
            control_per_s=limits.control_per_s,
        )


class Runtime:
    """The shared state of a node's connections; `tick_s` is the grain of time-outs in seconds."""

    __slots__ = ("bounds", "clock", "meter", "turns", "wheel")

    def __init__(self, bounds: Bounds, tick_s: float) -> None:
        self.bounds = bounds
        self.clock = Clock()
        self.meter = Meter()
        self.turns = Turns()
        self.wheel: Wheel[Timed] = Wheel(tick_s, _WHEEL_SLOTS, self.clock.now)
