"""The bus over NATS: JetStream for channels with retention, core NATS for the others.

How a publication travels:

- With retention it is stored under `<prefix>.log.<profile>.<channel>`, in the stream of its retention, and the stream
  sends it on to `<prefix>.live.<channel>`, where every node listens. `offset` is the stream's sequence, `prev` the
  channel's last one before.
- Without retention it goes to `<prefix>.live.<channel>` directly. Its `ts` is the time it was received.
- `epoch` is the creation time of the stream: it outlives restarts of NATS and of nodes, and changes when the stream is
  made again.

What is lost when: nothing that was acknowledged, within retention and as long as NATS keeps its disk. A channel that
was quiet for longer than `keep_s`, or whose messages made way for others' at `max_bytes`, reports a higher floor than
necessary.

The age of a publication is judged by the server's time alone (`bus/clock.py`), which comes with the streams and with
each publication.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable

import msgspec
import structlog
from nats.aio.msg import Msg

from trunkline.bus.base import (
    Deliver,
    HistoryPage,
    OnState,
    Publication,
    Published,
    Retention,
    RetentionOf,
    Subscription,
)
from trunkline.bus.clock import BusClock
from trunkline.bus.nats.fleet import NatsFleetLink
from trunkline.bus.nats.jetstream import NO_ROOM, Reply, place_of
from trunkline.bus.nats.log import StreamLog
from trunkline.bus.nats.store import NatsStore
from trunkline.bus.nats.troubles import Troubles
from trunkline.bus.nats.wire import LastingSubscription, Wire
from trunkline.errors import BusCannotStore, BusError, BusUnavailable
from trunkline.nats.address import parse_address
from trunkline.nats.link import Events, Link
from trunkline.nats.login import tls_context
from trunkline.process.bounds import end_tasks
from trunkline.settings.sections import BusSettings

log = structlog.get_logger("trunkline.bus")

ORIGIN = "Trunkline-Origin"
ECHO_S = 4.0
"""Time the server has to answer the link's probe."""

MEND_S = 10.0
"""Time between two tries to have a stream that NATS refused."""

_EVENTS = Events("nats connected", "nats unreachable", "nats lost", "on_state failed")


class _NatsSubscription(LastingSubscription):
    """A channel being delivered; `last` is the newest offset that came over the present wire."""

    def __init__(self, bus: NatsBus, channel: str, kept: StreamLog | None, deliver: Deliver) -> None:
        on_message = self._on_live if kept is None else self._on_stored
        super().__init__(bus.live_subject(channel), on_message, lambda _: bus.forget(self))
        self._bus = bus
        self._deliver = deliver
        self._kept = kept
        self.channel = channel
        self.last = 0

    async def attach(self, wire: Wire) -> None:
        self.last = 0
        await super().attach(wire)

    def _on_live(self, msg: Msg) -> None:
        origin = msg.headers.get(ORIGIN) if msg.headers else None
        self._deliver(Publication(self.channel, msg.data, None, None, None, int(self._bus.now_ms()), origin))

    def _on_stored(self, msg: Msg) -> None:
        kept, headers = self._kept, msg.headers
        if kept is None or not headers or headers.get("Nats-Stream") != kept.name:
            # A node that keeps this channel differently published it; its offsets belong to another history.
            log.warning("publication from another stream ignored", channel=self.channel)
            return
        try:
            offset, before, ts = place_of(headers)
        except ValueError as error:
            log.warning("publication with made-up headers ignored", channel=self.channel, why=str(error)[:100])
            return
        # The server sends 0 when the one before is not stored any more; delivered over the same wire, it is known.
        prev = before or self.last
        if offset < kept.newest:
            # Within one life of a stream sequences only grow (and one is seen twice where two listen to its channel).
            self._bus.recheck(kept)
        kept.newest = offset
        self.last = offset
        self._bus.clock.delivered(ts, time.monotonic())
        self._deliver(
            Publication(
                self.channel,
                msg.data,
                kept.epoch,
                offset,
                prev if prev < offset else 0,
                ts,
                headers.get(ORIGIN),
            )
        )


