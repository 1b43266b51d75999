"""Hears the fleet while a node drains, and holds the drain to the rate that the draining nodes share (`pace.py`)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Final

import msgspec

from trunkline.errors import BusError
from trunkline.logs.logger import get_logger
from trunkline.protocol.control import NodeReport
from trunkline.protocol.subjects import MAX_MESSAGE_BYTES, hello_subject, report_subject
from trunkline.server.node.moving.pace import FleetRate, Progress

if TYPE_CHECKING:
    from trunkline.bus.base import FleetLink

log = get_logger("trunkline.node")

LEARN_S: Final = 0.3
"""Time that the others get to answer a hello before the first client is asked."""

ADJUST_S: Final = 0.1


class FleetPace:
    """The pace of one node's drains.

    Args:
        node: its name.
        run: drawn at its start, as in its reports.
        version: its `server.version`, empty for none.
        clients: how many there are now.
        link: to the fleet, None without one.
    """

    def __init__(self, node: str, run: str, version: str, clients: Callable[[], int], link: FleetLink | None) -> None:
        self._node = node
        self._run = run
        self._version = version
        self._clients = clients
        self._link = link
        self._decode = msgspec.json.Decoder(NodeReport).decode

    @contextlib.asynccontextmanager
    async def over(self, over_s: float, count: int, ends_in_s: float | None) -> AsyncIterator[Progress]:
        """The progress of a plan of `over_s` seconds for `count` clients.

        Its end is put off as far as the fleet needs, but not beyond `ends_in_s` seconds from now.
        """
        loop = asyncio.get_running_loop()
        ends_by = None if ends_in_s is None else loop.time() + ends_in_s
        link = self._link
        if link is None or link.server is None or not count or not over_s:
            yield Progress(loop.time(), over_s, count, ends_by)
            return
        rate = FleetRate(self._run, self._version)
        subscription = await link.listen(report_subject(link.prefix), lambda data, _: self._hear(rate, data))
        adjusting: asyncio.Task[None] | None = None
        try:
            with contextlib.suppress(BusError):
                await link.send(hello_subject(link.prefix), b"")
                await asyncio.sleep(LEARN_S)
            progress = Progress(loop.time(), over_s, count, ends_by)
            adjusting = loop.create_task(self._adjust(progress, rate))
            yield progress
        finally:
            if adjusting is not None:
                adjusting.cancel()
            await subscription.close()

    async def _adjust(self, progress: Progress, rate: FleetRate) -> None:
        loop = asyncio.get_running_loop()
        slowed = False
        while True:
            per_s = rate.per_s(self._clients(), loop.time())
            progress.allow(per_s, loop.time())
            if progress.speed < 1.0 and not slowed:
                slowed = True
                log.info("drain_slowed", node=self._node, clients_per_s=round(per_s or 0.0, 1))
            await asyncio.sleep(ADJUST_S)

    def _hear(self, rate: FleetRate, data: bytes) -> None:
        # What is no report is counted and named by the balancers.
        if len(data) <= MAX_MESSAGE_BYTES:
            with contextlib.suppress(ValueError):
                rate.hear(self._decode(data), asyncio.get_running_loop().time())
