"""A bus that does to a node what networks do: late, lost, cut into pages, away, and begun anew.

It wraps a memory bus, which plays the server: publications always reach that one, as if other nodes had published them.
What this node hears of it, and when, is decided by the test.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from trunkline.bus.base import HistoryPage, Publication, Published, RetentionOf
from trunkline.bus.memory import MemoryBus
from trunkline.errors import BusUnavailable

Deliver = Callable[[Publication], None]


class FaultySubscription:
    """A channel as this node follows it."""

    def __init__(self, bus: FaultyBus, channel: str, deliver: Deliver) -> None:
        self.bus = bus
        self.channel = channel
        self.deliver = deliver

    async def close(self) -> None:
        """End delivery."""
        self.bus.subscriptions.discard(self)


class FaultyBus:
    """See the module's text.

    Attributes:
        calls: requests of the node so far.
        reads: how often history was read, by channel.
        live: deliveries under way to the node.
        lost: whether a delivery was ever lost.
        page_limit: most publications in a page.
        before, after: loop turns from a request to its reading, and from the reading to its answer.
    """

    name = "faulty"
    problem = ""
    warning = ""

    def __init__(self, retention: RetentionOf) -> None:
        self._retention = retention
        self._server = MemoryBus(retention)
        self._on_state: Callable[[bool], None] = lambda connected: None
        self.connected = False
        self.calls = 0
        self.reads: dict[str, int] = {}
        self.live: deque[tuple[FaultySubscription, Publication]] = deque()
        self.lost = False
        self.subscriptions: set[FaultySubscription] = set()
        self.page_limit = 1 << 30
        self.before = 0
        self.after = 0
        self.logs: dict[tuple[str, str | None], list[int]] = {}
        self.sent: dict[str, list[bytes]] = {}

    async def start(self, on_state: Callable[[bool], None]) -> None:
        """Connect."""
        self._on_state = on_state
        await self._server.start(lambda connected: None)
        self.connected = True

    async def close(self) -> None:
        """Let go."""

    def now_ms(self) -> float:
        """The server's time."""
        return self._server.now_ms()

    def epoch(self, channel: str) -> str | None:
        """The life of the channel's history on the server."""
        return self._server._epoch if self._retention(channel).kept else None

    async def peek(self, channel: str, after: int = 0) -> HistoryPage:
        """Read history as it is on the server, whatever the node can see."""
        return await self._server.history(channel, after, 1 << 30)

    # --- what happens in the network ----------------------------------------------------------------------------------

    async def elsewhere(self, channel: str, data: bytes, origin: str | None = None) -> Published:
        """Another node publishes (or this one, when it is connected)."""
        taken: list[Publication] = []
        subscription = await self._server.subscribe(channel, taken.append)
        published = await self._server.publish(channel, data, origin=origin)
        await subscription.close()
        self.sent.setdefault(channel, []).append(data)
        if published.offset is not None:
            self.logs.setdefault((channel, published.epoch), []).append(published.offset)
        for follower in [each for each in self.subscriptions if each.channel == channel]:
            if self.connected:
                self.live.append((follower, taken[0]))
            else:
                self.lost = True
        return published

    def deliver(self, count: int) -> None:
        """Let the next deliveries reach the node."""
        for _ in range(min(count, len(self.live))):
            subscription, publication = self.live.popleft()
            if subscription in self.subscriptions:
                subscription.deliver(publication)

    def lose(self, count: int) -> None:
        """Lose the next deliveries; nobody tells the node."""
        for _ in range(min(count, len(self.live))):
            self.live.popleft()
            self.lost = True

    def down(self) -> None:
        """The node loses its connection, and what was under way."""
        if self.connected:
            self.lose(len(self.live))
            self.connected = False
            self._on_state(False)

    def up(self) -> None:
        """It has it back."""
        if not self.connected:
            self.connected = True
            self._on_state(True)

    async def begin_anew(self) -> None:
        """The history is wiped: a new epoch, offsets from 1 again. The node's connection breaks for a moment."""
        self.down()
        self._server = MemoryBus(self._retention)
        await self._server.start(lambda connected: None)
        self.up()

    # --- the bus ------------------------------------------------------------------------------------------------------

    async def _request(self, turns: int) -> None:
        self.calls += 1
        for _ in range(turns):
            await asyncio.sleep(0)
        self._require()

    def _require(self) -> None:
        if not self.connected:
            raise BusUnavailable("the faulty bus is down")

    async def publish(self, channel: str, data: bytes, *, origin: str | None = None) -> Published:
        """Publish from this node."""
        await self._request(0)
        published = await self.elsewhere(channel, data, origin)
        for _ in range(self.after):
            await asyncio.sleep(0)
        self._require()
        return published

    async def subscribe(self, channel: str, deliver: Deliver) -> FaultySubscription:
        """Follow a channel."""
        await self._request(self.before)
        subscription = FaultySubscription(self, channel, deliver)
        self.subscriptions.add(subscription)
        return subscription

    async def history(self, channel: str, after: int, limit: int) -> HistoryPage:
        """Read history, late, in pages of at most `page_limit`."""
        self.reads[channel] = self.reads.get(channel, 0) + 1
        await self._request(self.before)
        page = await self._server.history(channel, after, min(limit, self.page_limit))
        for _ in range(self.after):
            await asyncio.sleep(0)
        self._require()
        return page