class NatsBus:
    """A bus over NATS, shared by all nodes that use the same servers, prefix and retentions.

    Streams of the `expected` retentions are made with the first connection, all others when they are needed.

    Raises:
        SettingsError: the address (see `nats/address.py`) or the file of the authority cannot be used.
    """

    name = "nats"

    def __init__(self, settings: BusSettings, retention: RetentionOf, expected: Iterable[Retention] = ()) -> None:
        # Kept without the URL, which may hold a password; `NatsAddress` hides it.
        self._settings = msgspec.structs.replace(settings, url="")
        self._address = parse_address(settings.url)
        self._tls = tls_context(self._address, settings.tls_ca_file)
        self._retention = retention
        self._prefix = settings.prefix
        self.clock = BusClock(time.time() * 1000, time.monotonic())
        self._logs: dict[tuple[int, float], StreamLog] = {}
        self._subscriptions: dict[str, set[_NatsSubscription]] = {}
        self._rechecks: dict[str, asyncio.Task[None]] = {}
        self._troubles = Troubles()
        self._mending: asyncio.Task[None] | None = None
        self._link = Link(self._address, self._connect, log=log, events=_EVENTS, probe=lambda wire: wire.echo(ECHO_S))
        self.fleet_link = NatsFleetLink(self._prefix)
        self.fleet_store = NatsStore(settings)
        for each in expected:
            self._log_for(each)

    @property
    def connected(self) -> bool:
        """Whether NATS is connected, and streams and subscriptions are in place."""
        wire = self._link.connection
        return wire is not None and wire.alive

    def now_ms(self) -> float:
        """The server's time."""
        return self.clock.ms(time.monotonic())

    @property
    def problem(self) -> str:
        """Why NATS, though connected, does not store publications."""
        return self._troubles.problem(time.monotonic()) if self.connected else ""

    @property
    def warning(self) -> str:
        """Which streams have less room than they should."""
        return self._troubles.warning

    async def start(self, on_state: OnState) -> None:
        """Connect, or keep trying in the background when the first try failed."""
        self._link.start(on_state)
        await self._link.first_try()

    async def close(self) -> None:
        """Disconnect; what is acknowledged is stored already. `on_state` is not called for it."""
        await end_tasks([*self._rechecks.values(), *([self._mending] if self._mending is not None else [])])
        for subscription in self._all_subscriptions():
            subscription.closed = True
        self._subscriptions.clear()
        await self.fleet_store.close()
        await self._link.close()

    async def prepare(self) -> None:
        """Have every expected stream and the fleet's bucket; raises BusUnavailable, BusCannotStore."""
        wire = self._link.require()
        for kept in self._logs.values():
            await self._freshen(wire, kept)
        await self.fleet_store.prepare()

    async def publish(self, channel: str, data: bytes, *, origin: str | None = None) -> Published:
        """Store and deliver one publication.

        Publications of one caller leave in the order of the calls, whether or not it waits for each.

        Raises:
            BusUnavailable: NATS did not acknowledge it in time, or is not connected; it is not sent later.
            BusCannotStore: NATS is connected and does not store.
            MessageTooLarge: it is larger than the server takes.
        """
        wire = self._link.require()
        headers = {ORIGIN: origin} if origin is not None else None
        kept = self._log_of(channel)
        if kept is None:
            await wire.send(self.live_subject(channel), data, headers=headers)
            return Published(None, None)
        try:
            ack = await self._store(wire, kept, channel, data, headers)
            if ack is None:
                # Nobody serves the subject: the stream is gone, and has to be made again.
                kept.stale = True
                ack = await self._store(wire, kept, channel, data, headers)
        finally:
            self._announce(kept)
        if ack is None:
            raise BusUnavailable(f"no stream of NATS took a publication for channel {channel}")
        if ack.error is not None:
            kind = BusCannotStore if ack.error.err_code in NO_ROOM else BusUnavailable
            raise kind(f"JetStream refused a publication for channel {channel}: {ack.error.description}")
        return Published(kept.epoch, ack.seq)

    async def subscribe(self, channel: str, deliver: Deliver) -> Subscription:
        """Deliver the channel's publications; on return the server has processed it. Raises BusUnavailable."""
        wire = self._link.require()
        kept = self._log_of(channel)
        if kept is not None:
            await self._freshen(wire, kept)
        subscription = _NatsSubscription(self, channel, kept, deliver)
        try:
            await subscription.attach(wire)
            # Known before the round trip: a wire that is lost now takes the subscription along to the next one.
            self._subscriptions.setdefault(channel, set()).add(subscription)
            await wire.echo(self._settings.publish_timeout_s)
        except BaseException:
            await subscription.close()
            raise
        return subscription

    async def history(self, channel: str, after: int, limit: int) -> HistoryPage:
        """Read at most `limit` publications with offset > `after`, oldest first; raises BusUnavailable."""
        wire = self._link.require()
        kept = self._log_of(channel)
        if kept is None:
            return HistoryPage(None, 0, 0, [])
        await self._freshen(wire, kept)
        delivered = max((each.last for each in self._subscriptions.get(channel, ())), default=0)
        return await kept.page(wire, channel, after, limit, now=int(self.now_ms()), delivered=delivered)

    def live_subject(self, channel: str) -> str:
        """Where a channel's publications are delivered."""
        return f"{self._prefix}.live.{channel}"

    def forget(self, subscription: _NatsSubscription) -> None:
        """Stop bringing a subscription back."""
        listening = self._subscriptions.get(subscription.channel)
        if listening is not None:
            listening.discard(subscription)
            if not listening:
                del self._subscriptions[subscription.channel]

    def recheck(self, kept: StreamLog) -> None:
        """Check in the background whether the stream is still the one we know; reconnect when it is not."""
        if kept.name not in self._rechecks:
            task = asyncio.create_task(self._recheck(kept))
            self._rechecks[kept.name] = task
            task.add_done_callback(lambda _: self._rechecks.pop(kept.name, None))

    async def _recheck(self, kept: StreamLog) -> None:
        try:
            async with kept.lock:
                await kept.check(self._link.require())
        except BusError as error:
            self._restart(f"stream {kept.name} could not be checked: {error}")
        self._announce(kept)

    async def _freshen(self, wire: Wire, kept: StreamLog) -> None:
        if kept.stale:
            async with kept.lock:
                if kept.stale:
                    await self._ensure(wire, kept)
            self._announce(kept)

    async def _ensure(self, wire: Wire, kept: StreamLog) -> None:
        """Have the stream, and take note of what NATS does not give; raises as `StreamLog.ensure` does."""
        try:
            await kept.ensure(wire)
        except BusCannotStore as error:
            if self._troubles.refuse(kept.name, str(error)):
                log.error("bus cannot store", stream=kept.name, text=str(error))
            if self._mending is None or self._mending.done():
                self._mending = asyncio.create_task(self._mend())
            raise
        if self._troubles.provided(kept.name, wanted=kept.wanted_bytes, got=kept.max_bytes):
            log.warning("stream has less room", stream=kept.name, text=self._troubles.warning)

    async def _mend(self) -> None:
        """Try again now and then until NATS provides every stream, so that its trouble ends without a publication."""
        while self._troubles.refused:
            await asyncio.sleep(MEND_S)
            wire = self._link.connection
            for kept in list(self._logs.values()):
                if wire is not None and kept.name in self._troubles.refused:
                    with contextlib.suppress(BusUnavailable):
                        await self._freshen(wire, kept)

    def _announce(self, kept: StreamLog) -> None:
        """Treat a stream that was made again as a loss of NATS: holders of positions have to learn that they ended."""
        if kept.remade:
            kept.remade = False
            self._restart(f"stream {kept.name} was made again")

    def _restart(self, reason: str) -> None:
        """Give the present wire up; the link makes a new one."""
        if self._link.connection is not None:
            self._link.connection.fail(reason)

    async def _connect(self) -> Wire:
        wire = await Wire.connect(self._address, prefix=self._prefix, tls=self._tls)
        try:
            # Streams and epochs first: a delivery needs them.
            for kept in list(self._logs.values()):
                async with kept.lock:
                    # Without room for one stream the others, and channels without history, go on.
                    with contextlib.suppress(BusCannotStore):
                        await self._ensure(wire, kept)
                kept.newest = 0
                kept.remade = False
            await wire.subscribe("$JS.EVENT.ADVISORY.STREAM.*.*", self._on_advisory)
            for subscription in self._all_subscriptions():
                await subscription.attach(wire)
            await self.fleet_link.attach(wire)
            await self.fleet_store.attach(wire)
            await wire.echo()
        except BaseException as error:
            await wire.close(f"given up: {error}")
            raise
        return wire

    def _all_subscriptions(self) -> list[_NatsSubscription]:
        return [each for listening in self._subscriptions.values() for each in listening]

    def _on_advisory(self, msg: Msg) -> None:
        # $JS.EVENT.ADVISORY.STREAM.<CREATED|DELETED|…>.<stream>: someone made or removed a stream.
        kind, name = msg.subject.split(".")[-2:]
        if kind in ("CREATED", "DELETED"):
            for kept in self._logs.values():
                if kept.name == name:
                    self.recheck(kept)

    async def _store(
        self, wire: Wire, kept: StreamLog, channel: str, data: bytes, headers: dict[str, str] | None
    ) -> Reply | None:
        """Send one publication to its stream and await the answer; None when there is no such stream."""
        # The lock holds publishers back while the stream is being made, so that none overtakes; it is fair.
        async with kept.lock:
            if kept.stale:
                await self._ensure(wire, kept)
            call = await wire.call(
                kept.subject(channel), data, timeout_s=self._settings.publish_timeout_s, headers=headers
            )
        try:
            reply = (await call)[0]
        except BusUnavailable as error:
            error.sent = True
            if not wire.alive:
                raise
            trouble, new = self._troubles.unanswered(kept.name, time.monotonic())
            if new:
                log.error("bus cannot store", stream=kept.name, text=trouble)
            if not trouble:
                raise
            silent = BusCannotStore(trouble)
            silent.sent = True
            raise silent from None
        self._troubles.stored(kept.name)
        if reply.headers is not None and "Status" in reply.headers:
            return None
        return msgspec.json.decode(reply.data, type=Reply)

    def _log_of(self, channel: str) -> StreamLog | None:
        retention = self._retention(channel)
        return self._log_for(retention) if retention.kept else None

    def _log_for(self, retention: Retention) -> StreamLog:
        key = (retention.count, retention.age_s)
        kept = self._logs.get(key)
        if kept is None:
            kept = self._logs[key] = StreamLog(self._settings, retention, self.clock)
        return kept
