"""Says goodbye to the clients that a node asks to move, each in a slot of its own, announced before."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from trunkline.logs.logger import get_logger
from trunkline.metrics.exposition import Meter
from trunkline.server.connections.connection import Connection
from trunkline.server.connections.states import OPEN
from trunkline.server.node.moving import drain
from trunkline.server.node.moving.goodbyes import SessionNews
from trunkline.server.node.moving.pace import Progress

log = get_logger("trunkline.node")

GRAIN_S = 0.01
"""Slots that come within this time are announced together."""

LOOK_S = 0.2
"""Longest pause while clients are to be asked."""


class Farewells:
    """The goodbyes of one node."""

    def __init__(self, node: str, meter: Meter, news: SessionNews) -> None:
        self._node = node
        self._meter = meter
        self._news = news

    async def say(
        self,
        connections: Sequence[Connection],
        slots: Sequence[drain.Slot],
        code: int,
        reason: str,
        on_said: Callable[[Connection], None] = lambda connection: None,
        progress: Progress | None = None,
    ) -> None:
        """Announce each client when its slot has come, then say goodbye to it.

        `on_said` is called for each, also for those that have left meanwhile. With `progress` the slots' time passes
        as that has it.
        """
        loop = asyncio.get_running_loop()
        ahead_s = self._news.ahead_s
        progress = progress or Progress(loop.time(), 0.0, len(slots))
        announced = 0
        waiting: deque[tuple[float, drain.Slot, bool]] = deque()
        while announced < len(slots) or waiting:
            now = loop.time()
            coming = drain.due(slots, announced, progress.elapsed_s(now))
            announced += len(coming)
            leaving = (connections[slot.client] for slot in coming)
            told = await self._news.announce([each.identity.session for each in leaving if _knows_its_session(each)])
            waiting.extend((now + ahead_s, slot, told) for slot in coming)
            while waiting and waiting[0][0] <= now:
                _, slot, told = waiting.popleft()
                on_said(connections[slot.client])
                self._say_one(connections[slot.client], code, reason, slot.reconnect_after_ms, told=told)
            waits_s = [waiting[0][0] - now] if waiting else []
            if announced < len(slots):
                # Its speed may change meanwhile.
                waits_s.append(min(progress.wait_s(slots[announced].at_s), LOOK_S))
            if waits_s:
                await asyncio.sleep(max(min(waits_s), GRAIN_S))

    def _say_one(self, connection: Connection, code: int, reason: str, reconnect_after_ms: int, *, told: bool) -> None:
        if connection.state != OPEN:
            return
        self._meter.asked_to_move += 1
        self._meter.asked_nameless += not (told and _knows_its_session(connection))
        log.debug("client_asked_to_move", node=self._node, connection=connection.identity.id)
        connection.end(code, reason, reconnect_after_ms)


def _knows_its_session(connection: Connection) -> bool:
    """Whether the client can come back as the same: it was told its session, or brought it along."""
    return connection.state == OPEN and (connection.handler.names_session or connection.identity.resumed)
