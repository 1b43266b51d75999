"""Feed: the whole protocol of a Trunkline node. Sessions subscribe, publish, and account for every publication.

Rules:

- A session that comes back recovers from where it was. What the server says it cannot recover is counted.
- A subscription that is refused for now is an error, and is requested again.
- Where the sender of a publication gets `publish_ack` with `prev` in place of the publication itself (a match), the
  ack moves the order and is no delivery.
"""

from __future__ import annotations

from typing import Final

import msgspec

from trunkline.load.client.alarm import Moments
from trunkline.load.client.order import ChannelOrder
from trunkline.load.client.protocols.subscriber import MAX_CODE, Subscriber
from trunkline.load.client.session import Shared
from trunkline.load.model.messages import Hole, Position
from trunkline.protocol import wire


class Stamp(msgspec.Struct, gc=False):
    """The part of our publications' data that is read: `t` is the intended moment in microseconds."""

    t: int = 0


class Publication(msgspec.Struct, tag="publication", gc=False):
    """A publication of ours as a subscriber reads it."""

    channel: str
    data: Stamp
    epoch: str | None = None
    offset: int | None = None
    prev: int | None = None


class ForeignPublication(msgspec.Struct, tag="publication"):
    """One that another client published."""

    channel: str
    epoch: str | None = None
    offset: int | None = None
    prev: int | None = None


class AnyMessage(msgspec.Struct):
    """A message of any type."""

    type: str


_decode: Final = msgspec.json.Decoder(
    Publication | wire.PublishAck | wire.ConnectionEstablished | wire.SubscriptionAck | wire.ServerHeartbeat
    | wire.Pong | wire.Gap | wire.ErrorMessage | wire.Goodbye | wire.TokenExpiring | wire.RefreshAck | wire.Unsubscribed
).decode  # fmt: skip
_decode_foreign: Final = msgspec.json.Decoder(ForeignPublication).decode
_decode_any: Final = msgspec.json.Decoder(AnyMessage).decode
_HEARTBEAT: Final = b'{"type":"heartbeat"}'
_AGAIN_S: Final = 0.5
"""Shortest pause, up to twice as long by chance, before a subscription is requested again."""

_DATA_BYTES: Final = len('{"t":1234567890123456,"p":""}')


def channel_name(run: str, number: int) -> str:
    """The run's channel of this number; one that anonymous clients of the stock rules may use."""
    return f"public.load.{run}.{number}"


