"""The hub of a node: its channels, their subscribers, and their place on the bus.

Rules:

- A channel is attached to the bus when somebody here follows it and let go `LINGER_S` after nobody does, so that a wave
  of reconnects finds it warm.
- History is read once a channel, however many clients recover: reads of the same channel share one request, and its
  answer stays as a window that live publications extend.
- After the bus was away, every channel is compared with history before it goes on; subscribers get what was missed, in
  order, or one `gap` that names what they will not get.
"""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import Final

import msgspec

from trunkline.bus.base import Bus, HistoryPage, Publication, RetentionOf
from trunkline.errors import BusUnavailable
from trunkline.logs.logger import get_logger
from trunkline.metrics.exposition import Meter
from trunkline.protocol import wire
from trunkline.server.channels.channel import Channel, Event, Listener, State
from trunkline.server.channels.fan_out import FanOut
from trunkline.server.channels.history_reader import HistoryReader
from trunkline.server.channels.publications import Outgoing
from trunkline.server.channels.senders import Senders
from trunkline.server.channels.window import Window, merge
from trunkline.server.connections.clock import Clock
from trunkline.server.connections.ports import Subscriber
from trunkline.server.connections.states import OPEN
from trunkline.server.connections.tasks import Tasks

log = get_logger("trunkline.hub")

LINGER_S: Final = 15.0
"""How long an unfollowed channel stays attached."""

WINDOW_IDLE_S: Final = 30.0
"""How long a window that nobody reads is kept."""

PAGE: Final = 1000


