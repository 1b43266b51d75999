"""Asks some clients to reconnect, so that a balancer can place them again (`MoveOrder`).

Rules:

- Idle ones first: the longer a client has sent nothing, the sooner it is asked. (Its answer to a heartbeat counts;
  what it is sent does not.)
- Clients that something keeps together are moved together or not at all.
- Each is asked as in a drain: `goodbye` 1012 in a slot of its own. One that waits for it is not chosen again.
- Those that connected less than `rested_ms` ago are left alone: the sender may have asked them a moment ago.
- A node that drains moves everybody anyway, and takes no such orders.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

from trunkline.logs.logger import get_logger
from trunkline.protocol import close_codes
from trunkline.protocol.control import KeyCounts, Moved, MoveOrder
from trunkline.server.connections.connection import Connection
from trunkline.server.connections.registry import Registry
from trunkline.server.connections.states import OPEN
from trunkline.server.node.moving import drain
from trunkline.server.node.moving.affinity import ReadValue, reader_of
from trunkline.server.node.moving.farewells import Farewells
from trunkline.server.node.state import NodeState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

log = get_logger("trunkline.node")

KEYS_LISTED = 10_000
KEYS_BYTES = 512 * 1024
"""Clients choose these values; what NATS does not take in one message is not listed."""

SLICE = 2_000
"""Requests read before others get their turn."""

LONGEST_HINT_MS = 300
"""Slots spread the clients already, so that the hint need not hold them back for long."""


class Mover:
    """Executes move orders of one node."""

    def __init__(self, state: NodeState, registry: Registry, rng: random.Random, farewells: Farewells) -> None:
        self._farewells = farewells
        self._state = state
        self._registry = registry
        self._rng = rng
        self._asked: set[Connection] = set()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def stop(self) -> None:
        """Clients not asked yet stay unasked."""
        for task in list(self._tasks):
            task.cancel()
        self._asked.clear()

    async def move(self, order: MoveOrder) -> Moved:
        """Begin to ask clients; raises ValueError when the order's affinity is none."""
        chosen = await self._choose(order)
        if chosen:
            self._asked.update(chosen)
            slots = drain.plan(len(chosen), order.over_ms / 1000, self._rng)
            log.info("moving", node=self._state.name, clients=len(chosen), over_ms=order.over_ms)
            self._spawn(self._ask(chosen, slots, order.reason))
        return Moved(len(chosen))

    async def count_keys(self, by: str) -> KeyCounts:
        """How many clients there are of each value of `by`; raises ValueError when that is no affinity."""
        read = reader_of(by)
        counts: Counter[str] = Counter()
        if read is None:
            return KeyCounts(counts)
        more = False
        room = KEYS_BYTES
        async for _, value in self._values(read):
            if value is None:
                continue
            if value not in counts:
                size = 6 * len(value) + 16  # as JSON escapes it at worst
                if len(counts) >= KEYS_LISTED or size > room:
                    more = True
                    continue
                room -= size
            counts[value] += 1
        return KeyCounts(counts, more)

    async def _choose(self, order: MoveOrder) -> list[Connection]:
        if order.affinity is None:
            return self._idlest(self._free(self._registry.connections), order)
        read = reader_of(order.affinity)
        if read is None:
            return []
        wanted = frozenset(order.values)
        found = [
            connection
            async for connection, value in self._values(read)
            if (value in wanted if wanted else value is None)
        ]
        # Time has passed: some may have ended, or been asked by another order.
        free = self._free(found)
        return free if wanted else self._idlest(free, order)

    async def _values(self, read: ReadValue) -> AsyncIterator[tuple[Connection, str | None]]:
        for number, connection in enumerate(list(self._registry.connections), 1):
            if connection.state == OPEN:
                yield connection, read(connection.identity.target)
            if number % SLICE == 0:
                await asyncio.sleep(0)

    def _free(self, connections: set[Connection] | list[Connection]) -> list[Connection]:
        if self._state.condition != "up":
            return []
        return [each for each in connections if each.state == OPEN and each not in self._asked]

    @staticmethod
    def _idlest(connections: list[Connection], order: MoveOrder) -> list[Connection]:
        opened_by = asyncio.get_running_loop().time() - order.rested_ms / 1000
        rested = [each for each in connections if each.opened_at <= opened_by] if order.rested_ms else connections
        return heapq.nsmallest(order.count, rested, key=lambda connection: connection.last_seen)

    async def _ask(self, chosen: list[Connection], slots: list[drain.Slot], reason: str) -> None:
        near = [slot._replace(reconnect_after_ms=slot.reconnect_after_ms % LONGEST_HINT_MS) for slot in slots]
        try:
            await self._farewells.say(chosen, near, close_codes.DRAINING.code, reason, self._asked.discard)
        finally:
            self._asked.difference_update(chosen)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
