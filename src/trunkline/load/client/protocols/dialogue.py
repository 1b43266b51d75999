"""What flows of the user's own have in common, whether steps or Python: they reconnect, and are judged, as a feed.

Rules:

- The flow is the user's, the protocol is not: publications of any channel are followed for loss, duplicates and order.
  A server that speaks another protocol is not held to any of it.
- What a flow requests by `replay` comes again, and is no duplicate.
"""

from __future__ import annotations

from typing import Final

import msgspec

from trunkline.load.client.alarm import Moments
from trunkline.load.client.order import ChannelOrder
from trunkline.load.client.protocols.subscriber import Subscriber
from trunkline.load.client.session import Shared
from trunkline.load.model.expectations import message_type
from trunkline.load.model.messages import Hole, Position
from trunkline.protocol import wire


class _Publication(msgspec.Struct):
    channel: str
    epoch: str | None = None
    offset: int | None = None
    prev: int | None = None


class _Error(msgspec.Struct):
    code: str


_publication: Final = msgspec.json.Decoder(_Publication).decode
_error: Final = msgspec.json.Decoder(_Error).decode
_control: Final = msgspec.json.Decoder(
    wire.ConnectionEstablished | wire.SubscriptionAck | wire.UnsubscriptionAck | wire.PublishAck | wire.Gap
    | wire.Goodbye | wire.TokenExpiring | wire.RefreshAck | wire.Unsubscribed
).decode  # fmt: skip
_CONTROL: Final = frozenset(
    (
        "connection_established", "subscription_ack", "unsubscription_ack", "publish_ack", "gap", "goodbye",
        "token_expiring", "refresh_ack", "unsubscribed",
    )
)  # fmt: skip
_REPLAYED: Final = frozenset(("replay_complete", "replay_incomplete"))


class Dialogue(Subscriber):
    """A session whose messages are the user's; subclasses define when they are sent."""

    __slots__ = ("_live", "_moments", "_replays")

    def __init__(self, number: int, shared: Shared, moments: Moments) -> None:
        super().__init__(number, shared)
        self._moments = moments
        self._live: set[str] = set()
        self._replays = 0

    def opened(self) -> None:
        """The 101 has come."""
        super().opened()
        self._moments.join()
        self.get_ready()

    def due(self, intended: float) -> None:
        """Nothing: such a flow has moments of its own, and traffic of the scenario is not meant for it."""

    def ended(self, code: int, reason: str) -> None:
        """The connection has ended; channels are followed again when they are subscribed again."""
        super().ended(code, reason)
        self._moments.leave()
        self._live.clear()
        self._replays = 0

    def send(self, payload: bytes, *, binary: bool = False) -> None:
        """Send a message of the flow."""
        if self.link is not None:
            if b'"replay"' in payload and message_type(payload) == "replay":
                self._replays += 1
            self.link.send(payload, binary=binary)

    def hear(self, payload: bytes, binary: bool) -> str | None:
        """Judge a message; returns its type, if it has one."""
        self._count_first()
        kind = None if binary else message_type(payload)
        try:
            if kind == "publication":
                self._on_publication(_publication(payload))
            elif kind in _CONTROL:
                self._on_control(_control(payload))
            elif kind in _REPLAYED:
                self._replays = max(0, self._replays - 1)
            elif kind == "error":
                self._on_error(_error(payload).code)
        except msgspec.ValidationError:
            # Another protocol may use these names for something else; an error is one all the same.
            if kind == "error":
                self._on_error("error")
        return kind

    def channels_reached(self, ends: dict[str, Position]) -> bool:
        """Whether every channel that is subscribed now has come to its end."""
        return self._reached(ends, self._live)

    def finish(self, ends: dict[str, Position]) -> list[Hole]:
        """The holes that are left."""
        return self._holes(ends, self._live)

    def _order(self, channel: str) -> ChannelOrder:
        order = self._orders.get(channel)
        if order is None:
            order = self._orders[channel] = ChannelOrder(channel, self.number)
        return order

    def _on_publication(self, message: _Publication) -> None:
        order = self._order(message.channel)
        if self._replays and message.epoch == order.epoch and (message.offset or 0) <= order.last:
            return
        if self._follow(order, message.epoch, message.offset, message.prev):
            self.shared.tally.totals.deliveries += 1

    def _on_control(
        self,
        message: wire.ConnectionEstablished | wire.SubscriptionAck | wire.UnsubscriptionAck | wire.PublishAck
        | wire.Gap | wire.Goodbye | wire.TokenExpiring | wire.RefreshAck | wire.Unsubscribed,
    ) -> None:  # fmt: skip
        shared = self.shared
        match message:
            case wire.ConnectionEstablished():
                self._greeted(message)
            case wire.SubscriptionAck():
                for name, position in message.positions.items():
                    # The flow chooses where to recover from, and `reason` is there when it cannot be had.
                    if position.recovered:
                        shared.tally.totals.recovered += position.replayed
                    elif position.reason:
                        shared.tally.totals.unrecovered += 1
                    self._order(name).start(position.epoch, position.offset)
                    self._live.add(name)
            case wire.UnsubscriptionAck():
                self._live.difference_update(message.unsubscribed)
            case wire.PublishAck():
                if message.epoch is None or message.offset is None:
                    return
                shared.acknowledged(message.channel, message.epoch, message.offset, shared.now())
                if message.prev is not msgspec.UNSET:
                    self._follow(self._order(message.channel), message.epoch, message.offset, message.prev)
            case wire.Gap():
                self._on_gap(self._order(message.channel), message)
            case wire.TokenExpiring():
                self._on_expiring()
            case wire.RefreshAck():
                shared.tally.totals.refreshed += 1
            case wire.Unsubscribed():
                self._live.discard(message.channel)
            case wire.Goodbye():
                self._goodbye = message

    def _on_error(self, code: str, *, refused: bool = False) -> None:
        self._replays = max(0, self._replays - 1)
        super()._on_error(code, refused=refused)