class Hub:
    """All channels of a node. The `bus` is started; frames below `deflate_min_bytes` go out uncompressed."""

    def __init__(self, bus: Bus, retention: RetentionOf, meter: Meter, clock: Clock, deflate_min_bytes: int) -> None:
        self.bus = bus
        self.channels: dict[str, Channel] = {}
        self._retention = retention
        self._meter = meter
        self._clock = clock
        self.fan_out = FanOut(meter, clock, deflate_min_bytes, bus.now_ms)
        self.senders = Senders(clock, self.fan_out.flush_one)
        self._tasks = Tasks("hub_task_failed", expected=(BusUnavailable,))
        self._attaching: dict[str, asyncio.Task[None]] = {}
        self._windows: dict[str, asyncio.Task[Window]] = {}
        self._history = HistoryReader(bus)
        self._catching: dict[str, asyncio.Task[None]] = {}

    async def publish(self, channel: str, data: bytes) -> wire.Position | None:
        """Put JSON text into a channel; returns its position, None without history. Raises BusUnavailable."""
        published = await self.bus.publish(channel, data)
        if published.epoch is None or published.offset is None:
            return None
        return wire.Position(published.epoch, published.offset)

    async def publish_to_others(self, channel: str, data: bytes, sender: Subscriber, id: wire.MessageId) -> None:
        """Publish for everyone but `sender`, who gets a `publish_ack` with `prev` in the publication's place.

        The ack stands in the channel's order, so the sender's position stays without holes. When the publication comes
        another way (from history, after the bus was away), or not at all, the sender gets an ack without `prev`.
        Raises BusUnavailable.
        """
        follows = self.is_subscribed(sender, channel)
        origin = self.senders.expect(sender, id, channel) if follows else None
        try:
            published = await self.bus.publish(channel, data, origin=origin)
        except BaseException:
            self.senders.forget(origin)
            raise
        if origin is None:
            sender.send_message(wire.PublishAck(id, channel, published.epoch, published.offset, self._clock.wall_ms))
        else:
            self.senders.acknowledged(origin, published, self.channels.get(channel))

    def is_subscribed(self, connection: Subscriber, name: str) -> bool:
        """Whether `connection` follows the channel."""
        channel = self.channels.get(name)
        return channel is not None and connection in channel.subscribers

    def ready(self, name: str) -> Channel | None:
        """The channel when it can be joined at once, else None: `attach` it first."""
        channel = self.channels.get(name)
        return channel if channel is not None and channel.state is State.LIVE else None

    async def attach(self, name: str) -> Channel:
        """Make the channel live on this node; raises BusUnavailable."""
        while True:
            channel = self.channels.get(name)
            if channel is not None and channel.state is State.LIVE:
                return channel
            if channel is not None and channel.state is State.CATCHING_UP:
                await asyncio.shield(self._catch_up(channel))
            else:
                await asyncio.shield(self._tasks.once(self._attaching, name, partial(self._bring_up, name)))

    def add(self, channel: Channel, connection: Subscriber) -> None:
        """Make `connection` a subscriber from here on; what is waiting in this tick goes out to the others first."""
        if connection.state != OPEN or connection in channel.subscribers:
            # One that has ended was dropped from its channels already: nothing would take it out again.
            return
        self.fan_out.flush_one(channel)
        channel.subscribers.add(connection)
        channel.idle_since = None
        connection.channels = (*connection.channels, channel)

    def hold(self, channel: Channel) -> None:
        """Keep the channel attached for a client that will join when it has read what it missed."""
        channel.joining += 1
        channel.idle_since = None

    def release(self, channel: Channel) -> None:
        """End what `hold` began."""
        channel.joining -= 1
        channel.note_idle(self._clock.now)

    def remove(self, channel: Channel, connection: Subscriber) -> None:
        """End a subscription."""
        connection.channels = tuple(other for other in connection.channels if other is not channel)
        connection.forget(channel.name)
        channel.leave(connection, self._clock.now)

    def drop(self, connection: Subscriber) -> None:
        """The connection has ended: end all its subscriptions."""
        for channel in connection.channels:
            channel.leave(connection, self._clock.now)
        connection.channels = ()

    async def listen(self, name: str, listener: Listener) -> None:
        """Call `listener` for each publication, for server-side code; raises BusUnavailable."""
        channel = await self.attach(name)
        channel.listeners.append(listener)
        channel.idle_since = None

    def unlisten(self, name: str, listener: Listener) -> None:
        """End what `listen` began."""
        channel = self.channels.get(name)
        if channel is not None and listener in channel.listeners:
            channel.listeners.remove(listener)
            channel.note_idle(self._clock.now)

    async def reach(self, channel: Channel, offset: int) -> None:
        """Bring the channel up to `offset` when a client has seen more than this node, as far as the bus has it.

        Raises BusUnavailable: what the bus has cannot be known now.
        """
        if channel.top < offset and channel.epoch is not None:
            await asyncio.shield(self._catch_up(channel))
            if channel.top < offset and channel.suspect:
                raise BusUnavailable(f"history of channel {channel.name} cannot be read now")

    async def window(self, channel: Channel) -> Window:
        """The channel's recent publications, read from the bus at most once at a time; raises BusUnavailable."""
        found = channel.window
        if found is None:
            read = partial(self._read_window, channel)
            found = await asyncio.shield(self._tasks.once(self._windows, channel.name, read))
        found.used_at = self._clock.now
        found.expire(int(self.bus.now_ms() - channel.retention.age_s * 1000))
        return found

    def deliver(self, publication: Publication) -> None:
        """Take a publication from the bus."""
        self._meter.bus_messages_received += 1
        channel = self.channels.get(publication.channel)
        if channel is None:
            return
        if channel.state is not State.LIVE:
            channel.waiting.append(publication)
            return
        self._accept(channel, publication)

    def _accept(self, channel: Channel, publication: Publication) -> None:
        before = len(channel.pending)
        if not channel.accept(publication):
            channel.waiting.append(publication)
            self._catch_up(channel)
            return
        origin = publication.origin
        if len(channel.pending) == before:
            # History was faster: its sender had it like everybody else.
            self.senders.settle(origin, channel)
            return
        if before == 0:
            self.fan_out.mark(channel)
        if origin in self.senders:
            self.senders.answer(channel, origin)
        # A copy: a listener may end itself.
        for listener in tuple(channel.listeners):
            try:
                listener(publication)
            except Exception:
                # A faulty listener must neither stop the channel nor starve the listeners after it.
                log.exception("listener_failed", channel=channel.name)

    async def bus_state(self, connected: bool) -> None:
        """The bus went away or came back; after it came back, compare every channel with history."""
        if connected:
            live = [channel for channel in self.channels.values() if channel.state is State.LIVE]
            for channel in self.channels.values():
                if channel.state is not State.LIVE:
                    # What it is reading now may be from before the loss: `tick` reads once more.
                    channel.suspect = True
            await asyncio.gather(*(self._catch_up(channel) for channel in live), return_exceptions=True)

    async def _bring_up(self, name: str) -> None:
        channel = self.channels.get(name)
        if channel is None:
            channel = Channel(name, self._retention(name))
            channel.idle_since = self._clock.now
            self.channels[name] = channel
        try:
            if channel.subscription is None:
                channel.subscription = await self.bus.subscribe(name, self.deliver)
            seen = len(channel.waiting)
            if channel.retention.kept:
                page = await self._history.read(name, wire.MAX_OFFSET, 1)
                channel.epoch, channel.last = page.epoch, max(page.top, page.floor)
            channel.moved(Event.ATTACHED)
            if not self._take_waiting(channel, seen):
                self._catch_up(channel)
        except BaseException:
            if self.channels.get(name) is channel and channel.state is State.ATTACHING:
                del self.channels[name]
                await self._detach(channel)
            raise

    def _catch_up(self, channel: Channel) -> asyncio.Task[None]:
        """Begin to compare the channel with history, or join the comparison that is under way."""
        channel.moved(Event.MISSED)
        return self._tasks.once(self._catching, channel.name, partial(self._compare, channel))

    async def _compare(self, channel: Channel) -> None:
        channel.suspect = False
        try:
            while True:
                seen = len(channel.waiting)
                if channel.retention.kept:
                    stood = (channel.epoch, channel.last)
                    page = await self._history.read(channel.name, channel.last, PAGE)
                    self._apply(channel, page)
                    if page.more and stood == (channel.epoch, channel.last):
                        raise BusUnavailable(f"the bus has more of {channel.name} after {channel.last}, and gives none")
                    if page.more:
                        continue
                if self._take_waiting(channel, seen):
                    break
        except Exception as error:
            # What waits is in history too; `tick` tries again.
            if isinstance(error, BusUnavailable):
                log.info("catch_up_postponed", channel=channel.name)
            else:
                log.exception("catch_up_failed", channel=channel.name)
            channel.suspect = True
            channel.waiting.clear()
        finally:
            channel.moved(Event.CAUGHT_UP)

    def _apply(self, channel: Channel, page: HistoryPage) -> None:
        """Put history that the subscribers missed into their stream, or announce what they will not get."""
        if page.epoch != channel.epoch:
            self._announce_gap(channel, page.epoch, None, max(page.top, page.floor) + 1, "epoch_changed")
            return
        if page.floor > channel.last:
            self._announce_gap(channel, channel.epoch, channel.last, page.floor + 1, "expired")
        for publication in merge(channel.last, page.publications, ()).publications:
            # History is without holes by contract, but its `prev` may name an offset that this chain never had.
            self._accept(channel, msgspec.structs.replace(publication, prev=channel.last))
        if not page.more:
            # Not `last`: subscribers have nothing beyond it, and the next publication has to link to that.
            channel.clear_to = max(channel.clear_to, page.top)

    def _take_waiting(self, channel: Channel, seen: int) -> bool:
        """Let publications go on that came while history was read, `seen` of them before that read began.

        Returns False when history has to be read again: one that came later shows a hole, which that read cannot fill.
        """
        waiting, channel.waiting = channel.waiting, []
        for index, publication in enumerate(waiting):
            if publication.epoch != channel.epoch:
                # Left over from a history that ended, or the first of one that began after the read: `tick` reads.
                channel.suspect = True
                continue
            prev = publication.prev or 0
            if publication.offset is not None and prev > channel.last:
                if index >= seen:
                    channel.waiting = waiting[index:]
                    return False
                # History was read after it came and does not have what is before it: that will not come any more.
                self._announce_gap(channel, channel.epoch, channel.last, prev + 1, "missed")
            self._accept(channel, publication)
        return True

    def _announce_gap(self, channel: Channel, epoch: str | None, after: int | None, before: int, reason: str) -> None:
        """Announce to subscribers what they will not get; the channel goes on behind it."""
        self.fan_out.flush_one(channel)
        if epoch != channel.epoch:
            channel.clear_to = 0
        channel.epoch, channel.last = epoch, before - 1
        # Neither a window nor one that is being read may hide the hole.
        channel.window = channel.recording = None
        gap = wire.Gap(channel.name, epoch, after, before, reason, self._clock.wall_ms)
        log.warning("gap", channel=channel.name, reason=reason, after=after, before=before)
        self._meter.publications_dropped.add(reason)
        for connection in tuple(channel.subscribers):
            if not connection.widen_gap(channel.name, epoch, before - 1):
                self._meter.gaps += 1
                connection.send_message(gap)

    async def _read_window(self, channel: Channel) -> Window:
        while True:
            recording: list[Outgoing] = []
            channel.recording = recording
            try:
                page = await self._history.read_all(channel.name, channel.retention.count)
                newest = page.publications[-1].offset or 0 if page.publications else 0
                if page.epoch != channel.epoch or newest > channel.last:
                    # History has what was not delivered here yet: bring subscribers there first, in order.
                    await asyncio.shield(self._catch_up(channel))
                await self.attach(channel.name)
                whole = channel.recording is recording
            finally:
                channel.recording = None
            if (page.epoch != channel.epoch or newest > channel.last) and channel.suspect:
                raise BusUnavailable(f"channel {channel.name} could not be brought up to its history")
            if not whole or page.epoch != channel.epoch or newest > channel.last:
                # Something was lost for good, or the history began again, while this one was read.
                continue
            window = Window(page, channel.retention.count, self._clock.now)
            for outgoing in recording:
                if (outgoing.publication.offset or 0) > window.top:
                    window.append(outgoing)
            # The page holds all there was when it was read, the recording all since; the rest of the way to `last` is
            # empty.
            window.top = max(window.top, channel.last)
            channel.window = window
            return window

    def tick(self, now: float) -> None:
        """Let go of what nobody needs; call it about once a second."""
        for channel in list(self.channels.values()):
            window = channel.window
            if window is not None and now - window.used_at > WINDOW_IDLE_S:
                channel.window = None
            if channel.suspect and channel.state is State.LIVE and self.bus.connected:
                self._catch_up(channel)
            idle = channel.idle_since
            if idle is not None and now - idle > LINGER_S and channel.state is State.LIVE and not channel.followed:
                del self.channels[channel.name]
                self._tasks.spawn(self._detach(channel))
        self.senders.settle_all(self.channels)

    async def close(self) -> None:
        """Write what waits in this tick and end the hub's tasks."""
        self.fan_out.flush()
        await self._tasks.close()

    async def _detach(self, channel: Channel) -> None:
        if channel.subscription is not None:
            with contextlib.suppress(BusUnavailable):
                await channel.subscription.close()
            channel.subscription = None
