"""The fan-out of each loop tick: what came in it goes out once per channel, joined, to each subscriber."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from trunkline.logs.logger import get_logger
from trunkline.metrics.exposition import Meter
from trunkline.server.channels.channel import Channel
from trunkline.server.connections.clock import Clock
from trunkline.websocket.deflate import SHARED_WINDOW_BITS

log = get_logger("trunkline.hub")

CREDIBLE_MS: Final = 1_000
"""A wall clock that differs by more from the bus's was set, or is wrong."""


class FanOut:
    """Writes the publications that wait in channels; frames below `deflate_min_bytes` are not compressed.

    `bus_ms` is the bus's time, which dates the publications.
    """

    def __init__(self, meter: Meter, clock: Clock, deflate_min_bytes: int, bus_ms: Callable[[], float]) -> None:
        self._meter = meter
        self._clock = clock
        self._deflate_min_bytes = deflate_min_bytes
        self._bus_ms = bus_ms
        self._marked: list[Channel] = []

    @property
    def waiting(self) -> bool:
        """Whether anything goes out at the end of this tick."""
        return bool(self._marked)

    def mark(self, channel: Channel) -> None:
        """The first publication of a tick waits in `channel`."""
        if not self._marked:
            asyncio.get_running_loop().call_soon(self.flush)
        self._marked.append(channel)

    def flush(self) -> None:
        """End of a loop tick: write each channel's publications once to each subscriber."""
        marked, self._marked = self._marked, []
        for channel in marked:
            try:
                self.flush_one(channel)
            except Exception:
                # The other channels of this tick have to go out all the same.
                log.exception("flush_failed", channel=channel.name)

    def flush_one(self, channel: Channel) -> None:
        """Write what waits in `channel`, so that its subscribers stand at `last`."""
        if not channel.pending:
            return
        oldest = channel.pending[0].publication.ts
        delivered, size, dropped = channel.flush(self._deflate_min_bytes, SHARED_WINDOW_BITS)
        meter = self._meter
        meter.messages_sent += delivered
        meter.bytes_sent += size
        if delivered:
            # The wall clock shows the way from the bus to here as well, as long as it is right.
            now_ms, wall_ms = self._bus_ms(), self._clock.precise_wall_ms()
            if abs(wall_ms - now_ms) < CREDIBLE_MS:
                now_ms = wall_ms
            meter.delivery_latency.observe(max(now_ms - oldest, 0) / 1000, delivered)
        if dropped:
            meter.publications_dropped.add("slow_client", times=dropped)
