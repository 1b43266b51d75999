"""What flows of the user's own have in common, whether steps or Python: they come back, and are judged, as a feed.

Rules:

- The flow is the user's, the protocol is not: publications of any channel are followed for loss, duplicates and order,
  errors are counted, and a goodbye is obeyed. A server that speaks otherwise is not held to any of it.
- What a flow asks for by `replay` comes again, and is no duplicate.
"""

from __future__ import annotations

from typing import Final

import msgspec

from trunkline.load.client.moments import moments_of
from trunkline.load.client.order import ChannelOrder
from trunkline.load.client.reconnect import seconds_away
from trunkline.load.client.session import Session, Shared
from trunkline.load.model.expectations import message_type
from trunkline.load.model.messages import Hole, Position
from trunkline.protocol import wire

MAX_CODE: Final = 60
"""How much of a server's error code a reason repeats."""


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
    wire.SubscriptionAck | wire.UnsubscriptionAck | wire.PublishAck | wire.Gap | wire.Goodbye
).decode
_CONTROL: Final = frozenset(("subscription_ack", "unsubscription_ack", "publish_ack", "gap", "goodbye"))
_REPLAYED: Final = frozenset(("replay_complete", "replay_incomplete"))


class Dialogue(Session):
    """A session that talks as its user says; subclasses say when."""

    __slots__ = ("_goodbye", "_heard", "_live", "_moments", "_orders", "_replays")

    def __init__(self, number: int, shared: Shared) -> None:
        super().__init__(number, shared)
        self._moments = moments_of(shared)
        self._orders: dict[str, ChannelOrder] = {}
        self._live: set[str] = set()
        self._goodbye: wire.Goodbye | None = None
        self._replays = 0
        self._heard = False

    def opened(self) -> None:
        """The 101 has come."""
        self._goodbye = None
        self._heard = False
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

    def comes_back_after(self, code: int, attempt: int) -> float | None:
        """As the server's goodbye and the close code say."""
        return seconds_away(code, self._goodbye, attempt, self.shared.rng)

    @property
    def said_goodbye(self) -> bool:
        """Whether the server announced the end and asked to come back."""
        return self._goodbye is not None and self._goodbye.reconnect

    def say(self, payload: bytes, *, binary: bool = False) -> None:
        """Send a message of the flow."""
        if self.link is not None:
            if b'"replay"' in payload and message_type(payload) == "replay":
                self._replays += 1
            self.link.send(payload, binary=binary)

    def hear(self, payload: bytes, binary: bool) -> str | None:
        """Judge a message; returns its type, if it has one."""
        shared = self.shared
        if not self._heard:
            self._heard = True
            shared.tally.first_message.record(shared.now() - self.opened_at)
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
            # Another protocol may use these words for something else; an error is one all the same.
            if kind == "error":
                self._on_error("error")
        return kind

    def channels_reached(self, ends: dict[str, Position]) -> bool:
        """Whether every channel that is subscribed now has come to its end."""
        return all(self._orders[name].reached(ends[name]) for name in self._live if name in ends)

    def finish(self, ends: dict[str, Position]) -> list[Hole]:
        """The holes that are left."""
        holes: list[Hole] = []
        for name, order in self._orders.items():
            holes += order.finish(ends.get(name) if name in self._live else None)
            self.shared.tally.totals.lost += order.forgotten
        return holes

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

    def _follow(self, order: ChannelOrder, epoch: str | None, offset: int | None, prev: int | None) -> bool:
        """Whether a publication, or an ack in its place, comes for the first time; counts what is wrong with it."""
        if prev == order.last and epoch == order.epoch and offset is not None:
            order.last = offset
            return True
        tally = self.shared.tally
        taken = order.odd(epoch, offset, prev, round(self.shared.now() - self.shared.started, 3))
        tally.find(taken.findings)
        return taken.delivery

    def _on_control(
        self, message: wire.SubscriptionAck | wire.UnsubscriptionAck | wire.PublishAck | wire.Gap | wire.Goodbye
    ) -> None:
        shared = self.shared
        totals = shared.tally.totals
        match message:
            case wire.SubscriptionAck():
                for name, position in message.positions.items():
                    # Where to recover from is the flow's choice, and `reason` is there when it cannot be had.
                    if position.recovered:
                        totals.recovered += position.replayed
                    elif position.reason:
                        totals.unrecovered += 1
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
                totals.dropped += self._order(message.channel).gap(message.epoch, message.after, message.before)
                shared.tally.because(f"gap: {message.reason[:MAX_CODE]}")
            case wire.Goodbye():
                self._goodbye = message

    def _on_error(self, code: str) -> None:
        tally = self.shared.tally
        reason = f"server: {code[:MAX_CODE]}"
        self._replays = max(0, self._replays - 1)
        if code in self.shared.scenario.expected_errors:
            tally.totals.expected_errors += 1
            tally.because(reason)
        else:
            tally.error(reason)
