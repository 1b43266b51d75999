"""Reads history from the bus, a bounded number of channels at a time."""

from __future__ import annotations

import asyncio
from typing import Final

from trunkline.bus.base import Bus, HistoryPage
from trunkline.errors import BusUnavailable

MAX_PARALLEL_READS: Final = 16


class HistoryReader:
    """Reads from one bus."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._slots = asyncio.Semaphore(MAX_PARALLEL_READS)

    async def read(self, channel: str, after: int, limit: int) -> HistoryPage:
        """One page; raises BusUnavailable."""
        async with self._slots:
            return await self._bus.history(channel, after, limit)

    async def read_all(self, channel: str, count: int) -> HistoryPage:
        """All that is kept, in as many pages of at most `count` as the bus makes of it; raises BusUnavailable."""
        page = await self.read(channel, 0, count)
        while page.more:
            following = await self.read(channel, page.top, count)
            if following.epoch != page.epoch or following.floor > page.top:
                page = await self.read(channel, 0, count)
                continue
            if following.more and following.top <= page.top:
                raise BusUnavailable(f"the bus has more of {channel} after {page.top}, and gives none")
            publications = [*page.publications, *following.publications]
            page = HistoryPage(page.epoch, page.floor, max(page.top, following.top), publications, following.more)
        return page
