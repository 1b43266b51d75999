"""Says goodbye to the clients that a node asks to move, each in a slot of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from trunkline.logs.logger import get_logger
from trunkline.metrics.exposition import Meter
from trunkline.server.connections.connection import Connection
from trunkline.server.connections.states import OPEN
from trunkline.server.node.moving import drain

log = get_logger("trunkline.node")


class Farewells:
    """The goodbyes of one node."""

    def __init__(self, node: str, meter: Meter) -> None:
        self._node = node
        self._meter = meter

    async def say(
        self,
        connections: Sequence[Connection],
        slots: Sequence[drain.Slot],
        code: int,
        reason: str,
        on_said: Callable[[Connection], None] = lambda connection: None,
    ) -> None:
        """Say goodbye to each client when its slot has come; `on_said` is called for each, also for those that left."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        done = 0
        while done < len(slots):
            for slot in drain.due(slots, done, loop.time() - began):
                connection = connections[slot.client]
                on_said(connection)
                self._say_one(connection, code, reason, slot.reconnect_after_ms)
                done += 1
            if done < len(slots):
                await asyncio.sleep(max(slots[done].at_s - (loop.time() - began), 0.005))

    def _say_one(self, connection: Connection, code: int, reason: str, reconnect_after_ms: int) -> None:
        if connection.state != OPEN:
            return
        self._meter.asked_to_move += 1
        log.debug("client_asked_to_move", node=self._node, connection=connection.identity.id)
        connection.end(code, reason, reconnect_after_ms)
