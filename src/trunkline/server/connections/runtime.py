"""What all connections of a node share: time, counts, bounds and registries. Built once by `server/node.py`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from trunkline.metrics.exposition import Meter
from trunkline.server.connections.clock import Clock
from trunkline.server.connections.names import Names
from trunkline.server.connections.wheel import Wheel

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from trunkline.server.channels.hub import Hub
    from trunkline.server.channels.rules import RuleSet
    from trunkline.server.connections.connection import Connection


class Timed(Protocol):
    """What the node's wheel holds."""

    slot: int
    due: float

    def on_time(self, now: float) -> float | None:
        """It is due; returns when it is due next, None for never."""


class Runtime:
    """The shared state of a node's connections.

    Args:
        node: the node's name.
        heartbeat_s: seconds between heartbeats to a client.
        connection_timeout_s: seconds of silence after which a client is closed.
        close_timeout_s: seconds a client has to answer our close frame.
        outbox_grace_s: seconds a client may stay over its outbox.
        max_channels: channels one client may follow.
        tick_s: grain of time-outs in seconds.
        rng: source of jitter.
    """

    hub: Hub
    rules: RuleSet
    on_closed: Callable[[Connection], None]

    def __init__(
        self,
        *,
        node: str,
        heartbeat_s: float,
        connection_timeout_s: float,
        close_timeout_s: float,
        outbox_grace_s: float,
        max_channels: int,
        tick_s: float,
        rng: random.Random,
    ) -> None:
        self.node = node
        self.heartbeat_s = heartbeat_s
        self.connection_timeout_s = connection_timeout_s
        self.close_timeout_s = close_timeout_s
        self.outbox_grace_s = outbox_grace_s
        self.max_channels = max_channels
        self.rng = rng
        self.clock = Clock()
        self.meter = Meter()
        self.names = Names()
        self.wheel: Wheel[Timed] = Wheel(tick_s, 600, self.clock.now)
        self.connections: set[Connection] = set()
        self.slow: set[Connection] = set()
        self.tasks: set[asyncio.Task[Any]] = set()
        self.last_error: str | None = None
        self.last_error_ms: int | None = None

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` as a task that the node waits for when it stops."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def note_error(self, code: str, text: str) -> None:
        """Count an error message and keep it for /api/stats."""
        self.meter.errors.add(code)
        self.last_error = f"{code}: {text}"
        self.last_error_ms = self.clock.wall_ms
