"""The bus of a single process: no server, no network, everything lost at exit.

Rules:

- `publish` delivers before it returns, in the order of the calls, so every subscriber sees the same order.
- The epoch is drawn when the bus is created: a restarted node never takes an old client's position for its own.
- Publications are dated by a clock that is never set, so that no step of the wall clock changes what is kept.
- A channel that is empty and has no subscriber may be forgotten, when there are many. It leaves one number behind for
  the whole bus: the highest offset ever forgotten. A channel that begins again begins above it, so no offset
  stands for two publications, and below its floor nothing is promised.
"""

from __future__ import annotations

import secrets
import time

import msgspec

from trunkline.bus.base import Deliver, HistoryPage, OnState, Publication, Published, RetentionOf, Subscription
from trunkline.bus.clock import BusClock
from trunkline.bus.history import History
from trunkline.errors import BusUnavailable
from trunkline.logs.logger import get_logger

log = get_logger("trunkline.bus")

FORGET_ABOVE = 10_000
"""Channels a bus holds before it looks for ones to forget."""


class _Channel:
    __slots__ = ("history", "subscribers")

    def __init__(self, history: History | None) -> None:
        self.history = history  # None without retention
        # A tuple that is replaced, never changed: a callback may unsubscribe anyone while it is being iterated.
        self.subscribers: tuple[_MemorySubscription, ...] = ()


class _MemorySubscription:
    __slots__ = ("channel", "deliver")

    def __init__(self, channel: _Channel, deliver: Deliver) -> None:
        self.channel = channel
        self.deliver: Deliver | None = deliver

    async def close(self) -> None:
        self.deliver = None
        self.channel.subscribers = tuple(each for each in self.channel.subscribers if each is not self)


class MemoryBus:
    """A bus within one process; `retention` is called once in the life of a channel."""

    name = "memory"
    problem = ""
    warning = ""

    def __init__(self, retention: RetentionOf, *, forget_above: int = FORGET_ABOVE) -> None:
        self._retention = retention
        self._epoch = secrets.token_hex(6)
        self._channels: dict[str, _Channel] = {}
        self._forget_above = forget_above
        self._look_at = forget_above
        self._forgotten_top = 0
        self._clock = BusClock(time.time() * 1000, time.monotonic())
        self.connected = False

    def now_ms(self) -> float:
        """The time at which the bus was made, plus what has passed since."""
        return self._clock.ms(time.monotonic())

    async def start(self, on_state: OnState) -> None:
        """Begin; `on_state(True)` is called once, since there is no server to lose."""
        self.connected = True
        on_state(True)

    async def close(self) -> None:
        """Forget every channel; nothing more is delivered."""
        self.connected = False
        for channel in self._channels.values():
            for subscription in channel.subscribers:
                subscription.deliver = None
            channel.subscribers = ()
        self._channels.clear()

    async def publish(self, channel: str, data: bytes, *, origin: str | None = None) -> Published:
        """Store and deliver one publication; raises BusUnavailable before `start` and after `close`."""
        self._require_running()
        held = self._channel(channel)
        now = int(self.now_ms())
        if held.history is not None:
            publication = held.history.append(data, now)
            if origin is not None:
                publication = msgspec.structs.replace(publication, origin=origin)
        else:
            publication = Publication(channel, data, None, None, None, now, origin)
        for subscription in held.subscribers:
            # One that an earlier callback closed is still in this tuple, and must not be called.
            if subscription.deliver is None:
                continue
            try:
                subscription.deliver(publication)
            except Exception:
                # A faulty subscriber must neither fail the publisher nor starve the subscribers after it.
                log.exception("subscriber failed", channel=channel)
        return Published(publication.epoch, publication.offset)

    async def subscribe(self, channel: str, deliver: Deliver) -> Subscription:
        """Deliver the channel's publications from now on; raises BusUnavailable before `start` and after `close`."""
        self._require_running()
        held = self._channel(channel)
        subscription = _MemorySubscription(held, deliver)
        held.subscribers = (*held.subscribers, subscription)
        return subscription

    async def history(self, channel: str, after: int, limit: int) -> HistoryPage:
        """Read at most `limit` publications with offset > `after`, oldest first; raises BusUnavailable."""
        self._require_running()
        held = self._channels.get(channel)
        if held is not None and held.history is not None:
            return held.history.page(after, limit, int(self.now_ms()))
        if held is not None or not self._retention(channel).kept:
            return HistoryPage(None, 0, 0, [])
        return HistoryPage(self._epoch, self._forgotten_top, 0, [])

    def _require_running(self) -> None:
        if not self.connected:
            raise BusUnavailable("the memory bus is not running: it was not started, or it was closed")

    def _channel(self, name: str) -> _Channel:
        held = self._channels.get(name)
        if held is None:
            if len(self._channels) >= self._look_at:
                self._forget_idle()
            retention = self._retention(name)
            history = History(name, self._epoch, retention, start=self._forgotten_top) if retention.kept else None
            held = self._channels[name] = _Channel(history)
        return held

    def _forget_idle(self) -> None:
        now = int(self.now_ms())
        idle = [
            name
            for name, held in self._channels.items()
            if not held.subscribers and (held.history is None or held.history.empty(now))
        ]
        for name in idle:
            history = self._channels.pop(name).history
            if history is not None:
                self._forgotten_top = max(self._forgotten_top, history.top)
        # Looking again only after as many new channels as are left keeps the cost per channel constant.
        self._look_at = max(self._forget_above, 2 * len(self._channels))