class FeedSession(Subscriber):
    """One subscriber that also publishes."""

    __slots__ = ("_heads", "_ids", "_moments", "_padding", "_subscribing", "_turn", "_waiting")

    def __init__(self, number: int, shared: Shared, moments: Moments) -> None:
        super().__init__(number, shared)
        self._moments = moments
        self._subscribing = 0
        scenario = shared.scenario
        count, each = scenario.channel_count, min(scenario.traffic.subscribe_each, scenario.channel_count)
        names = [channel_name(shared.job.run, (number + step) % count) for step in range(each)]
        self._orders = {name: ChannelOrder(name, number) for name in names}
        self._heads = [b'"channel":"%b","data":{"t":' % name.encode() for name in names]
        self._padding = b"x" * max(0, scenario.traffic.message_bytes - _DATA_BYTES)
        self._ids = 0
        self._turn = number
        self._waiting: dict[int, float] = {}

    def opened(self) -> None:
        """The 101 has come; the rest waits for the server's greeting."""
        super().opened()
        self._moments.join()

    def due(self, intended: float) -> None:
        """Publish to the next of its channels."""
        if self.link is None:
            return
        self._ids = number = self._ids + 1
        self._turn += 1
        head = self._heads[self._turn % len(self._heads)]
        self._waiting[number] = intended
        self.shared.tally.totals.published += 1
        self.link.send(
            b'{"type":"publish","id":%d,%b%d,"p":"%b"}}' % (number, head, int(intended * 1e6), self._padding)
        )

    def message(self, payload: bytes, binary: bool) -> None:
        """A message of the server, of any type."""
        shared = self.shared
        try:
            message = _decode(payload)
        except msgspec.ValidationError:
            self._on_unknown(payload)
            return
        except msgspec.DecodeError:
            shared.tally.error("feed: the server's message is not JSON")
            return
        if type(message) is Publication:
            tally = shared.tally
            order = self._orders.get(message.channel)
            if order is None:
                tally.error("feed: a publication of a channel that was not subscribed")
                return
            if message.prev == order.last and message.epoch == order.epoch and message.offset is not None:
                order.last = message.offset
            elif not self._follow(order, message.epoch, message.offset, message.prev):
                return
            tally.totals.deliveries += 1
            if message.data.t and not self.slow:
                tally.delivery.record(shared.now() - message.data.t / 1e6)
        elif type(message) is wire.PublishAck:
            self._on_ack(message)
        else:
            self._on_control(message)

    def ended(self, code: int, reason: str) -> None:
        """What was not acknowledged may have been published or not; it is given up."""
        super().ended(code, reason)
        self._moments.leave()
        self.shared.tally.totals.abandoned += len(self._waiting)
        self._waiting.clear()

    def settled(self, ends: dict[str, Position]) -> bool:
        """Whether it has everything up to the end of its channels, and every answer."""
        if self.link is None or self.slow:
            return True
        if self._waiting or not self.ready:
            return False
        return self._reached(ends, self._orders)

    def finish(self, ends: dict[str, Position]) -> list[Hole]:
        """The holes that are left; a subscription that was never answered is counted as a message."""
        stuck = self.link is not None and not self.ready and not self.slow
        self.never_answered(len(self._waiting) + stuck)
        self._waiting.clear()
        # What a slow reader has not read yet lies in buffers, and is not lost.
        owed = self.ready and self.link is not None and not self.slow
        return self._holes(ends, self._orders if owed else ())

    def _on_ack(self, ack: wire.PublishAck) -> None:
        shared = self.shared
        intended = self._waiting.pop(ack.id, None) if isinstance(ack.id, int) else None
        if intended is None:
            shared.tally.error("feed: an acknowledgement of something that was not published")
            return
        shared.tally.totals.acknowledged += 1
        now = shared.now()
        shared.tally.round_trip.record(now - intended)
        if ack.epoch is None or ack.offset is None:
            return
        shared.acknowledged(ack.channel, ack.epoch, ack.offset, now)
        order = self._orders.get(ack.channel)
        if order is not None and ack.prev is not msgspec.UNSET:
            self._follow(order, ack.epoch, ack.offset, ack.prev)

    def _on_control(self, message: object) -> None:
        self._count_first()
        match message:
            case wire.ConnectionEstablished():
                self._greeted(message)
                self._subscribe()
            case wire.SubscriptionAck():
                self._on_subscribed(message)
            case wire.ServerHeartbeat():
                # A client that only listens would be closed as idle.
                if self.link is not None:
                    self.link.send(_HEARTBEAT)
            case wire.Gap():
                order = self._orders.get(message.channel)
                if order is not None:
                    self._on_gap(order, message)
            case wire.ErrorMessage():
                refused = isinstance(message.id, int) and self._waiting.pop(message.id, None) is not None
                self._on_error(message.code, refused=refused)
                if message.temporary and message.id == self._subscribing and not self.ready:
                    again_s = max(_AGAIN_S, (message.retry_after_ms or 0) / 1000) * (1 + self.shared.rng.random())
                    request = self._subscribing
                    self._moments.call_at(self.shared.now() + again_s, lambda _: self._subscribe_again(request))
            case wire.TokenExpiring():
                self._on_expiring()
            case wire.RefreshAck():
                self.shared.tally.totals.refreshed += 1
            case wire.Unsubscribed():
                self.shared.tally.error(f"feed: the server ended a subscription ({message.code[:MAX_CODE]})")
            case wire.Goodbye():
                self._goodbye = message

    def _subscribe_again(self, refused: int) -> None:
        """Unless its connection has ended meanwhile, or has another request."""
        if self.link is not None and not self.ready and self._subscribing == refused:
            self._subscribe()

    def _subscribe(self) -> None:
        positions = {
            name: wire.Position(order.epoch, order.last)
            for name, order in self._orders.items()
            if order.epoch is not None
        }
        self._ids = self._subscribing = number = self._ids + 1
        request = wire.Subscribe(list(self._orders), number, positions or None)
        if self.link is not None:
            self.link.send(msgspec.json.encode(request))

    def _on_subscribed(self, ack: wire.SubscriptionAck) -> None:
        tally = self.shared.tally
        for name, position in ack.positions.items():
            order = self._orders.get(name)
            if order is None:
                continue
            if position.recovered:
                tally.totals.recovered += position.replayed
                continue  # what was missed follows, each with its own `prev`
            if order.epoch is not None:
                tally.totals.unrecovered += 1
                reason = f"feed: not recovered ({position.reason or 'no reason given'})"
                (tally.because if self.slow else tally.error)(reason)
            if position.epoch is not None and position.offset is not None:
                order.start(position.epoch, position.offset)
        if not set(ack.subscribed).issuperset(self._orders):
            tally.error("feed: the server did not subscribe every channel")
        if not self.ready:
            self.get_ready()

    def _on_unknown(self, payload: bytes) -> None:
        """A publication of another client, or a type of message without a meaning here."""
        try:
            foreign = _decode_foreign(payload)
        except msgspec.MsgspecError:
            try:
                known = _decode_any(payload).type in _OTHER_TYPES
            except msgspec.MsgspecError:
                known = False
            if not known:
                self.shared.tally.error("feed: the server's message has no known shape")
            return
        order = self._orders.get(foreign.channel)
        if order is not None and self._follow(order, foreign.epoch, foreign.offset, foreign.prev):
            self.shared.tally.totals.deliveries += 1


_OTHER_TYPES: Final = frozenset(
    ["unsubscription_ack", "replay_complete", "replay_incomplete", "message_response", "player_joined", "player_left"]
)
