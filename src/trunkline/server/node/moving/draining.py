"""Draining: no new connections, and every client asked to move in a slot of its own (the plan is in `drain.py`)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from trunkline.logs.logger import get_logger
from trunkline.protocol import close_codes
from trunkline.protocol.control import DrainState
from trunkline.server.connections.connection import Connection
from trunkline.server.connections.registry import Registry
from trunkline.server.connections.states import OPEN
from trunkline.server.node.moving import drain
from trunkline.server.node.moving.farewells import Farewells
from trunkline.server.node.moving.pacing import FleetPace
from trunkline.server.node.state import NodeState
from trunkline.server.node.states import Event, State

log = get_logger("trunkline.node")

ANSWER_S = 2.0
"""Time that the last client has to answer its goodbye before the deadline."""


class Draining:
    """The draining of one node. `on_change` is called when it begins and when it ends."""

    def __init__(
        self,
        state: NodeState,
        registry: Registry,
        rng: random.Random,
        farewells: Farewells,
        pace: FleetPace,
        on_change: Callable[[], None],
    ) -> None:
        self._farewells = farewells
        self._pace = pace
        self._state = state
        self._registry = registry
        self._rng = rng
        self._on_change = on_change
        self._task: asyncio.Task[None] | None = None
        self._gone = asyncio.Event()

    def begin(self, over_ms: int) -> DrainState:
        """Take no new connections and ask every client to move, over `over_ms` or as much longer as the fleet needs."""
        connections = self._open()
        # A node that stops is asking its clients already, and its stop waits for that.
        if self._state.state is not State.STOPPING:
            self._state.on(Event.DRAIN)
            self._ask(connections, over_ms, close_codes.DRAINING)
        return DrainState(self._state.name, "draining", len(connections), over_ms)

    def _open(self) -> list[Connection]:
        return [connection for connection in self._registry.connections if connection.state == OPEN]

    def _ask(
        self, connections: list[Connection], over_ms: int, close: close_codes.Close, ends_in_s: float | None = None
    ) -> asyncio.Task[None]:
        self._on_change()
        self.stop()
        log.info("draining", node=self._state.name, connections=len(connections), over_ms=over_ms)
        self._task = asyncio.get_running_loop().create_task(self._say(connections, over_ms / 1000, close, ends_in_s))
        return self._task

    async def _say(
        self, connections: list[Connection], over_s: float, close: close_codes.Close, ends_in_s: float | None
    ) -> None:
        slots = drain.plan(len(connections), over_s, self._rng)
        async with self._pace.over(over_s, len(connections), ends_in_s) as progress:
            await self._farewells.say(connections, slots, close.code, close.reason, progress=progress)

    def end(self) -> DrainState:
        """Take connections again, unless the node stops; clients that were already asked to move stay asked."""
        if self._state.on(Event.RESUME):
            self.stop()
            self._on_change()
            log.info("drain_ended", node=self._state.name)
        return self.now()

    def now(self) -> DrainState:
        """How it stands; a node that stops is draining."""
        return DrainState(self._state.name, self._state.condition, len(self._registry.connections))

    def stop(self) -> None:
        """Ask no more clients."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def empty(self, over_ms: int, close: close_codes.Close, deadline_s: float) -> None:
        """Drain for the last time, and wait until the last connection has ended.

        All are asked some time before `deadline_s` seconds are over, so that none is cut that was not asked.
        """
        self._state.on(Event.STOP)
        spared_s = drain.longest_hint_s(over_ms / 1000) + ANSWER_S
        ends_in_s = max(deadline_s - spared_s, deadline_s / 2)
        await asyncio.wait({self._ask(self._open(), over_ms, close, ends_in_s)})
        while self._registry.connections:
            # Woken by each connection that ends; the wheel ends those that do not answer.
            self._gone.clear()
            await self._gone.wait()

    def opened(self, connection: Connection) -> None:
        """Ask a client to move that was let in before the drain began, and decided after."""
        if self._state.condition == "draining":
            late = [drain.Slot(0.0, 0, int(self._rng.random() * 1000))]
            # Not in this call: its handshake is being answered.
            self._registry.spawn(self._farewells.say([connection], late, *close_codes.DRAINING[:2]))

    def closed(self) -> None:
        """A connection has ended."""
        self._gone.set()
